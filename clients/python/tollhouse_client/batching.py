"""Calls that wait together travel together.

What is queued while a batch is under way is the next batch. There is no timer: a call that finds nothing under way is
sent in the same turn of the event loop, alone and by the RPC for single calls. At most two batches are under way.

Each call has its own outcome, deadline and cancellation. A caller that is cancelled or out of time leaves; its call is
dropped if it was not sent, and is not torn out of a batch that was. A batch has the deadline of its most patient
caller. What fails for now is sent again, call by call. Where a batch as a whole is refused in a way that one of its
calls may be the cause of, each is sent alone.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final, Generic

import grpc

from tollhouse_client.connection import Connection, closed, require_loop
from tollhouse_client.errors import DeadlineExceeded, QueueFull, TollhouseError
from tollhouse_client.ordering import Turns
from tollhouse_client.retries import Retries
from tollhouse_client.routes import BATCH_BYTES_MAX, Answer, Outcome, Request, Route, batch_of

_UNDER_WAY_MAX: Final = 2
_DIVIDED_FROM: Final = 33
"""From so many waiting calls on, they are divided into two batches where nothing is under way. While a service works on
one, the client makes the other; as one batch they would wait for each other."""
_ALONE_MAX: Final = 256
"""Calls under way at a time where they cannot travel together."""
_ALONE_FOR_S: Final = 60.0
"""For how long nothing is batched after a service has refused the RPC for batches to this caller."""
_LOOK_EVERY_S: Final = 0.001
"""How long passes at least between two looks for calls that are out of time."""
_NO_BATCHES: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
_MAYBE_OF_ONE: Final = (
    *_NO_BATCHES,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
"""What a batch may fail with because of one of its calls, or because it is a batch."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How many calls travel together, and how many may wait."""

    items_max: int = 200
    """Calls of a batch at most; the RPCs have limits of their own, 200 and 500."""
    waiting_max: int = 10_000
    """Calls of one kind that wait or are under way; those beyond are refused with `QueueFull`."""

    def __post_init__(self) -> None:
        if self.items_max < 1 or self.waiting_max < 1:
            raise ValueError("items_max and waiting_max must be at least 1")


class _Call(Generic[Answer]):
    """A call that waits for its outcome."""

    __slots__ = ("alone", "answered", "attempts", "deadline_s", "operation_id", "request", "unclaimed")

    def __init__(
        self,
        request: bytes,
        answered: "asyncio.Future[Answer]",
        deadline_s: float,
        operation_id: str,
        unclaimed: Callable[[Answer], None] | None,
    ) -> None:
        self.request = request
        self.answered = answered
        self.deadline_s = deadline_s
        self.operation_id = operation_id
        self.unclaimed = unclaimed
        self.attempts = 0
        self.alone = False
        """Whether it is not to travel with others."""


