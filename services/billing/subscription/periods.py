"""The periods of a subscription.

A period is the time from one boundary until before the next. Boundary n is the wall-clock time of the anchor in a time
zone, n intervals later in the calendar there. A day that the month does not have becomes the month's last day. Each
boundary is computed from the anchor, so that a short month shortens one period and not those after it. Boundary 0 is
the anchor, and n may be negative. For every anchor, interval and zone:

- Boundaries are strictly increasing, so periods have no gap and no overlap.
- Where clocks are put forward over a boundary, it is later by as much: 02:30 becomes 03:30 on that day. In a day that
  the zone left out altogether (2011-12-30 in Pacific/Apia) it is later by half as much, since it would be the boundary
  of the next day otherwise.
- Where clocks are put back over a boundary, it is the first of the two moments. Only the anchor may be the second one.
- Periods of an interval tile those of a multiple of it, as months do with quarters, if both have the same anchor.
"""

from calendar import monthrange
from contextlib import suppress
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from services.billing.plan.domain import Interval, IntervalUnit

_DAYS: Final = {IntervalUnit.DAY: 1, IntervalUnit.WEEK: 7}
_MONTHS: Final = {IntervalUnit.MONTH: 1, IntervalUnit.YEAR: 12}
_ONE_DAY: Final = timedelta(days=1)


class OutsideCalendar(ValueError):
    """A local or UTC time is before year 1 or after year 9999."""


@dataclass(frozen=True, slots=True)
class Period:
    """The moments from `start` until before `end`, in UTC, and the local days from `first_day` until before `end_day`.

    The days are those of the boundaries' wall-clock times, as they are before clocks that are put forward move them.
    """

    number: int
    start: datetime
    end: datetime
    first_day: date
    end_day: date

    @property
    def days(self) -> int:
        """How many days the period has in the calendar, at least 1. A day that the zone left out counts."""
        return (self.end_day - self.first_day).days


def boundary(anchor: datetime, interval: Interval, zone: ZoneInfo, n: int) -> datetime:
    """Return the moment, in UTC, at which period n begins and period n - 1 ends.

    Raises:
        OutsideCalendar: the calendar does not hold it.
        ValueError: the anchor is naive, or the interval's count is below 1.
    """
    return _boundary(anchor, interval, zone, n)[0]


def period(anchor: datetime, interval: Interval, zone: ZoneInfo, number: int) -> Period:
    """Return the period with a number; raises as `boundary` does, for its start and for its end."""
    start, first_day = _boundary(anchor, interval, zone, number)
    end, end_day = _boundary(anchor, interval, zone, number + 1)
    return Period(number, start, end, first_day, end_day)


def period_number_at(anchor: datetime, interval: Interval, zone: ZoneInfo, moment: datetime) -> int:
    """Return the number of the period that holds a moment, in at most four steps.

    Raises as `boundary` does. The end of the period need not be in the calendar.
    """
    start, at = local_time(anchor, zone), local_time(moment, zone)
    if interval.unit in _DAYS:
        estimate = (at.date() - start.date()).days // (_DAYS[interval.unit] * interval.count)
    else:
        months = (at.year - start.year) * 12 + at.month - start.month
        estimate = months // (_MONTHS[interval.unit] * interval.count)
    # One too many before the anchor's time of the day or day of the month, and another one where clocks that were put
    # forward made a boundary late. One too few where clocks were put back after a boundary.
    for number in range(estimate + 1, estimate - 3, -1):
        with suppress(OutsideCalendar):
            if boundary(anchor, interval, zone, number) <= moment:
                return number
    raise OutsideCalendar(f"the period that holds {moment} begins before year {MINYEAR}")


def period_at(anchor: datetime, interval: Interval, zone: ZoneInfo, moment: datetime) -> Period:
    """Return the period that holds a moment; raises as `period` does."""
    return period(anchor, interval, zone, period_number_at(anchor, interval, zone, moment))


def local_time(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment in a zone; raises ValueError if it is naive, OutsideCalendar if it has no local time."""
    _check_aware(moment)
    try:
        return moment.astimezone(zone)
    except OverflowError:
        raise OutsideCalendar(f"{moment} has no local time in {zone}") from None


def _boundary(anchor: datetime, interval: Interval, zone: ZoneInfo, n: int) -> tuple[datetime, date]:
    """Return the moment of a boundary and the day of its wall-clock time."""
    if interval.count < 1:
        raise ValueError(f"the count of an interval must be 1 or more, not {interval.count}")
    start = local_time(anchor, zone)
    try:
        if n == 0:
            return anchor.astimezone(UTC), start.date()
        wall = _later(start.replace(tzinfo=None, fold=0), interval, n)
        moment = wall.replace(tzinfo=zone).astimezone(UTC)
        put_forward = moment.astimezone(zone).replace(tzinfo=None) - wall
    except OverflowError:
        raise OutsideCalendar(f"boundary {n} of {interval.count} {interval.unit} from {anchor} in {zone}") from None
    return (moment - put_forward / 2 if put_forward >= _ONE_DAY else moment), wall.date()


def _later(wall: datetime, interval: Interval, n: int) -> datetime:
    """Return the time n intervals later; raises OverflowError outside the calendar."""
    if interval.unit in _DAYS:
        return wall + timedelta(days=_DAYS[interval.unit] * interval.count * n)
    months = wall.year * 12 + wall.month - 1 + _MONTHS[interval.unit] * interval.count * n
    year, month = months // 12, months % 12 + 1
    if not MINYEAR <= year <= MAXYEAR:
        raise OverflowError(year)
    return wall.replace(year=year, month=month, day=min(wall.day, monthrange(year, month)[1]))


def _check_aware(*moments: datetime) -> None:
    for moment in moments:
        if moment.utcoffset() is None:
            raise ValueError(f"{moment} is not in any time zone")
