"""Reading requests that can be repeated, and receiving a price list, in one message or in parts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeVar

from google.protobuf.message import Message

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_optional_time
from services.metering.model.price_list import PriceList, Terms, read_litellm, read_yaml
from services.metering.model.rate_checks import factor_of_percent
from services.metering.model.repeats import Repeatable
from services.metering.model.units import Units
from tollhouse.metering.v1 import model_pb2 as pb

_M = TypeVar("_M", bound=Message)
# The `source` of price versions.
LITELLM: Final = "litellm"
CATALOGUE: Final = "catalogue"
_FIELD: Final = "chunk"
# A caller that stops sending must not keep other imports waiting.
_NEXT_PART_WITHIN_S: Final = 30.0


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


def repeatable(request_id: str, rpc: str, request: Message) -> Repeatable:
    """Return what is kept of a request that a caller may send again with the same id."""
    return Repeatable(request_id, rpc, request.SerializeToString(deterministic=True), _differing_field(request))


def _differing_field(request: _M) -> Callable[[bytes], str]:
    def find(earlier: bytes) -> str:
        before = type(request).FromString(earlier)
        for descriptor in request.DESCRIPTOR.fields:
            if getattr(before, descriptor.name) != getattr(request, descriptor.name):
                return descriptor.name
        return "body"

    return find


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
