"""The windows of a usage query: hours of UTC, and the days and months of a time zone.

Window starts are computed here and sent to Postgres as timestamps, so that only Python's time zone data is used.
Postgres may know other names than Python does, or older rules.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from libs.common.errors import FieldViolation

HOUR: Final = "hour"
DAY: Final = "day"
MONTH: Final = "month"
WINDOWS_MAX: Final = 10_000
_AN_HOUR: Final = timedelta(hours=1)
_ONE_DAY: Final = timedelta(days=1)


def keeps_whole_hours(zone: ZoneInfo, start_time: datetime, end_time: datetime) -> bool:
    """Tell whether the zone's UTC offset is whole hours in all of the range, so that its days are whole UTC hours."""
    moment = start_time
    while moment < end_time + timedelta(days=28):
        offset = moment.astimezone(zone).utcoffset() or timedelta(0)
        if offset % _AN_HOUR:
            return False
        moment += timedelta(days=28)
    return True


def window_starts(window: str, zone: ZoneInfo, start_time: datetime, end_time: datetime) -> list[datetime]:
    """Return the start of each day or month from the one that holds `start_time` to the one that holds the last moment
    before `end_time`.

    A day begins at its first midnight. Where clocks are put forward at midnight it begins at that moment. A day that
    the zone skipped has no window.
    """
    day = start_time.astimezone(zone).date()
    if window == MONTH:
        day = day.replace(day=1)
    starts: list[datetime] = []
    while (start := _midnight(day, zone)) < end_time:
        if not starts or start > starts[-1]:
            starts.append(start)
        day = _following(window, day)
    return starts


def window_end(window: str, zone: ZoneInfo, start: datetime) -> datetime:
    """Return the end of the window that begins at `start`."""
    if window == HOUR:
        return start + _AN_HOUR
    day = start.astimezone(zone).date()
    while (end := _midnight(day := _following(window, day), zone)) <= start:
        pass
    return end


def check_window_count(
    window: str | None, start_time: datetime, end_time: datetime, violations: list[FieldViolation]
) -> None:
    """Add to `violations` a range with more windows than one query may have. Only hours can exceed that."""
    count = (end_time - start_time) // _AN_HOUR if window == HOUR else 0
    if count > WINDOWS_MAX:
        problem = f"the range has {count} hours, and a query at most {WINDOWS_MAX}: ask by DAY, or for a shorter range"
        violations.append(FieldViolation("window", problem))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _following(window: str, day: date) -> date:
    return day + _ONE_DAY if window == DAY else (day.replace(day=1) + timedelta(days=32)).replace(day=1)
