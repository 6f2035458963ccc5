"""Metering the rows of a trace through the real RPCs: by Authorize and Settle, by RecordUsage, or in batches.

Which of them a row takes, its operation id and its fields are the same in every replay."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import grpc

from libs.cli.terminal.connection import Channels
from libs.cli.traces.persistence import Persistence, is_worth_another_try
from libs.cli.traces.population import Population, Seat, way_of
from libs.cli.traces.trace import Row
from tollhouse.metering.v1 import admission_pb2, admission_pb2_grpc, usage_pb2, usage_pb2_grpc

BATCH_ROWS: Final = 100
_AUTHORIZED_PART: Final = 0.10
_SINGLE_PART: Final = 0.15
_IN_FLIGHT: Final = 24
_BATCH_WAITS_AT_MOST_S: Final = 0.2
_REFUSALS_KEPT: Final = 10
# Older than this, a call needs the operators' backfill flag, which AdmissionService does not have.
_RECENT: Final = timedelta(days=34)
_OK: Final = 200
_ENDPOINT: Final = "/v1/chat/completions"


@dataclass(slots=True)
class Tally:
    """The results of the rows, added up from the answers."""

    requests: int = 0
    replayed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced: int = 0
    denied: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    by_way: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cost: Decimal = Decimal(0)

    def add(self, way: str, usage: usage_pb2.UsageRecord, *, replayed: bool) -> None:
        self.requests += 1
        self.replayed += replayed
        self.input_tokens += usage.tokens.input
        self.output_tokens += usage.tokens.output
        self.by_way[way] += 1
        if usage.HasField("cost"):
            self.cost += Decimal(usage.cost.value)
        else:
            self.unpriced += 1

    def refuse(self, operation_id: str, message: str) -> None:
        self.refused += 1
        if len(self.refusals) < _REFUSALS_KEPT:
            self.refusals.append(f"{operation_id}: {message}")


@dataclass(frozen=True, slots=True)
class Shift:
    """How times in the trace are turned into times of calls."""

    by: timedelta
    backfill: bool

    @classmethod
    def to_end_at(cls, end: datetime | None, trace_start: datetime, trace_end: datetime) -> "Shift":
        by = timedelta(0) if end is None else end - trace_end
        return cls(by, trace_start + by < datetime.now(UTC) - _RECENT)


class Recorder:
    """Sends rows, a bounded number at a time, and retries each until it is answered."""

    def __init__(
        self, channels: Channels, population: Population, persistence: Persistence, *, prefix: str, shift: Shift
    ) -> None:
        self.tally = Tally()
        self._usage = usage_pb2_grpc.UsageServiceStub(channels.metering)
        self._admission = admission_pb2_grpc.AdmissionServiceStub(channels.metering)
        self._population = population
        self._persistence = persistence
        self._prefix = prefix
        self._shift = shift

    async def record(self, rows: Sequence[Row], *, rate: float | None, on_progress: Callable[[int], None]) -> None:
        """Meter all rows, as fast as they are answered or at `rate` times real speed."""
        queue: asyncio.Queue[list[Row]] = asyncio.Queue(_IN_FLIGHT)

        async def work() -> None:
            while True:
                portion = await queue.get()
                await self._record_portion(portion)
                on_progress(len(portion))
                queue.task_done()

        async def feed() -> None:
            async for portion in self._portions(rows, rate):
                await queue.put(portion)
            await queue.join()

        workers = [asyncio.create_task(work()) for _ in range(_IN_FLIGHT)]
        feeder = asyncio.create_task(feed())
        try:
            # Workers run for ever, so one that ended has failed, and the replay fails with it.
            done, _ = await asyncio.wait({feeder, *workers}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (feeder, *workers):
                task.cancel()
            await asyncio.gather(feeder, *workers, return_exceptions=True)

    async def _portions(self, rows: Sequence[Row], rate: float | None) -> AsyncIterator[list[Row]]:
        """Divide the rows into batches. At a given rate a batch is sent before it is full rather than late."""
        batch: list[Row] = []
        start_s, first = time.monotonic(), rows[0].time
        for row in rows:
            if rate is not None:
                wait_s = start_s + (row.time - first).total_seconds() / rate - time.monotonic()
                if wait_s > _BATCH_WAITS_AT_MOST_S and batch:
                    yield batch
                    batch = []
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            if way_of(row.number) < _SINGLE_PART:
                yield [row]
                continue
            batch.append(row)
            if len(batch) == BATCH_ROWS:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _record_portion(self, portion: list[Row]) -> None:
        way = way_of(portion[0].number)
        if way >= _SINGLE_PART:
            await self._record_batch([self._usage_request(row) for row in portion])
        elif way >= _AUTHORIZED_PART or self._shift.backfill:
            await self._record_single(self._usage_request(portion[0]))
        else:
            await self._authorize_and_settle(portion[0])

    async def _record_batch(self, requests: list[usage_pb2.RecordUsageRequest]) -> None:
        """Record a batch, and retry the items that were refused for a temporary reason."""
        while requests:
            batch = usage_pb2.BatchRecordUsageRequest(usages=requests)
            answer = await self._persistence.call(lambda batch=batch: self._usage.BatchRecordUsage(batch))  # type: ignore[misc]
            again = []
            for request, outcome in zip(requests, answer.outcomes, strict=True):
                if outcome.HasField("recorded"):
                    self.tally.add("batch", outcome.recorded.usage, replayed=outcome.recorded.replayed)
                elif is_worth_another_try(outcome.refused.code):
                    again.append(request)
                else:
                    self.tally.refuse(request.operation_id, outcome.refused.message)
            requests = again
            if requests:
                self._persistence.check_patience("refusals inside a batch")
                await self._persistence.pause()

    async def _record_single(self, request: usage_pb2.RecordUsageRequest) -> None:
        try:
            answer = await self._persistence.call(lambda: self._usage.RecordUsage(request))
        except grpc.aio.AioRpcError as error:
            self.tally.refuse(request.operation_id, str(error.details()))
        else:
            self.tally.add("single", answer.usage, replayed=answer.replayed)

    async def _authorize_and_settle(self, row: Row) -> None:
        """Authorize and settle a call. A denied call is settled too, because the trace says that the work was done."""
        seat, model = self._population.maker_of(row.number)
        authorize = admission_pb2.AuthorizeRequest(
            operation_id=self._operation_id(row),
            model=model,
            input_tokens=row.input_tokens,
            max_output_tokens=row.output_tokens,
            endpoint=_ENDPOINT,
        )
        _present(authorize, seat)
        settle = admission_pb2.SettleRequest()
        self._describe(settle, row)
        try:
            allowed = await self._persistence.call(lambda: self._admission.Authorize(authorize))
            self.tally.denied += allowed.decision != admission_pb2.DECISION_ALLOWED
            answer = await self._persistence.call(lambda: self._admission.Settle(settle))
        except grpc.aio.AioRpcError as error:
            self.tally.refuse(authorize.operation_id, str(error.details()))
        else:
            self.tally.add("authorized", answer.usage, replayed=answer.replayed)

    def _usage_request(self, row: Row) -> usage_pb2.RecordUsageRequest:
        request = usage_pb2.RecordUsageRequest(backfill=self._shift.backfill)
        self._describe(request, row)
        return request

    def _describe(self, request: usage_pb2.RecordUsageRequest | admission_pb2.SettleRequest, row: Row) -> None:
        seat, model = self._population.maker_of(row.number)
        request.operation_id = self._operation_id(row)
        request.organization_id = seat.organization_id
        request.project_id = seat.project_id
        request.user_id = seat.user_id
        request.api_key_id = seat.api_key_id
        request.model = model
        request.tokens.input = row.input_tokens
        request.tokens.output = row.output_tokens
        request.occur_time.FromDatetime(row.time + self._shift.by)
        request.status_code = _OK
        request.endpoint = _ENDPOINT

    def _operation_id(self, row: Row) -> str:
        return f"{self._prefix}:{row.number}"


def _present(authorize: admission_pb2.AuthorizeRequest, seat: Seat) -> None:
    """Send the key if its secret is known; a key that an earlier replay created can only be named by id."""
    if seat.secret:
        authorize.api_key = seat.secret
        return
    authorize.principal.organization_id = seat.organization_id
    authorize.principal.project_id = seat.project_id
    authorize.principal.user_id = seat.user_id
    authorize.principal.api_key_id = seat.api_key_id
