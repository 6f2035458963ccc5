"""Corrects a part of the usages of a slice in one transaction, for a job that re-rates them.

Most usage is corrected the quick way: nothing but its cost changes, so Postgres copies all else. No row is locked for
it. A correction has the number after that of the last one, and a number is given once: so the quick way fails where
somebody has corrected one of the usages meanwhile, and the part is decided anew. If something else than a cost may
change for one of the usages (see `changes_costs_alone`), or billing has refused a charge of one, all of the part go the
careful way of other corrections.

In both ways a transaction writes corrections and hourly sums, then what the job has done, and then the counters of
limits, each in one order, so that two of them cannot deadlock.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

import structlog

from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database, RawConnection
from libs.common.errors import Conflict
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.clients.billing import Charge
from services.metering.model.catalogue import Catalogue
from services.metering.quota import counter_store
from services.metering.usage import store as usage_store
from services.metering.usage.correction import counter_changes
from services.metering.usage.correction.corrections import Corrected, Corrections, Outcome, Wanted
from services.metering.usage.correction.domain import CorrectionKind, Source, State, due_at, movements
from services.metering.usage.domain import REFUSED, Recorded, month_of
from services.metering.usage.dropped_store import sealed_months
from services.metering.usage.rerate import change_store, store
from services.metering.usage.rerate.change_store import RERATED, Correcting
from services.metering.usage.rerate.domain import (
    Change,
    ChargedUsage,
    Fate,
    PriceOf,
    Scope,
    Sums,
    changes_costs_alone,
    fate_of,
    judged,
    recounted,
    rerated,
)
from services.metering.usage.rerate.job_store import Job
from services.metering.usage.rerate.store import Slice
from services.metering.usage.tries import tries
from services.metering.usage_errors import UsageMonthDropped

_log = structlog.get_logger("rerate")

Also = Callable[[RawConnection, Slice, Sums], Awaitable[None]]
"""What is written in the transaction that corrects a part, with what became of its usages."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job as a process works on it."""

    job: Job
    reason: str
    scope: Scope
    price_of: PriceOf


class _Read(NamedTuple):
    """What a part is decided on."""

    part: Slice
    usages: Sequence[ChargedUsage]
    sources: Sequence[Sequence[Source]]
    metrics: Mapping[str, tuple[str, str]]
    """Those of the counters that usages count in, with the currency of each."""
    sealed: frozenset[datetime]
    """The months that are dropped, or will be."""


