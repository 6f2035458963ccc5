"""What may be used, and which rule says so.

The rules that concern a subject stand in order, the nearest first:

1. an override for the user with the model
2. an override for the user
3. an override for the model
4. an override for the organization
5. the user's subscription to the model
6. the user's plan
7. the organization's plan
8. the platform's default

For each entitlement code, the nearest rule that has it gives the value. Codes are looked up one by one, so a plan that
says nothing about a code leaves it to the next rule.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.billing.plan.domain import Entitlement
from services.billing.subscription.domain import Agreement, Subject, Subscription, WaitsFor
from services.billing.subscription.states import State

OVERRIDES_MAX: Final = 1_000
"""How many overrides an organization can have."""


class Source(StrEnum):
    """Which rule gave a value."""

    OVERRIDE = "OVERRIDE"
    MODEL_SUBSCRIPTION = "MODEL_SUBSCRIPTION"
    USER_PLAN = "USER_PLAN"
    ORGANIZATION_PLAN = "ORGANIZATION_PLAN"
    PLATFORM_DEFAULT = "PLATFORM_DEFAULT"


_OF_SUBJECT: Final = {
    Subject.MODEL: Source.MODEL_SUBSCRIPTION,
    Subject.USER: Source.USER_PLAN,
    Subject.ORGANIZATION: Source.ORGANIZATION_PLAN,
}
_NEAREST_FIRST: Final = tuple(_OF_SUBJECT)


@dataclass(frozen=True, slots=True)
class Override:
    """Another value of an entitlement for one subject than its plan gives."""

    organization_id: str
    user_id: str | None
    """The user it is for; None for all of the organization."""
    model: str | None
    """The model it is for; None for all."""
    entitlement: Entitlement
    expire_time: datetime | None
    reason: str
    actor: str
    create_time: datetime

    def says_the_same(self, other: "Override") -> bool:
        """Tell whether another override of the same subject and code differs in who set it and when alone."""
        return (self.entitlement, self.expire_time, self.reason) == (other.entitlement, other.expire_time, other.reason)


@dataclass(frozen=True, slots=True)
class Effective:
    """What may be used of one thing, and why."""

    entitlement: Entitlement
    source: Source
    subscription_id: str | None
    until_time: datetime | None
    """Until when it holds for sure, unless something is changed; None for no end. It has passed where what is due for a
    subscription was not done yet."""
    override: Override | None = None
    """The override that gave it; None where none did."""


@dataclass(frozen=True, slots=True)
class Entitled:
    """What a subject may use."""

    entitlements: tuple[Effective, ...]
    """By code."""
    subscriptions: tuple[Subscription, ...]
    """Those that entitle, the nearest first."""
    until_time: datetime | None
    """The earliest of those times, and of the ends of the subscriptions."""

    @property
    def period(self) -> tuple[datetime, datetime] | None:
        """The period of the nearest subscription that has one."""
        for one in self.subscriptions:
            if one.period_start_time is not None and one.period_end_time is not None:
                return one.period_start_time, one.period_end_time
        return None


@dataclass(frozen=True, slots=True)
class _Rule:
    source: Source
    entitlements: dict[str, Entitlement]
    subscription_id: str | None = None
    begin: datetime | None = None
    """When it will hold at the earliest; None where it holds now."""
    end: datetime | None = None
    """Until when it holds for sure, or will not begin; None for no end."""
    override: Override | None = None


def entitled(
    overrides: Sequence[Override], agreements: Sequence[Agreement], default: Sequence[Entitlement], now: datetime
) -> Entitled:
    """Return what a subject may use now.

    `overrides` and `agreements` are those that concern the subject, in any order. Of the agreements there is one at
    most for each kind of subject.
    """
    agreements = sorted(agreements, key=lambda one: _NEAREST_FIRST.index(one.subscription.subject))
    rules = [
        *_rules_of_overrides(overrides, now),
        *(rule for agreement in agreements for rule in _rules_of_agreement(agreement, now)),
        _Rule(Source.PLATFORM_DEFAULT, _by_code(default)),
    ]
    codes = sorted({code for rule in rules for code in rule.entitlements})
    effective = tuple(found for code in codes if (found := _nearest(code, rules)) is not None)
    return Entitled(
        entitlements=effective,
        subscriptions=tuple(one.subscription for one in agreements if entitles(one.subscription, now)),
        until_time=_earliest([*(one.until_time for one in effective), *(_next_turn(rule) for rule in rules)]),
    )


def entitles(subscription: Subscription, now: datetime) -> bool:
    """Tell whether a subscription entitles to anything now.

    One whose end has come does not, even if its end has not been recorded yet.
    """
    ends = [subscription.expire_time, subscription.period_end_time if subscription.cancel_at_period_end else None]
    return subscription.state.entitles and not any(end is not None and end <= now for end in ends)


def _rules_of_overrides(overrides: Sequence[Override], now: datetime) -> Iterator[_Rule]:
    for one in sorted(overrides, key=lambda one: (one.user_id is None, one.model is None)):
        if one.expire_time is None or one.expire_time > now:
            yield _Rule(Source.OVERRIDE, _by_code([one.entitlement]), end=one.expire_time, override=one)


def _rules_of_agreement(agreement: Agreement, now: datetime) -> Iterator[_Rule]:
    one = agreement.subscription
    begin = None
    if one.state is State.PENDING and one.waits_for is WaitsFor.START:
        begin = one.start_time
    elif not entitles(one, now):
        return
    end = _sure_until(one)
    yield _Rule(_OF_SUBJECT[one.subject], _by_code(agreement.terms.entitlements), one.subscription_id, begin, end)


def _sure_until(subscription: Subscription) -> datetime | None:
    """Return until when nothing falls due for a subscription that could change what it entitles to."""
    due = [
        subscription.period_end_time,
        subscription.expire_time,
        subscription.trial_end_time if subscription.state is State.TRIALING else None,
        subscription.next_payment_time,
    ]
    return _earliest(due)


def _nearest(code: str, rules: Sequence[_Rule]) -> Effective | None:
    """Return the value of the nearest rule that holds, which is sure until that rule ends or a nearer one begins."""
    until: list[datetime | None] = []
    for rule in rules:
        if code in rule.entitlements:
            until.append(_next_turn(rule))
            if rule.begin is None:
                return Effective(
                    rule.entitlements[code], rule.source, rule.subscription_id, _earliest(until), rule.override
                )
    return None


def _next_turn(rule: _Rule) -> datetime | None:
    return rule.end if rule.begin is None else rule.begin


def _by_code(entitlements: Sequence[Entitlement]) -> dict[str, Entitlement]:
    return {one.entitlement_code: one for one in entitlements}


def _earliest(moments: Sequence[datetime | None]) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
