"""Rate cards as they are stored: JSON with prices as text, so that no price passes through floating point."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import TypedDict

from libs.common.amount import format_amount
from services.metering.model.hours import ALL_DAY, EVERY_DAY, Hours, Schedule, Span, minutes_of, time_of
from services.metering.model.rates import STANDARD_TIER, Rate, RateCard


class RateJson(TypedDict, total=False):
    """A rate; what is left out has its usual value."""

    unit: str
    price: str
    per: int
    service_tier: str
    above: int
    provider_cost: str
    hours: str


class SpanJson(TypedDict, total=False):
    """A part of the day; without weekdays on all of them."""

    start: str
    end: str
    weekdays: Sequence[int]


class HoursJson(TypedDict):
    """Hours by their name."""

    name: str
    spans: Sequence[SpanJson]


class ScheduleJson(TypedDict):
    """The hours of a card and the rates for them.

    They stand apart from the other rates, so that a version which knows no hours takes those for what they are.
    """

    time_zone: str
    hours: Sequence[HoursJson]
    rates: Sequence[RateJson]


class CardJson(TypedDict, total=False):
    """A rate card without its currency, which has a column of its own."""

    rates: Sequence[RateJson]
    fallbacks: Mapping[str, str]
    provider_currency_code: str
    factor: str
    schedule: ScheduleJson


def card_json(card: RateCard) -> CardJson:
    """Return a card as it is stored."""
    all_day = [_rate_json(rate) for rate in card.rates if rate.hours == ALL_DAY]
    stored = CardJson(rates=all_day, fallbacks=dict(card.fallbacks))
    if card.provider_currency_code is not None:
        stored["provider_currency_code"] = card.provider_currency_code
    if card.factor != 1:
        stored["factor"] = format(card.factor, "f")
    if card.schedule is not None:
        stored["schedule"] = ScheduleJson(
            time_zone=card.schedule.time_zone,
            hours=[HoursJson(name=one.name, spans=list(map(_span_json, one.spans))) for one in card.schedule.hours],
            rates=[_rate_json(rate) for rate in card.rates if rate.hours != ALL_DAY],
        )
    return stored


def card_of_json(currency_code: str, stored: CardJson) -> RateCard:
    """Return a stored card. Its rates for all day come first."""
    schedule = stored.get("schedule")
    return RateCard(
        currency_code,
        (*map(_rate, stored["rates"]), *map(_rate, schedule["rates"] if schedule else ())),
        MappingProxyType(dict(stored["fallbacks"])),
        stored.get("provider_currency_code"),
        Decimal(stored.get("factor", "1")),
        None if schedule is None else Schedule(schedule["time_zone"], tuple(map(_hours, schedule["hours"]))),
    )


def _rate(stored: RateJson) -> Rate:
    return Rate(
        stored["unit"],
        Decimal(stored["price"]),
        stored.get("per", 1),
        stored.get("service_tier", STANDARD_TIER),
        stored.get("above", 0),
        Decimal(stored["provider_cost"]) if "provider_cost" in stored else None,
        stored.get("hours", ALL_DAY),
    )


def _rate_json(rate: Rate) -> RateJson:
    stored = RateJson(unit=rate.unit_id, price=format_amount(rate.price), per=rate.per)
    if rate.service_tier != STANDARD_TIER:
        stored["service_tier"] = rate.service_tier
    if rate.above:
        stored["above"] = rate.above
    if rate.provider_cost is not None:
        stored["provider_cost"] = format_amount(rate.provider_cost)
    if rate.hours != ALL_DAY:
        stored["hours"] = rate.hours
    return stored


def _hours(stored: HoursJson) -> Hours:
    spans = (
        Span(minutes_of(span["start"]), minutes_of(span["end"]), tuple(span.get("weekdays", EVERY_DAY)))
        for span in stored["spans"]
    )
    return Hours(stored["name"], tuple(spans))


def _span_json(span: Span) -> SpanJson:
    stored = SpanJson(start=time_of(span.start), end=time_of(span.end))
    if span.weekdays != EVERY_DAY:
        stored["weekdays"] = list(span.weekdays)
    return stored
