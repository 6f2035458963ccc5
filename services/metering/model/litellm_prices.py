"""Reads the prices of LiteLLM's public price map into rate cards. Which key means what is in `litellm_keys`.

A price that no rate holds exactly is named with the reason, and its entry is skipped, or comes in without it if the
caller allows that. Numbers never pass through floating point. The list prices are what the provider takes, so each is a
rate's provider cost, and its price.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from types import MappingProxyType
from typing import Final

from libs.common.amount import format_amount
from services.metering.model.document import NUMBER, Flawed, Value, shown
from services.metering.model.hour_checks import check_hours
from services.metering.model.hours import ALL_DAY, Schedule
from services.metering.model.litellm_hours import KEYS, NAME, read_schedule
from services.metering.model.litellm_keys import (
    ALIAS_OF,
    CONDITIONS,
    CONTAINER_ENTRY,
    CONTAINER_MODES,
    CONTAINER_PRICE,
    FALLBACKS,
    MADE_BY_IMAGE_MODELS,
    NAMES_A_PRICE,
    NOT_SUPPORTED,
    OFF_PEAK,
    RESTATED,
    SEARCH_UNITS,
    SEARCHES,
    SIZED_UNITS,
    TIERED_PRICING,
    Place,
    place_of,
)
from services.metering.model.rate_checks import ABOVE_MAX, is_price
from services.metering.model.rates import ANY_TIER, PER_MAX, STANDARD_TIER, Rate, RateCard
from services.metering.model.units import SEEDED_UNITS, Kind

CURRENCY_CODE: Final = "USD"
_EXACT: Final = Context(prec=100, Emax=9_999, Emin=-9_999)
_WHOLE: Final = re.compile(r"[0-9]{1,10}(?:\.0{1,9})?")
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Remark:
    """A key of an entry, and what is said about it."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class ListedPrices:
    """The prices of one entry."""

    card: RateCard | None
    """None where the entry is skipped."""
    reason: str = ""
    """Why it is skipped."""
    left_out: tuple[Remark, ...] = ()
    """Each price key that the card does not hold, with the reason. Empty where the entry comes in whole."""
    notes: tuple[Remark, ...] = ()
    """Keys that say a price of the card again, or change what some calls cost."""


@dataclass(frozen=True, slots=True)
class _Price:
    """One price of an entry: its rate, or the flaw for which there is none."""

    key: str
    place: Place | None = None
    rate: Rate | None = None
    flaw: str = ""
    schedule: Schedule | None = None
    """When an off-peak price holds."""


def read_price_map(
    entries: Iterable[tuple[str, Mapping[str, Value]]], *, allow_partial: bool = False
) -> dict[str, ListedPrices]:
    """Return the prices of each entry by its name. An alias has the prices of the entry it names."""
    read: dict[str, ListedPrices] = {}
    targets: dict[str, str] = {}
    containers: dict[str, str] = {}
    for name, listed in entries:
        if name in read:
            read[name] = ListedPrices(None, "stands twice in the list")
            targets.pop(name, None)
            containers.pop(name, None)
            continue
        read[name] = read_prices(listed, allow_partial=allow_partial)
        target = listed.get(ALIAS_OF)
        if isinstance(target, str) and not any(_price_keys(listed)):
            targets[name] = target
        if listed.get("mode") in CONTAINER_MODES and listed.get(CONTAINER_PRICE) is None:
            containers[name] = CONTAINER_ENTRY.format(provider=listed.get("litellm_provider"))
    read |= {
        name: _with_container(read[name], entry, read[entry]) for name, entry in containers.items() if entry in read
    }
    return {name: _of_alias(name, targets, read) if name in targets else one for name, one in read.items()}


def _with_container(one: ListedPrices, entry: str, container: ListedPrices) -> ListedPrices:
    """Return the prices of an entry with that of its provider's code sessions."""
    if one.card is None or "code_sessions" in one.card.rated_units:
        return one
    rates = [] if container.card is None else [rate for rate in container.card.rates if rate.unit_id == "code_sessions"]
    if not rates:
        reason = container.reason or "has none"
        return replace(one, notes=(*one.notes, Remark(entry, f"gives no price of code_sessions: it {reason}")))
    card = replace(one.card, rates=tuple(sorted((*one.card.rates, *rates), key=_order)))
    return replace(one, card=card, notes=(*one.notes, Remark(entry, "gives the price of code_sessions")))


