"""What a period, or what is left of one, costs and brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from libs.common.time_zones import zone_named
from services.billing.plan.domain import Money, Rollover, Terms
from services.billing.subscription.domain import AgreedPlan, Agreement, Line, Refill, Subscription
from services.billing.subscription.periods import Period, local_time, period, period_at
from services.billing.subscription.proration import days_left, prorated


@dataclass(frozen=True, slots=True)
class Part:
    """What a period has from a moment on, in whole local days."""

    number: int
    start: datetime
    end: datetime
    days: int
    period_days: int
    """How many days the period has as a whole."""

    def price(self, terms: Terms) -> Decimal:
        """Return what the part costs."""
        return prorated(terms.price.value, self.days, self.period_days)


def part_from(anchor: datetime, terms: Terms, time_zone: str, moment: datetime, expected_number: int = 0) -> Part:
    """Return what the period that holds a moment has from then on.

    Where the number that is expected is the right one, no other is tried. Raises OutsideCalendar.
    """
    zone = zone_named(time_zone)
    found = period(anchor, terms.billing_interval, zone, expected_number)
    if found.start != moment:
        found = period_at(anchor, terms.billing_interval, zone, moment)
    return _part(found, zone, moment)


def rest_of_period(subscription: Subscription, terms: Terms, moment: datetime) -> Part:
    """Return what the subscription's period has from a moment on: no day where it has ended."""
    s = subscription
    assert s.anchor_time is not None
    assert s.period_number is not None
    zone = zone_named(s.time_zone)
    return _part(period(s.anchor_time, terms.billing_interval, zone, s.period_number), zone, moment)


def rest_of_trial(subscription: Subscription, moment: datetime) -> Part:
    """Return what a trial has from a moment on."""
    s = subscription
    assert s.period_number is not None
    assert s.period_start_time is not None
    assert s.period_end_time is not None
    zone = zone_named(s.time_zone)
    start, end = s.period_start_time.astimezone(zone).date(), s.period_end_time.astimezone(zone).date()
    return _part(Period(s.period_number, s.period_start_time, s.period_end_time, start, end), zone, moment)


def span(agreement: Agreement, start: datetime, end: datetime) -> Part:
    """Return the time from one moment to another, beside the period under way, as a part in whole local days."""
    s = agreement.subscription
    zone = zone_named(s.time_zone)
    whole = rest_of_period(s, agreement.terms, end)
    days = (local_time(end, zone).date() - local_time(start, zone).date()).days
    return Part(whole.number, start, end, days, max(days, whole.period_days))


def _part(whole: Period, zone: ZoneInfo, moment: datetime) -> Part:
    days = whole.days if whole.start == moment else days_left(whole, zone, moment)
    return Part(whole.number, moment, whole.end, days, max(whole.days, 1))


def line(plan: AgreedPlan | None, part: Part, currency_code: str, amount: Decimal) -> tuple[Line, ...]:
    """Return the line of a part, which is none where nothing is charged."""
    if not amount:
        return ()
    assert plan is not None, "what has no plan costs nothing"
    return (Line(plan, part.start, part.end, part.days, part.period_days, Money(currency_code, amount)),)


def refills(terms: Terms, operation_id: str, part: Part, effective_time: datetime) -> Sequence[Refill]:
    """Return the included credits of a part, from a moment on; without those that would end before they begin."""
    return [
        Refill(
            operation_id=f"{operation_id}/{one.amount.currency_code}",
            amount=Money(one.amount.currency_code, amount),
            priority=one.priority,
            effective_time=effective_time,
            expire_time=part.end if one.rollover is Rollover.NONE else None,
            kept_at_most=None if one.rollover_max is None else one.rollover_max.value,
        )
        for one in terms.credits
        if (amount := prorated(one.amount.value, part.days, part.period_days)) and effective_time < part.end
    ]
