"""How a plan changed, for the audit trail. Of texts for people and of metadata it is only told that they changed."""

from typing import Final

from libs.common.amount import format_amount
from libs.common.audit.chain import Changed, differences
from libs.common.text import storable
from services.billing.plan.domain import (
    Entitlement,
    IncludedCredits,
    Interval,
    Limit,
    Money,
    Number,
    PastDue,
    Plan,
    Terms,
    Version,
)
from services.billing.plan.usage_charge_domain import UsageCharge

_ENTITLEMENTS_MAX: Final = 60
"""How many changed entitlements are told one by one: an event holds 100 changes."""
_VALUE_CHARS_MAX: Final = 1_000


def plan_changes(before: Plan | None, after: Plan) -> tuple[Changed, ...]:
    """Return the changed fields of a plan and of its newest version."""
    changes = differences({} if before is None else _fields(before), _fields(after))
    if (before.description if before else "") != after.description:
        changes = (*changes, Changed("description"))
    old = None if before is None else before.newest.terms
    return (*changes, *_terms_changes(old, after.newest.terms))


def _fields(plan: Plan) -> dict[str, str | None]:
    references = ", ".join(map(str, plan.provider_references))
    return {
        "plan_code": plan.plan_code,
        "name": plan.name,
        "active": str(plan.active).lower(),
        "sort_order": str(plan.sort_order),
        "provider_references": storable(references, _VALUE_CHARS_MAX, with_length=True),
        "archived": str(plan.archive_time is not None).lower(),
        "published_version": _number(plan.published),
        "draft_version": _number(plan.draft),
    }


def _number(version: Version | None) -> str | None:
    return None if version is None else str(version.version)


def _terms_changes(before: Terms | None, after: Terms) -> tuple[Changed, ...]:
    changes = differences({} if before is None else _plain_terms(before), _plain_terms(after))
    old = () if before is None else before.entitlements
    changed = _entitlements_changes(old, after.entitlements)
    told = changed[:_ENTITLEMENTS_MAX]
    if len(told) < len(changed):
        told = (*told, Changed("terms.entitlements", after=f"and {len(changed) - len(told)} more"))
    metadata = {} if before is None else before.metadata
    return (*changes, *told, *([Changed("terms.metadata")] if metadata != after.metadata else []))


def _plain_terms(terms: Terms) -> dict[str, str | None]:
    return {
        "terms.price": _money(terms.price),
        "terms.minimum": None if terms.minimum is None else _money(terms.minimum),
        "terms.billing_interval": _interval(terms.billing_interval),
        "terms.trial": None if terms.trial is None else _interval(terms.trial),
        **{f"terms.credits.{one.amount.currency_code}": _credits(one) for one in terms.credits},
        "terms.past_due": _past_due(terms.past_due),
        "terms.usage_charges": _usage_charges(terms) or None,
    }


def _entitlements_changes(before: tuple[Entitlement, ...], after: tuple[Entitlement, ...]) -> tuple[Changed, ...]:
    old, new = ({one.entitlement_code: one for one in each} for each in (before, after))
    return tuple(
        Changed(f"terms.entitlements.{code}", entitlement_text(old.get(code)), entitlement_text(new.get(code)))
        for code in dict.fromkeys([*old, *new])
        if old.get(code) != new.get(code)
    )


def _money(money: Money) -> str:
    return f"{format_amount(money.value)} {money.currency_code}"


def _interval(interval: Interval) -> str:
    return f"{interval.count} {interval.unit}"


def _credits(one: IncludedCredits) -> str:
    rollover_max = "" if one.rollover_max is None else f" {format_amount(one.rollover_max.value)}"
    return f"{format_amount(one.amount.value)}, rollover {one.rollover}{rollover_max}, priority {one.priority}"


def _usage_charges(terms: Terms) -> str:
    return storable(" | ".join(map(_usage_charge, terms.usage_charges)), _VALUE_CHARS_MAX, with_length=True)


def _usage_charge(one: UsageCharge) -> str:
    models = f" of {', '.join(one.models)}" if one.models else ""
    told = f"{one.usage_charge_code}, {one.mode} {one.unit}{models}: {'; '.join(one.step_texts())}"
    return f"{told}, also without usage" if one.flat_fee_without_usage else told


def _past_due(past_due: PastDue) -> str:
    retries = ", ".join(f"{after_s} s" for after_s in past_due.retry_after_s)
    return f"{f'retries after {retries}, ' if retries else ''}{past_due.end} {past_due.fallback_plan_code}".rstrip()


def entitlement_text(one: Entitlement | None) -> str | None:
    """Return the value of an entitlement for the audit trail; None for texts, which it does not tell."""
    if one is None or isinstance(one.value, str):
        return None
    if isinstance(one.value, bool):
        return str(one.value).lower()
    return format_amount(one.value.value) if isinstance(one.value, Number) else _limit(one.value)


def _limit(limit: Limit) -> str:
    maximum = "unlimited" if limit.maximum is None else format_amount(limit.maximum)
    what = f"{limit.metric} {limit.currency_code}".rstrip()
    return f"{maximum} {what} per {limit.window}{', soft' if limit.soft else ''}"
