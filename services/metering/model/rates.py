"""Rate cards, and what quantities cost by them.

1. A rate is the price of one unit in one service tier, from an input context on, all day or for the hours it names.
2. The input context is the sum of all units that count toward it. A rate holds where the context is greater than its
   `above`, or from the start where that is 0; of several the one with the largest `above` holds, for the whole call.
3. A unit without a rate in the tier has its rate for `any` tier, else that of the unit it falls back to, and so on.
   Before each of these steps a rate for the hours of the usage goes before one for all day.
4. A quantity that none of these covers leaves the usage unpriced. It is never zero, and never another unit in silence.
5. The amount is the exact sum over all quantities times the card's factor, rounded once, half to even, at nine digits.

Amounts are whole numbers of billionths of the currency ("nanos"), so all arithmetic is exact.

A card with hours is in each of them an ordinary card, one of its `parts`: everything that prices takes such a part.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from services.metering.model.hours import ALL_DAY, Schedule
from services.metering.model.units import THOUSANDTHS, Kind, Quantities, Units, input_context, quantity_of

STANDARD_TIER: Final = "standard"
ANY_TIER: Final = "any"
"""The tier of a rate that holds in every tier where its unit has no rate of its own."""
PER_MAX: Final = 1_000_000
NANO_DIGITS: Final = 9
FACTOR_DIGITS: Final = 6
FACTOR_UNIT: Final = 10**FACTOR_DIGITS
WEIGHTS_PER_NANO: Final = THOUSANDTHS * PER_MAX
"""A weight is what a thousandth of a unit costs, at a price for a million: so many weights are a nano."""
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_NO_PARTS: Final[Mapping[str, "RateCard"]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Rate:
    """What a unit costs in one service tier while the input context is greater than `above`."""

    unit_id: str
    price: Decimal
    """In the card's currency, before the card's factor."""
    per: int = 1
    """How many of the unit the price is for: 1, 1,000 or 1,000,000."""
    service_tier: str = STANDARD_TIER
    above: int = 0
    provider_cost: Decimal | None = None
    """What the provider takes for as many, in the card's provider currency; None where it is not known."""
    hours: str = ALL_DAY
    """The name of the hours it holds in."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The rate that holds for a unit."""

    rate: Rate
    via: tuple[str, ...]
    """The units fallen back to, one after another; the last is the rate's own. Empty where the unit has a rate."""

    @property
    def why(self) -> str:
        """Say why this rate holds: `falls back to input_tokens`, `any tier`, `hours off_peak`, or else `own rate`."""
        reasons = [f"falls back to {' and then '.join(self.via)}"] if self.via else []
        reasons += ["any tier"] if self.rate.service_tier == ANY_TIER else []
        reasons += [f"hours {self.rate.hours}"] if self.rate.hours != ALL_DAY else []
        return ", ".join(reasons) or "own rate"


RatesByUnit = Mapping[tuple[str, str], Sequence[Sequence[Rate]]]
"""The rates of each unit and tier, in groups of which the first that reaches the context holds."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """What each unit costs in one tier while the input context is above one threshold and not above the next."""

    applied: Mapping[str, Applied]
    weights: Mapping[str, int]
    cost_weights: Mapping[str, int]
    input_weight_max: int | None
    output_weight_max: int | None
    """The highest weight of the token units of each side; None where none of them has a rate."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The brackets of one service tier."""

    thresholds: tuple[int, ...]
    """In thousandths of tokens, increasing; there is one bracket more than thresholds."""
    brackets: tuple[Bracket, ...]
    divisor: int
    """How much of the brackets' weights makes a nano."""

    def at(self, context: int) -> Bracket:
        """Return the bracket of an input context in thousandths of tokens. A threshold itself is in the lower one."""
        return self.brackets[bisect_left(self.thresholds, context)]

    def largest_inputs(self, context: int) -> Sequence[int]:
        """Return the largest input of each bracket up to that of an input context, which is the last."""
        return (*self.thresholds[: bisect_left(self.thresholds, context)], context)


