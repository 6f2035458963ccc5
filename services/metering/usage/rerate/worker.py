"""Does the jobs that re-rate usage, slice by slice.

A slice is given out in one transaction, which moves on how far the job is, and done in another. The second corrects the
usages of the slice, takes the slice away and adds what became of them to the sums of the job: all of it or nothing, so
a process may die at any point, and no usage is done or counted twice. Whose lease has ended is done by another process;
only one of the two can take the slice away, and the other's corrections are undone with its transaction. The job is
locked in that transaction, too: once it is paused or canceled, nothing more is corrected for it.

All processes work on all jobs. A process works on few slices at a time. A slice is corrected in parts, each in such a
second transaction, which moves the beginning of the slice. Beside usage that is recorded a process does one small part
at a time and pauses after it (see `pace`), so that the job takes a part of what the machine can do.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Conflict, Refusal, Unavailable
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.model.catalogue import Catalogue
from services.metering.usage.engine import UsageEngine
from services.metering.usage.rerate import job_store, store
from services.metering.usage.rerate.domain import Fate, Sums, digest_of, digests_added
from services.metering.usage.rerate.job_store import ACTIVE, Given, Job, Part, State
from services.metering.usage.rerate.jobs import RerateJobs
from services.metering.usage.rerate.pace import Pace
from services.metering.usage.rerate.parsing import read_kept
from services.metering.usage.rerate.previews import Previews, organizations_of_shard
from services.metering.usage.rerate.rerating import Rerating, Task
from services.metering.usage.rerate.store import Place, Slice
from services.metering.usage_errors import RerateChanged

_log = structlog.get_logger("rerate")

SLICE_MAX: Final = 400
PART_MAX: Final = 400
"""How many usages of a slice are corrected in one transaction; fewer beside usage that is recorded, see `pace`."""
LEASE: Final = timedelta(seconds=30)
_LOOK_EVERY_S: Final = 1.0
_LANES: Final = 3
"""How many slices of a job a process works on at a time: one is read while others are written and charged."""
_TURN_S: Final = 5.0
"""After how long another job has its turn."""
_AGAIN_AFTER: Final = timedelta(seconds=1)
_ATTEMPTS_MAX: Final = 5
"""How often a single usage is tried that fails for no known reason."""
_FAILED: Final = "INTERNAL"


class Stopped(Exception):
    """The job is not under way any more, or another process has done the slice."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A slice of a job that is done now."""

    task: Task
    shard: int
    given: Given