class Batcher(Generic[Request, Answer]):
    """Sends the calls of one kind."""

    def __init__(
        self, route: Route[Request, Answer], connection: Connection, turns: Turns, retries: Retries, batching: Batching
    ) -> None:
        """`turns` are shared by all kinds of calls whose operation ids are the same."""
        self._route = route
        self._connection = connection
        self._turns = turns
        self._retries = retries
        self._items_max = min(batching.items_max, route.batched.items_max) if route.batched else 1
        self._waiting_max = batching.waiting_max
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Call[Answer]] = deque()
        self._calls: set[_Call[Answer]] = set()
        self._flush_is_due = False
        self._senders: set[asyncio.Task[None]] = set()
        self._alone_until_s = 0.0 if self._items_max > 1 else math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._look_at_s = math.inf
        self._is_closed = False

    @property
    def has_calls(self) -> bool:
        """Whether calls wait or are under way."""
        return bool(self._calls)

    async def call(
        self, request: Request, timeout_s: float, unclaimed: Callable[[Answer], None] | None = None
    ) -> Answer:
        """Make a call and return its answer. `unclaimed` gets an answer that comes when the caller has left.

        Raises:
            TollhouseError: the call failed; a subclass says how.
            RuntimeError: the client is used in another event loop than before.
        """
        if self._is_closed:
            raise closed()
        if len(self._calls) >= self._waiting_max:
            raise QueueFull(f"{self._waiting_max} calls of {self._route.path} wait already.")
        loop = self._loop
        require_loop(loop)
        operation_id = self._route.operation_id_of(request)
        answered: asyncio.Future[Answer] = loop.create_future()
        call = _Call(request.SerializeToString(), answered, loop.time() + timeout_s, operation_id, unclaimed)
        self._calls.add(call)
        if call.deadline_s < self._look_at_s:
            self._look_later(call.deadline_s)
        if not operation_id or self._turns.take(operation_id, lambda: self._add(call)):
            self._add(call)
        return await answered

    def close(self) -> None:
        """Let no call wait any longer: each fails with `ClientClosed`."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for call in self._calls:
            if not call.answered.done():
                call.answered.set_exception(closed())
        for sender in self._senders:
            sender.cancel()

    def _add(self, call: _Call[Answer]) -> None:
        """Queue a call whose turn it is."""
        self._queue.append(call)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Start batches in the next turn of the loop: callers that are answered together call again together."""
        if self._queue and not self._flush_is_due and not self._is_closed:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        is_alone = self._loop.time() < self._alone_until_s
        under_way_max = _ALONE_MAX if is_alone else _UNDER_WAY_MAX
        while self._queue and len(self._senders) < under_way_max and not self._is_closed:
            batch = self._take(1 if is_alone else self._share_of(under_way_max - len(self._senders)))
            if batch:
                sender = self._loop.create_task(self._send(batch))
                self._senders.add(sender)
                sender.add_done_callback(self._note_end)

    def _share_of(self, free: int) -> int:
        """Return how many calls the next batch has at most, where so many batches may begin."""
        waiting = len(self._queue)
        return min(self._items_max, -(-waiting // free) if waiting >= _DIVIDED_FROM else waiting)

    def _note_end(self, sender: "asyncio.Task[None]") -> None:
        self._senders.discard(sender)
        self._flush_soon()

    def _take(self, items_max: int) -> list[_Call[Answer]]:
        """Take the next batch from the queue, without calls that nobody waits for."""
        batch: list[_Call[Answer]] = []
        size = 0
        queue, now_s = self._queue, self._loop.time()
        while queue and len(batch) < items_max:
            call = queue[0]
            if call.answered.done() or call.deadline_s <= now_s:
                self._end(queue.popleft(), _late(call))
                continue
            size += len(call.request)
            if batch and (size > BATCH_BYTES_MAX or call.alone):
                break
            batch.append(queue.popleft())
            if call.alone:
                break
        return batch

    async def _send(self, batch: Sequence[_Call[Answer]]) -> None:
        """Send a batch and tell its callers; what failed for now is queued again after a pause."""
        for call in batch:
            call.attempts += 1
        try:
            outcomes = await self._exchange(batch)
        except TollhouseError as error:
            pause_s, again = self._sort_out_failure(batch, error)
            if again:
                # Nothing else is sent in place of this batch meanwhile, so that a service in trouble gets less.
                await asyncio.sleep(pause_s)
                self._put_back(again)
            return
        except BaseException as error:
            for call in batch:
                self._end(call, error if isinstance(error, Exception) else closed())
            if not isinstance(error, Exception):
                raise
            return
        pause_s, again = self._sort_out(zip(batch, outcomes, strict=True))
        if again:
            self._loop.call_later(pause_s, self._put_back, again)

    async def _exchange(self, batch: Sequence[_Call[Answer]]) -> Sequence[Outcome[Answer]]:
        route = self._route
        timeout_s = max([call.deadline_s for call in batch]) - self._loop.time()
        if len(batch) == 1 or route.batched is None:
            return [route.read(await self._connection.exchange(route.path, batch[0].request, timeout_s))]
        request = batch_of([call.request for call in batch])
        return route.read_batch(await self._connection.exchange(route.batched.path, request, timeout_s), len(batch))

    def _sort_out_failure(
        self, batch: Sequence[_Call[Answer]], error: TollhouseError
    ) -> tuple[float, list[_Call[Answer]]]:
        """Decide about the calls of a batch that failed as a whole, as `_sort_out` does."""
        if len(batch) > 1 and error.code in _MAYBE_OF_ONE:
            if error.code in _NO_BATCHES:
                self._alone_until_s = self._loop.time() + _ALONE_FOR_S
            for call in batch:
                call.alone = True
            return 0.0, list(batch)
        return self._sort_out((call, error if len(batch) == 1 else copy(error)) for call in batch)

    def _sort_out(self, outcomes: Iterable[tuple[_Call[Answer], Outcome[Answer]]]) -> tuple[float, list[_Call[Answer]]]:
        """Tell callers their outcomes. Return the calls to be sent again, and the pause before."""
        again: list[_Call[Answer]] = []
        longest_s = 0.0
        now_s = self._loop.time()
        for call, outcome in outcomes:
            if isinstance(outcome, TollhouseError) and not call.answered.done():
                pause_s = self._retries.pause_before(call.attempts, outcome, call.deadline_s - now_s)
                if pause_s is not None:
                    longest_s = max(longest_s, pause_s)
                    again.append(call)
                    continue
            self._end(call, outcome)
        return longest_s, again

    def _put_back(self, calls: Sequence[_Call[Answer]]) -> None:
        """Queue calls again, before those that came later."""
        if not self._is_closed:
            self._queue.extendleft(reversed(calls))
            self._flush_soon()

    def _end(self, call: _Call[Answer], outcome: Answer | Exception | None) -> None:
        """Tell a caller its outcome, if it still waits, and give the turn of its operation id to the next call."""
        self._calls.discard(call)
        answered = call.answered
        if not answered.done():
            if isinstance(outcome, Exception):
                answered.set_exception(outcome)
            elif outcome is not None:
                answered.set_result(outcome)
        elif call.unclaimed is not None and outcome is not None and not isinstance(outcome, Exception):
            call.unclaimed(outcome)
        if call.operation_id:
            self._turns.pass_on(call.operation_id)

    def _look_later(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_at_s = max(when_s, self._loop.time() + _LOOK_EVERY_S)
        self._timer = self._loop.call_at(self._look_at_s, self._look)

    def _look(self) -> None:
        """Let callers go whose time is over. Their calls end when their turn or the answer comes."""
        self._timer, self._look_at_s = None, math.inf
        now_s, next_s = self._loop.time(), math.inf
        for call in self._calls:
            if call.answered.done():
                continue
            if call.deadline_s > now_s:
                next_s = min(next_s, call.deadline_s)
            else:
                call.answered.set_exception(_late(call))
        if next_s < math.inf:
            self._look_later(next_s)


def _late(call: _Call[Answer]) -> DeadlineExceeded:
    if call.attempts:
        return DeadlineExceeded("No answer came in the time of the call.", reason="CLIENT_NO_ANSWER")
    return DeadlineExceeded("The call was not sent in its time.", reason="CLIENT_NOT_SENT")
