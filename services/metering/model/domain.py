"""Models, price versions, and what usage costs by them.

What a rate card says is in `rates`. Here stands besides what is tuned for speed: most usage is tokens of a few classes
in the standard tier, below the first threshold of the card, and is priced by a sum over a tuple. On 26 November 2026
that took 0.9 µs, and the card 2.3. Both give the same nanos: a test compares them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from operator import mul
from types import MappingProxyType
from typing import Final, NamedTuple

from libs.common.amount import AMOUNT_MAX, format_amount
from libs.common.audit.chain import Changed, differences
from services.metering.errors import CostTooLarge
from services.metering.model.hours import ALL_DAY
from services.metering.model.rates import (
    ANY_TIER,
    STANDARD_TIER,
    Rate,
    RateCard,
    Unpriced,
    amount_nanos,
    cost_max_nanos,
    least_nanos,
    provider_cost_nanos,
    rounded,
)
from services.metering.model.units import SEEDED_UNITS, THOUSANDTHS, TOKEN_CLASS_UNITS, Quantities, Units
from services.metering.tables import TOKEN_CLASSES

NANOS: Final = 10**9
_AMOUNT_NANOS_MAX: Final = int(AMOUNT_MAX) * NANOS
TOKENS_PER_PRICE: Final = 10**6
REQUESTS: Final = "requests"
"""The unit of which each usage has one, unless it says otherwise."""
_CLASS_UNITS: Final = frozenset(TOKEN_CLASS_UNITS.values())

# The class whose price is used for a class without its own price.
FALLBACKS: Final = {
    "cache_read": "input",
    "cache_write": "input",
    "audio_input": "input",
    "image": "input",
    "reasoning": "output",
    "audio_output": "output",
}

Tokens = tuple[int, ...]
"""One count for each of TOKEN_CLASSES, in their order."""

_NO_TOKENS: Final[Tokens] = (0,) * len(TOKEN_CLASSES)
INPUT_CLASSES: Final = ("input", "cache_read", "cache_write", "audio_input", "image")
OUTPUT_CLASSES: Final = ("output", "reasoning", "audio_output")
"""Every token class belongs to one side of a call: what the caller sends, or what the model produces."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue."""

    model_id: str
    provider: str
    display_name: str
    description: str
    capabilities: tuple[str, ...]
    context_length: int
    max_output_tokens: int
    active: bool
    metadata: Mapping[str, str]
    revision: int
    create_time: datetime
    update_time: datetime
    price_set_by_hand: bool = False
    """Whether the platform's price was set with SetPrice, so that imports leave it as it is."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in one currency, per million tokens of each class; None where a class has no price of its own."""

    currency_code: str
    by_class: tuple[Decimal | None, ...]
    per_request: Decimal | None


class Plain(NamedTuple):
    """The rates of the token classes in the standard tier of a card, below its first threshold."""

    weights: tuple[int, ...]
    """What a token costs, one for each of TOKEN_CLASSES; `divisor` of them are a nano."""
    request_weight: int
    """What a request costs, likewise."""
    divisor: int
    cost_weights: tuple[int, ...] | None
    """The same of the provider's costs, of which TOKENS_PER_PRICE are a nano; None if not known for every class."""
    request_cost_weight: int
    context_max: int | None
    """The largest input context for which this holds; None where there is no threshold."""


@dataclass(frozen=True)
class PriceVersion:
    """The price of a model from a moment on, for everybody or for one organization."""

    price_version_id: str
    model_id: str
    organization_id: str | None
    card: RateCard
    effective_time: datetime
    create_time: datetime
    source: str

    @cached_property
    def plain(self) -> Plain | None:
        """What prices most usage quickly; None for a card that it cannot express. Made when it is first needed."""
        return plain_rates(self.card)

    @cached_property
    def parts(self) -> Mapping[str, "PriceVersion"]:
        """The version in each of its card's hours, by their names; empty for a card without hours."""
        return {name: replace(self, card=card) for name, card in self.card.parts.items()}


class Rated(NamedTuple):
    """What usage costs."""

    amount_nanos: int
    provider_cost_nanos: int | None
    """What the provider takes, in the card's provider currency; None where it is not known."""
    hours: str = ALL_DAY
    """The name of the hours that the usage is in, where the card has any."""


