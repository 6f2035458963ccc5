"""Reads the prices of an entry of our own YAML into a rate card.

`prices` are those of the token classes, `rates` those of any units; an entry has one of them or both.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from libs.common.amount import format_amount
from libs.common.errors import InvalidArgument
from services.metering.model.document import NUMBER, Flawed, Value
from services.metering.model.domain import Prices, card_of
from services.metering.model.hour_checks import HOURS_MAX, SPANS_MAX
from services.metering.model.hours import ALL_DAY, WEEKDAYS, Hours, Schedule, Span, minutes_of
from services.metering.model.rate_checks import check_rates, is_price, with_margin
from services.metering.model.rates import STANDARD_TIER, Rate, RateCard
from services.metering.model.units import Units
from services.metering.tables import TOKEN_CLASSES

PRICE_KEYS: Final = (
    *("currency_code", "prices", "rates", "fallbacks", "provider_currency_code", "factor"),
    *("time_zone", "hours"),
)
"""The keys of an entry that are read here."""
_CURRENCY_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{1,11}")
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_RATE_KEYS: Final = {"unit", "price", "per", "service_tier", "above", "provider_cost", "hours"}
_HOURS_KEYS: Final = {"name", "spans"}
_SPAN_KEYS: Final = {"start", "end", "weekdays"}
_FALLBACKS_MAX: Final = 128
_PLACE_OF_RATE: Final = re.compile(r"rates\[([0-9]+)\]")


def read_card(listed: Mapping[str, Value], units: Units) -> RateCard:
    """Return the card of an entry.

    Raises:
        Flawed: it is not a price; the text names every part that is wrong.
    """
    currency_code = listed.get("currency_code")
    if not isinstance(currency_code, str) or _CURRENCY_CODE.fullmatch(currency_code) is None:
        raise Flawed("has no currency_code")
    if listed.get("prices") is None and listed.get("rates") is None:
        raise Flawed("has no prices")
    by_class = RateCard(currency_code, ())
    if listed.get("prices") is not None:
        by_class = card_of(_by_class(currency_code, listed["prices"]))
    provider_currency_code = listed.get("provider_currency_code")
    if provider_currency_code is not None and not isinstance(provider_currency_code, str):
        raise Flawed("has a provider_currency_code that is not a text")
    fallbacks = _fallbacks(listed.get("fallbacks"))
    card = RateCard(
        currency_code,
        by_class.rates + _rates(listed.get("rates")),
        MappingProxyType({**by_class.fallbacks, **fallbacks}),
        provider_currency_code,
        _number("factor", listed.get("factor"), Decimal(1)),
        _schedule(listed.get("time_zone"), listed.get("hours")),
    )
    # Every entry with `prices` has their fall-backs, whether or not their units are archived.
    usual = {f"fallbacks[{unit_id}]" for unit_id in by_class.fallbacks.keys() - fallbacks.keys()}
    flaws = [
        _place(f"{flaw.field} {flaw.description}", by_class)
        for flaw in check_rates(card, units)
        if flaw.field not in usual
    ]
    if flaws:
        raise Flawed("; ".join(flaws))
    return card


def _place(text: str, by_class: RateCard) -> str:
    """Name rates by their place in the entry, where those of `prices` do not count."""

    def place(found: re.Match[str]) -> str:
        index = int(found[1])
        if index >= len(by_class.rates):
            return f"rates[{index - len(by_class.rates)}]"
        return f"the price of {by_class.rates[index].unit_id}"

    return _PLACE_OF_RATE.sub(place, text)


def _by_class(currency_code: str, listed: Value) -> Prices:
    if not isinstance(listed, dict):
        raise Flawed("has no prices")
    unknown = sorted(set(listed) - {*TOKEN_CLASSES, "per_request"})
    if unknown:
        raise Flawed(f"has prices of unknown classes: {', '.join(unknown)}")
    by_class = tuple(_price(token_class, listed.get(token_class)) for token_class in TOKEN_CLASSES)
    if by_class[0] is None or by_class[1] is None:
        raise Flawed("has no price of input or output")
    return Prices(currency_code, by_class, _price("per_request", listed.get("per_request")))


def _rates(listed: Value) -> tuple[Rate, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise Flawed("has rates that are not a list")
    return tuple(_rate(f"rates[{index}]", one) for index, one in enumerate(listed))


def _rate(place: str, listed: Value) -> Rate:
    if not isinstance(listed, dict):
        raise Flawed(f"has a rate that is not a mapping: {place}")
    unknown = sorted(set(listed) - _RATE_KEYS)
    if unknown:
        raise Flawed(f"has a rate with unknown keys: {place}.{', '.join(unknown)}")
    unit_id, service_tier, hours = listed.get("unit"), listed.get("service_tier"), listed.get("hours")
    price = _price(f"{place}.price", listed.get("price"))
    if not isinstance(unit_id, str) or price is None:
        raise Flawed(f"has a rate without a unit or price: {place}")
    if service_tier is not None and not isinstance(service_tier, str):
        raise Flawed(f"has a service tier that is not a text: {place}")
    if hours is not None and not isinstance(hours, str):
        raise Flawed(f"has hours that are not a name: {place}")
    return Rate(
        unit_id,
        price,
        _whole(f"{place}.per", listed.get("per"), 1),
        service_tier or STANDARD_TIER,
        _whole(f"{place}.above", listed.get("above"), 0),
        _price(f"{place}.provider_cost", listed.get("provider_cost")),
        hours or ALL_DAY,
    )


def _schedule(time_zone: Value, listed: Value) -> Schedule | None:
    if time_zone is None and listed is None:
        return None
    if time_zone is not None and not isinstance(time_zone, str):
        raise Flawed("has a time_zone that is not a text")
    hours = _parts("hours", listed, HOURS_MAX, _HOURS_KEYS) if listed is not None else []
    return Schedule(time_zone or "", tuple(_hours(f"hours[{index}]", one) for index, one in enumerate(hours)))


def _hours(place: str, listed: Mapping[str, Value]) -> Hours:
    name = listed.get("name")
    if not isinstance(name, str):
        raise Flawed(f"has hours without a name: {place}")
    spans = _parts(f"{place}.spans", listed.get("spans"), SPANS_MAX, _SPAN_KEYS)
    return Hours(name, tuple(_span(f"{place}.spans[{index}]", one) for index, one in enumerate(spans)))


def _span(place: str, listed: Mapping[str, Value]) -> Span:
    start, end, weekdays = listed.get("start"), listed.get("end"), listed.get("weekdays")
    if not isinstance(start, str) or not isinstance(end, str):
        raise Flawed(f"has hours without a start or end: {place}")
    if weekdays is None:
        return Span(minutes_of(start), minutes_of(end))
    if not isinstance(weekdays, list) or not all(day in WEEKDAYS for day in weekdays):
        raise Flawed(f"has weekdays that are not a list of {WEEKDAYS[0]} to {WEEKDAYS[-1]}: {place}")
    return Span(minutes_of(start), minutes_of(end), tuple(sorted(WEEKDAYS.index(str(day)) + 1 for day in weekdays)))


def _parts(place: str, listed: Value, parts_max: int, keys: set[str]) -> list[dict[str, Value]]:
    """Return a list of mappings with no other keys than these."""
    if not isinstance(listed, list) or len(listed) > parts_max:
        raise Flawed(f"has {place} that are not a list of at most {parts_max}")
    parts = [one for one in listed if isinstance(one, dict) and set(one) <= keys]
    if len(parts) < len(listed):
        raise Flawed(f"has {place} of which one has other keys than {', '.join(sorted(keys))}")
    return parts


def _fallbacks(listed: Value) -> dict[str, str]:
    if listed is None:
        return {}
    if not isinstance(listed, dict) or len(listed) > _FALLBACKS_MAX:
        raise Flawed(f"has fallbacks that are not a mapping of at most {_FALLBACKS_MAX} units")
    fallbacks = {unit_id: target for unit_id, target in listed.items() if isinstance(target, str)}
    if len(fallbacks) < len(listed):
        raise Flawed("has fallbacks that are not units")
    return fallbacks


def put_margin(card: RateCard, margin: Decimal) -> RateCard:
    """Put a margin on the provider costs, or on the prices where the entry tells no costs apart."""
    if all(rate.provider_cost is None for rate in card.rates):
        if card.factor != 1:
            raise Flawed("has a factor of its own, on which no margin can be put")
        rates = tuple(replace(rate, provider_cost=rate.price) for rate in card.rates)
        card = replace(card, rates=rates, provider_currency_code=card.currency_code)
    try:
        return with_margin(card, margin)
    except InvalidArgument as refusal:
        raise Flawed("; ".join(f"{flaw.field} {flaw.description}" for flaw in refusal.violations)) from None


def _number(key: str, value: Value, default: Decimal) -> Decimal:
    if value is None:
        return default
    if not isinstance(value, str) or NUMBER.fullmatch(value) is None:
        raise Flawed(f"has a {key} that is not a number of at most 80 digits")
    return Decimal(value)


def _whole(key: str, value: Value, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, str) or _WHOLE_NUMBER.fullmatch(value) is None:
        raise Flawed(f"has a value that is not a whole number: {key}")
    return int(value)


def _price(key: str, value: Value) -> Decimal | None:
    """Return a listed price; None where the entry has none."""
    if value is None:
        return None
    if not isinstance(value, str) or NUMBER.fullmatch(value) is None:
        raise Flawed(f"has a price that is not a number of at most 80 digits: {key}")
    price = Decimal(value)
    if not is_price(price):
        raise Flawed(f"has a price that is negative, 1,000,000,000 or more, or finer than a billionth: {key}")
    return Decimal(format_amount(price))
