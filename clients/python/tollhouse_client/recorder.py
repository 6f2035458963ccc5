"""Records usage in the background, and loses none of it: what was taken is on the disk until metering has it.

`record` returns when the usage is in the spool, which takes one write to the disk that concurrent callers share. It is
sent when enough has gathered, after a short time, and at the end; again and again while metering is away; and by the
next process should this one crash. The operation id makes that safe: usage is charged once however often it is sent.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

from google.protobuf.message import DecodeError

from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse_client.errors import ClientClosed, OperationIdReused, RecorderFull, SpoolFull, TollhouseError
from tollhouse_client.retries import REFUSED_FOR_GOOD
from tollhouse_client.spool import Entry, Spool

UsageRequest: TypeAlias = usage_pb2.RecordUsageRequest | admission_pb2.SettleRequest
OnRefused: TypeAlias = Callable[[UsageRequest, TollhouseError], None]

_log: Final = logging.getLogger("tollhouse_client")
# The kinds of entries. They are in lower case where the recorder has written the time into the message.
_USAGE: Final = "U"
_SETTLEMENT: Final = "S"
_REUSED: Final = OperationIdReused.reason_of_class
_PAUSE_MAX_S: Final = 5.0
_TRY_FOR_S: Final = 30.0


class _Rpcs(Protocol):
    """What a recorder needs of a client."""

    async def record_usage(
        self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float | None = None
    ) -> usage_pb2.RecordUsageResponse: ...

    async def settle(
        self, request: admission_pb2.SettleRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.SettleResponse: ...


class Recorder:
    """Takes usage and sends it. Use it as an async context, within the client's.

    Each process needs a spool folder of its own, on a local disk. Give a process that is started again the same folder.
    """

    def __init__(
        self,
        client: _Rpcs,
        spool: str | Path,
        *,
        on_refused: OnRefused | None = None,
        flush_at: int = 500,
        flush_every_s: float = 0.2,
        waiting_max: int = 50_000,
        spool_max_bytes: int = 64_000_000,
        close_within_s: float = 10.0,
    ) -> None:
        """Usage is sent when `flush_at` has gathered and every `flush_every_s` seconds.

        At most `waiting_max` usages and `spool_max_bytes` wait. `on_refused` gets the usage that metering refuses for
        good, such as that of an unknown organization. Without it, or where it fails, such usage is logged as an error
        by its operation id, and kept in the file `refused` in the spool's folder.
        `close_within_s` is how long the end waits for metering. What could not be sent then stays in the spool.

        Raises:
            ValueError: a bound is not above 0.
        """
        if min(flush_at, flush_every_s, waiting_max, spool_max_bytes, close_within_s) <= 0:
            raise ValueError("All bounds of a recorder must be above 0.")
        self._client = client
        self._folder = Path(spool)
        self._on_refused = on_refused
        self._flush_at = flush_at
        self._flush_every_s = flush_every_s
        self._waiting_max = waiting_max
        self._spool_max_bytes = spool_max_bytes
        self._close_within_s = close_within_s
        self._spool: Spool | None = None
        self._unwritten: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._unsent: deque[Entry] = deque()
        self._failed: deque[Entry] = deque()
        """Those that could not be sent while others could: they are tried again apart, so that they delay no other."""
        self._under_way = 0
        self._is_closing = False
        self._writer: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._retrier: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._room = asyncio.Condition()
        self._has_ended = asyncio.Event()
        self._keeping = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open the spool, and begin to send what an earlier process has left.

        Raises:
            SpoolInUse: another process has the spool open.
            OSError: it cannot be opened.
        """
        spool = await asyncio.to_thread(Spool, self._folder, self._spool_max_bytes)
        try:
            # What was in memory when this was closed before is in the spool, too.
            self._unsent = deque(await asyncio.to_thread(spool.read))
        except OSError:
            spool.close()
            raise
        self._failed.clear()
        self._spool = spool
        self._is_closing = False
        self._has_ended.clear()
        self._sender = asyncio.create_task(self._send_on(), name="recorder")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def waiting(self) -> int:
        """How many usages are not confirmed by metering."""
        return len(self._unwritten) + len(self._unsent) + len(self._failed) + self._under_way

    async def record(self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float = 10.0) -> None:
        """Take usage. When this returns, a crash does not lose it. It keeps the time at which it is taken.

        Raises:
            RecorderFull: as much waits as may, and that did not change in `timeout_s`. It was not taken.
            SpoolFull: the spool or its disk is full. It was not taken.
            ClientClosed: the recorder is closed.
        """
        await self._take(_USAGE, request, timeout_s)

    async def settle_later(self, request: admission_pb2.SettleRequest, *, timeout_s: float = 10.0) -> None:
        """Take a settlement as `record` takes usage. `client.meter.settlements = recorder` does it for all blocks.

        A recorder that is closed keeps it in the spool for the next process: it is closed before its client, and that
        brings to an end what blocks have begun.
        """
        if self._is_closing:
            await self._keep(_SETTLEMENT, request, timeout_s)
        else:
            await self._take(_SETTLEMENT, request, timeout_s)

    async def flush(self) -> None:
        """Return when all that was taken until now is sent, or refused for good.

        Raises:
            ClientClosed: the recorder is closed.
        """
        if self._spool is None:
            raise ClientClosed("The recorder is closed.")
        async with self._room:
            await self._room.wait_for(lambda: not self.waiting)

    async def close(self) -> None:
        """Send what waits, for `close_within_s` at most, and close the spool. Safe to repeat."""
        if self._spool is None or self._sender is None:
            return
        self._is_closing = True
        self._look.set()
        await self._tell_room()
        try:
            async with asyncio.timeout(self._close_within_s):
                await self.flush()
        except TimeoutError:
            _log.warning("%d usages wait in the spool %s for the next process.", self.waiting, self._folder)
        finally:
            await self._end()

    async def _end(self) -> None:
        senders = [task for task in (self._sender, self._retrier) if task is not None]
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        spool, self._spool = self._spool, None
        if spool is not None:
            await asyncio.to_thread(spool.close)
        self._has_ended.set()

    async def _take(self, kind: str, request: UsageRequest, timeout_s: float) -> None:
        entry = _entry_of(kind, request)
        if self.waiting >= self._waiting_max and not self._is_closing:
            await self._wait_for_room(timeout_s)
        if self._spool is None or self._is_closing or self._sender is None or self._sender.done():
            raise ClientClosed("The recorder, or its event loop, is closed.")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unwritten.append((*entry, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(self._spool))
        await written

    async def _wait_for_room(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._room:
                await self._room.wait_for(lambda: self.waiting < self._waiting_max or self._is_closing)
        except TimeoutError:
            raise RecorderFull(f"{self.waiting} usages wait to be sent.") from None

    async def _keep(self, kind: str, request: UsageRequest, timeout_s: float) -> None:
        """Write what comes after the end for the next process.

        Raises:
            SpoolFull: the spool or its disk is full.
            SpoolInUse: the next process has the spool open already.
            ClientClosed: the recorder is being closed, and that takes too long.
        """
        entry = _entry_of(kind, request)
        try:
            async with asyncio.timeout(self._close_within_s + timeout_s):
                await self._has_ended.wait()
        except TimeoutError:
            raise ClientClosed("The recorder is closed.") from None
        async with self._keeping:
            await asyncio.to_thread(_keep_in, self._folder, self._spool_max_bytes, entry)

    async def _write(self, spool: Spool) -> None:
        """Write what callers wait for, all that has gathered at a time."""
        try:
            while self._unwritten:
                batch, self._unwritten = self._unwritten, []
                self._under_way += len(batch)
                try:
                    entries = await asyncio.to_thread(spool.append, [(kind, data) for kind, data, _ in batch])
                except Exception as error:  # noqa: BLE001 -- whatever it is, callers must not wait for ever.
                    for _, _, written in batch:
                        if not written.done():
                            written.set_exception(copy(error))
                else:
                    self._unsent.extend(entries)
                    for _, _, written in batch:
                        if not written.done():
                            written.set_result(None)
                finally:
                    self._under_way -= len(batch)
                if len(self._unsent) >= self._flush_at:
                    self._look.set()
        finally:
            self._writer = None

    async def _send_on(self) -> None:
        """Send what waits, until cancelled."""
        failures = 0
        while True:
            if not self._is_closing and len(self._unsent) < self._flush_at:
                await self._pause(self._flush_every_s)
            if not self._unsent:
                await self._tell_room()
                await self._pause(self._flush_every_s)
                continue
            taken = [self._unsent.popleft() for _ in range(min(len(self._unsent), self._flush_at))]
            again = await self._send(taken)
            if len(again) < len(taken):
                failures = 0
                self._retry(again)
            else:
                failures += 1
                self._unsent.extendleft(reversed(again))
            await self._tell_room()
            if failures:
                await asyncio.sleep(_backoff_s(failures))

    def _retry(self, entries: Sequence[Entry]) -> None:
        """Have entries sent again beside the others, which could be sent."""
        self._failed.extend(entries)
        if self._failed and self._retrier is None:
            self._retrier = asyncio.create_task(self._send_failed(), name="recorder, failed")

    async def _send_failed(self) -> None:
        """Send what has failed, with growing pauses, until nothing is left of it."""
        failures = 0
        try:
            while self._failed:
                failures += 1
                await asyncio.sleep(_backoff_s(failures))
                taken = [self._failed.popleft() for _ in range(min(len(self._failed), self._flush_at))]
                again = await self._send(taken)
                self._failed.extend(again)
                if len(again) < len(taken):
                    failures = 0
                await self._tell_room()
        finally:
            self._retrier = None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            pass  # The time to look has come.
        self._look.clear()

    async def _tell_room(self) -> None:
        async with self._room:
            self._room.notify_all()

    async def _send(self, entries: Sequence[Entry]) -> list[Entry]:
        """Send entries together; return those that have to be sent again."""
        self._under_way += len(entries)
        try:
            outcomes = await asyncio.gather(*map(self._send_one, entries), return_exceptions=True)
        finally:
            self._under_way -= len(entries)
        again = [entry for entry, outcome in zip(entries, outcomes, strict=True) if isinstance(outcome, BaseException)]
        if again:
            reason = next(outcome for outcome in outcomes if outcome is not None)
            _log.warning("%d of %d usages could not be sent, and are tried again: %r", len(again), len(entries), reason)
        done = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome is None]
        if self._spool is not None:
            await asyncio.to_thread(self._spool.confirm, done)
        return again

    async def _send_one(self, entry: Entry) -> None:
        request = _read(entry)
        if request is None:
            _log.error("An entry of the spool %s is not usage, and is set aside.", self._folder)
            await self._set_aside(entry)
            return
        try:
            if isinstance(request, usage_pb2.RecordUsageRequest):
                await self._client.record_usage(request, timeout_s=_TRY_FOR_S)
            else:
                await self._client.settle(request, timeout_s=_TRY_FOR_S)
        except TollhouseError as error:
            if error.code not in REFUSED_FOR_GOOD:
                raise
            if entry.kind.islower() and error.reason == _REUSED and error.facts.get("field") == "occur_time":
                return  # It is recorded: all else is the same, and the time is not the caller's.
            if not self._is_told(request, error):
                await self._set_aside(entry)

    async def _set_aside(self, entry: Entry) -> None:
        if self._spool is not None:
            await asyncio.to_thread(self._spool.set_aside, entry)

    def _is_told(self, request: UsageRequest, error: TollhouseError) -> bool:
        """Tell whoever asked to be told of refused usage; return False where there is nobody, or that failed."""
        if self._on_refused is None:
            _log.error("Metering refused the usage %s, which is set aside: %s", request.operation_id, error)
            return False
        try:
            self._on_refused(request, error)
        except Exception:  # noqa: BLE001 -- the caller's function must not stop what others have recorded.
            _log.exception("What was to be told of the refused usage %s failed.", request.operation_id)
            return False
        return True


def _entry_of(kind: str, request: UsageRequest) -> tuple[str, bytes]:
    """Return the kind of an entry, and its message with the time at which it is taken, if it has none yet."""
    taken = type(request)()
    taken.CopyFrom(request)  # type: ignore[arg-type]  # of the same type
    if not taken.HasField("occur_time"):
        # It would be the time at which it is sent.
        taken.occur_time.FromNanoseconds(time.time_ns())
        kind = kind.lower()
    return kind, taken.SerializeToString()


def _keep_in(folder: Path, bytes_max: int, entry: tuple[str, bytes]) -> None:
    spool = Spool(folder, bytes_max)
    try:
        spool.read()
        spool.append([entry])
    except OSError as error:
        raise SpoolFull(f"The spool {folder} cannot be read: {error.strerror}.") from error
    finally:
        spool.close()


def _backoff_s(failures: int) -> float:
    """Return how long to wait after so many attempts in a row that failed."""
    return random.uniform(0.05, min(_PAUSE_MAX_S, 0.1 * 2.0 ** min(failures, 10)))


def _read(entry: Entry) -> UsageRequest | None:
    kinds: dict[str, type[UsageRequest]] = {
        _USAGE: usage_pb2.RecordUsageRequest,
        _SETTLEMENT: admission_pb2.SettleRequest,
    }
    kind = kinds.get(entry.kind.upper())
    try:
        return None if kind is None else kind.FromString(entry.message)
    except DecodeError:
        return None