def _of_alias(name: str, targets: Mapping[str, str], read: Mapping[str, ListedPrices]) -> ListedPrices:
    walked = [name]
    while walked[-1] in targets and targets[walked[-1]] not in walked:
        walked.append(targets[walked[-1]])
    target = walked[-1]
    if target in targets:
        return ListedPrices(None, f"is an alias that leads back to itself: {shown(target)}")
    found = read.get(target)
    if found is None:
        return ListedPrices(None, f"is an alias of {shown(target)}, which is not in the list")
    if found.card is None:
        return replace(found, reason=f"is an alias of {shown(target)}, which {found.reason}")
    return replace(found, notes=(*found.notes, Remark(ALIAS_OF, f"gives the prices of {shown(target)}")))


def read_prices(listed: Mapping[str, Value], *, allow_partial: bool = False) -> ListedPrices:
    """Return the prices of one entry. Numbers are the texts they were written as."""
    made = _made(listed)
    notes = list(_conditions(listed))
    prices: list[_Price] = []
    for key in _price_keys(listed):
        note = _note(key, listed, made)
        if note is not None:
            notes.append(note)
        elif key == OFF_PEAK:
            prices += _read_off_peak(listed, made)
        else:
            prices += _read_key(key, listed[key], made)
    prices = _with_other_times(_without_gaps(_without_conflicts(prices)))
    left_out = tuple(Remark(one.key, one.flaw) for one in prices if one.flaw)
    if not prices:
        return ListedPrices(None, "has no price", notes=tuple(notes))
    if len(left_out) == len(prices) or (left_out and not allow_partial):
        named = "; ".join(f"{one.key} {one.text}" for one in left_out)
        return ListedPrices(None, f"has prices that no rate holds: {named}", left_out, tuple(notes))
    card = _card(prices)
    return ListedPrices(card, "", left_out, (*notes, *_priced_as_others(card)))


def _priced_as_others(card: RateCard) -> Iterator[Remark]:
    """Say which units a tier prices as others, though they have prices of their own in the standard tier.

    The list says nothing of these prices. So cached tokens of a batch, say, cost what other input of a batch costs.
    """
    tiers: dict[str, set[str]] = {}
    for rate in card.rates:
        tiers.setdefault(rate.service_tier, set()).add(rate.unit_id)
    standard, always = tiers.pop(STANDARD_TIER, set()), tiers.pop(ANY_TIER, set())
    for tier, priced in tiers.items():
        others = []
        for unit_id in sorted(standard - priced - always):
            target = card.fallbacks.get(unit_id)
            while target is not None and target not in priced:
                target = card.fallbacks.get(target)
            if target is not None:
                others.append(f"{unit_id} as {target}")
        if others:
            yield Remark(f"tier {tier}", f"has no price for some units and prices {', '.join(others)}")


def _price_keys(listed: Mapping[str, Value]) -> Iterator[str]:
    return (key for key, value in listed.items() if value is not None and NAMES_A_PRICE.search(key))


def _made(listed: Mapping[str, Value]) -> Mapping[str, str]:
    """Return the keys that are the price of what an image model makes, although they speak of its input."""
    if listed.get("mode") != "image_generation":
        return _NONE
    own = any(key.startswith("output_cost_per_image") for key in _price_keys(listed))
    return _NONE if own else MADE_BY_IMAGE_MODELS


def _conditions(listed: Mapping[str, Value]) -> Iterator[Remark]:
    for key, value in listed.items():
        if key in CONDITIONS:
            yield Remark(key, CONDITIONS[key])
        elif isinstance(value, dict):
            yield from (Remark(name, CONDITIONS[name]) for part in value if (name := f"{key}.{part}") in CONDITIONS)


def _note(key: str, listed: Mapping[str, Value], made: Mapping[str, str]) -> Remark | None:
    """Return what is said about a price key that adds nothing to the entry's other prices."""
    if key in RESTATED and listed.get(RESTATED[key]) is not None:
        return Remark(key, f"says the price of {RESTATED[key]} again, in Databricks units")
    made_too = "input_cost_per_pixel" in made and listed.get("input_cost_per_pixel") is not None
    if key == "output_cost_per_pixel" and made_too and _number(listed[key]) == 0:
        return Remark(key, "adds nothing to input_cost_per_pixel, the price of a pixel made")
    return None