def refusal_of_cost(rated: Rated, card: RateCard) -> CostTooLarge | None:
    """Return why usage cannot be charged that costs, or whose provider takes, more than an amount can be."""
    if rated.amount_nanos >= _AMOUNT_NANOS_MAX:
        return CostTooLarge(amount=format_nanos(rated.amount_nanos), currency_code=card.currency_code)
    if rated.provider_cost_nanos is not None and rated.provider_cost_nanos >= _AMOUNT_NANOS_MAX:
        amount = format_nanos(rated.provider_cost_nanos)
        return CostTooLarge(amount=amount, currency_code=card.provider_currency_code or "")
    return None


def card_of(prices: Prices) -> RateCard:
    """Return the rate card that prices of token classes stand for."""
    rates = [
        Rate(TOKEN_CLASS_UNITS[name], price, TOKENS_PER_PRICE)
        for name, price in zip(TOKEN_CLASSES, prices.by_class, strict=True)
        if price is not None
    ]
    if prices.per_request is not None:
        rates.append(Rate(REQUESTS, prices.per_request, service_tier=ANY_TIER))
    fallbacks = {TOKEN_CLASS_UNITS[name]: TOKEN_CLASS_UNITS[other] for name, other in FALLBACKS.items()}
    return RateCard(prices.currency_code, tuple(rates), MappingProxyType(fallbacks))


def prices_of(card: RateCard) -> Prices | None:
    """Return the prices of token classes, where a card has no other rates; None where it has.

    What units beside the token classes fall back to, and provider costs, change none of these prices.
    """
    own = {rate.unit_id: rate for rate in card.rates}
    by_class = tuple(
        None if (rate := own.get(TOKEN_CLASS_UNITS[name])) is None else rate.price for name in TOKEN_CLASSES
    )
    request = own.get(REQUESTS)
    prices = Prices(card.currency_code, by_class, None if request is None else request.price)
    expected = card_of(prices)
    customers = frozenset(replace(rate, provider_cost=None) for rate in card.rates)
    without = _CLASS_UNITS - own.keys()
    same = (
        customers == frozenset(expected.rates)
        and all(card.fallbacks.get(unit_id) == expected.fallbacks.get(unit_id) for unit_id in without)
        and card.factor == 1
    )
    return prices if same and None not in by_class[:2] else None


def plain_rates(card: RateCard) -> Plain | None:
    """Return the rates by which most usage is priced; None for a card with hours, or without rates for all classes."""
    if card.schedule is not None:
        return None
    units = [TOKEN_CLASS_UNITS[name] for name in TOKEN_CLASSES]
    reached = _reached([*units, REQUESTS], card.fallbacks)
    # What is left out has no part in the prices of token classes. Most of a card is.
    rates = tuple(one for one in card.rates if one.unit_id in reached and one.service_tier in (STANDARD_TIER, ANY_TIER))
    fallbacks = {unit: other for unit, other in card.fallbacks.items() if unit in reached and other in reached}
    plan = replace(card, rates=rates, fallbacks=fallbacks).plan(STANDARD_TIER, SEEDED_UNITS)
    bracket = plan.brackets[0]
    if any(unit not in bracket.weights for unit in units):
        return None
    costs = None
    if all(unit in bracket.cost_weights for unit in (*units, *({REQUESTS} & bracket.weights.keys()))):
        costs = tuple(bracket.cost_weights[unit] for unit in units)
    return Plain(
        tuple(bracket.weights[unit] for unit in units),
        bracket.weights.get(REQUESTS, 0),
        plan.divisor // THOUSANDTHS,
        costs,
        bracket.cost_weights.get(REQUESTS, 0),
        plan.thresholds[0] // THOUSANDTHS if plan.thresholds else None,
    )


def _reached(units: Sequence[str], fallbacks: Mapping[str, str]) -> set[str]:
    """Return the seeded units that have a part in the prices of some units: these, and what they fall back to."""
    reached: set[str] = set()
    waiting = list(units)
    while waiting:
        unit_id = waiting.pop()
        if unit_id in SEEDED_UNITS and unit_id not in reached:
            reached.add(unit_id)
            waiting += [fallbacks[unit_id]] if unit_id in fallbacks else []
    return reached


