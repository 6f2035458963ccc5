"""Hours of a rate card: times of the day, of all or some weekdays, for which it has rates of their own.

They are local wall-clock times in one time zone. Every moment has one local time, so it is in the hours of one name or
of none, also where clocks change: an hour that comes twice has the same rates twice, and one that is left out has none.
Which hours a moment is in is decided by Python's time zone data alone, and stored with the usage that is priced by it.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Final
from zoneinfo import ZoneInfo

from libs.common.time_zones import find_zone

ALL_DAY: Final = ""
"""Stands in place of a name for the rates that hold where no others do, and for the times of those."""
DAY_MINUTES: Final = 1_440
WEEK_MINUTES: Final = 7 * DAY_MINUTES
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EVERY_DAY: Final = (1, 2, 3, 4, 5, 6, 7)
"""The weekdays of ISO 8601: Monday is 1."""
NO_TIME: Final = -1
"""A text that is no time, until it is refused."""
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the day on some weekdays."""

    start: int
    """In minutes after midnight, 0 to 1,439."""
    end: int
    """In minutes after midnight, 0 to 1,440, and not part of the span. An end before the start is on the next day."""
    weekdays: tuple[int, ...] = EVERY_DAY
    """The days on which the span begins, sorted."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Spans under the name by which rates say that they are for them."""

    name: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a span is in one week, in minutes after the beginning of Monday."""

    start: int
    end: int
    hours: int
    """The place of the hours in the schedule."""
    span: int
    """The place of the span in its hours."""


@dataclass(frozen=True)
class Schedule:
    """All hours of a card. They do not overlap."""

    time_zone: str
    hours: tuple[Hours, ...]

    @cached_property
    def zone(self) -> ZoneInfo | None:
        """The time zone; None if this process does not know it."""
        return find_zone(self.time_zone)

    @cached_property
    def week(self) -> Sequence[Stretch]:
        """What of a week has hours, in its order."""
        return sorted(_stretches(self.hours), key=lambda one: (one.start, one.end))

    @cached_property
    def _starts(self) -> Sequence[int]:
        return [stretch.start for stretch in self.week]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the hours; ALL_DAY is the first unless the hours are the whole week."""
        rest = () if sum(one.end - one.start for one in self.week) >= WEEK_MINUTES else (ALL_DAY,)
        return (*rest, *(one.name for one in self.hours))

    def at(self, moment: datetime) -> str | None:
        """Return the name of the hours that a moment is in, or ALL_DAY; None if the time zone is not known."""
        if self.zone is None:
            return None
        local = moment.astimezone(self.zone)
        minute = (local.isoweekday() - 1) * DAY_MINUTES + local.hour * 60 + local.minute
        place = bisect_right(self._starts, minute) - 1
        if place < 0 or minute >= self.week[place].end:
            return ALL_DAY
        return self.hours[self.week[place].hours].name

    def text_of(self, hours: Hours) -> str:
        """Write hours for people, such as `mon-fri 22:00-06:00, sat 00:00-24:00 Europe/Berlin`."""
        return f"{', '.join(map(_text, hours.spans))} {self.time_zone}"


def _stretches(hours: Sequence[Hours]) -> Iterator[Stretch]:
    for place, one in enumerate(hours):
        for number, span in enumerate(one.spans):
            for weekday in span.weekdays:
                midnight = (weekday - 1) * DAY_MINUTES
                start, end = midnight + span.start, midnight + span.end
                end += DAY_MINUTES if span.end <= span.start else 0
                yield Stretch(start, min(end, WEEK_MINUTES), place, number)
                if end > WEEK_MINUTES:  # From Sunday into Monday.
                    yield Stretch(0, end - WEEK_MINUTES, place, number)


def minutes_of(text: str) -> int:
    """Return a time such as `22:30`, or `24:00`, in minutes after midnight; NO_TIME where the text is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return NO_TIME
    return int(found[1]) * 60 + int(found[2]) if found[1] else DAY_MINUTES


def time_of(minutes: int) -> str:
    """Write minutes after midnight as a time."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _text(span: Span) -> str:
    times = f"{time_of(span.start)}-{time_of(span.end)}"
    if span.weekdays == EVERY_DAY:
        return times
    runs = [
        [weekday for _, weekday in run]
        for _, run in groupby(enumerate(span.weekdays), key=lambda place: place[1] - place[0])
    ]
    days = [
        WEEKDAYS[run[0] - 1][:3] if len(run) == 1 else f"{WEEKDAYS[run[0] - 1][:3]}-{WEEKDAYS[run[-1] - 1][:3]}"
        for run in runs
    ]
    return f"{'/'.join(days)} {times}"
