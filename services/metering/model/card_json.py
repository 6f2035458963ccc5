"""Rate cards as they are stored: JSON with prices as text, so that no price passes through floating point."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import TypedDict

from libs.common.amount import format_amount
from services.metering.model.rates import STANDARD_TIER, Rate, RateCard


class RateJson(TypedDict, total=False):
    """A rate; what is left out has its usual value."""

    unit: str
    price: str
    per: int
    service_tier: str
    above: int
    provider_cost: str


class CardJson(TypedDict, total=False):
    """A rate card without its currency, which has a column of its own."""

    rates: Sequence[RateJson]
    fallbacks: Mapping[str, str]
    provider_currency_code: str
    factor: str


def card_json(card: RateCard) -> CardJson:
    """Return a card as it is stored."""
    stored = CardJson(rates=[_rate_json(rate) for rate in card.rates], fallbacks=dict(card.fallbacks))
    if card.provider_currency_code is not None:
        stored["provider_currency_code"] = card.provider_currency_code
    if card.factor != 1:
        stored["factor"] = format(card.factor, "f")
    return stored


def card_of_json(currency_code: str, stored: CardJson) -> RateCard:
    """Return a stored card."""
    return RateCard(
        currency_code,
        tuple(
            Rate(
                rate["unit"],
                Decimal(rate["price"]),
                rate.get("per", 1),
                rate.get("service_tier", STANDARD_TIER),
                rate.get("above", 0),
                Decimal(rate["provider_cost"]) if "provider_cost" in rate else None,
            )
            for rate in stored["rates"]
        ),
        MappingProxyType(dict(stored["fallbacks"])),
        stored.get("provider_currency_code"),
        Decimal(stored.get("factor", "1")),
    )


def _rate_json(rate: Rate) -> RateJson:
    stored = RateJson(unit=rate.unit_id, price=format_amount(rate.price), per=rate.per)
    if rate.service_tier != STANDARD_TIER:
        stored["service_tier"] = rate.service_tier
    if rate.above:
        stored["above"] = rate.above
    if rate.provider_cost is not None:
        stored["provider_cost"] = format_amount(rate.provider_cost)
    return stored