def _read_key(key: str, value: Value, made: Mapping[str, str]) -> Iterator[_Price]:
    if key in NOT_SUPPORTED:
        yield _Price(key, flaw=NOT_SUPPORTED[key])
    elif key in RESTATED:
        yield _Price(key, flaw="is a price in Databricks units, without one in USD")
    elif key == SEARCHES:
        yield from _read_searches(value)
    elif key == TIERED_PRICING:
        yield from _read_tiers(value, made)
    else:
        yield _price(key, place_of(key, made), value)


def _read_searches(value: Value) -> Iterator[_Price]:
    """Searches cost the same whatever their size, or each size is a unit of its own."""
    if not isinstance(value, dict) or not value:
        yield _Price(SEARCHES, flaw="is not a list of prices by size")
        return
    numbers = {_number(one) for one in value.values()}
    together = set(value) == set(SEARCH_UNITS) and len(numbers) == 1
    for size, one in value.items():
        unit_id = "web_searches" if together else SEARCH_UNITS.get(size)
        yield _price(f"{SEARCHES}.{size}", Place(unit_id, ANY_TIER, 0) if unit_id else None, one)


def _read_tiers(value: Value, made: Mapping[str, str]) -> list[_Price]:
    """Prices by ranges of the input context: each holds above where its range begins, the last without an end."""
    tiers = [tier for tier in value if isinstance(tier, dict)] if isinstance(value, list) else []
    begins = _begins(tiers)
    prices = []
    for index, tier in enumerate(tiers):
        for key, one in tier.items():
            name = shown(f"{TIERED_PRICING}[{index}].{key}", 128)
            if begins is not None and key != "range" and one is not None:
                prices.append(_price(name, place_of(key, made, begins[index]), one))
            elif begins is None and NAMES_A_PRICE.search(key):
                flaw = "is not for ranges of the input context, one after another"
                prices.append(_Price(name, place_of(key, made), flaw=flaw))
    if not prices or tiers != value:
        prices.append(_Price(TIERED_PRICING, flaw="is not a list of prices by ranges"))
    return prices


def _read_off_peak(listed: Mapping[str, Value], made: Mapping[str, str]) -> list[_Price]:
    """Prices for hours of the day: all that the block has, or none. Without them the usual prices hold at all hours."""
    block = listed[OFF_PEAK]
    if not isinstance(block, dict):
        return [_Price(OFF_PEAK, flaw="is not a set of hours and prices")]
    # The map's own reader takes them for every tier, which no provider's page says.
    tiers = {place.service_tier for key in _price_keys(listed) if (place := place_of(key, made)) is not None}
    if not tiers <= {STANDARD_TIER, ANY_TIER}:
        return [_Price(OFF_PEAK, flaw="does not say for which of the entry's service tiers it is")]
    try:
        schedule = read_schedule(block)
    except Flawed as flaw:
        return [_Price(OFF_PEAK, flaw=str(flaw))]
    prices = [
        replace(_price(f"{OFF_PEAK}.{key}", place_of(key, made, hours=NAME), value), schedule=schedule)
        for key, value in block.items()
        if key not in KEYS and value is not None
    ]
    flawed = [_Price(one.key, flaw=one.flaw) for one in prices if one.flaw]
    if flawed:
        return [*flawed, _Price(OFF_PEAK, flaw="is left out with a price of its own")]
    return prices or [_Price(OFF_PEAK, flaw="has no prices")]


def _begins(tiers: list[dict[str, Value]]) -> list[int] | None:
    """Return where the ranges begin; None unless the first begins at 0, and each where the one before ends."""
    begins, end = [], 0
    for tier in tiers:
        limits = tier.get("range")
        bounds = [_tokens(one) for one in limits] if isinstance(limits, list) else []
        if len(bounds) != 2 or bounds[0] != end or bounds[1] is None or bounds[1] <= end:
            return None
        begins.append(end)
        end = bounds[1]
    return begins


def _tokens(value: Value) -> int | None:
    if not isinstance(value, str) or _WHOLE.fullmatch(value) is None:
        return None
    return min(int(Decimal(value)), ABOVE_MAX)


def _number(value: Value) -> Decimal | None:
    if not isinstance(value, str) or NUMBER.fullmatch(value) is None:
        return None
    return Decimal(value)


