"""The windows of a usage query: minutes and hours of UTC, and the days, weeks and months of a time zone.

Window starts are computed here and sent to Postgres as timestamps, so that only Python's time zone data is used.
Postgres may know other names than Python does, or older rules.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from libs.common.errors import FieldViolation
from services.metering.usage.beginnings import (
    beginning_after,
    beginning_before,
    full_hour_after,
    full_hour_before,
    is_beginning,
)

MINUTE: Final = "minute"
HOUR: Final = "hour"
DAY: Final = "day"
WEEK: Final = "week"
MONTH: Final = "month"
WINDOWS_MAX: Final = 10_000
MINUTES_RANGE_MAX: Final = timedelta(hours=24)
MINUTES_KEPT: Final = timedelta(hours=25)
"""How long ago a query by minutes may begin: an hour more than its range, for callers who count from their own now."""
_KNOWN_MAX: Final = 32
"""For how many queries the windows are remembered: those of one query are needed several times."""
_A_MINUTE: Final = timedelta(minutes=1)
_AN_HOUR: Final = timedelta(hours=1)
_ONE_DAY: Final = timedelta(days=1)


def outer_range(window: str | None, start_time: datetime, end_time: datetime) -> tuple[datetime, datetime]:
    """Return the range of whole sums that holds a range: of whole minutes or hours for these windows."""
    if window == HOUR:
        return full_hour_before(start_time), full_hour_after(end_time)
    if window != MINUTE:
        return beginning_before(start_time), beginning_after(end_time)
    start, end = (moment.astimezone(UTC).replace(second=0, microsecond=0) for moment in (start_time, end_time))
    return start, end if end == end_time else end + _A_MINUTE


@lru_cache(maxsize=_KNOWN_MAX)
def split_day(window: str | None, zone: ZoneInfo, start_time: datetime, end_time: datetime) -> date | None:
    """Return the first local date in the range that begins within a sum, so that its usage is not known; usually None.

    There is none from `beginnings.COVERED_SINCE` on.
    """
    if window in (HOUR, MINUTE, None):
        return None
    starts = window_starts(window, zone, start_time, end_time)
    split = (one for one in starts if one >= start_time and not is_beginning(one))
    found = next(split, None)
    return None if found is None else found.astimezone(zone).date()


def window_starts(window: str, zone: ZoneInfo, start_time: datetime, end_time: datetime) -> list[datetime]:
    """Return the start of each day, week or month from the one that holds `start_time` to the one that holds the last
    moment before `end_time`.

    A week begins with Monday, as in ISO 8601. A day begins at its first midnight. Where clocks are put forward at
    midnight it begins at that moment. A day that the zone skipped has no window.
    """
    return list(_window_starts(window, zone, start_time, end_time))


@lru_cache(maxsize=_KNOWN_MAX)
def _window_starts(window: str, zone: ZoneInfo, start_time: datetime, end_time: datetime) -> tuple[datetime, ...]:
    day = start_time.astimezone(zone).date()
    if window == MONTH:
        day = day.replace(day=1)
    elif window == WEEK:
        day -= day.weekday() * _ONE_DAY
    starts: list[datetime] = []
    while (start := _midnight(day, zone)) < end_time:
        if not starts or start > starts[-1]:
            starts.append(start)
        day = _following(window, day)
    return tuple(starts)


def all_window_starts(window: str | None, zone: ZoneInfo, start_time: datetime, end_time: datetime) -> list[datetime]:
    """Return the start of each window of a query, whose times are whole sums; of a query without windows, its own."""
    if window is None:
        return [start_time]
    length = _LENGTHS.get(window)
    if length is None:
        return window_starts(window, zone, start_time, end_time)
    return [start_time + number * length for number in range((end_time - start_time) // length)]


def window_end(window: str, zone: ZoneInfo, start: datetime) -> datetime:
    """Return the end of the window that begins at `start`."""
    if window in _LENGTHS:
        return start + _LENGTHS[window]
    day = start.astimezone(zone).date()
    while (end := _midnight(day := _following(window, day), zone)) <= start:
        pass
    return end


def check_window_count(
    window: str | None, start_time: datetime, end_time: datetime, now: datetime, violations: list[FieldViolation]
) -> None:
    """Add to `violations` a range with more windows than one query may have, and minutes that are too long ago."""
    count = (end_time - start_time) // _AN_HOUR if window == HOUR else 0
    if count > WINDOWS_MAX:
        problem = f"the range has {count} hours, and a query at most {WINDOWS_MAX}: ask by DAY, or for a shorter range"
        violations.append(FieldViolation("window", problem))
    if window == MINUTE and end_time - start_time > MINUTES_RANGE_MAX:
        violations.append(FieldViolation("window", "is MINUTE, for which the range is at most 24 hours: ask by HOUR"))
    elif window == MINUTE and start_time < now - MINUTES_KEPT:
        problem = "is MINUTE, for which start_time is at most 25 hours ago: ask by HOUR"
        violations.append(FieldViolation("window", problem))


_LENGTHS: Final = {MINUTE: _A_MINUTE, HOUR: _AN_HOUR}


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _following(window: str, day: date) -> date:
    if window == MONTH:
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day + (_ONE_DAY if window == DAY else 7 * _ONE_DAY)
