"""Group commit: calls that wait at the same time share one transaction.

Callers submit items and wait for the answer to each. A batch takes what is queued, up to a limit; what arrives while it
runs is the next batch. There is no timer: a single call is run at once, and batches grow with the load.

Every shard has a queue of its own, and a batch holds items of one shard only. So a shard that is slow delays no other.

A batch that fails is retried as a whole where the cause may be temporary (a lost race, a lock timeout). If it still
fails, it is split in halves until each failing item is alone, so that one caller's item never fails another caller's.
This needs `run` to be idempotent: an item that a failed attempt did write must be found by the next attempt. A database
that cannot be reached fails the whole batch at once, since no item is the cause of that.
"""

import asyncio
import contextvars
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import structlog

from libs.common.database import Database, LostNode
from libs.common.deadline import leave_deadline
from libs.common.errors import Conflict, DeadlineExceeded, Overloaded, Refusal, Unavailable
from libs.common.shards import Shards

_log = structlog.get_logger("group commit")

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

TRIES_MAX: Final = 5
"""How often a whole batch is run before it is split."""
_TRIES_OF_A_PART: Final = 2
_BACKOFF_S: Final = 0.02
_SPLIT_WITHIN_S: Final = 10.0
"""For how long a failing batch is split. What is left then is answered as overloaded; its callers repeat it."""
_QUIET_TURNS: Final = 8
"""Turns of the event loop without a new item after which a batch begins: reading one call takes several turns."""
_GATHER_TURNS_MAX: Final = 256
_TURN_MAX_S: Final = 0.1
"""For how long a batch counts as running towards `running_in_all_max`. One that takes longer waits for its shard, and
the other shards must not wait with it."""

Run = Callable[[Database, Sequence[_Item], Callable[[], None]], Awaitable[Sequence[_Answer | Exception]]]
"""Decides a batch in the database of its shard, and returns one answer for each item, in their order. It calls its last
argument when the shard's next batch may begin; at the latest the next one begins when this one ends."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large batches are and how many run at once."""

    items_max: int
    """Items of a batch. A single submission may be larger and is then a batch of its own."""
    queued_max: int
    """Items that wait, in all shards together. A submission beyond that is refused as overloaded."""
    running_max: int
    """Batches of one shard that run at once."""
    running_in_all_max: int
    """Batches of all shards that run at once, not counting those that have run for 0.1 s. While a shard waits for its
    turn, its next batch grows."""
    full_at: int
    """The number of queued items from which a batch begins beside a running one, without waiting for it to end."""
    wait_max_s: float | None
    """How long a smaller batch waits for a running one to end; None for no limit."""


@dataclass(slots=True)
class _Submission(Generic[_Item, _Answer]):
    """Items that one caller waits for together."""

    items: Sequence[_Item]
    answered: "asyncio.Future[list[_Answer | Exception]]"
    context: contextvars.Context


class GroupCommit(Generic[_Item, _Answer]):
    """Runs submitted items in batches; see the module."""

    def __init__(
        self,
        name: str,
        run: Run[_Item, _Answer],
        shards: Shards,
        limits: BatchLimits,
        organization_of: Callable[[_Item], str],
    ) -> None:
        """`organization_of` returns the id of the organization that an item belongs to."""
        self._shards = shards
        self._limits = limits
        self._organization_of = organization_of
        turns = _Turns(limits.running_in_all_max)
        self._queues = [_Queue(name, run, database, limits, turns) for database in shards]
        self._draining = False

    async def submit(self, items: Sequence[_Item]) -> list[_Answer | Exception]:
        """Run the items and return the answer to each, in their order. Items of one organization run in this order.

        If the caller is cancelled before the batch of its items begins, they are dropped; after that they still run.

        Raises:
            Overloaded: too many items wait already, or the service is going down. No item was taken.
        """
        if self._draining or sum(queue.queued for queue in self._queues) + len(items) > self._limits.queued_max:
            raise Overloaded
        if len(self._queues) == 1:
            return await self._queues[0].add(items)
        places: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            places.setdefault(self._shards.number_of(self._organization_of(item)), []).append(place)
        if len(places) == 1:
            return await self._queues[next(iter(places))].add(items)
        parts = [self._queues[number].add([items[place] for place in part]) for number, part in places.items()]
        answers: dict[int, _Answer | Exception] = {}
        for part, answered in zip(places.values(), await asyncio.gather(*parts), strict=True):
            answers.update(zip(part, answered, strict=True))
        return [answers[place] for place in range(len(items))]

    async def drain(self) -> None:
        """Take no more items, and return when every submitted one is answered."""
        self._draining = True
        for queue in self._queues:
            await queue.drain()