def _price(key: str, place: Place | None, value: Value) -> _Price:
    key = shown(key, 128)
    if place is None:
        return _Price(key, flaw="is not a price that this import knows")
    number = _number(value)
    if number is None:
        return _Price(key, place, flaw="is not a number of at most 80 digits")
    for per in _pers(place.unit_id):
        price = _EXACT.multiply(number, Decimal(per))
        if is_price(price):
            price = Decimal(format_amount(price))
            rate = Rate(place.unit_id, price, per, place.service_tier, place.above, price, place.hours)
            return _Price(key, place, rate)
    return _Price(key, place, flaw="is negative, too large, or finer than a billionth for a million")


def _pers(unit_id: str) -> tuple[int, ...]:
    """Return for how many a unit's price may be, the usual first: a million tokens, one image."""
    if SEEDED_UNITS[unit_id].kind in (Kind.TOKEN, Kind.SIZE):
        return PER_MAX, 1_000, 1
    return 1, 1_000, PER_MAX


def _without_conflicts(prices: list[_Price]) -> list[_Price]:
    """Find fault with prices of the same unit, tier and threshold that contradict each other."""
    stated: dict[Place | None, set[Decimal]] = {}
    for one in prices:
        if one.rate is not None:
            stated.setdefault(one.place, set()).add(one.rate.price / one.rate.per)
    flaw = "is not the only price of its unit, tier, threshold and hours, and they differ"
    return [replace(one, rate=None, flaw=flaw) if len(stated.get(one.place, ())) > 1 else one for one in prices]


def _without_gaps(prices: list[_Price]) -> list[_Price]:
    """Find fault with prices of a unit in a tier where another one, of another threshold, is left out.

    With it missing, inputs above its threshold would be charged at the wrong price.
    """
    gaps = {_unit_and_tier(one) for one in prices if one.flaw}
    flaw = "is left out with another price of its unit and tier"
    return [replace(one, rate=None, flaw=one.flaw or flaw) if _unit_and_tier(one) in gaps else one for one in prices]


def _unit_and_tier(price: _Price) -> tuple[str, str]:
    return (price.place.unit_id, price.place.service_tier) if price.place else (price.key, "")


def _with_other_times(prices: list[_Price]) -> list[_Price]:
    """Find fault with all off-peak prices where one is of a unit that has none at other times."""
    if all(one.schedule is None for one in prices) or not check_hours(_card(prices)):
        return prices
    flaw = "is an off-peak price in an entry with one for a unit without a usual price"
    return [_Price(one.key, flaw=flaw) if one.schedule is not None else one for one in prices]


def _card(prices: list[_Price]) -> RateCard:
    """Return the card of prices; units of which a price is left out fall back to no other."""
    rates = sorted({one.place: one.rate for one in prices if one.rate is not None}.values(), key=_order)
    gaps = {one.place.unit_id for one in prices if one.place and one.flaw}
    priced = {rate.unit_id for rate in rates}
    fallbacks = {unit_id: target for unit_id, target in FALLBACKS.items() if _leads_to(target, priced)}
    for unit_id, sizes in SIZED_UNITS.items():
        if unit_id in priced and not (priced | gaps).intersection(sizes):
            fallbacks |= dict.fromkeys(sizes, unit_id)
    fallbacks = {unit_id: target for unit_id, target in fallbacks.items() if unit_id not in gaps}
    schedule = next((one.schedule for one in prices if one.rate is not None and one.schedule is not None), None)
    return RateCard(CURRENCY_CODE, tuple(rates), MappingProxyType(fallbacks), CURRENCY_CODE, schedule=schedule)


def _leads_to(unit_id: str, priced: set[str]) -> bool:
    while unit_id not in priced and unit_id in FALLBACKS:
        unit_id = FALLBACKS[unit_id]
    return unit_id in priced


_UNIT_ORDER: Final = {unit_id: index for index, unit_id in enumerate(SEEDED_UNITS)}


def _order(rate: Rate) -> tuple[bool, bool, str, int, int]:
    """All day first, then the standard tier, then the units in the order of the catalogue, then the thresholds."""
    tier = rate.service_tier
    return rate.hours != ALL_DAY, tier != STANDARD_TIER, tier, _UNIT_ORDER[rate.unit_id], rate.above