@dataclass(frozen=True, slots=True)
class RateCard:
    """One version of a price: rates in one currency, and what units without a rate fall back to."""

    currency_code: str
    rates: tuple[Rate, ...]
    fallbacks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """For a unit without a rate, the unit whose rate holds instead."""
    provider_currency_code: str | None = None
    factor: Decimal = Decimal(1)
    """What every amount is multiplied with before it is rounded: 1, or the margin by which the card was made."""
    schedule: Schedule | None = None
    """The hours for which it has rates of their own; None in most cards."""
    plans: dict[str, Plan] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The plans made so far; `plan` adds to them."""
    rated_units: frozenset[str] = field(init=False, repr=False, compare=False)
    """The units that have a rate in any tier."""
    parts: Mapping[str, "RateCard"] = field(default_factory=lambda: _NO_PARTS, init=False, repr=False, compare=False)
    """What a card with hours is in each of them, by their names: the same without hours and without the other rates."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rated_units", frozenset(rate.unit_id for rate in self.rates))
        if self.schedule is not None:
            object.__setattr__(self, "parts", {name: self._part(name) for name in self.schedule.names})

    def _part(self, name: str) -> "RateCard":
        rates = tuple(rate for rate in self.rates if rate.hours in (ALL_DAY, name))
        return replace(self, rates=rates, schedule=None)

    def plan(self, service_tier: str, units: Units) -> Plan:
        """Return the plan of a tier; each is made once. Tiers without rates of their own share that of any tier."""
        plan = self.plans.get(service_tier)
        if plan is None:
            known = any(rate.service_tier == service_tier for rate in self.rates)
            tier = service_tier if known else ANY_TIER
            plan = self.plans.get(tier) or _plan(self, tier, units)
            self.plans[tier] = plan
        return plan


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A quantity of this unit has no rate, so the usage has no price yet."""

    unit_id: str
    service_tier: str


@dataclass(frozen=True, slots=True)
class Line:
    """The part of a cost that one unit causes. The amounts are exact, and not rounded."""

    unit_id: str
    quantity: Decimal
    applied: Applied
    amount: Decimal
    provider_cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Priced:
    """What quantities cost, with a line for each that is not zero."""

    lines: tuple[Line, ...]
    amount_nanos: int
    provider_cost_nanos: int | None
    """None where a rate that was used has no provider cost."""


def amount_nanos(card: RateCard, quantities: Quantities, service_tier: str, units: Units) -> int | Unpriced:
    """Return what the quantities cost, rounded half to even, once, at nine fraction digits."""
    plan = card.plans.get(service_tier) or card.plan(service_tier, units)
    bracket = plan.at(input_context(quantities, units)) if plan.thresholds else plan.brackets[0]
    total = _total(quantities, bracket.weights)
    return Unpriced(total, service_tier) if isinstance(total, str) else rounded(total, plan.divisor)


def provider_cost_nanos(card: RateCard, quantities: Quantities, service_tier: str, units: Units) -> int | None:
    """Return what the provider takes, in its own currency; None where a rate that is used has no provider cost."""
    plan = card.plans.get(service_tier) or card.plan(service_tier, units)
    bracket = plan.at(input_context(quantities, units)) if plan.thresholds else plan.brackets[0]
    total = _total(quantities, bracket.cost_weights)
    return None if isinstance(total, str) else rounded(total, WEIGHTS_PER_NANO)


def price(card: RateCard, quantities: Quantities, service_tier: str, units: Units) -> Priced | Unpriced:
    """Return what the quantities cost with the lines that say why: `amount_nanos` explained."""
    amount = amount_nanos(card, quantities, service_tier, units)
    if isinstance(amount, Unpriced):
        return amount
    plan = card.plan(service_tier, units)
    bracket = plan.at(input_context(quantities, units))
    lines = []
    for unit_id, quantity in quantities.items():
        if quantity:
            amount_exact = _exact(quantity * bracket.weights[unit_id], plan.divisor)
            weight = bracket.cost_weights.get(unit_id)
            cost_exact = None if weight is None else _exact(quantity * weight, WEIGHTS_PER_NANO)
            lines.append(Line(unit_id, quantity_of(quantity), bracket.applied[unit_id], amount_exact, cost_exact))
    return Priced(tuple(lines), amount, provider_cost_nanos(card, quantities, service_tier, units))


def cost_max_nanos(
    card: RateCard,
    input_tokens: int,
    output_tokens: int,
    service_tier: str,
    units: Units,
    others: Quantities = _NOTHING,
) -> int | Unpriced:
    """Return the most that at most so many tokens can cost, whatever token units of their side they are in.

    A smaller input can cost more than a larger one, where rates fall above a threshold. So the largest input of each
    bracket is tried. Rounding keeps the order of two sums, so no `amount_nanos` within these counts is greater.
    `others` are quantities besides, of units that do not count toward the input context.
    """
    plan = card.plans.get(service_tier) or card.plan(service_tier, units)
    largest = input_tokens * THOUSANDTHS
    output = output_tokens * THOUSANDTHS
    worst = 0
    for context in plan.largest_inputs(largest):
        bracket = plan.at(context)
        total = _total(others, bracket.weights) if others else 0
        if isinstance(total, str):
            return Unpriced(total, service_tier)
        total += context * (bracket.input_weight_max or 0) + output * (bracket.output_weight_max or 0)
        worst = max(worst, total)
    last = plan.at(largest)
    if input_tokens and last.input_weight_max is None:
        return Unpriced("input_tokens", service_tier)
    if output_tokens and last.output_weight_max is None:
        return Unpriced("output_tokens", service_tier)
    return rounded(worst, plan.divisor)


def least_nanos(card: RateCard, quantities: Quantities, service_tier: str, units: Units) -> int | Unpriced:
    """Return the least that a call can turn out to cost that has used so much until now.

    No `amount_nanos` of quantities of which none is smaller is less than this:
    1. A call that goes on uses more, so its input context grows, and its bracket is this one or one after it.
    2. A unit with a rate has one in every later bracket: a bracket has the rates of those before it, and more.
    3. In one bracket, larger quantities cost at least as much, since no rate is below zero. So the call costs at least
       what the quantities of now cost in the bracket in which it ends, and that is at least the least over all these.
    4. Rounding keeps the order of two sums.
    """
    plan = card.plans.get(service_tier) or card.plan(service_tier, units)
    present = bisect_left(plan.thresholds, input_context(quantities, units))
    least: int | None = None
    for bracket in plan.brackets[present:]:
        total = _total(quantities, bracket.weights)
        if isinstance(total, str):
            return Unpriced(total, service_tier)
        least = total if least is None else min(least, total)
    return rounded(least or 0, plan.divisor)


def _plan(card: RateCard, tier: str, units: Units) -> Plan:
    held = [rate for rate in card.rates if rate.service_tier in (tier, ANY_TIER)]
    thresholds = sorted({rate.above for rate in held if rate.above})
    by_unit = by_unit_and_tier(held)
    return Plan(
        tuple(threshold * THOUSANDTHS for threshold in thresholds),
        tuple(_bracket(card, tier, above, by_unit, units) for above in (0, *thresholds)),
        WEIGHTS_PER_NANO if card.factor == 1 else WEIGHTS_PER_NANO * FACTOR_UNIT,
    )


def by_unit_and_tier(rates: Iterable[Rate]) -> RatesByUnit:
    """Return rates by unit and tier, those for hours before those for all day."""
    by_unit: dict[tuple[str, str], list[list[Rate]]] = {}
    for rate in rates:
        for_hours, all_day = by_unit.setdefault((rate.unit_id, rate.service_tier), [[], []])
        (all_day if rate.hours == ALL_DAY else for_hours).append(rate)
    return by_unit


def _bracket(card: RateCard, tier: str, above: int, by_unit: RatesByUnit, units: Units) -> Bracket:
    named = dict.fromkeys([*(unit_id for unit_id, _ in by_unit), *card.fallbacks])
    found = {unit_id: find_rate(unit_id, tier, above, by_unit, card.fallbacks) for unit_id in named}
    applied = {unit_id: one for unit_id, one in found.items() if one is not None}
    factor = 1 if card.factor == 1 else int(card.factor.scaleb(FACTOR_DIGITS))
    weights = {unit_id: factor * _weight(one.rate.price, one.rate.per) for unit_id, one in applied.items()}
    cost_weights = {
        unit_id: _weight(one.rate.provider_cost, one.rate.per)
        for unit_id, one in applied.items()
        if one.rate.provider_cost is not None
    }
    tokens = [unit_id for unit_id in weights if units[unit_id].kind is Kind.TOKEN]
    read = [weights[unit_id] for unit_id in tokens if units[unit_id].counts_toward_context]
    made = [weights[unit_id] for unit_id in tokens if not units[unit_id].counts_toward_context]
    return Bracket(applied, weights, cost_weights, max(read, default=None), max(made, default=None))


def find_rate(
    unit_id: str, tier: str, above: int, by_unit: RatesByUnit, fallbacks: Mapping[str, str]
) -> Applied | None:
    """Return the rate of a unit: its own in the tier, its own for any tier, or that of the unit it falls back to."""
    via: list[str] = []
    while True:
        for held in (tier, ANY_TIER):
            for rates in by_unit.get((unit_id, held), ()):
                reached = [rate for rate in rates if rate.above <= above]
                if reached:
                    return Applied(max(reached, key=lambda rate: rate.above), tuple(via))
        if unit_id not in fallbacks or len(via) == len(fallbacks):
            return None
        unit_id = fallbacks[unit_id]
        via.append(unit_id)


def _weight(amount: Decimal, per: int) -> int:
    """Return what a thousandth of a unit costs, of which WEIGHTS_PER_NANO are a nano."""
    return int(amount.scaleb(NANO_DIGITS)) * (PER_MAX // per)


def _total(quantities: Quantities, weights: Mapping[str, int]) -> int | str:
    """Return the sum of quantities times weights, or the first unit with a quantity that has no weight."""
    total = 0
    for unit_id, quantity in quantities.items():
        if unit_id in weights:
            total += quantity * weights[unit_id]
        elif quantity:
            return unit_id
    return total


def rounded(total: int, divisor: int) -> int:
    """Divide and round half to even."""
    whole, rest = divmod(total, divisor)
    rest *= 2
    if rest >= divisor and (rest > divisor or whole & 1):
        return whole + 1
    return whole


def _exact(total: int, divisor: int) -> Decimal:
    """Return a total of weights in the currency, exactly, whatever its length; the divisor is a power of ten."""
    return Decimal(f"{total}e-{NANO_DIGITS + len(str(divisor)) - 1}")
