"""How usage develops, from the sums of whole days: pure rules. docs/statistics.md explains the methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Final

OBSERVED_MAX: Final = 28
"""The days that are looked at: four weeks, so that each weekday is in them as often."""
OBSERVED_MIN: Final = 7
SCORE_MAX: Final = Decimal("3.5")
_CONTEXT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_AMOUNT: Final = Decimal("0.000000001")
_SCORE: Final = Decimal("0.001")
_PERCENT: Final = Decimal("0.01")
_ZERO: Final = Decimal(0)
_NORMAL: Final = Decimal("0.6745")
"""The median distance from the mean of a normal distribution with standard deviation 1."""
_NORMAL_OF_MEAN: Final = Decimal("1.253314")
"""The standard deviation of a normal distribution whose mean distance from the mean is 1."""
_T: Final = tuple(
    Decimal(thousandths) / 1000
    for thousandths in (
        *(2447, 2365, 2306, 2262, 2228, 2201, 2179, 2160, 2145, 2131, 2120),
        *(2110, 2101, 2093, 2086, 2080, 2074, 2069, 2064, 2060, 2056, 2052),
    )
)
"""The 97.5 % quantiles of Student's t distribution with 6, 7 and so on to 27 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a month is expected to come to, and the bounds of its 95 % prediction interval."""

    expected: Decimal
    low: Decimal
    high: Decimal


def percent_of(difference: Decimal, before: Decimal) -> Decimal | None:
    """Return a difference in percent of what was before; None if that was zero."""
    if not before:
        return None
    with localcontext(_CONTEXT):
        return (difference * 100 / before.copy_abs()).quantize(_PERCENT)


def forecast(observed: Sequence[Decimal], to_date: Decimal, remaining: int, *, may_fall: bool) -> Forecast | None:
    """Return what a month comes to if its remaining days are as those observed; None for too few days.

    Each remaining day is expected to be the mean of the days observed. The interval is that of the sum of as many new
    observations, of which the mean itself is uncertain too. `may_fall` tells whether a day's value may be negative.
    """
    count = len(observed)
    if count < OBSERVED_MIN:
        return None
    with localcontext(_CONTEXT):
        mean = sum(observed, _ZERO) / count
        variance = sum(((value - mean) ** 2 for value in observed), _ZERO) / (count - 1)
        half = _T[count - OBSERVED_MIN] * (variance * (remaining + Decimal(remaining**2) / count)).sqrt()
        expected = to_date + remaining * mean
        low = expected - half if may_fall else max(expected - half, to_date)
        return Forecast(expected.quantize(_AMOUNT), low.quantize(_AMOUNT), (expected + half).quantize(_AMOUNT))


def scores(observed: Sequence[Decimal]) -> list[Decimal]:
    """Return the modified z-score of each day: how far it is from the median, in terms of the usual distance from it.

    Where more than half of the days have the median itself, the mean distance stands for the usual one. All days are
    zero where all are the same.
    """
    if not observed:
        return []
    with localcontext(_CONTEXT):
        middle = median(observed)
        distances = [(value - middle).copy_abs() for value in observed]
        factor, usual = _NORMAL, median(distances)
        if not usual:
            factor, usual = 1 / _NORMAL_OF_MEAN, sum(distances, _ZERO) / len(distances)
        return [(factor * (value - middle) / usual).quantize(_SCORE) if usual else _ZERO for value in observed]


def stands_out(score: Decimal, count: int) -> bool:
    """Tell whether a day with this score is unusual among so many."""
    return count >= OBSERVED_MIN and score.copy_abs() > SCORE_MAX


def median(values: Sequence[Decimal]) -> Decimal:
    """Return the middle value, or the mean of the two in the middle."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
