"""The minimum spend of a period: what it comes to, and what is short of it. Pure.

The minimum of a period is prorated like its price, in whole local days. A change of plan takes the days that are left
at the old minimum and adds them at the new one, so that the days of both together are those of the period.
"""

from datetime import datetime
from decimal import Decimal
from typing import Final

from services.billing.plan.domain import Money, Terms
from services.billing.subscription.costs import Part, rest_of_period
from services.billing.subscription.domain import Agreement, Minimum
from services.billing.subscription.proration import prorated

_ZERO: Final = Decimal(0)


def short_of(minimum: Decimal, spent: Decimal) -> Decimal:
    """Return what is short of a minimum: nothing where as much was spent, and never more than the minimum."""
    return max(minimum - max(spent, _ZERO), _ZERO)


def minimum_of(terms: Terms, part: Part) -> Minimum | None:
    """Return the minimum of a part of a period; None where the terms have none, or the part no day."""
    if terms.minimum is None:
        return None
    amount = prorated(terms.minimum.value, part.days, part.period_days)
    return Minimum(Money(terms.minimum.currency_code, amount), part.start) if amount else None


def used_minimum(agreement: Agreement, before: Minimum | None, moment: datetime) -> Minimum | None:
    """Return what the minimum of the period under way comes to without the days that are left from a moment on."""
    if before is None or agreement.terms.minimum is None:
        return before
    part = rest_of_period(agreement.subscription, agreement.terms, moment)
    rest = prorated(agreement.terms.minimum.value, part.days, part.period_days)
    amount = before.amount.value - rest
    return Minimum(Money(before.amount.currency_code, amount), before.since) if amount > 0 else None


def together(first: Minimum | None, second: Minimum | None) -> Minimum | None:
    """Return the minimum of two parts of the time, one after the other."""
    if first is None or second is None:
        return first or second
    value = first.amount.value + second.amount.value
    return Minimum(Money(first.amount.currency_code, value), first.since)
