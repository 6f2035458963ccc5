"""What a part of a period costs.

Parts are whole local days, whether a day has 23, 24 or 25 hours. The denominator is the whole period, whatever part of
it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, pairwise
from zoneinfo import ZoneInfo

from libs.common.amount import AMOUNT_MAX, FRACTION_DIGITS
from services.billing.subscription.periods import Period, local_time


@dataclass(frozen=True, slots=True)
class Share:
    """The days of a period from `first_day` until before `end_day`, at least one, and what they cost."""

    first_day: date
    end_day: date
    amount: Decimal


def days_left(period: Period, zone: ZoneInfo, moment: datetime) -> int:
    """Return how many days the period has from the local day of a moment on: 0 to all.

    That day counts in full, so the day of a change belongs to what comes after it. The day in which a period ends
    belongs to the next period. Raises OutsideCalendar, or ValueError if the moment is naive.
    """
    day = local_time(moment, zone).date()
    return (period.end_day - min(max(day, period.first_day), period.end_day)).days


def prorated(amount: Decimal, part_days: int, whole_days: int) -> Decimal:
    """Return what `part_days` at the end of a period cost if all its `whole_days` cost `amount`.

    It is rounded once, half to even, to the 9 fraction digits that the ledger keeps. A currency's minor unit is the
    matter of invoices. Prorate only what is left of a period: days that end earlier cost the difference between what is
    left at their start and at their end. Then parts never add up to more or less than the whole. `shares` does so.

    Raises:
        ValueError: the part is larger than the whole or negative, the whole has no day, or the amount has more than 15
            integer or 9 fraction digits.
    """
    if not 0 <= part_days <= whole_days or whole_days == 0:
        raise ValueError(f"{part_days} days are no part of {whole_days} days")
    if not amount.is_finite() or not -AMOUNT_MAX < amount < AMOUNT_MAX:
        raise ValueError(f"{amount} has more than 15 integer digits")
    exact = round(amount, FRACTION_DIGITS)
    if exact != amount:
        raise ValueError(f"{amount} has more than {FRACTION_DIGITS} fraction digits")
    # A quotient of Decimals would be rounded to 28 digits first. Fractions are exact, and `round` is half to even.
    units = round(Fraction(exact) * 10**FRACTION_DIGITS * part_days / whole_days)
    return Decimal(units).scaleb(-FRACTION_DIGITS)


def shares(period: Period, zone: ZoneInfo, prices: Sequence[tuple[datetime, Decimal]]) -> list[Share]:
    """Divide the days of a period among prices: the moment from which each holds, and what it is for the whole period.

    The first price may begin before the period, or within it. The last price of a day has that day, and a price
    without a day has no share. Where all prices are the same, the shares add up to `prorated` of the days from the
    first moment on.

    Raises:
        ValueError: the moments are not in order, or as `days_left` and `prorated` do.
    """
    left = [days_left(period, zone, moment) for moment, _ in prices]
    if any(earlier > later for (earlier, _), (later, _) in pairwise(prices)):
        raise ValueError("the prices are not in the order of their moments")
    # Clocks that are put back over midnight repeat a part of the day before, whose days do not come back.
    left = list(accumulate(left, min))
    return [
        Share(
            period.end_day - timedelta(days=from_start),
            period.end_day - timedelta(days=from_end),
            prorated(amount, from_start, period.days) - prorated(amount, from_end, period.days),
        )
        for (_, amount), from_start, from_end in zip(prices, left, [*left[1:], 0], strict=True)
        if from_start > from_end
    ]
