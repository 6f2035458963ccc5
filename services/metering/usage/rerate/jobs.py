"""Makes, shows, pauses, resumes and cancels the jobs that re-rate usage."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from libs.common.audit.chain import differences
from libs.common.audit.recording import PLATFORM, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import NotFound, OperationIdReused
from libs.common.ids import new_id
from libs.common.repeats.once import Repeatable
from services.metering.usage.rerate import job_store
from services.metering.usage.rerate.domain import Scope, Sums
from services.metering.usage.rerate.job_store import ENDED, Job, State
from services.metering.usage.rerate.previews import Previews
from services.metering.usage.rerate.store import first_place
from services.metering.usage_errors import RerateChanged, RerateJobEnded, TooManyRerateJobs

OPEN_MAX: Final = 100
"""How many jobs may be open at a time: each is looked at again and again."""
_ROWS_MAX: Final = 1_000


class Asked(NamedTuple):
    """A job that is asked for."""

    operation_id: str
    request: Repeatable
    scope: Scope
    digest: str
    """What it is bound to; empty where it is not."""


class Shown(NamedTuple):
    """A job with what it has done until now."""

    job: Job
    sums: Sums
    replayed: bool = False


class RerateJobs:
    """The jobs that re-rate usage."""

    def __init__(self, platform: Database, previews: Previews, clock: Clock, *, shard_count: int) -> None:
        self._platform = platform
        self._previews = previews
        self._clock = clock
        self._shard_count = shard_count
        self.changed = asyncio.Event()
        """Set when this process has made or resumed a job; what works on jobs clears it."""

    async def make(self, asked: Asked) -> Shown:
        """Make a job; a repeat returns the one that was made.

        Raises:
            OperationIdReused: the operation has made another job.
            RerateChanged: it would do something else than its digest says.
            TooManyRerateJobs: as many have not ended as may be.
            Refusal: what `Previews.resolved` says.
        """
        known = await self._known(asked)
        if known is not None:
            return known
        scope = await self._previews.resolved(asked.scope)
        checked = not asked.digest or await self._agrees(asked.digest, scope)
        state = State.RUNNING if checked else State.CHECKING
        now = self._clock.now()
        job = Job(new_id(), asked.operation_id, asked.request.request, state, checked, "", current_actor(), now, None)
        async with self._platform.raw_transaction() as connection:
            await job_store.lock_making(connection)
            if await job_store.count_open(connection) >= OPEN_MAX:
                raise TooManyRerateJobs(jobs=OPEN_MAX)
            made = await job_store.add(connection, job, first_place(scope), self._shard_count)
            if made:
                await _record(connection, job, now)
        if not made:
            known = await self._known(asked)
            assert known is not None, "a job is never deleted"
            return known
        self.changed.set()
        return Shown(job, Sums())

    async def get(self, job_id: str) -> Shown:
        """Return a job; raises NotFound."""
        async with self._platform.raw_connection() as connection:
            job = await job_store.find(connection, job_id)
            if job is None:
                raise NotFound(resource_type="re-rate", resource_name=job_id)
            return Shown(job, (await job_store.find_sums(connection, [job_id]))[job_id])

    async def page(self, before: str | None, limit: int) -> list[Shown]:
        """Return the latest jobs."""
        async with self._platform.raw_connection() as connection:
            jobs = await job_store.list_before(connection, before, limit)
            sums = await job_store.find_sums(connection, [job.job_id for job in jobs])
        return [Shown(job, sums[job.job_id]) for job in jobs]

    async def pause(self, job_id: str) -> Shown:
        """Pause a job. It corrects nothing once this returns: whoever corrects for it holds a lock on the job.

        Raises:
            NotFound: there is no such job.
            RerateJobEnded: it has ended.
        """
        return await self._change(job_id, lambda job: job._replace(state=State.PAUSED))

    async def resume(self, job_id: str) -> Shown:
        """Let a paused job go on.

        Raises:
            NotFound: there is no such job.
            RerateJobEnded: it has ended.
        """
        shown = await self._change(
            job_id, lambda job: job._replace(state=State.RUNNING if job.checked else State.CHECKING)
        )
        self.changed.set()
        return shown

    async def cancel(self, job_id: str) -> Shown:
        """End a job. What it has corrected stays.

        Raises:
            NotFound: there is no such job.
            RerateJobEnded: it has ended in another way.
        """
        now = self._clock.now()
        return await self._change(
            job_id,
            lambda job: job if job.state is State.CANCELED else job._replace(state=State.CANCELED, end_time=now),
        )

    async def _change(self, job_id: str, change: Callable[[Job], Job]) -> Shown:
        async with self._platform.raw_transaction() as connection:
            before = await job_store.find(connection, job_id, lock=True)
            if before is None:
                raise NotFound(resource_type="re-rate", resource_name=job_id)
            job = change(before)
            if job != before:
                if before.state in ENDED:
                    raise RerateJobEnded(job_id=job_id, state=before.state)
                await job_store.update(connection, job, now=self._clock.now())
                await _record(connection, job, self._clock.now(), before)
            sums = await job_store.find_sums(connection, [job_id])
        return Shown(job, sums[job_id])

    async def _known(self, asked: Asked) -> Shown | None:
        async with self._platform.raw_connection() as connection:
            job = await job_store.find_by_operation(connection, asked.operation_id)
            if job is None:
                return None
            if job.request != asked.request.request:
                field = asked.request.differing_field(job.request)
                raise OperationIdReused(operation_id=asked.operation_id, field=field)
            sums = await job_store.find_sums(connection, [job.job_id])
        return Shown(job, sums[job.job_id], replayed=True)

    async def _agrees(self, digest: str, scope: Scope) -> bool:
        """Tell whether a job would do what a digest says; False where so much is to be looked at that the job does it.

        Raises:
            RerateChanged: it would do something else.
        """
        page = await self._previews.page(scope, _ROWS_MAX, "", "")
        if page.next_page_token:
            return False
        if page.digest != digest:
            raise RerateChanged(digest=digest)
        return True


async def _record(connection: RawConnection, job: Job, now: datetime, before: Job | None = None) -> None:
    changed = differences({} if before is None else {"state": before.state}, {"state": job.state})
    await record_event(
        connection,
        now=now,
        organization_id=PLATFORM,
        resource_type="rerate job",
        resource_id=job.job_id,
        changed=changed,
    )
