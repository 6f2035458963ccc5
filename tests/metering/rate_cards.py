"""Short ways to write rate cards and quantities in tests."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from libs.common.errors import FieldViolation
from services.metering.model.hours import Schedule
from services.metering.model.rates import Priced, Rate, RateCard, Unpriced, price
from services.metering.model.units import SEEDED_UNITS, Quantities, read_quantities

MILLION = 1_000_000


def per_million(unit_id: str, listed: str, service_tier: str = "standard", above: int = 0) -> Rate:
    return Rate(unit_id, Decimal(listed), MILLION, service_tier, above, Decimal(listed))


def each(unit_id: str, listed: str, service_tier: str = "standard", per: int = 1) -> Rate:
    return Rate(unit_id, Decimal(listed), per, service_tier, 0, Decimal(listed))


def card(
    *rates: Rate,
    currency: str = "USD",
    fallbacks: Mapping[str, str] | None = None,
    schedule: Schedule | None = None,
) -> RateCard:
    return RateCard(currency, rates, fallbacks or {}, currency, schedule=schedule)


def in_hours(rate: Rate, hours: str) -> Rate:
    return replace(rate, hours=hours)


def quantities(listed: Mapping[str, str | int]) -> Quantities:
    flaws: list[FieldViolation] = []
    read = read_quantities(
        "quantities", ((unit, Decimal(value)) for unit, value in listed.items()), SEEDED_UNITS, flaws
    )
    assert flaws == []
    return read


def priced(rate_card: RateCard, listed: Mapping[str, str | int], service_tier: str = "standard") -> Priced:
    """Return the priced quantities; fails where they have no price."""
    result = price(rate_card, quantities(listed), service_tier, SEEDED_UNITS)
    assert not isinstance(result, Unpriced), result
    return result


def cost(rate_card: RateCard, listed: Mapping[str, str | int], service_tier: str = "standard") -> Decimal:
    return Decimal(priced(rate_card, listed, service_tier).amount_nanos).scaleb(-9)


def rounded_nanos(exact: Fraction) -> int:
    """Return an exact amount in nanos, rounded half to even: what `round` does with a fraction."""
    return round(exact * 10**9)