class _Turns:
    """The turns of all shards' batches. One that is not given back in time ends by itself."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    async def take(self) -> Callable[[], None]:
        """Wait for a turn, and return the function that ends it; ending it again does nothing."""
        await self._free.acquire()
        timer: asyncio.TimerHandle | None = None

        def end() -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
                timer = None
                self._free.release()

        timer = asyncio.get_running_loop().call_later(_TURN_MAX_S, end)
        return end


class _Queue(Generic[_Item, _Answer]):
    """The items of one shard that wait, and its batches."""

    def __init__(
        self,
        name: str,
        run: Run[_Item, _Answer],
        database: Database,
        limits: BatchLimits,
        turns: _Turns,
    ) -> None:
        self._name = name
        self._run = run
        self._database = database
        self._limits = limits
        self._turns = turns
        self._waiting: deque[_Submission[_Item, _Answer]] = deque()
        self.queued = 0
        self._starter: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._ended = 0
        self._look_again = asyncio.Event()

    def add(self, items: Sequence[_Item]) -> "asyncio.Future[list[_Answer | Exception]]":
        """Queue items that one caller waits for, and return what it waits on."""
        submission: _Submission[_Item, _Answer] = _Submission(
            items, asyncio.get_running_loop().create_future(), contextvars.copy_context()
        )
        self._waiting.append(submission)
        self.queued += len(items)
        if self._starter is None:
            self._starter = asyncio.create_task(self._start_batches(), name=f"{self._name} batches")
        elif self.queued >= self._limits.full_at:
            self._look_again.set()
        return submission.answered

    async def drain(self) -> None:
        """Return when every item is answered."""
        while self._starter is not None or self._running:
            await asyncio.wait([task for task in (self._starter, *self._running) if task is not None])

    async def _start_batches(self) -> None:
        """Start batches until nothing is queued. Nothing is awaited between the last look at the queue and clearing
        `_starter`, so no submission is missed.
        """
        leave_deadline()
        try:
            while self._waiting:
                await self._wait_for_turn()
                end_turn = await self._turns.take()
                await self._let_more_arrive()
                submissions = self._take()
                if not submissions:
                    end_turn()
                    continue
                next_may_begin = asyncio.Event()
                # A batch belongs to the trace of its first call.
                task = submissions[0].context.run(asyncio.create_task, self._run_batch(submissions, next_may_begin))
                self._running.add(task)
                task.add_done_callback(partial(self._note_end, end_turn))
                await next_may_begin.wait()
        finally:
            self._starter = None

    async def _wait_for_turn(self) -> None:
        """Return when the next batch may begin.

        That is when no batch runs. It is also when another one may run beside the running ones, and enough items are
        queued, or a running batch has ended, or `wait_max_s` is over.
        """
        ended, limits = self._ended, self._limits
        until_s = None if limits.wait_max_s is None else time.monotonic() + limits.wait_max_s
        while self._running:
            in_time = until_s is None or time.monotonic() < until_s
            if len(self._running) < limits.running_max and (
                self.queued >= limits.full_at or self._ended > ended or not in_time
            ):
                return
            self._look_again.clear()
            try:
                async with asyncio.timeout(None if until_s is None or not in_time else until_s - time.monotonic()):
                    await self._look_again.wait()
            except TimeoutError:
                continue

    def _note_end(self, end_turn: Callable[[], None], task: asyncio.Task[None]) -> None:
        end_turn()
        self._running.discard(task)
        self._ended += 1
        self._look_again.set()

    async def _let_more_arrive(self) -> None:
        """Let calls that are being read in at this moment join the batch, for as long as they keep coming."""
        quiet_turns = 0
        for _ in range(_GATHER_TURNS_MAX):
            queued = self.queued
            await asyncio.sleep(0)
            if self.queued >= self._limits.items_max:
                return
            quiet_turns = 0 if self.queued > queued else quiet_turns + 1
            if quiet_turns == _QUIET_TURNS:
                return

    def _take(self) -> list[_Submission[_Item, _Answer]]:
        """Return the next batch: whole submissions, at least one, without those whose caller has gone."""
        taken: list[_Submission[_Item, _Answer]] = []
        size = 0
        while self._waiting and (not taken or size + len(self._waiting[0].items) <= self._limits.items_max):
            submission = self._waiting.popleft()
            self.queued -= len(submission.items)
            if not submission.answered.done():
                taken.append(submission)
                size += len(submission.items)
        return taken

    async def _run_batch(
        self, submissions: Sequence[_Submission[_Item, _Answer]], next_may_begin: asyncio.Event
    ) -> None:
        leave_deadline()
        items = [item for submission in submissions for item in submission.items]
        answers: Sequence[_Answer | Exception] = [Overloaded()] * len(items)
        try:
            answers = await self._answers(items, next_may_begin.set)
        finally:
            next_may_begin.set()
            at = 0
            for submission in submissions:
                end = at + len(submission.items)
                if not submission.answered.done():
                    submission.answered.set_result(list(answers[at:end]))
                at = end

    async def _answers(
        self, items: Sequence[_Item], let_next_begin: Callable[[], None]
    ) -> Sequence[_Answer | Exception]:
        try:
            return await self._run_patiently(items, let_next_begin, TRIES_MAX)
        except Exception as error:  # noqa: BLE001 -- an error of one item must not stop the queue.
            if len(items) == 1 or await self._fails_all(error):
                return [error] * len(items)
            if not isinstance(error, Refusal):
                _log.error("a batch failed and is split", batches=self._name, items=len(items), exc_info=error)
        # Splitting is slow, so no other batch waits for this one any longer.
        let_next_begin()
        return await self._split(items, let_next_begin, until_s=time.monotonic() + _SPLIT_WITHIN_S)

    async def _split(
        self, items: Sequence[_Item], let_next_begin: Callable[[], None], *, until_s: float
    ) -> list[_Answer | Exception]:
        """Run both halves of a batch that failed, and split a half that fails until each item is alone."""
        middle = len(items) // 2
        answers: list[_Answer | Exception] = []
        for half in (items[:middle], items[middle:]):
            if time.monotonic() > until_s:
                answers.extend([Overloaded()] * len(half))
                continue
            try:
                answers.extend(await self._run_patiently(half, let_next_begin, _TRIES_OF_A_PART))
            except Exception as error:  # noqa: BLE001 -- an error of one item is the answer to that item.
                if len(half) == 1:
                    answers.append(error)
                else:
                    answers.extend(await self._split(half, let_next_begin, until_s=until_s))
        return answers

    async def _run_patiently(
        self, items: Sequence[_Item], let_next_begin: Callable[[], None], tries: int
    ) -> Sequence[_Answer | Exception]:
        """Run a batch, and retry it after a failure that may be temporary."""
        for tries_left in reversed(range(tries)):
            try:
                return await self._run(self._database, items, let_next_begin)
            except (Conflict, Unavailable):
                if not tries_left:
                    raise
            await asyncio.sleep(_BACKOFF_S * 2 ** (tries - tries_left - 1) * random.uniform(0.5, 1))
        raise AssertionError("the last try returns or raises")

    async def _fails_all(self, error: Exception) -> bool:
        """Tell whether the failure concerns all items alike, because the database cannot be reached."""
        if isinstance(error, LostNode):
            return True  # The ping below is answered by the cluster's coordinator, which is another machine.
        if not isinstance(error, Unavailable | DeadlineExceeded):
            return False
        try:
            await self._database.ping()
        except (Refusal, OSError):
            return True
        return False
