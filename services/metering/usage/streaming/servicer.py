"""Streams of usage: what waits in one is recorded and acknowledged together; what is recorded is told to watchers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, TypeAlias

import grpc

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import decode_page_token, encode_page_token, that_fit
from libs.common.status import status_of_item
from libs.common.timestamps import parse_optional_time
from libs.common.validation import Reader
from services.metering.usage.correction.corrections import Corrections
from services.metering.usage.correction.pending_prices import PendingPrices
from services.metering.usage.correction.rendering import render_correction
from services.metering.usage.correction.servicer import CorrectionServicer
from services.metering.usage.domain import LATE_MAX
from services.metering.usage.rendering import ANSWER_MAX, render_usage
from services.metering.usage.streaming.position import Position, position_of
from services.metering.usage.streaming.watch import News, UsageWatch
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc as rpc

IN_PROGRESS_MAX: Final = 2_000
"""The most calls of a stream that were read and not acknowledged, beside those of the message that is read last."""
BYTES_MAX: Final = 16 * 1024 * 1024
"""The most that they may be in all, in the same way."""
CHUNK_MAX: Final = 500
"""The most calls that are recorded together, as many as a message may have."""
_CHUNKS_MAX: Final = 4
"""How many chunks are recorded at once: the next is written while billing is asked about the one before."""
_DOMAIN: Final = "metering.tollhouse"
_OPERATION_ID_MAX: Final = 255
_ID_LENGTH: Final = 36

Record: TypeAlias = Callable[[Sequence[pb.RecordUsageRequest], Sequence[pb.UsageOutcome]], Awaitable[None]]
"""Records calls, at most CHUNK_MAX, and writes what became of each into its message."""


async def acknowledged(
    requests: AsyncIterator[pb.StreamUsageRequest], record: Record
) -> AsyncIterator[pb.StreamUsageResponse]:
    """Record the calls of a stream, and yield the acknowledgements of each chunk when it is recorded.

    A message that cannot be read ends the stream with its refusal, once everything before it is acknowledged. Where the
    caller has gone, what was read is dropped unless its recording has begun.
    """
    stream = _Stream(record)
    reader = asyncio.create_task(stream.read(requests), name="usage stream")
    try:
        while (responses := await stream.answers()) is not None:
            for response in responses:
                yield response
        await reader
    finally:
        reader.cancel()
        stream.stop()
        with suppress(asyncio.CancelledError, Exception):
            await reader


class StreamingServicer(CorrectionServicer, rpc.UsageServiceServicer):
    """Serves watchers of usage, who see what corrections show as well."""

    def __init__(
        self, usages: Usages, corrections: Corrections, pending_prices: PendingPrices, watch: UsageWatch
    ) -> None:
        CorrectionServicer.__init__(self, usages, corrections, pending_prices)
        self._watch = watch

    @property
    def streaming_readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"WatchUsage": self._read_watch}

    async def WatchUsage(
        self, request: pb.WatchUsageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchUsageResponse]:
        position, start_time = self._read_watch(request)
        organization_id = request.organization_id.lower()
        async for news in self._watch.watch(organization_id, position, start_time):
            await self._usages.know_units(unit_id for one in news.usages for unit_id in one.work.quantities)
            usages = [render_usage(one, self._usages.units) for one in news.usages]
            await self._mark(usages, news.usages)
            await self._know_units(news.corrections)
            corrections = [render_correction(one, self._usages.units) for one in news.corrections]
            for position, some, changes in _messages_of(news, usages, corrections):
                token = encode_page_token(*position.parts(), fingerprint=_watch_of(organization_id))
                yield pb.WatchUsageResponse(usages=some, corrections=changes, position=token)

    def _read_watch(self, request: pb.WatchUsageRequest) -> tuple[Position | None, datetime | None]:
        has_time = request.HasField("start_time")
        start_time = parse_optional_time("start_time", request.start_time, present=has_time)
        if request.position and has_time:
            raise InvalidArgument([FieldViolation("start_time", "must not be given with position")])
        if start_time is not None and start_time < self._usages.now() - LATE_MAX:
            raise InvalidArgument([FieldViolation("start_time", "must be at most 35 days ago")])
        if not request.position:
            return None, start_time
        fingerprint = _watch_of(request.organization_id.lower())
        try:
            position = position_of(decode_page_token(request.position, fingerprint))
        except InvalidArgument:
            position = None
        if position is None:
            raise InvalidArgument([FieldViolation("position", "is not a position of this organization")])
        return position, None


def _messages_of(
    news: News, usages: Sequence[pb.UsageRecord], corrections: Sequence[pb.UsageCorrection]
) -> Iterator[tuple[Position, Sequence[pb.UsageRecord], Sequence[pb.UsageCorrection]]]:
    """Yield news in as many messages as are small enough to be sent, each with the position after it."""
    while len(some := that_fit(usages)) < len(usages):
        yield news.position._replace(usage_id=some[-1].usage_id), some, ()
        usages = usages[len(some) :]
    told = 0
    while len(changes := that_fit(corrections[told:])) < len(corrections) - told:
        told += len(changes)
        yield news.position.after(news.corrections[told - 1]), (), changes
    yield news.position, usages, changes


def _watch_of(organization_id: str) -> str:
    return f"watch/{organization_id}"


class _Stream:
    """The calls of a stream that wait, and the chunks that are recorded."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._waiting: list[tuple[pb.StreamUsageRequest, int]] = []
        """Messages that wait, each with its number of calls."""
        self._in_progress = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._chunks: set[asyncio.Task[None]] = set()
        self._answered: list[pb.StreamUsageResponse] = []
        self._changed = asyncio.Event()
        self._ended = False

    async def read(self, requests: AsyncIterator[pb.StreamUsageRequest]) -> None:
        """Read messages for as long as there is room for more calls, and begin to record what was read."""
        try:
            async for request in requests:
                calls = len(request.usages) + _has_one(request)
                self._waiting.append((request, calls))
                self._in_progress += calls
                self._bytes += request.ByteSize()
                self._begin()
                while self._in_progress >= IN_PROGRESS_MAX or self._bytes >= BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._ended = True
            self._changed.set()

    async def answers(self) -> Sequence[pb.StreamUsageResponse] | None:
        """Return what was acknowledged since the last call; None when everything was, and nothing more comes."""
        while not self._answered:
            if self._ended and not self._waiting and not self._chunks:
                return None
            self._changed.clear()
            await self._changed.wait()
        answered, self._answered = self._answered, []
        return answered

    def stop(self) -> None:
        """Drop what is not recorded yet. What the engine has begun to record is recorded."""
        self._waiting.clear()
        for chunk in self._chunks:
            chunk.cancel()

    def _begin(self) -> None:
        """Begin chunks of what waits. Whatever arrives while all of them are recorded makes the next, larger one."""
        while self._waiting and len(self._chunks) < _CHUNKS_MAX:
            taken, size = 0, 0
            for _, calls in self._waiting:
                if taken and size + calls > CHUNK_MAX:
                    break
                taken, size = taken + 1, size + calls
            messages = [request for request, _ in self._waiting[:taken]]
            del self._waiting[:taken]
            chunk = asyncio.create_task(self._run(messages, size), name="chunk of a usage stream")
            self._chunks.add(chunk)
            chunk.add_done_callback(self._chunks.discard)

    async def _run(self, messages: Sequence[pb.StreamUsageRequest], size: int) -> None:
        calls = [call for message in messages for call in _calls_of(message)]
        responses, outcomes = _responses(messages)
        for first in range(0, len(calls), CHUNK_MAX):
            part, of_part = calls[first : first + CHUNK_MAX], outcomes[first : first + CHUNK_MAX]
            try:
                await self._record(part, of_part)
            except Exception as failure:  # noqa: BLE001 -- what fails one chunk may not end the stream.
                for call, outcome in zip(part, of_part, strict=True):
                    outcome.CopyFrom(_refused(call, failure))
        self._answered.extend(fitting for response in responses for fitting in _that_fit(response))
        self._in_progress -= size
        self._bytes -= sum(message.ByteSize() for message in messages)
        self._room.set()
        # The task is still among the chunks: what waits may take its place.
        self._chunks.discard(asyncio.current_task())
        self._begin()
        self._changed.set()


