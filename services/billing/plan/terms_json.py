"""Terms as they are stored: JSON with numbers as text, so that no amount passes through floating point."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypedDict

from libs.common.amount import format_amount
from services.billing.plan.domain import (
    Entitlement,
    IncludedCredits,
    Interval,
    IntervalUnit,
    Limit,
    LimitWindow,
    Money,
    Number,
    PastDue,
    PastDueEnd,
    Rollover,
    Terms,
)
from services.billing.plan.usage_charge_domain import UsageChargeJson, usage_charge_json, usage_charge_of_json


class MoneyJson(TypedDict):
    """An amount."""

    currency_code: str
    value: str


class IntervalJson(TypedDict):
    """An interval."""

    unit: str
    count: int


class _CreditsJson(TypedDict):
    amount: MoneyJson
    rollover: str
    priority: int


class CreditsJson(_CreditsJson, total=False):
    """Included credits."""

    rollover_max: MoneyJson


class _LimitJson(TypedDict):
    metric: str
    window: str
    soft: bool
    currency_code: str


class LimitJson(_LimitJson, total=False):
    """A limit; one without `value` is unlimited."""

    value: str


class _EntitlementJson(TypedDict):
    entitlement_code: str


class EntitlementJson(_EntitlementJson, total=False):
    """An entitlement, with one of the others."""

    enabled: bool
    number: str
    text: str
    limit: LimitJson


class PastDueJson(TypedDict):
    """What happens where a period cannot be paid."""

    retry_after_s: Sequence[int]
    end: str
    fallback_plan_code: str


class _TermsJson(TypedDict):
    price: MoneyJson
    billing_interval: IntervalJson
    credits: Sequence[CreditsJson]
    entitlements: Sequence[EntitlementJson]
    past_due: PastDueJson
    metadata: Mapping[str, str]


class TermsJson(_TermsJson, total=False):
    """The terms of a version."""

    trial: IntervalJson
    minimum: MoneyJson
    usage_charges: Sequence[UsageChargeJson]


def terms_json(terms: Terms) -> TermsJson:
    """Return terms as they are stored."""
    stored = TermsJson(
        price=money_json(terms.price),
        billing_interval=_interval_json(terms.billing_interval),
        credits=[_credits_json(one) for one in terms.credits],
        entitlements=[entitlement_json(one) for one in terms.entitlements],
        past_due=PastDueJson(
            retry_after_s=terms.past_due.retry_after_s,
            end=terms.past_due.end.value,
            fallback_plan_code=terms.past_due.fallback_plan_code,
        ),
        metadata=dict(terms.metadata),
    )
    if terms.trial is not None:
        stored["trial"] = _interval_json(terms.trial)
    if terms.minimum is not None:
        stored["minimum"] = money_json(terms.minimum)
    if terms.usage_charges:
        stored["usage_charges"] = [usage_charge_json(one) for one in terms.usage_charges]
    return stored


def terms_of_json(stored: TermsJson) -> Terms:
    """Return stored terms; raises KeyError or ValueError for what `terms_json` does not write."""
    past_due = stored["past_due"]
    return Terms(
        price=money_of_json(stored["price"]),
        billing_interval=_interval(stored["billing_interval"]),
        credits=tuple(map(_credits, stored["credits"])),
        trial=_interval(stored["trial"]) if "trial" in stored else None,
        entitlements=tuple(map(entitlement_of_json, stored["entitlements"])),
        past_due=PastDue(tuple(past_due["retry_after_s"]), PastDueEnd(past_due["end"]), past_due["fallback_plan_code"]),
        metadata=dict(stored["metadata"]),
        minimum=money_of_json(stored["minimum"]) if "minimum" in stored else None,
        usage_charges=tuple(map(usage_charge_of_json, stored.get("usage_charges", ()))),
    )


def money_json(money: Money) -> MoneyJson:
    """Return an amount as it is stored."""
    return MoneyJson(currency_code=money.currency_code, value=format_amount(money.value))


def money_of_json(stored: MoneyJson) -> Money:
    """Return a stored amount; raises KeyError or ValueError for what `money_json` does not write."""
    return Money(stored["currency_code"], Decimal(stored["value"]))


def _interval_json(interval: Interval) -> IntervalJson:
    return IntervalJson(unit=interval.unit.value, count=interval.count)


def _interval(stored: IntervalJson) -> Interval:
    return Interval(IntervalUnit(stored["unit"]), stored["count"])


def _credits_json(one: IncludedCredits) -> CreditsJson:
    stored = CreditsJson(amount=money_json(one.amount), rollover=one.rollover.value, priority=one.priority)
    if one.rollover_max is not None:
        stored["rollover_max"] = money_json(one.rollover_max)
    return stored


def _credits(stored: CreditsJson) -> IncludedCredits:
    return IncludedCredits(
        money_of_json(stored["amount"]),
        Rollover(stored["rollover"]),
        money_of_json(stored["rollover_max"]) if "rollover_max" in stored else None,
        stored["priority"],
    )


def entitlement_json(one: Entitlement) -> EntitlementJson:
    """Return an entitlement as it is stored."""
    stored = EntitlementJson(entitlement_code=one.entitlement_code)
    if isinstance(one.value, bool):
        stored["enabled"] = one.value
    elif isinstance(one.value, Number):
        stored["number"] = format_amount(one.value.value)
    elif isinstance(one.value, str):
        stored["text"] = one.value
    else:
        stored["limit"] = _limit_json(one.value)
    return stored


def entitlement_of_json(stored: EntitlementJson) -> Entitlement:
    """Return a stored entitlement; raises KeyError or ValueError for what `entitlement_json` does not write."""
    code = stored["entitlement_code"]
    if "enabled" in stored:
        return Entitlement(code, stored["enabled"])
    if "number" in stored:
        return Entitlement(code, Number(Decimal(stored["number"])))
    if "text" in stored:
        return Entitlement(code, stored["text"])
    return Entitlement(code, _limit(stored["limit"]))


def _limit_json(limit: Limit) -> LimitJson:
    stored = LimitJson(
        metric=limit.metric, window=limit.window.value, soft=limit.soft, currency_code=limit.currency_code
    )
    if limit.maximum is not None:
        stored["value"] = format_amount(limit.maximum)
    return stored


def _limit(stored: LimitJson) -> Limit:
    return Limit(
        stored["metric"],
        LimitWindow(stored["window"]),
        Decimal(stored["value"]) if "value" in stored else None,
        stored["soft"],
        stored["currency_code"],
    )
