"""Group commit: calls that wait at the same time share one transaction.

Callers submit items and wait for the answer to each. A batch takes what is queued, up to a limit; what arrives while it
runs is the next batch. There is no timer: a single call is run at once, and batches grow with the load.

Every shard has a queue of its own, and a batch holds items of one shard only. Batches of a few shards begin together
and are answered together: that is a round. The shards that have waited longest come first. A shard that is slow delays
no other: where nothing of a round has ended for `wait_max_s`, it is over, and what still runs is answered as it ends.

A batch that fails is retried as a whole where the cause may be temporary (a lost race, a lock timeout). If it still
fails, it is split in halves until each failing item is alone, so that one caller's item never fails another caller's.
This needs `run` to be idempotent: an item that a failed attempt did write must be found by the next attempt. A database
that cannot be reached fails the whole batch at once, since no item is the cause of that.
"""

import asyncio
import contextvars
import random
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
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
_QUIET_PASSES: Final = 8
"""Passes of the event loop without a new item after which a round begins: reading one call takes several passes."""
_GATHER_PASSES_MAX: Final = 256
_GROWN_AT: Final = 12
"""The number of queued items from which a shard takes part in a round beyond `shards_max`: waiting saves little."""
_APART_MAX: Final = 2
"""While at most so many gathered submissions wait, each is a batch of its own. One client has two under way at most."""

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
    shards_max: int
    """Shards with a batch in a round, beside those with many items. The batches of the others grow meanwhile."""
    full_at: int
    """The number of queued items from which a shard's batch begins beside a running round."""
    wait_max_s: float
    """How long smaller batches wait for a running round in which nothing ends."""
    gathered_at: int = sys.maxsize
    """A submission of at least so many items counts as gathered by its caller: it does not wait for a running round."""


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
        self._name = name
        self._shards = shards
        self._limits = limits
        self._organization_of = organization_of
        self._batches = [_Batches(name, run, database) for database in shards]
        self._queues: list[_Queue[_Item, _Answer]] = [_Queue(limits) for _ in shards]
        self._waiting: dict[int, _Queue[_Item, _Answer]] = {}
        """The queues with items, by shard; the one that has waited longest for a batch comes first."""
        self._queued = 0
        self._submitted = 0
        self._starter: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._round: _Round[_Item, _Answer] | None = None
        self._look_again = asyncio.Event()
        self._draining = False

    async def submit(self, items: Sequence[_Item]) -> list[_Answer | Exception]:
        """Run the items and return the answer to each, in their order. Items of one organization run in this order.

        If the caller is cancelled before the batch of its items begins, they are dropped; after that they still run.

        Raises:
            Overloaded: too many items wait already, or the service is going down. No item was taken.
        """
        if self._draining or self._queued + len(items) > self._limits.queued_max:
            raise Overloaded
        if len(self._queues) == 1:
            return await self._add(0, items)
        places: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            places.setdefault(self._shards.number_of(self._organization_of(item)), []).append(place)
        if len(places) == 1:
            return await self._add(next(iter(places)), items)
        parts = [self._add(number, [items[place] for place in part]) for number, part in places.items()]
        answers: dict[int, _Answer | Exception] = {}
        for part, answered in zip(places.values(), await asyncio.gather(*parts), strict=True):
            answers.update(zip(part, answered, strict=True))
        return [answers[place] for place in range(len(items))]

    async def drain(self) -> None:
        """Take no more items, and return when every submitted one is answered."""
        self._draining = True
        while self._starter is not None or self._running:
            await asyncio.wait([task for task in (self._starter, *self._running) if task is not None])

    def _add(self, number: int, items: Sequence[_Item]) -> "asyncio.Future[list[_Answer | Exception]]":
        """Queue items of one shard that a caller waits for, and return what it waits on."""
        answered: asyncio.Future[list[_Answer | Exception]] = asyncio.get_running_loop().create_future()
        queue = self._queues[number]
        queue.add(_Submission(items, answered, contextvars.copy_context()))
        self._waiting.setdefault(number, queue)
        self._queued += len(items)
        self._submitted += 1
        if self._starter is None:
            self._starter = asyncio.create_task(self._start_rounds(), name=f"{self._name} rounds")
        elif queue.is_full or self._round is None:
            self._look_again.set()
        return answered

    async def _start_rounds(self) -> None:
        """Start rounds until nothing is queued. Nothing is awaited between the last look at the queues and clearing
        `_starter`, so no submission is missed.
        """
        leave_deadline()
        try:
            while self._waiting:
                while not any(map(self._may_begin, self._waiting.values())):
                    self._look_again.clear()
                    await self._look_again.wait()
                await self._let_more_arrive()
                self._start_round()
        finally:
            self._starter = None

    def _may_begin(self, queue: "_Queue[_Item, _Answer]") -> bool:
        """Tell whether a batch of this queue may begin now."""
        return (
            bool(queue.waiting)
            and queue.held_by is None
            and queue.running < self._limits.running_max
            and (self._round is None or queue.is_full)
        )

    async def _let_more_arrive(self) -> None:
        """Let calls that are being read in at this moment join the round, for as long as they keep coming.

        Calls of any shard count. With 64 calls in flight over eight shards, that makes batches of 6 instead of 2.
        """
        quiet_passes = 0
        for _ in range(_GATHER_PASSES_MAX):
            submitted = self._submitted
            await asyncio.sleep(0)
            if self._queued >= self._limits.items_max:
                return
            quiet_passes = 0 if self._submitted > submitted else quiet_passes + 1
            if quiet_passes == _QUIET_PASSES:
                return

    def _start_round(self) -> None:
        """Start a batch of each queue whose turn it is. Those that have waited longest come first."""
        ready = [number for number, queue in self._waiting.items() if self._may_begin(queue)]
        round_: _Round[_Item, _Answer] = _Round(self._limits.wait_max_s, self._note_end_of_round)
        for place, number in enumerate(ready):
            if place < self._limits.shards_max or self._queues[number].size >= _GROWN_AT:
                submissions = self._take(number)
                if submissions:
                    self._start_batch(round_, number, submissions)
        if round_.batches:
            self._round = round_
        else:
            round_.be_over()

    def _take(self, number: int) -> list[_Submission[_Item, _Answer]]:
        """Take the next batch of a shard from its queue; empty if all callers have gone."""
        queue = self._waiting.pop(number)
        size = queue.size
        submissions = queue.take()
        self._queued -= size - queue.size
        if queue.waiting:
            self._waiting[number] = queue
        return submissions

    def _start_batch(
        self, round_: "_Round[_Item, _Answer]", number: int, submissions: Sequence[_Submission[_Item, _Answer]]
    ) -> None:
        queue, batches = self._queues[number], self._batches[number]
        round_.batches += 1
        queue.running += 1
        queue.held_by = round_

        def let_next_begin() -> None:
            if queue.held_by is round_:
                queue.held_by = None
            if self._may_begin(queue):
                self._look_again.set()

        async def run() -> None:
            leave_deadline()
            items = [item for submission in submissions for item in submission.items]
            answers: Sequence[_Answer | Exception] = [Overloaded()] * len(items)
            try:
                answers = await batches.answers(items, let_next_begin)
            finally:
                queue.running -= 1
                let_next_begin()
                round_.note_end_of_batch(submissions, answers)

        # A batch belongs to the trace of its first call.
        task = submissions[0].context.run(asyncio.create_task, run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _note_end_of_round(self, round_: "_Round[_Item, _Answer]") -> None:
        if self._round is round_:
            self._round = None
            self._look_again.set()


class _Queue(Generic[_Item, _Answer]):
    """The items of one shard that wait, and what is known of its batches."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._gathered = 0
        self.waiting: deque[_Submission[_Item, _Answer]] = deque()
        self.size = 0
        """The number of items that wait."""
        self.running = 0
        """The number of batches that run."""
        self.held_by: _Round[_Item, _Answer] | None = None
        """The round of the batch that began last, until it lets the next one begin."""

    @property
    def is_full(self) -> bool:
        """Whether the next batch may begin beside a running round."""
        return self._gathered > 0 or self.size >= self._limits.full_at

    def add(self, submission: _Submission[_Item, _Answer]) -> None:
        """Let a submission wait."""
        self.waiting.append(submission)
        self.size += len(submission.items)
        self._gathered += self._is_gathered(submission)

    def take(self) -> list[_Submission[_Item, _Answer]]:
        """Return the next batch: whole submissions, at least one, without those whose caller has gone.

        One or two gathered submissions stay apart, so that one is written while the other waits for billing, or for
        whatever follows its writing. More of them come from several callers, and are put into one batch.
        """
        taken: list[_Submission[_Item, _Answer]] = []
        room = self._limits.items_max
        are_few = self._gathered <= _APART_MAX
        while self.waiting:
            submission = self.waiting[0]
            is_gathered = self._is_gathered(submission)
            stays_apart = is_gathered and are_few
            if taken and (stays_apart or len(submission.items) > room):
                break
            self.waiting.popleft()
            self.size -= len(submission.items)
            self._gathered -= is_gathered
            if not submission.answered.done():
                taken.append(submission)
                room = 0 if stays_apart else room - len(submission.items)
        return taken

    def _is_gathered(self, submission: _Submission[_Item, _Answer]) -> bool:
        return len(submission.items) >= self._limits.gathered_at


class _Round(Generic[_Item, _Answer]):
    """Batches that begin together. Their callers are answered together, when all have ended or one is late.

    One burst of answers costs the server and its client less than an answer now and then: with 64 calls in flight over
    eight shards it saved 20 of 390 µs of CPU a call in the server and 40 of 180 in the client.
    """

    def __init__(self, wait_max_s: float, end: "Callable[[_Round[_Item, _Answer]], None]") -> None:
        self.batches = 0
        """The number of batches that have not ended."""
        self._wait_max_s = wait_max_s
        self._end = end
        self._is_over = False
        self._to_answer: list[tuple[Sequence[_Submission[_Item, _Answer]], Sequence[_Answer | Exception]]] = []
        self._timer = asyncio.get_running_loop().call_later(self._wait_max_s, self.be_over)

    def note_end_of_batch(
        self, submissions: Sequence[_Submission[_Item, _Answer]], answers: Sequence[_Answer | Exception]
    ) -> None:
        """Take the answers to a batch that has ended."""
        self.batches -= 1
        self._to_answer.append((submissions, answers))
        if self._is_over:
            self._answer()
        elif self.batches:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._wait_max_s, self.be_over)
        else:
            self.be_over()

    def be_over(self) -> None:
        """Answer what has ended, and let the next round begin. What still runs is answered when it ends."""
        self._timer.cancel()
        self._is_over = True
        self._answer()
        self._end(self)

    def _answer(self) -> None:
        for submissions, answers in self._to_answer:
            at = 0
            for submission in submissions:
                end = at + len(submission.items)
                if not submission.answered.done():
                    submission.answered.set_result(list(answers[at:end]))
                at = end
        self._to_answer.clear()


class _Batches(Generic[_Item, _Answer]):
    """Runs the batches of one shard, and gets an answer to every item whatever fails."""

    def __init__(self, name: str, run: Run[_Item, _Answer], database: Database) -> None:
        self._name = name
        self._run = run
        self._database = database

    async def answers(
        self, items: Sequence[_Item], let_next_begin: Callable[[], None]
    ) -> Sequence[_Answer | Exception]:
        """Run a batch and return the answer to each item, in their order."""
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
