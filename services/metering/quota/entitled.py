"""Entitlements as limits.

A limit of an organization's plan counts the calls of all of the organization; one of a user's plan those of the user;
one of a subscription to a model those under that subscription. An override counts those that it is for. What is used
stays counted when a plan is changed, but for limits without end, which belong to their subscription.
"""

from dataclasses import replace
from typing import Final

from libs.common.ids import id_of_digest
from services.metering.clients.entitlements import Entitlement, Entitlements
from services.metering.clients.entitlements import Limit as EntitledLimit
from services.metering.quota.domain import (
    CONCURRENT_CALLS,
    Applied,
    Enforcement,
    Limit,
    Scope,
    Shape,
    Terms,
    Window,
)

OVERRIDE: Final = "OVERRIDE"
_SOURCES: Final = {
    "MODEL_SUBSCRIPTION": Scope.SUBSCRIPTION,
    "USER_PLAN": Scope.USER,
    "ORGANIZATION_PLAN": Scope.ORGANIZATION,
    "PLATFORM_DEFAULT": Scope.ORGANIZATION,
}

_THRESHOLDS: Final = (50, 80, 100)
"""The percentages of an entitled limit at which an alert is due."""
_WITH_ALERTS: Final = (Window.DAY, Window.WEEK, Window.MONTH, Window.PERIOD, Window.LIFETIME)
"""The windows that are long enough for an alert to be of use."""


def entitled_limits(organization_id: str, user_id: str, entitlements: Entitlements) -> list[Applied]:
    """Return the limits among what a user, or an organization for itself, is entitled to, by their codes."""
    return [
        _applied(organization_id, user_id, code, one, one.value, entitlements)
        for code, one in sorted(entitlements.values.items())
        if isinstance(one.value, EntitledLimit)
    ]


def entitlements_under(nearest: Entitlements, without_nearer: Entitlements) -> Entitlements:
    """Return what holds for calls under a subscription that is not the nearest of their caller.

    `nearest` is what the caller is entitled to, and `without_nearer` what is so without the nearer subscriptions. Every
    override stands before every subscription.
    """
    overrides = {code: one for code, one in nearest.values.items() if one.source == OVERRIDE}
    return replace(without_nearer, values={**without_nearer.values, **overrides})


def entitlements_of_subscription(entitlements: Entitlements, subscription_id: str) -> Entitlements:
    """Return of what a subscription's subject is entitled to what the subscription gives, and overrides."""
    values = {
        code: one
        for code, one in entitlements.values.items()
        if one.source == OVERRIDE or one.subscription_id == subscription_id
    }
    return replace(entitlements, values=values)


def _applied(
    organization_id: str, user_id: str, code: str, one: Entitlement, value: EntitledLimit, entitlements: Entitlements
) -> Applied:
    scope, subject = _counted_for(user_id, one)
    # Concurrent calls are those of a moment, whatever window the plan gives them.
    window = Window.NONE if value.metric == CONCURRENT_CALLS else Window(value.window)
    period = None
    if window is Window.PERIOD:
        period = entitlements.periods.get(one.subscription_id or "", entitlements.period)
    subscription_id = one.subscription_id if window is Window.LIFETIME else None
    shape = Shape(value.metric, value.currency_code, window, False, "", 0, scope, subject, "")
    thresholds = _THRESHOLDS if window in _WITH_ALERTS else ()
    terms = Terms(value.maximum, Enforcement.SOFT if value.soft else Enforcement.HARD, thresholds=thresholds)
    limit_id = _limit_id(organization_id, code, *shape[:3], scope, subscription_id or "")
    given_by = one.subscription_id or ""
    limit = Limit(limit_id, code, shape, terms, period, is_entitled=True, subscription_id=given_by)
    return Applied(limit, subject)


def _counted_for(user_id: str, one: Entitlement) -> tuple[Scope, str]:
    """Return for whom an entitlement counts."""
    scope = _SOURCES.get(one.source)
    if scope is Scope.SUBSCRIPTION:
        return scope, one.subscription_id or ""
    if scope is not None:
        return scope, user_id if scope is Scope.USER else ""
    if one.override_user_id:
        return Scope.USER, " ".join(filter(None, (one.override_user_id, one.override_model)))
    return (Scope.MODEL, one.override_model) if one.override_model else (Scope.ORGANIZATION, "")


def _limit_id(*values: str) -> str:
    """Return a UUID of version 8 (RFC 9562) made of a digest of what an entitled limit counts."""
    return id_of_digest("\x1f".join(values))
