"""Reads requests: what was used, prices that are set, and price lists."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_optional_time
from services.metering.model.domain import Prices, Tokens, card_of
from services.metering.model.price_list import PriceList, Terms, read_litellm, read_yaml
from services.metering.model.rate_checks import check_rates, factor_of_percent, with_margin
from services.metering.model.rates import STANDARD_TIER, Rate, RateCard
from services.metering.model.units import TOKEN_CLASS_UNITS, Quantities, Units, read_quantities
from services.metering.model.units import total_tokens as count_tokens
from services.metering.tables import TOKEN_CLASSES
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import unit_pb2

# The `source` of price versions.
LITELLM: Final = "litellm"
CATALOGUE: Final = "catalogue"
_FIELD: Final = "chunk"
# A caller that stops sending must not keep other imports waiting.
_NEXT_PART_WITHIN_S: Final = 30.0
_DECIMAL: Final = re.compile(r"-?[0-9]{1,10}(\.[0-9]{1,9})?")
_SOURCES: Final = ("prices", "rate_card", "margin")
_CLASS_OF_UNIT: Final = {unit_id: name for name, unit_id in TOKEN_CLASS_UNITS.items()} | {"requests": "per_request"}


@dataclass(frozen=True, slots=True)
class Used:
    """What a request says was used."""

    tokens: Tokens
    quantities: Quantities
    """Beside the tokens."""
    total_tokens: int


def read_tokens(tokens: pb.TokenCounts) -> Tokens:
    return (
        tokens.input,
        tokens.output,
        tokens.cache_read,
        tokens.cache_write,
        tokens.reasoning,
        tokens.audio_input,
        tokens.audio_output,
        tokens.image,
    )


def read_used(
    counts: pb.TokenCounts,
    stated: Sequence[unit_pb2.Quantity],
    total_tokens: int | None,
    units: Units,
    violations: list[FieldViolation],
    *,
    archived: bool = False,
) -> Used:
    """Read what was used. What is wrong is added to `violations`.

    Wrong is, beside what is wrong with a quantity by itself, a unit that `tokens` counts already, and a `total_tokens`
    that is not the sum of all units of tokens. `archived` allows archived units.
    """
    before = len(violations)
    tokens = read_tokens(counts)
    listed = ((quantity.unit, _decimal(quantity.value)) for quantity in stated)
    quantities = read_quantities("quantities", listed, units, violations, archived=archived)
    counted = {TOKEN_CLASS_UNITS[name]: name for name, count in zip(TOKEN_CLASSES, tokens, strict=True) if count}
    for index, quantity in enumerate(stated):
        if quantity.unit in counted:
            rule = f"{quantity.unit} is counted in tokens.{counted[quantity.unit]} already"
            violations.append(FieldViolation(f"quantities[{index}].unit", rule))
    total = sum(tokens) + count_tokens(quantities, units)
    # With a part that is wrong the sum is, too, and would only be named because of it.
    if total_tokens is not None and total_tokens != total and len(violations) == before:
        rule = f"is {total_tokens:,}, but the units of tokens add up to {total:,}"
        violations.append(FieldViolation("total_tokens", rule))
    return Used(tokens, quantities, total)


def _decimal(text: str) -> Decimal:
    """Read a decimal. One that the annotations refuse stands for zero, so that everything else is checked as well."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else Decimal(0)


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
        return _decimal(text) if text else None

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
        _decimal(listed.factor or "1"),
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
        _decimal(listed.price),
        listed.per or 1,
        listed.service_tier or STANDARD_TIER,
        listed.above,
        _decimal(listed.provider_cost) if listed.provider_cost else None,
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
        return factor_of_percent(_decimal(margin.percent), "margin.percent")
    return _decimal(margin.factor)


def _named(field: str, flaws: Sequence[FieldViolation]) -> list[FieldViolation]:
    """Return flaws of a card that the request only names, each with its place in that card."""
    return [FieldViolation(field, f"{flaw.field} of its card {flaw.description}") for flaw in flaws]


@dataclass(frozen=True, slots=True)
class ReceivedPriceList:
    """A complete document and its import options."""

    document: bytes
    field: str
    """The field of the request that has the document."""
    source: str
    terms: Terms
    effective_time: datetime | None
    validate_only: bool

    def read(self, units: Units) -> PriceList:
        """Read the document, which takes seconds where it is large; `units` are those that may have a rate.

        Raises:
            InvalidArgument: it cannot be read as a whole.
        """
        terms = replace(self.terms, units=units)
        if self.source == LITELLM:
            return read_litellm(self.document, terms, field=self.field)
        return read_yaml(self.document, terms, field=self.field)


def read_import(request: pb.ImportModelsRequest) -> ReceivedPriceList:
    """Return the document and the options of a request that has both.

    Raises:
        InvalidArgument: an option is wrong.
    """
    in_litellm = request.WhichOneof("document") == "litellm_json"
    return ReceivedPriceList(
        document=request.litellm_json if in_litellm else request.yaml,
        field="litellm_json" if in_litellm else "yaml",
        source=LITELLM if in_litellm else CATALOGUE,
        terms=_terms(request, "margin_percent"),
        effective_time=_effective_time(request, "effective_time"),
        validate_only=request.validate_only,
    )


def _terms(options: pb.ImportModelsRequest | pb.ImportOptions, margin_field: str) -> Terms:
    margin = factor_of_percent(Decimal(options.margin_percent), margin_field) if options.margin_percent else None
    return Terms(list(options.model_ids), options.allow_partial, margin)


def _effective_time(options: pb.ImportModelsRequest | pb.ImportOptions, field: str) -> datetime | None:
    return parse_optional_time(field, options.effective_time, present=options.HasField("effective_time"))


async def receive_options(parts: AsyncIterator[pb.StreamImportModelsRequest]) -> pb.ImportOptions:
    """Return the options, with which the stream begins.

    Raises:
        InvalidArgument: the first message holds something else, or there is none.
    """
    first = await _next(parts)
    if first is None or not first.HasField("options"):
        raise _wrong("options", "must stand in the first message")
    return first.options


async def receive_price_list(
    options: pb.ImportOptions, parts: AsyncIterator[pb.StreamImportModelsRequest]
) -> ReceivedPriceList:
    """Return the document that the rest of the stream makes up.

    Raises:
        InvalidArgument: the document is of another size than the options say, or they come a second time.
    """
    effective_time = _effective_time(options, "options.effective_time")
    terms = _terms(options, "options.margin_percent")
    document = bytearray()
    while (part := await _next(parts)) is not None:
        if part.HasField("options"):
            raise _wrong("options", "stands in the first message and in no other")
        document += part.chunk
        if len(document) > options.size_bytes:
            raise _wrong(_FIELD, f"the document is larger than size_bytes, which is {options.size_bytes}")
    if len(document) != options.size_bytes:
        raise _wrong(_FIELD, f"the document ends after {len(document)} of {options.size_bytes} bytes")
    return ReceivedPriceList(
        document=bytes(document),
        field=_FIELD,
        source=LITELLM if options.format == pb.PRICE_LIST_FORMAT_LITELLM_JSON else CATALOGUE,
        terms=terms,
        effective_time=effective_time,
        validate_only=options.validate_only,
    )


async def _next(parts: AsyncIterator[pb.StreamImportModelsRequest]) -> pb.StreamImportModelsRequest | None:
    """Return the next message, or None at the end; raises TimeoutError where the caller sends nothing for too long."""
    async with asyncio.timeout(_NEXT_PART_WITHIN_S):
        return await anext(parts, None)


def _wrong(field: str, description: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(field, description)])
