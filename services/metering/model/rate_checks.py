"""What may be in a rate card, and cards made from another by a margin. What may be its hours is in `hour_checks`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.model.hour_checks import check_hours
from services.metering.model.rates import FACTOR_DIGITS, NANO_DIGITS, PER_MAX, Rate, RateCard
from services.metering.model.units import Units, check_unit

PERS: Final = (1, 1_000, PER_MAX)
PRICE_MAX: Final = Decimal(10**9)
ABOVE_MAX: Final = 10**9
RATES_MAX: Final = 512
FACTOR_MAX: Final = Decimal(1_000)
_CURRENCY_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{1,11}")
_SERVICE_TIER: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def is_price(value: Decimal) -> bool:
    """Return whether a price is from 0 to below 1,000,000,000 and has at most nine fraction digits."""
    return value.is_finite() and 0 <= value < PRICE_MAX and value == round(value, NANO_DIGITS)


def check_rates(card: RateCard, units: Units) -> list[FieldViolation]:
    """Return everything that is wrong with a card, each with the field at fault."""
    violations = [
        FieldViolation(name, "must be a code such as USD or CREDIT")
        for name, code in (
            ("currency_code", card.currency_code),
            ("provider_currency_code", card.provider_currency_code),
        )
        if code is not None and _CURRENCY_CODE.fullmatch(code) is None
    ]
    if card.provider_currency_code is None and any(rate.provider_cost is not None for rate in card.rates):
        violations.append(FieldViolation("provider_currency_code", "must be given with provider costs"))
    if not 1 <= len(card.rates) <= RATES_MAX:
        violations.append(FieldViolation("rates", f"must be from 1 to {RATES_MAX:,}"))
    for index, rate in enumerate(card.rates):
        violations += _check_rate(f"rates[{index}]", rate, units)
    violations += _check_order(card.rates)
    violations += check_hours(card)
    for unit_id, target in card.fallbacks.items():
        violations += _check_fallback(unit_id, target, card.fallbacks, units)
    violations += _check_factor("factor", card.factor)
    return violations


def _check_rate(field: str, rate: Rate, units: Units) -> Iterator[FieldViolation]:
    yield from check_unit(f"{field}.unit", rate.unit_id, units)
    for name, value in (("price", rate.price), ("provider_cost", rate.provider_cost)):
        if value is not None and not is_price(value):
            rule = f"must be from 0 to below {PRICE_MAX:,} and have at most {NANO_DIGITS} fraction digits"
            yield FieldViolation(f"{field}.{name}", rule)
    if rate.per not in PERS:
        yield FieldViolation(f"{field}.per", f"must be one of {', '.join(f'{per:,}' for per in PERS)}")
    if _SERVICE_TIER.fullmatch(rate.service_tier) is None:
        rule = "must be 1 to 32 of a-z, 0-9, _ and -, and begin with a letter"
        yield FieldViolation(f"{field}.service_tier", rule)
    if not 0 <= rate.above <= ABOVE_MAX:
        yield FieldViolation(f"{field}.above", f"must be from 0 to {ABOVE_MAX:,}")


def _check_order(rates: tuple[Rate, ...]) -> Iterator[FieldViolation]:
    """A unit's thresholds in one tier and for the same hours increase from rate to rate, so none stands twice."""
    before: dict[tuple[str, str, str], int] = {}
    for index, rate in enumerate(rates):
        key = rate.unit_id, rate.service_tier, rate.hours
        if key in before:
            earlier = rates[before[key]]
            if rate.above == earlier.above:
                rule = f"has the unit, service tier and threshold of rates[{before[key]}]"
                yield FieldViolation(f"rates[{index}]", rule)
            elif rate.above < earlier.above:
                rule = f"must be greater than that of rates[{before[key]}], which has the same unit and service tier"
                yield FieldViolation(f"rates[{index}].above", rule)
        before[key] = index


def _check_fallback(unit_id: str, target: str, fallbacks: Mapping[str, str], units: Units) -> Iterator[FieldViolation]:
    field = f"fallbacks[{unit_id}]"
    flaws = [*check_unit(field, unit_id, units), *check_unit(field, target, units)]
    yield from flaws[:1]
    walked = [unit_id]
    while target in fallbacks and target not in walked:
        walked.append(target)
        target = fallbacks[target]
    if target == unit_id:
        yield FieldViolation(field, f"leads back to itself: {' to '.join([*walked, unit_id])}")


def _check_factor(field: str, factor: Decimal) -> Iterator[FieldViolation]:
    if not factor.is_finite() or not 0 <= factor <= FACTOR_MAX or factor != round(factor, FACTOR_DIGITS):
        rule = f"must be from 0 to {FACTOR_MAX:,} and have at most {FACTOR_DIGITS} fraction digits"
        yield FieldViolation(field, rule)


def factor_of_percent(percent: Decimal, field: str = "margin_percent") -> Decimal:
    """Return the factor of a margin in percent: 20 is 1.2, and -100 is 0.

    Raises:
        InvalidArgument: the margin is below -100, which would make prices negative, too large or too fine.
    """
    digits, percent_max = FACTOR_DIGITS - 2, 100 * (FACTOR_MAX - 1)
    if not percent.is_finite() or not -100 <= percent <= percent_max or percent != round(percent, digits):
        rule = f"must be from -100 to {percent_max:,} and have at most {digits} fraction digits"
        raise InvalidArgument([FieldViolation(field, rule)])
    return 1 + percent.scaleb(-2)


def with_margin(card: RateCard, factor: Decimal, field: str = "margin") -> RateCard:
    """Return the card whose customers pay the provider's cost times the factor, rounded once for each charge.

    Its currency is that of the provider's costs. A margin on a card that has one already replaces it.

    Raises:
        InvalidArgument: the factor makes prices negative, is too large or too fine, or a rate has no provider cost.
    """
    violations = list(_check_factor(field, factor))
    costs = [rate.provider_cost for rate in card.rates]
    rule = "has no provider cost, on which a margin could be put"
    violations += [FieldViolation(f"rates[{index}]", rule) for index, cost in enumerate(costs) if cost is None]
    if card.provider_currency_code is None:
        violations.append(FieldViolation("provider_currency_code", "must be given with provider costs"))
        raise InvalidArgument(violations)
    if violations:
        raise InvalidArgument(violations)
    rates = tuple(replace(rate, price=cost) for rate, cost in zip(card.rates, costs, strict=True) if cost is not None)
    return replace(card, currency_code=card.provider_currency_code, rates=rates, factor=factor)
