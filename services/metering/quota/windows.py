"""The windows of limits, derived from time alone: nothing is ever reset.

Minutes and hours are those of UTC. Days, weeks and months begin at midnight in the limit's zone. The times are computed
here and sent to Postgres, so that only Python's time zone data is used.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple

from libs.common.time_zones import zone_named
from services.metering.quota.domain import Shape, Window

ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The start of a window that has none."""
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
_LENGTHS: Final = {
    Window.MINUTE: timedelta(minutes=1),
    Window.HOUR: timedelta(hours=1),
    Window.DAY: _DAY,
    Window.WEEK: timedelta(days=7),
}
CALENDAR: Final = (Window.MINUTE, Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH)
"""The windows that begin and end, one after another, unless they slide."""
STEPS: Final = {
    Window.MINUTE: _SECOND,
    Window.HOUR: timedelta(minutes=1),
    Window.DAY: timedelta(minutes=15),
    Window.WEEK: timedelta(hours=2),
}
"""By how much each sliding window moves at once. Each is a whole part of the window's length."""


class Span(NamedTuple):
    """A window: from `start` until before `end`; without end where it is None."""

    start: datetime
    end: datetime | None


def window_of(shape: Shape, moment: datetime) -> Span:
    """Return the window that holds a moment; for a sliding one, the step that holds it.

    A billing period is given with the limit. Where there is none, since the limit comes from no subscription, it is the
    month.
    """
    if shape.window in (Window.NONE, Window.CALL, Window.LIFETIME):
        return Span(ALWAYS, None)
    if shape.sliding:
        return _whole(moment, STEPS[shape.window])
    if shape.window in (Window.MINUTE, Window.HOUR):
        return _whole(moment, _LENGTHS[shape.window])
    return _calendar(shape, moment)


def window_before(shape: Shape, span: Span) -> Span:
    """Return the window before one."""
    return window_of(shape, span.start - timedelta(microseconds=1))


def length_of(shape: Shape) -> timedelta:
    """Return the length of a sliding window."""
    return _LENGTHS[shape.window]


def steps_of(shape: Shape, step: Span) -> list[Span]:
    """Return the steps before one that count in a sliding window which ends within it, the latest first.

    The earliest may be only in part within the window's length of the present moment, and counts as a whole: so more
    than the maximum is used in no time of that length.
    """
    size = STEPS[shape.window]
    count = length_of(shape) // size
    return [Span(step.start - number * size, step.start - (number - 1) * size) for number in range(1, count + 1)]


def kept_until(shape: Shape, span: Span) -> datetime | None:
    """Return until when a window's counter is needed: as long as the next one looks at it. None: for ever."""
    if span.end is None:
        return None
    if shape.sliding:
        return span.end + length_of(shape)
    if shape.window is Window.PERIOD:
        return span.end + (span.end - span.start)
    # The next one may be longer: a March after a February, or a day after one on which the clocks went forward.
    return window_of(shape, span.end).end


def _whole(moment: datetime, length: timedelta) -> Span:
    start = ALWAYS + (moment - ALWAYS) // length * length
    return Span(start, start + length)


def _calendar(shape: Shape, moment: datetime) -> Span:
    """Return a day, week or month. One that the zone skipped has no window; a midnight that comes twice begins at the
    first."""
    zone = zone_named(shape.time_zone or "UTC")

    def midnight(day: date) -> datetime:
        return datetime.combine(day, time(), zone).astimezone(UTC)

    local = moment.astimezone(zone).date()
    first = _first_day(shape, local - _DAY)
    days = [first]
    while days[-1] <= local + _DAY:
        days.append(_next(shape.window, days[-1]))
    days.append(_next(shape.window, days[-1]))
    starts = sorted({midnight(day) for day in days})
    start = max(one for one in starts if one <= moment)
    return Span(start, min(one for one in starts if one > moment))


def _first_day(shape: Shape, day: date) -> date:
    if shape.window in (Window.MONTH, Window.PERIOD):
        return day.replace(day=1)
    if shape.window is Window.WEEK:
        return day - timedelta(days=(day.isoweekday() - (shape.week_start or 1)) % 7)
    return day


def _next(window: Window, day: date) -> date:
    if window in (Window.MONTH, Window.PERIOD):
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day + (_DAY if window is Window.DAY else timedelta(days=7))