def rate(
    version: PriceVersion,
    tokens: Tokens,
    quantities: Quantities,
    service_tier: str,
    units: Units,
    occur_time: datetime,
) -> Rated | Unpriced:
    """Return what usage costs, rounded half to even, once, at nine fraction digits; or the unit that has no rate.

    A card that charges for `requests` charges for one request, unless the quantities say how many there were.
    """
    plain = version.plain
    if (
        plain is None
        or quantities
        or service_tier != STANDARD_TIER
        or (plain.context_max is not None and input_tokens_of(tokens) > plain.context_max)
    ):
        if version.card.schedule is not None:
            return _rate_by_hours(version, tokens, quantities, service_tier, units, occur_time)
        return _rate_by_card(version.card, all_quantities(version.card, tokens, quantities), service_tier, units)
    amount = rounded(sum(map(mul, tokens, plain.weights)) + plain.request_weight, plain.divisor)
    if version.card.provider_currency_code is None:
        return Rated(amount, None)
    if plain.cost_weights is None:
        return _rate_by_card(version.card, all_quantities(version.card, tokens, quantities), service_tier, units)
    cost = sum(map(mul, tokens, plain.cost_weights)) + plain.request_cost_weight
    return Rated(amount, rounded(cost, TOKENS_PER_PRICE))


def _rate_by_hours(
    version: PriceVersion,
    tokens: Tokens,
    quantities: Quantities,
    service_tier: str,
    units: Units,
    occur_time: datetime,
) -> Rated | Unpriced:
    part = part_at(version, occur_time)
    if part is None:
        used = all_quantities(version.card, tokens, quantities)
        return Unpriced(next(iter(used), REQUESTS), service_tier)
    name, in_force = part
    rated = rate(in_force, tokens, quantities, service_tier, units, occur_time)
    return rated if isinstance(rated, Unpriced) else rated._replace(hours=name)


def part_at(version: PriceVersion, moment: datetime) -> tuple[str, PriceVersion] | None:
    """Return the name of the hours that a moment is in, and the version as it is in them.

    None if this process does not know the time zone of the hours. Usage then waits for a price, until one does.
    """
    schedule = version.card.schedule
    if schedule is None:
        return ALL_DAY, version
    name = schedule.at(moment)
    return None if name is None else (name, version.parts[name])


def _rate_by_card(card: RateCard, used: Quantities, service_tier: str, units: Units) -> Rated | Unpriced:
    amount = amount_nanos(card, used, service_tier, units)
    if isinstance(amount, Unpriced):
        return amount
    if card.provider_currency_code is None:
        return Rated(amount, None)
    return Rated(amount, provider_cost_nanos(card, used, service_tier, units))


def all_quantities(card: RateCard, tokens: Tokens, quantities: Quantities) -> dict[str, int]:
    """Return everything that is used, in thousandths by unit: the tokens, other quantities, and the request itself."""
    used = {
        TOKEN_CLASS_UNITS[name]: count * THOUSANDTHS for name, count in zip(TOKEN_CLASSES, tokens, strict=True) if count
    }
    used.update(quantities)
    if REQUESTS not in used and REQUESTS in card.rated_units:
        used[REQUESTS] = THOUSANDTHS
    return used


def least_cost(
    version: PriceVersion, tokens: Tokens, quantities: Quantities, service_tier: str, units: Units
) -> int | Unpriced:
    """Return the least nanos that a call can turn out to cost that has used so much until now.

    No `rate` of usage without a smaller quantity is less, whenever it occurs. The request itself counts as one from the
    start.
    """

    def least(part: PriceVersion) -> int | Unpriced:
        return least_nanos(part.card, all_quantities(part.card, tokens, quantities), service_tier, units)

    if version.card.schedule is None:
        return least(version)
    costs: list[int] = []
    for part in version.parts.values():
        cost = least(part)
        if isinstance(cost, Unpriced):
            return cost  # A unit without a rate has none in any hours.
        costs.append(cost)
    return min(costs)