def _has_one(request: pb.StreamUsageRequest) -> bool:
    """Tell whether `usage` is a call of a message. An empty message stands for one empty call, which is refused."""
    return request.HasField("usage") or not request.usages


def _calls_of(request: pb.StreamUsageRequest) -> list[pb.RecordUsageRequest]:
    return [request.usage, *request.usages] if _has_one(request) else list(request.usages)


def _refused(call: pb.RecordUsageRequest, failure: Exception) -> pb.UsageOutcome:
    return pb.UsageOutcome(
        operation_id=call.operation_id[:_OPERATION_ID_MAX],
        organization_id=call.organization_id[:_ID_LENGTH].lower(),
        refused=status_of_item(failure, _DOMAIN),
    )


def _that_fit(response: pb.StreamUsageResponse) -> Iterator[pb.StreamUsageResponse]:
    """Yield an acknowledgement in as many as are small enough to be sent."""
    if not response.outcomes or response.ByteSize() <= ANSWER_MAX:
        yield response
        return
    outcomes = list(response.outcomes)
    while outcomes:
        fitting = that_fit(outcomes)
        yield pb.StreamUsageResponse(outcomes=fitting)
        del outcomes[: len(fitting)]


def _responses(
    messages: Sequence[pb.StreamUsageRequest],
) -> tuple[list[pb.StreamUsageResponse], list[pb.UsageOutcome]]:
    """Return the acknowledgements, one for each `usage` and one for all `usages`, and in them the outcome of each call.

    What became of the calls is written there: to copy it there took a twentieth of the time of a stream.
    """
    singles: list[pb.StreamUsageResponse] = []
    together = pb.StreamUsageResponse()
    outcomes: list[pb.UsageOutcome] = []
    for message in messages:
        if _has_one(message):
            singles.append(pb.StreamUsageResponse())
            outcomes.append(singles[-1].outcome)
        outcomes.extend(together.outcomes.add() for _ in message.usages)
    return ([*singles, together] if together.outcomes else singles), outcomes
