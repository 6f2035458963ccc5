"""Reading requests that can be repeated, and receiving a price list that is sent in parts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from google.protobuf.message import Message

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_optional_time
from services.metering.model.price_list import PriceList, read_litellm, read_yaml
from services.metering.model.repeats import Repeatable
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
    source: str
    wanted: list[str]
    effective_time: datetime | None
    validate_only: bool

    def read(self) -> PriceList:
        """Read the document, which takes seconds where it is large.

        Raises:
            InvalidArgument: it cannot be read as a whole.
        """
        if self.source == LITELLM:
            return read_litellm(self.document, self.wanted, field=_FIELD)
        return read_yaml(self.document, self.wanted, field=_FIELD)


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
    has_time = options.HasField("effective_time")
    effective_time = parse_optional_time("options.effective_time", options.effective_time, present=has_time)
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
        source=LITELLM if options.format == pb.PRICE_LIST_FORMAT_LITELLM_JSON else CATALOGUE,
        wanted=list(options.model_ids),
        effective_time=effective_time,
        validate_only=options.validate_only,
    )


async def _next(parts: AsyncIterator[pb.StreamImportModelsRequest]) -> pb.StreamImportModelsRequest | None:
    """Return the next message, or None at the end; raises TimeoutError where the caller sends nothing for too long."""
    async with asyncio.timeout(_NEXT_PART_WITHIN_S):
        return await anext(parts, None)


def _wrong(field: str, description: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(field, description)])
