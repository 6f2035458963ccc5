"""Times whose usage a plan charges for: what is stored of each when it ends, and when it is looked at. Pure.

Such a time is a period of a subscription, or the part of one in which the subscription had a plan: it begins and ends
where the plan, the period or the subscription does, or where the minimum spend is settled. So each moment is in one of
them at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from services.billing.plan.usage_charge_domain import UsageCharge
from services.billing.subscription.costs import span
from services.billing.subscription.domain import AgreedPlan, Agreement, Minimum, Subject, Subscription
from services.billing.subscription.proration import prorated
from services.billing.subscription.steps import Step

_ZERO: Final = Decimal(0)
_LOOKS: Final = (
    (timedelta(days=7), timedelta(hours=1)),
    (timedelta(days=40), timedelta(days=1)),
    (timedelta(days=400), timedelta(days=30)),
)
"""How often a time is looked at again for late usage and corrections, until so long after its end."""


@dataclass(frozen=True, slots=True)
class UsagePeriod:
    """A time that is over, and what is charged for it: one usage charge, or what is short of a minimum."""

    organization_id: str
    subscription_id: str
    start: datetime
    end: datetime
    plan: AgreedPlan
    currency_code: str
    with_unsubscribed: bool
    """Whether usage under no subscription counts."""
    charge: UsageCharge | None
    """None for the minimum, towards which the usage charges of the same time count."""
    base: Decimal
    """The part of the flat fee that is due; of a minimum, what is short of it before its usage charges."""

    @property
    def code(self) -> str:
        """The usage charge's code; empty for the minimum."""
        return "" if self.charge is None else self.charge.usage_charge_code


def ended_with(agreement: Agreement, step: Step) -> list[UsagePeriod]:
    """Return the times that end with a step, and a minimum that waits for their usage charges."""
    before, moment = agreement.subscription, step.event.effective_time
    found = list(_ended(agreement, step.after, moment))
    if step.minimum_left is not None:
        found.append(_minimum(before, step.minimum_left, moment))
    return found


def ended_by_change(agreement: Agreement, after: Subscription, moment: datetime) -> list[UsagePeriod]:
    """Return the times that end with a change that moves no money."""
    return list(_ended(agreement, after, moment))


def _ended(agreement: Agreement, after: Subscription, moment: datetime) -> Iterator[UsagePeriod]:
    s, terms = agreement.subscription, agreement.terms
    if s.usage_since is None or after.usage_since == s.usage_since or moment <= s.usage_since:
        return
    assert s.plan is not None
    part = span(agreement, s.usage_since, moment)
    rested = not s.period_paid and not s.state.entitles
    for charge in terms.usage_charges:
        yield UsagePeriod(
            organization_id=s.organization_id,
            subscription_id=s.subscription_id,
            start=s.usage_since,
            end=moment,
            plan=s.plan,
            currency_code=terms.price.currency_code,
            with_unsubscribed=s.subject is Subject.ORGANIZATION,
            charge=charge,
            base=_ZERO if rested else prorated(charge.flat_fee, part.days, part.period_days),
        )


def _minimum(s: Subscription, left: Minimum, moment: datetime) -> UsagePeriod:
    assert s.plan is not None
    return UsagePeriod(
        organization_id=s.organization_id,
        subscription_id=s.subscription_id,
        start=left.since,
        end=moment,
        plan=s.plan,
        currency_code=left.amount.currency_code,
        with_unsubscribed=False,
        charge=None,
        base=left.amount.value,
    )


def next_look(end: datetime, now: datetime) -> datetime | None:
    """Return when a time that is over is looked at again; None where it never is."""
    every = next((every for until, every in _LOOKS if now - end < until), None)
    return None if every is None or now + every - end > _LOOKS[-1][0] else now + every
