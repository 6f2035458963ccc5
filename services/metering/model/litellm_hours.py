"""When the off-peak prices of LiteLLM's price map hold.

The map has times of the day in UTC, on weekdays of UTC or of a time zone that it names. A price holds at a moment whose
time in UTC is in such a window, on one of its weekdays in that zone. So the hours of a card are in UTC, too. Weekdays
of a zone whose clocks change are refused: they would be other hours of UTC in summer than in winter.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from libs.common.time_zones import find_zone
from services.metering.model.document import Flawed, Value
from services.metering.model.hour_checks import SPANS_MAX
from services.metering.model.hours import DAY_MINUTES, EVERY_DAY, WEEKDAYS, Hours, Schedule, Span

NAME: Final = "off_peak"
KEYS: Final = frozenset({"hours_utc", "windows", "weekday_timezone"})
"""The keys beside the prices."""
_WINDOW_KEYS: Final = frozenset({"hours_utc", "weekdays"})
_WINDOW: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_WEEKDAY: Final = re.compile(r"[1-7]")
# The zones of weekdays are asked at each of these moments. Their rules for later years are those of the last.
_WEEKS: Final = tuple(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(weeks=number) for number in range(15 * 52))


class _Window(NamedTuple):
    """Times of the day in UTC, as minutes after midnight, on some weekdays."""

    start: int
    end: int
    weekdays: frozenset[int]


def read_schedule(block: Mapping[str, Value]) -> Schedule:
    """Return when the prices of a block hold.

    Raises:
        Flawed: it does not say so, or in a way that is not known.
    """
    name = block.get("weekday_timezone")
    offset = _offset_minutes(name) if isinstance(name, str) else 0 if name is None else None
    if offset is None:
        raise Flawed("has weekdays of a time zone that is not known, or whose clocks change")
    by_day: dict[int, list[tuple[int, int]]] = {day: [] for day in range(7)}
    for window in _windows(block):
        for day in by_day:
            by_day[day] += _on_day(window, day, offset)
    days_of: dict[tuple[int, int], list[int]] = {}
    for day, times in by_day.items():
        for one in _joined(times):
            days_of.setdefault(one, []).append(day + 1)
    spans = tuple(
        Span(start, end, tuple(days))
        for (start, end), days in sorted(days_of.items(), key=lambda one: (one[1], one[0]))
    )
    if not 1 <= len(spans) <= SPANS_MAX:
        raise Flawed(f"has no hours, or more than {SPANS_MAX} different ones")
    return Schedule("UTC", (Hours(NAME, spans),))


def _windows(block: Mapping[str, Value]) -> Iterator[_Window]:
    """Yield the windows for every day, then those for weekdays."""
    for start, end in _times(block.get("hours_utc")):
        yield _Window(start, end, frozenset(EVERY_DAY))
    listed = block.get("windows")
    if listed is None:
        return
    if not isinstance(listed, list) or len(listed) > SPANS_MAX:
        raise Flawed(f"has windows that are not a list of at most {SPANS_MAX}")
    for one in listed:
        if not isinstance(one, dict) or not set(one) <= _WINDOW_KEYS or one.get("hours_utc") is None:
            raise Flawed("has a window that is not hours_utc and weekdays")
        weekdays = _weekdays(one.get("weekdays"))
        for start, end in _times(one["hours_utc"]):
            yield _Window(start, end, weekdays)


def _times(listed: Value) -> Iterator[tuple[int, int]]:
    """Yield parts of the day; one that spans midnight is two, and one that ends where it begins is a whole day."""
    texts = [] if listed is None else listed if isinstance(listed, list) else [listed]
    if len(texts) > SPANS_MAX:
        raise Flawed(f"has more than {SPANS_MAX} times of a day")
    for text in texts:
        found = _WINDOW.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise Flawed("has hours_utc that are not times such as 16:30-00:30")
        start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if start < end:
            yield start, end
            continue
        yield start, DAY_MINUTES
        if end:
            yield 0, end


def _weekdays(listed: Value) -> frozenset[int]:
    """Return weekdays by their number, where Monday is 1, or their name; all of them where none are listed."""
    if listed is None:
        return frozenset(EVERY_DAY)
    days: set[int] = set()
    for one in listed if isinstance(listed, list) else [listed]:
        text = one.lower() if isinstance(one, str) else ""
        named = [place for place, name in enumerate(WEEKDAYS, start=1) if text in (name, name[:3])]
        if not named and not _WEEKDAY.fullmatch(text):
            raise Flawed("has weekdays that are neither 1 to 7 nor names of days")
        days.add(named[0] if named else int(text))
    return frozenset(days)


@lru_cache(maxsize=1_000)
def _offset_minutes(name: str) -> int | None:
    """Return how many minutes a zone is ahead of UTC, always; None where that changes, or there is no such zone."""
    zone = find_zone(name)
    offsets = {moment.astimezone(zone).utcoffset() or timedelta(0) for moment in _WEEKS} if zone is not None else set()
    return offsets.pop() // timedelta(minutes=1) if len(offsets) == 1 else None


def _on_day(window: _Window, day: int, offset: int) -> Iterator[tuple[int, int]]:
    """Yield what of a day of UTC, where Monday is 0, is in a window. Two days of a zone off UTC meet in it."""
    for shift in (-1, 0, 1):
        if (day + shift) % 7 + 1 in window.weekdays:
            midnight = shift * DAY_MINUTES - offset
            start, end = max(window.start, midnight), min(window.end, midnight + DAY_MINUTES)
            if start < end:
                yield start, end


def _joined(times: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return parts of a day in their order, those that meet or overlap as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(times):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined
