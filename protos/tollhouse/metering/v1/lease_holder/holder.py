"""Keeps leases for a kind of call: acquires ahead, lets them overlap, and settles what was used in batches.

A decision is a look into memory. In the background the next lease is acquired when a part of the present one is spent
or of its time is over, and usage is settled every so often. A lease is settled for good when it is spent or its time is
over, and all that was taken from it is reported. What fails for now is sent again; usage is never dropped: what
metering refuses is handed to `on_refused`.
"""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

import grpc
from google.rpc import status_pb2

from tollhouse.metering.v1 import lease_pb2, lease_pb2_grpc, usage_pb2
from tollhouse.metering.v1.lease_holder.local import LocalLease, Value

_log: Final = logging.getLogger("tollhouse.lease_holder")
BATCH_MAX: Final = 500
_BATCH_BYTES_MAX: Final = 3_000_000
_PAUSE_MAX_S: Final = 5.0
_FINAL: Final = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
"""What the same request gets again, whenever it is sent."""

OnRefused = Callable[[usage_pb2.RecordUsageRequest, status_pb2.Status], None]


class Taken(NamedTuple):
    """What was taken for a call. Hand it to `done` when the call has ended."""

    lease: LocalLease
    amounts: Mapping[str, Value]


class _Held:
    """A lease with what is out of it and what waits to be settled."""

    __slots__ = ("local", "low", "low_s", "open_calls", "usages")

    def __init__(self, local: LocalLease, ttl_s: float, renew_at: float) -> None:
        self.local = local
        self.open_calls = 0
        self.usages: list[usage_pb2.RecordUsageRequest] = []
        rest = Decimal(str(1 - renew_at))
        self.low = [(metric, value * rest) for metric, value in local.amounts.items() if value]
        """Below what of each metric the next lease is to be acquired."""
        self.low_s = local.end_s - ttl_s * (1 - renew_at)
        """From when on it is."""

    @property
    def is_low(self) -> bool:
        rest = self.local.rest
        return time.monotonic() >= self.low_s or any(rest[metric] < value for metric, value in self.low)

    @property
    def is_spent(self) -> bool:
        return self.local.is_over or all(value <= 0 for value in self.local.rest.values())