class RerateWorker:
    """Does jobs until cancelled."""

    def __init__(
        self,
        platform: Database,
        shards: Shards,
        catalogue: Catalogue,
        rerating: Rerating,
        previews: Previews,
        jobs: RerateJobs,
        engine: UsageEngine,
        clock: Clock,
    ) -> None:
        self._platform = platform
        self._shards = shards
        self._catalogue = catalogue
        self._rerating = rerating
        self._previews = previews
        self._jobs = jobs
        self._clock = clock
        self._pace = Pace()
        self._alone = asyncio.Lock()
        """Held by who does a part beside usage that is recorded."""
        engine.on_recorded = lambda began_s: self._pace.note(began_s, time.monotonic())

    async def run(self) -> None:
        """Do what there is to do whenever this process makes a job, and look every second for those of others."""
        while True:
            self._jobs.changed.clear()
            did_some = False
            try:
                did_some = await self.work()
            except Refusal as refusal:
                _log.warning("re-rates stand still", reason=refusal.reason)
            except Exception as error:  # noqa: BLE001 -- one failed look must not end the work.
                _log.error("re-rates failed", exc_info=error)
            if did_some:
                continue
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._jobs.changed.wait()
            except TimeoutError:
                pass  # Another process may have made a job, or left a slice behind.

    async def work(self) -> bool:
        """Give each job that is under way a turn; tell whether there was something to do."""
        async with self._platform.raw_connection() as connection:
            active = await job_store.active(connection)
        did_some = False
        for job in active:
            task = await self._task(job)
            lanes = await asyncio.gather(*(self._lane(task, number) for number in range(_LANES)))
            did_some = any(lanes) or did_some
            await self._advance(job.job_id)
        return did_some

    async def _task(self, job: Job) -> Task:
        kept = read_kept(job.request)
        scope = await self._previews.narrowed(kept.scope)
        return Task(job, kept.reason, scope, self._previews.price_of(scope))

    async def _lane(self, task: Task, lane: int) -> bool:
        """Do slices until there are none or the turn is over; tell whether there was one."""
        ends_s, did_some = time.monotonic() + _TURN_S, False
        count = len(self._shards)
        shards = [(lane + step) % count for step in range(count)]
        while shards and time.monotonic() < ends_s:
            for shard in list(shards):
                given = await self._take(task, shard)
                if given is None:
                    shards.remove(shard)
                    continue
                did_some = True
                try:
                    await self._do(_Work(task, shard, given), ends_s)
                except Stopped:
                    return did_some
                except Exception as error:  # noqa: BLE001 -- the slice is done when its lease has ended.
                    _log.error("a slice failed", job_id=task.job.job_id, exc_info=error)
                    return False
        return did_some

    async def _take(self, task: Task, shard: int) -> Given | None:
        """Take the next slice of a shard, or one that was left behind; None where there is none."""
        job_id, ids = task.job.job_id, organizations_of_shard(self._shards, task.scope, shard)
        now = self._clock.now()
        lease_time = now + LEASE
        async with self._shards[shard].raw_transaction() as connection:
            if not await job_store.keep_state(connection, task.job):
                return None
            left = await job_store.take_left(connection, job_id, shard, now, lease_time)
            if left is not None:
                return left
            part = await job_store.lock_part(connection, job_id, shard)
            if part.walked:
                return None
            found = await store.next_slice(connection, task.scope, ids, part.place, SLICE_MAX)
            if found is None:
                await job_store.move(connection, job_id, shard, Part(part.place, walked=True))
                return None
            given = Given(new_id(), found, 1)
            await job_store.give(connection, job_id, shard, given, lease_time)
            await job_store.move(connection, job_id, shard, Part(found.until, walked=False))
        return given

    async def _do(self, given: _Work, ends_s: float) -> None:
        """Do a slice, part by part: beside usage that is recorded one at a time, with a pause after it.

        When the turn is over, what is left of the slice is left to whoever takes it next.
        """
        work: _Work | None = given
        while work is not None:
            if work is not given and time.monotonic() > ends_s:
                await self._leave(work)
                return
            if not self._pace.is_beside(time.monotonic()):
                work = await self._do_part(work, PART_MAX)
                continue
            async with self._alone:
                began_s = time.monotonic()
                self._pace.begin(began_s)
                try:
                    work = await self._do_part(work, min(self._pace.part, PART_MAX))
                finally:
                    ended_s = time.monotonic()
                    self._pace.end(ended_s)
                await asyncio.sleep(self._pace.pause_s(ended_s - began_s))

    async def _do_part(self, work: _Work, limit: int) -> _Work | None:
        """Do a part of a slice, of at most so many usages; return what is left of it for this process."""
        try:
            return await (self._rerate(work, limit) if work.task.job.checked else self._check(work, limit))
        except Stopped:
            raise
        except Unavailable as refusal:
            _log.warning("a slice is done later", reason=refusal.reason)
            await self._leave(work)
        except Exception as error:  # noqa: BLE001 -- what is wrong with one usage must not keep the others from it.
            await self._after_failure(work, error)
        return None

    async def _check(self, work: _Work, limit: int) -> _Work | None:
        """Add what a job would do to the first usages of a slice to its digest; return what is left of the slice."""
        await self._catalogue.refresh()
        async with self._shards[work.shard].raw_connection() as connection:
            seen, part = await store.find_seen(connection, work.task.scope, work.given.wanted, limit)
        judged = self._previews.judge(work.task.scope, seen)
        sums = Sums()
        for one, verdict in judged:
            sums.add_verdict(one, verdict)
        async with self._shards[work.shard].raw_transaction() as connection:
            return await self._finish(connection, work, sums, digest_of(judged), part.until)

    async def _rerate(self, work: _Work, limit: int) -> _Work | None:
        """Correct the first usages of a slice; return what is left of it, None when it is finished."""
        left: _Work | None = None

        async def finish(connection: RawConnection, part: Slice, sums: Sums) -> None:
            nonlocal left
            left = await self._finish(connection, work, sums, until=part.until)

        await self._rerating.rerate(work.task, work.shard, work.given.wanted, limit, finish)
        return left

    async def _finish(
        self, connection: RawConnection, work: _Work, sums: Sums, digest: str = "", until: Place | None = None
    ) -> _Work | None:
        """Take a slice away, or its part up to a place, and add what became of it to its job, in the transaction.

        Return what is left of it.

        Raises:
            Stopped: the job is not under way any more, or another process has done it.
        """
        job_id, shard, given = work.task.job.job_id, work.shard, work.given
        if not await job_store.keep_state(connection, work.task.job):
            raise Stopped
        left: _Work | None = None
        if until is None or until == given.wanted.until:
            is_ours = await job_store.finish(connection, job_id, shard, given)
        else:
            lease_time = self._clock.now() + LEASE
            is_ours = await job_store.advance(connection, job_id, shard, given, until, lease_time)
            left = replace(work, given=given._replace(wanted=Slice(until, given.wanted.until)))
        if not is_ours:
            raise Stopped
        before, added = await job_store.lock_sums(connection, job_id, shard)
        added.merge(sums)
        digest = digests_added(before, digest) if digest else before
        await job_store.set_sums(connection, job_id, shard, digest, added)
        return left

    async def _leave(self, work: _Work) -> None:
        """Let a slice be done again in a moment."""
        async with self._shards[work.shard].raw_connection() as connection:
            until = self._clock.now() + _AGAIN_AFTER
            await job_store.leave(connection, work.task.job.job_id, work.shard, work.given.slice_id, until)

    async def _after_failure(self, work: _Work, error: Exception) -> None:
        """Narrow a failure down to the usage that causes it: divide a slice, and count a usage that fails each time."""
        async with self._shards[work.shard].raw_connection() as connection:
            named = await store.find_named(connection, work.task.scope, work.given.wanted)
        if len(named) > 1:
            if not isinstance(error, Conflict):
                _log.warning("a slice is divided", job_id=work.task.job.job_id, exc_info=error)
            usage_id, _, recorded_time = named[len(named) // 2 - 1]
            await self._divide(work, Place(work.given.wanted.until.organization_id, recorded_time, usage_id))
        elif work.given.attempt_count < _ATTEMPTS_MAX:
            await self._leave(work)
        else:
            _log.error("a usage could not be re-rated", job_id=work.task.job.job_id, exc_info=error)
            sums = Sums()
            sums.add(Fate.FAILED, error.reason if isinstance(error, Refusal) else _FAILED, len(named))
            async with self._shards[work.shard].raw_transaction() as connection:
                await self._finish(connection, work, sums)

    async def _divide(self, work: _Work, middle: Place) -> None:
        job_id, shard, given = work.task.job.job_id, work.shard, work.given
        halves = Slice(given.wanted.after, middle), Slice(middle, given.wanted.until)
        now = self._clock.now()
        async with self._shards[shard].raw_transaction() as connection:
            if not await job_store.keep_state(connection, work.task.job):
                raise Stopped
            if not await job_store.finish(connection, job_id, shard, given):
                raise Stopped
            for half in halves:
                await job_store.give(connection, job_id, shard, Given(new_id(), half, 0), now)

    async def _advance(self, job_id: str) -> None:
        """Let a job begin to correct that is checked, and end one for which nothing is left to do."""
        async with self._platform.raw_transaction() as connection:
            job = await job_store.find(connection, job_id, lock=True)
            if job is None or job.state not in ACTIVE:
                return
            is_over, digests = await job_store.progress(connection, job_id)
            if not is_over:
                return
            now = self._clock.now()
            if job.checked:
                await job_store.update(connection, job._replace(state=State.DONE, end_time=now), now=now)
                return
            kept = read_kept(job.request)
            digest = digests[0]
            for one in digests[1:]:
                digest = digests_added(digest, one)
            if digest != kept.digest:
                reason = RerateChanged.reason
                refused = job._replace(state=State.REFUSED, refusal_reason=reason, end_time=now)
                await job_store.update(connection, refused, now=now)
                return
            await job_store.update(connection, job._replace(state=State.RUNNING, checked=True), now=now)
            await job_store.begin_again(connection, job_id, store.first_place(kept.scope))
