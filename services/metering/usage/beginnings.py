"""When sums of usage begin: at each full hour of UTC, and within an hour where a day begins in some time zone.

So the days of every zone are made of whole sums, and there are 38 sums a day at most instead of 24. The SQL expression
and the function here follow from one table. A test compares the table with all zones of the time zone database.
"""

from datetime import UTC, datetime, time, timedelta
from typing import Final

COVERED_SINCE: Final = datetime(2016, 6, 1, tzinfo=UTC)
"""From here on the days of all zones begin with a sum. Some of those before do not; a query for them is refused."""

MIDNIGHTS: Final = (
    time(2, 30),  # St. John's in summer
    time(3, 30),  # St. John's
    time(9, 30),  # Marquesas
    time(10, 15),  # Chatham in summer
    time(11, 15),  # Chatham
    time(13, 30),  # Adelaide in summer, Lord Howe
    time(14, 30),  # Adelaide, Darwin
    time(15, 15),  # Eucla
    time(15, 30),  # Pyongyang until 2018
    time(17, 30),  # Yangon, Cocos
    time(18, 15),  # Kathmandu
    time(18, 30),  # Kolkata, Colombo
    time(19, 30),  # Kabul, and Tehran in the summers until 2022
    time(20, 30),  # Tehran
)
"""The times of UTC within an hour at which a day begins in some zone."""

_TIMES: Final = sorted({time(hour) for hour in range(24)} | set(MIDNIGHTS))
_SET: Final = frozenset(_TIMES)
_LIST: Final = "'{" + ",".join(f"{one:%H:%M}" for one in _TIMES) + "}'::interval[]"


def beginning(moment: str) -> str:
    """Return the SQL expression of when the sum begins that counts usage of a moment."""
    day = f"date_bin('1 day', {moment}, '2000-01-01 00:00:00+00')"
    return f"{day} + ({_LIST})[width_bucket({moment} - {day}, {_LIST})]"


def is_beginning(moment: datetime) -> bool:
    """Tell whether a sum begins at a moment of UTC."""
    return moment.time() in _SET


def beginning_before(moment: datetime) -> datetime:
    """Return when the sum begins that counts usage of a moment."""
    hour = full_hour_before(moment)
    within = [one.minute for one in _TIMES if one.hour == hour.hour and hour.replace(minute=one.minute) <= moment]
    return hour.replace(minute=within[-1])


def beginning_after(moment: datetime) -> datetime:
    """Return the first moment at which a sum begins and that is not before a moment."""
    start = beginning_before(moment)
    if start == moment:
        return start
    within = [one.minute for one in _TIMES if one.hour == start.hour and one.minute > start.minute]
    return start.replace(minute=within[0]) if within else full_hour_before(start) + timedelta(hours=1)


def full_hour_before(moment: datetime) -> datetime:
    """Return the last full hour of UTC that is not after a moment."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def full_hour_after(moment: datetime) -> datetime:
    """Return the first full hour of UTC that is not before a moment."""
    hour = full_hour_before(moment)
    return hour if hour == moment else hour + timedelta(hours=1)