def cost_max(
    version: PriceVersion, input_tokens: int, output_tokens: int, service_tier: str, units: Units, others: Quantities
) -> int | Unpriced:
    """Return the most nanos that so many tokens can cost, whatever units of their side they are, and other quantities.

    No `rate` of usage within these counts is greater, whenever it occurs.
    """

    def most(part: PriceVersion) -> int | Unpriced:
        beside = all_quantities(part.card, _NO_TOKENS, others)
        return cost_max_nanos(part.card, input_tokens, output_tokens, service_tier, units, beside)

    return most(version) if version.card.schedule is None else _dearest(map(most, version.parts.values()))


def cost_in_dearest_hours(
    version: PriceVersion, tokens: Tokens, quantities: Quantities, service_tier: str, units: Units
) -> int | Unpriced:
    """Return the nanos that usage costs in whichever of the card's hours that is most."""

    def cost(part: PriceVersion) -> int | Unpriced:
        rated = rate(part, tokens, quantities, service_tier, units, part.effective_time)  # The same at any time.
        return rated if isinstance(rated, Unpriced) else rated.amount_nanos

    return cost(version) if version.card.schedule is None else _dearest(map(cost, version.parts.values()))


def _dearest(costs: Iterable[int | Unpriced]) -> int | Unpriced:
    """Return the greatest of some costs; or the first unit without a rate, which then has none in any hours."""
    greatest = 0
    for cost in costs:
        if isinstance(cost, Unpriced):
            return cost
        greatest = max(greatest, cost)
    return greatest


def input_tokens_of(tokens: Tokens) -> int:
    """Return how many of the tokens are on the input side, which is the input context."""
    return sum(count for name, count in zip(TOKEN_CLASSES, tokens, strict=True) if name in INPUT_CLASSES)


def output_tokens_of(tokens: Tokens) -> int:
    """Return how many of the tokens are on the output side."""
    return sum(count for name, count in zip(TOKEN_CLASSES, tokens, strict=True) if name in OUTPUT_CLASSES)


def format_nanos(nanos: int) -> str:
    """Return a number of nanos as a plain decimal without trailing zeros."""
    whole, rest = divmod(nanos, NANOS)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)


def model_changes(before: Model | None, after: Model) -> tuple[Changed, ...]:
    """Return the changed fields of a model for the audit trail. Of description and metadata only the names are kept."""
    changes = differences({} if before is None else _plain_fields(before), _plain_fields(after))
    written = {
        "description": (before.description if before else "") != after.description,
        "metadata": (before.metadata if before else {}) != after.metadata,
    }
    return changes + tuple(Changed(name) for name, differs in written.items() if differs)


def _plain_fields(model: Model) -> dict[str, str | None]:
    return {
        "provider": model.provider,
        "display_name": model.display_name,
        "capabilities": ",".join(model.capabilities),
        "context_length": str(model.context_length),
        "max_output_tokens": str(model.max_output_tokens),
        "active": str(model.active).lower(),
        "price_set_by_hand": str(model.price_set_by_hand).lower(),
    }


def price_changes(version: PriceVersion) -> tuple[Changed, ...]:
    """Return the fields of a new price version for the audit trail."""
    card = version.card
    values = {
        "model_id": version.model_id,
        "effective_time": version.effective_time.isoformat(),
        "currency_code": card.currency_code,
        **{f"rates.{rate_name(one)}": format_rate(one) for one in card.rates},
        **{f"fallbacks.{unit_id}": other for unit_id, other in card.fallbacks.items()},
    }
    if card.schedule is not None:
        values |= {f"hours.{one.name}": card.schedule.text_of(one) for one in card.schedule.hours}
    if card.factor != 1:
        values["factor"] = format(card.factor, "f")
    return differences({}, values)


def rate_name(one: Rate) -> str:
    """Name a rate within its card: `input_tokens`, `input_tokens/batch`, `input_tokens/standard/200000`.

    A rate for hours has all parts, such as `input_tokens/standard/0/off_peak`.
    """
    if one.hours != ALL_DAY:
        return f"{one.unit_id}/{one.service_tier}/{one.above}/{one.hours}"
    if one.above:
        return f"{one.unit_id}/{one.service_tier}/{one.above}"
    return one.unit_id if one.service_tier == STANDARD_TIER else f"{one.unit_id}/{one.service_tier}"


def format_rate(one: Rate) -> str:
    """Write a rate's price, with how many it is for unless that is one, such as `2.5/1000000`."""
    price = format_amount(one.price)
    return price if one.per == 1 else f"{price}/{one.per}"
