"""Reads the price that a SetPrice request gives: prices of token classes, a rate card, or a margin."""

from collections.abc import Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.model.domain import Prices, card_of
from services.metering.model.rate_checks import check_rates, factor_of_percent, with_margin
from services.metering.model.rates import STANDARD_TIER, Rate, RateCard
from services.metering.model.units import TOKEN_CLASS_UNITS, Units
from services.metering.tables import TOKEN_CLASSES
from tollhouse.metering.v1 import model_pb2 as pb

_SOURCES: Final = ("prices", "rate_card", "margin")
_CLASS_OF_UNIT: Final = {unit_id: name for name, unit_id in TOKEN_CLASS_UNITS.items()} | {"requests": "per_request"}


def read_price(request: pb.SetPriceRequest, units: Units, base: RateCard | None) -> RateCard:
    """Return the card of a request; `base` is the card on whose provider costs a margin is put.

    Raises:
        InvalidArgument: not exactly one of prices, rate_card and margin is given, or it is wrong.
    """
    given = [name for name in _SOURCES if request.HasField(name)]
    if not given:
        raise InvalidArgument([FieldViolation("prices", "must be given, unless rate_card or margin is")])
    if len(given) > 1:
        rule = f"must not be given with {given[0]}: a price is one of {', '.join(_SOURCES)}"
        raise InvalidArgument([FieldViolation(name, rule) for name in given[1:]])
    if given == ["prices"]:
        return _read_prices(request, units)
    if given == ["rate_card"]:
        return _read_card(request, units)
    return _read_margin(request, units, base)


def check_price(request: pb.SetPriceRequest, units: Units) -> None:
    """Raise InvalidArgument for what is wrong with the price of a request, whatever a margin is put on."""
    if [name for name in _SOURCES if request.HasField(name)] == ["margin"]:
        _read_factor(request.margin)
    else:
        read_price(request, units, None)


def _read_prices(request: pb.SetPriceRequest, units: Units) -> RateCard:
    def read(name: str) -> Decimal | None:
        text: str = getattr(request.prices, name)
        return Decimal(text) if text else None

    by_class = tuple(read(token_class) for token_class in TOKEN_CLASSES)
    card = card_of(Prices(request.currency_code, by_class, read("per_request")))
    violations = []
    for rate in card.rates:
        unit = units.get(rate.unit_id)
        if unit is None or unit.archived:
            violations.append(FieldViolation(f"prices.{_CLASS_OF_UNIT[rate.unit_id]}", "is of an archived unit"))
    if violations:
        raise InvalidArgument(violations)
    return card


def _read_card(request: pb.SetPriceRequest, units: Units) -> RateCard:
    listed = request.rate_card
    card = RateCard(
        request.currency_code,
        tuple(map(_read_rate, listed.rates)),
        MappingProxyType({fallback.unit: fallback.priced_as for fallback in listed.fallbacks}),
        listed.provider_currency_code or None,
        Decimal(listed.factor or "1"),
    )
    places: dict[str, int] = {}
    violations = []
    for index, fallback in enumerate(listed.fallbacks):
        first = places.setdefault(fallback.unit, index)
        if first != index:
            rule = f"has its fall-back in rate_card.fallbacks[{first}] already"
            violations.append(FieldViolation(f"rate_card.fallbacks[{index}].unit", rule))
    fields = {f"fallbacks[{unit_id}]": f"fallbacks[{index}]" for unit_id, index in places.items()}
    violations += [
        FieldViolation(f"rate_card.{fields.get(flaw.field, flaw.field)}", flaw.description)
        for flaw in check_rates(card, units)
        if flaw.field != "currency_code"
    ]
    if violations:
        raise InvalidArgument(violations)
    return card


def _read_rate(listed: pb.Rate) -> Rate:
    return Rate(
        listed.unit,
        Decimal(listed.price),
        listed.per or 1,
        listed.service_tier or STANDARD_TIER,
        listed.above,
        Decimal(listed.provider_cost) if listed.provider_cost else None,
    )


def _read_margin(request: pb.SetPriceRequest, units: Units, base: RateCard | None) -> RateCard:
    factor = _read_factor(request.margin)
    if base is None:
        raise InvalidArgument([FieldViolation("margin.price_version_id", "is not known")])
    if request.currency_code != base.provider_currency_code:
        rule = f"must be {base.provider_currency_code}, the currency of the provider costs"
        raise InvalidArgument([FieldViolation("currency_code", rule)])
    card = with_margin(base, factor, "margin.factor")
    flaws = _named("margin.price_version_id", check_rates(card, units))
    if flaws:
        raise InvalidArgument(flaws)
    return card


def _read_factor(margin: pb.Margin) -> Decimal:
    if margin.WhichOneof("margin") == "percent":
        return factor_of_percent(Decimal(margin.percent), "margin.percent")
    return Decimal(margin.factor)


def _named(field: str, flaws: Sequence[FieldViolation]) -> list[FieldViolation]:
    """Return flaws of a card that the request only names, each with its place in that card."""
    return [FieldViolation(field, f"{flaw.field} of its card {flaw.description}") for flaw in flaws]