class LeaseHolder:
    """Holds leases that are acquired with one request.

    Use it as an async context: it runs in the background of its event loop, and gives everything back at the end. End
    the calls first; what is reported later is sent by `flush`.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        request: lease_pb2.AcquireLeaseRequest,
        *,
        on_refused: OnRefused,
        metadata: Sequence[tuple[str, str]] = (),
        renew_at: float = 0.5,
        settle_every_s: float = 1.0,
        waiting_max: int = 10_000,
        timeout_s: float = 5.0,
    ) -> None:
        """`request` says whose calls they are, the amounts and the ttl of each lease; its lease_id is not used.

        `renew_at` is the part of any amount, or of the time, after which the next lease is acquired. While more than
        `waiting_max` usages wait to be settled, nothing is given out.
        """
        self._stub: lease_pb2_grpc.LeaseServiceStub = lease_pb2_grpc.LeaseServiceStub(channel)
        self._request = request
        self._metadata = tuple(metadata)
        self._on_refused = on_refused
        self._renew_at = renew_at
        self._settle_every_s = settle_every_s
        self._waiting_max = waiting_max
        self._timeout_s = timeout_s
        self._ttl_s = request.ttl.ToTimedelta().total_seconds()
        self._held: dict[str, _Held] = {}
        self._waiting = 0
        self._wanted = asyncio.Event()
        self._settling = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.denied: lease_pb2.AcquireLeaseResponse | None = None
        """Why the last lease was refused; None while leases are acquired."""

    async def __aenter__(self) -> "LeaseHolder":
        """Acquire the first lease, if it can be, and go on in the background."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._acquire(f"lease-{uuid.uuid4()}", time.monotonic())
        self._tasks = [asyncio.create_task(self._renew()), asyncio.create_task(self._settle_often())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def take(self, amounts: Mapping[str, Value]) -> Taken | None:
        """Decide about a call here and now: what it may use at most is taken from a lease; None where none has it."""
        if self._waiting > self._waiting_max:
            return None
        for held in self._held.values():
            if held.local.take(amounts):
                held.open_calls += 1
                if held.is_low:
                    self._wanted.set()
                return Taken(held.local, amounts)
        self._wanted.set()
        return None

    def done(
        self, taken: Taken, usage: usage_pb2.RecordUsageRequest | None, unused: Mapping[str, Value] | None = None
    ) -> None:
        """End a call: `usage` is what it turned out to use, to be settled; None where it used nothing.

        `unused` is given back to be taken again: all of what was taken where there is no usage and nothing is said.
        """
        if unused is None and usage is None:
            unused = taken.amounts
        if unused:
            taken.lease.give_back(unused)
        held = self._held[taken.lease.lease_id]
        held.open_calls -= 1
        if usage is not None:
            held.usages.append(usage)
            self._waiting += 1

    async def flush(self) -> None:
        """Settle what is reported until now, and end the leases that are spent or over.

        Raises:
            grpc.aio.AioRpcError: metering cannot be reached. What was not settled is kept.
        """
        async with self._settling:
            for held in list(self._held.values()):
                await self._settle(held, end=held.is_spent and not held.open_calls)

    async def close(self) -> None:
        """Stop, settle everything that is reported and give the rest back. Safe to repeat.

        Raises:
            grpc.aio.AioRpcError: metering cannot be reached. Repeat it; else the leases end by themselves.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        async with self._settling:
            for held in list(self._held.values()):
                # Nothing is taken any more, and calls that go on are settled by a later flush.
                held.local.end_s = min(held.local.end_s, time.monotonic())
                await self._settle(held, end=not held.open_calls)

    def unsettled(self) -> list[usage_pb2.RecordUsageRequest]:
        """Return what was reported and is not settled."""
        return [usage for held in self._held.values() for usage in held.usages]

    async def _renew(self) -> None:
        """Acquire a lease whenever the newest is low. After a refusal, wait longer and longer."""
        refused = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ttl_s * self._renew_at / 2):
                    await self._wanted.wait()
            self._wanted.clear()
            newest = next(reversed(self._held.values()), None)
            if newest is not None and not newest.is_spent and not newest.is_low:
                continue
            lease_id, asked_s, acquired = f"lease-{uuid.uuid4()}", time.monotonic(), None
            while acquired is None:
                try:
                    acquired = await self._acquire(lease_id, asked_s)
                except grpc.aio.AioRpcError as error:
                    # With the same id, since it may have been acquired; once its time is over, with another.
                    if error.code() in _FINAL or time.monotonic() >= asked_s + self._ttl_s:
                        acquired = False
                    refused += 1
                    await asyncio.sleep(_pause_s(refused))
            refused = 0 if acquired else refused + 1
            if not acquired:
                await asyncio.sleep(_pause_s(refused))

    async def _acquire(self, lease_id: str, asked_s: float) -> bool:
        """Acquire a lease; tell whether it was. Its time counts from when it was asked for first."""
        request = lease_pb2.AcquireLeaseRequest()
        request.CopyFrom(self._request)
        request.lease_id = lease_id
        answer = await self._stub.AcquireLease(request, metadata=self._metadata, timeout=self._timeout_s)
        if not answer.acquired:
            self.denied = answer
            return False
        self.denied = None
        amounts = {one.metric: _value(one.value) for one in answer.amounts}
        local = LocalLease(lease_id, amounts, asked_s + self._ttl_s)
        self._held[lease_id] = _Held(local, self._ttl_s, self._renew_at)
        return True

    async def _settle_often(self) -> None:
        failed = 0
        while True:
            await asyncio.sleep(self._settle_every_s if not failed else _pause_s(failed))
            try:
                await self.flush()
                failed = 0
            except grpc.aio.AioRpcError:
                failed += 1

    async def _settle(self, held: _Held, *, end: bool) -> None:
        """Settle what a lease has, batch by batch; the last one ends it where `end` says so."""
        while held.usages or end:
            batch = _batch(held.usages)
            last = end and len(batch) == len(held.usages)
            request = lease_pb2.SettleLeaseRequest(
                organization_id=self._request.organization_id, lease_id=held.local.lease_id, usages=batch, final=last
            )
            try:
                answer = await self._stub.SettleLease(request, metadata=self._metadata, timeout=self._timeout_s)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _FINAL:
                    raise
                status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
                refused = [(usage, status) for usage in batch]
            else:
                refused = [
                    (usage, outcome.refused)
                    for usage, outcome in zip(batch, answer.outcomes, strict=True)
                    if outcome.HasField("refused")
                ]
            del held.usages[: len(batch)]
            self._waiting -= len(batch)
            for usage, status in refused:
                self._tell(usage, status)
            if last:
                if not held.usages:
                    self._held.pop(held.local.lease_id, None)
                return

    def _tell(self, usage: usage_pb2.RecordUsageRequest, status: status_pb2.Status) -> None:
        try:
            self._on_refused(usage, status)
        except Exception:  # noqa: BLE001 -- the caller's function must not stop what others have used.
            _log.exception("What was to be told of the refused usage %s failed.", usage.operation_id)


def _batch(usages: Sequence[usage_pb2.RecordUsageRequest]) -> list[usage_pb2.RecordUsageRequest]:
    """Return as many usages, from the first on, as fit into one settlement."""
    batch: list[usage_pb2.RecordUsageRequest] = []
    size = 0
    for usage in usages[:BATCH_MAX]:
        size += usage.ByteSize()
        if batch and size > _BATCH_BYTES_MAX:
            break
        batch.append(usage)
    return batch


def _value(text: str) -> Value:
    """Return an amount: a whole number where it is one, which is quicker to reckon with."""
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else value


def _pause_s(failures: int) -> float:
    return random.uniform(0.05, min(_PAUSE_MAX_S, 0.1 * 2 ** min(failures, 10)))
