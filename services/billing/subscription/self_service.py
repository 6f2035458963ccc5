"""What the platform lets its customers do with their subscriptions by themselves."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from services.billing.plan.domain import IntervalUnit, Terms

# How many days a unit of the calendar has on average in the 400 years after which it repeats.
_DAYS: Final = {
    IntervalUnit.DAY: Fraction(1),
    IntervalUnit.WEEK: Fraction(7),
    IntervalUnit.MONTH: Fraction(146_097, 4_800),
    IntervalUnit.YEAR: Fraction(146_097, 400),
}


@dataclass(frozen=True, slots=True)
class SelfService:
    """What is offered to organizations. Operators and services are not limited by it."""

    plan_codes: frozenset[str] | None = None
    """The plans; None for all that are active."""
    downgrade: bool = True
    """Whether a change to a cheaper plan is offered."""
    cancel: bool = True
    """Whether cancelling is offered."""

    def offers(self, plan_code: str, *, active: bool) -> bool:
        """Return whether a plan is offered."""
        return active and (self.plan_codes is None or plan_code in self.plan_codes)

    def offers_change(self, old: Terms, new: Terms) -> bool:
        """Return whether a change between two offered plans is, too."""
        return self.downgrade or not is_downgrade(old, new)


def is_downgrade(old: Terms, new: Terms) -> bool:
    """Return whether new terms cost less a day than old ones, the minimum spend included.

    Prices in different units are taken for less.
    """
    if old.price.currency_code != new.price.currency_code and not old.is_free:
        return True
    return _price_a_day(new) < _price_a_day(old)


def _price_a_day(terms: Terms) -> Fraction:
    interval = terms.billing_interval
    value = terms.price.value + (0 if terms.minimum is None else terms.minimum.value)
    return Fraction(value) / (_DAYS[interval.unit] * interval.count)
