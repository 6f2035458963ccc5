"""What may be the hours of a rate card, and the rates for them."""

import re
from collections.abc import Iterator
from typing import Final

from libs.common.errors import FieldViolation
from services.metering.model.hours import ALL_DAY, DAY_MINUTES, EVERY_DAY, Schedule, Span
from services.metering.model.rates import RateCard, by_unit_and_tier, find_rate

HOURS_MAX: Final = 8
SPANS_MAX: Final = 32
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def check_hours(card: RateCard) -> list[FieldViolation]:
    """Return everything that is wrong with a card's hours, each with the field at fault."""
    violations = [] if card.schedule is None else list(_check_schedule(card.schedule))
    violations += _check_names(card)
    # Without sound hours it would be a guess which rates hold at which times.
    return violations or list(_check_other_times(card))


def _check_schedule(schedule: Schedule) -> Iterator[FieldViolation]:
    if not schedule.hours:
        yield FieldViolation("time_zone", "must not be given without hours")
        return
    if len(schedule.hours) > HOURS_MAX:
        yield FieldViolation("hours", f"must be at most {HOURS_MAX}")
        return
    if not schedule.time_zone:
        yield FieldViolation("time_zone", "must be given with hours")
    elif schedule.zone is None:
        yield FieldViolation("time_zone", "is not an IANA time zone")
    wrong = False
    for index, hours in enumerate(schedule.hours):
        if not 1 <= len(hours.spans) <= SPANS_MAX:
            yield FieldViolation(f"hours[{index}].spans", f"must be from 1 to {SPANS_MAX}")
            return
        for number, span in enumerate(hours.spans):
            for flaw in _check_span(f"hours[{index}].spans[{number}]", span):
                wrong = True
                yield flaw
    if not wrong:
        yield from _check_overlaps(schedule)


def _check_span(field: str, span: Span) -> Iterator[FieldViolation]:
    if not 0 <= span.start < DAY_MINUTES:
        yield FieldViolation(f"{field}.start", "must be a time from 00:00 to 23:59")
    elif not 0 <= span.end <= DAY_MINUTES:
        yield FieldViolation(f"{field}.end", "must be a time from 00:00 to 24:00")
    elif span.start == span.end:
        yield FieldViolation(f"{field}.end", "must not be the start: a whole day is from 00:00 to 24:00")
    if not span.weekdays or sorted({*span.weekdays} & {*EVERY_DAY}) != [*span.weekdays]:
        yield FieldViolation(f"{field}.weekdays", "must be days of the week, each at most once")


def _check_overlaps(schedule: Schedule) -> Iterator[FieldViolation]:
    """Name each span that overlaps one before it in the card."""
    overlaps: dict[str, str] = {}
    last = schedule.week[0]
    for stretch in schedule.week[1:]:
        if stretch.start < last.end:
            first, second = sorted((one.hours, one.span) for one in (last, stretch))
            overlaps.setdefault(_field(second), _field(first))
        last = max(last, stretch, key=lambda one: one.end)
    yield from (FieldViolation(field, f"overlaps {other}") for field, other in overlaps.items())


def _field(place: tuple[int, int]) -> str:
    return f"hours[{place[0]}].spans[{place[1]}]"


def _check_names(card: RateCard) -> Iterator[FieldViolation]:
    """Hours have different names, and each name has rates."""
    used = {rate.hours for rate in card.rates}
    places: dict[str, int] = {}
    for index, hours in enumerate(card.schedule.hours[:HOURS_MAX] if card.schedule else ()):
        field = f"hours[{index}].name"
        first = places.setdefault(hours.name, index)
        if _NAME.fullmatch(hours.name) is None:
            yield FieldViolation(field, "must be 1 to 32 of a-z, 0-9, _ and -, and begin with a letter")
        elif first != index:
            yield FieldViolation(field, f"is the name of hours[{first}] already")
        elif hours.name not in used:
            yield FieldViolation(field, "must have a rate")
    for index, rate in enumerate(card.rates):
        if rate.hours != ALL_DAY and rate.hours not in places:
            yield FieldViolation(f"rates[{index}].hours", "must be the name of hours of the card")


def _check_other_times(card: RateCard) -> Iterator[FieldViolation]:
    """Where a unit has a rate for some hours, it has one at all other times, too: its own, or by a fall-back."""
    by_unit = {name: by_unit_and_tier(part.rates) for name, part in card.parts.items()}
    for index, rate in enumerate(card.rates):
        for name in by_unit if rate.hours != ALL_DAY else ():
            if find_rate(rate.unit_id, rate.service_tier, rate.above, by_unit[name], card.fallbacks) is None:
                times = "outside all hours" if name == ALL_DAY else f"in the hours {name}"
                yield FieldViolation(f"rates[{index}].hours", f"need a rate at other times, too: {times} it has none")
                break