class Rerating:
    """Corrects usage for jobs."""

    def __init__(self, shards: Shards, catalogue: Catalogue, corrections: Corrections, clock: Clock) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._corrections = corrections
        self._clock = clock

    async def rerate(self, task: Task, shard: int, wanted: Slice, limit: int, also: Also) -> None:
        """Correct the first usages of a slice, at most so many, and ask billing for the money.

        `also` is called in the transaction, with the part of the slice that is done. If it raises, all is as before.

        Raises:
            Conflict: the usages were corrected by others meanwhile, again and again.
            Unavailable: the limits of the organization cannot be read.
        """
        database, organization_id = self._shards[shard], wanted.until.organization_id
        async for _ in tries():
            await self._catalogue.refresh()
            read = await self._read(database, task.scope, wanted, limit)
            sums, changes = self._decide(task, read)
            if _are_refused(read, changes) or not all(
                changes_costs_alone(one.usage, one.before, one.after) for one in changes
            ):
                await self._rerate_carefully(task, read, also)
                return
            try:
                async with self._corrections.turns[database]:
                    await self._write(database, task, read.part, changes, partial(_with, also, read.part, sums))
            except (Conflict, ConstraintViolation):
                continue  # Another process has corrected one of the usages meanwhile.
            await self._charge(database, change_store.charges_of(organization_id, changes))
            return
        raise Conflict

    async def _read(self, database: Database, scope: Scope, wanted: Slice, limit: int) -> _Read:
        organization_id = wanted.until.organization_id
        async with database.raw_connection() as connection:
            usages, part = await store.find_charged(connection, scope, wanted, limit)
            sources = await change_store.find_sources(connection, organization_id, usages)
            counters = {(organization_id, counter_id) for one in usages for counter_id in one.counted}
            metrics = await counter_store.metrics(connection, counters) if counters else {}
            moments = _one_of_each_month(usages)
            sealed = await sealed_months(
                connection, ((organization_id, moment) for moment in moments), self._clock.now()
            )
        of_counter = {key[1]: metric for key, metric in metrics.items()}
        return _Read(part, usages, sources, of_counter, frozenset(month for _, month in sealed))

    def _decide(self, task: Task, read: _Read) -> tuple[Sums, list[Change]]:
        """Decide what becomes of each usage."""
        sums, changes, units = Sums(), list[Change](), self._catalogue.units
        for usage, sources in zip(read.usages, read.sources, strict=True):
            seen = usage.seen
            verdict = judged(seen, task.price_of, units)
            if verdict.after is None or seen.cost is None:
                sums.add(verdict.fate, verdict.reason)
                continue
            if read.sealed and _months_of(usage) & read.sealed:
                sums.add(Fate.FAILED, UsageMonthDropped.reason)
                continue
            sums.add_changed(seen.cost, verdict.after)
            moved = movements(sources, due_at(seen.work, verdict.after))
            correction_id = new_id() if moved else ""
            charges = [(f"correction:{correction_id}:{place}", one) for place, one in enumerate(moved)]
            counted = recounted(usage, verdict.after, read.metrics)
            changes.append(Change(usage, seen.cost, verdict.after, counted, charges))
        return sums, changes

    async def _write(
        self,
        database: Database,
        task: Task,
        part: Slice,
        changes: Sequence[Change],
        also: Callable[[RawConnection], Awaitable[None]],
    ) -> None:
        """Write corrections, and delete charges that billing has confirmed, so that no recorded usage has to do it."""
        organization_id, now = part.until.organization_id, self._clock.now()
        correcting = Correcting(
            *(organization_id, task.job.job_id, task.reason, task.job.actor, now, now + self._corrections.relay_after)
        )
        charging = self._corrections.charging
        done = charging.take_done(database)
        try:
            async with database.raw_transaction() as connection:
                if done:
                    await usage_store.finish(connection, done)
                if changes:
                    await change_store.write(connection, correcting, changes)
                await also(connection)
                counted = [(organization_id, one.usage.counted, one.counted) for one in changes if one.usage.counted]
                await counter_changes.change_counters(connection, counted)
        except BaseException:
            charging.keep_done(database, done)
            raise

    async def _charge(self, database: Database, charges: Sequence[Charge]) -> None:
        try:
            await self._corrections.charging.charge(database, charges)
        except Exception as error:  # noqa: BLE001 -- the corrections are durable, and the relay makes their movements.
            _log.error("movements of corrections failed and are left to the relay", exc_info=error)

    async def _rerate_carefully(self, task: Task, read: _Read, also: Also) -> None:
        """Correct the usages of a part as other corrections are made."""
        organization_id = read.part.until.organization_id
        wanted = [_wanted(task, organization_id, one) for one in read.usages]

        async def finish(connection: RawConnection, outcomes: Sequence[Outcome]) -> None:
            await also(connection, read.part, _sums_of(outcomes))

        await self._corrections.correct_all(wanted, also=finish)


def _are_refused(read: _Read, changes: Sequence[Change]) -> bool:
    """Tell whether a correction would give up a charge of usage that changes."""
    changed = {one.usage.seen.usage_id for one in changes}
    return any(
        source.state == REFUSED
        for usage, sources in zip(read.usages, read.sources, strict=True)
        if usage.seen.usage_id in changed
        for source in sources
    )


async def _with(also: Also, part: Slice, sums: Sums, connection: RawConnection) -> None:
    await also(connection, part, sums)


def _sums_of(outcomes: Sequence[Outcome]) -> Sums:
    sums = Sums()
    for outcome in outcomes:
        if isinstance(outcome, Corrected):
            before, after = outcome.correction.before, outcome.correction.after
            assert before is not None, "a re-rate takes something out of the sums"
            assert before.cost is not None, "which had a cost"
            assert after is not None, "and puts something into them"
            assert after.cost is not None, "which has one"
            sums.add_changed(before.cost, after.cost)
        elif (met := fate_of(outcome)) is not None:
            sums.add(*met)
    return sums


def _one_of_each_month(usages: Sequence[ChargedUsage]) -> Sequence[datetime]:
    """Return a moment of each month in which something was recorded, or is since its last correction."""
    moments = {(moment.year, moment.month): moment for one in usages for moment in _moments_of(one)}
    return list(moments.values())


def _moments_of(usage: ChargedUsage) -> tuple[datetime, datetime]:
    return usage.seen.recorded_time, usage.seen.work.occur_time


def _months_of(usage: ChargedUsage) -> set[datetime]:
    return set(map(month_of, _moments_of(usage)))


def _wanted(task: Task, organization_id: str, usage: ChargedUsage) -> Wanted:
    """Return the correction that re-rates a usage. Its operation id follows from the job and the usage."""

    def change(state: State, catalogue: Catalogue) -> Recorded:
        version = task.price_of(state.usage.work)
        return rerated(state.usage, task.scope.current_price_version_id, version, catalogue.units)

    return Wanted(
        organization_id,
        f"rerate:{task.job.job_id}:{usage.seen.usage_id}",
        RERATED,
        CorrectionKind.RERATE,
        usage.seen.work.operation_id,
        task.reason,
        change,
        task.job.actor,
    )
