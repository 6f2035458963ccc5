"""Works off what is due for the subscriptions of all shards: trials that end, renewals, refills, expiries, payments.

What is due is in the table, so nothing is lost when the process ends, however long none runs: each period is begun
once, in order, with its own effective time. Several processes share the work, since each skips what another is at.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.shards import Shards
from services.billing.subscription import run_store
from services.billing.subscription.execution import Counts
from services.billing.subscription.progress import Progress

_log = structlog.get_logger("periods")

_SUBSCRIPTIONS_MAX: Final = 200
"""How many subscriptions are locked at a time. What waits for one of them waits for all of these."""
_REPORT_EVERY_S: Final = 0.5
_COUNTED_MAX: Final = 1_000_000
_LANES: Final = 2
"""How many such batches of a shard are under way: while the ledger writes for one, the other is decided."""


@dataclass(frozen=True, slots=True)
class Report:
    """How far a run is."""

    due: int
    """For how many subscriptions something is due still."""
    counts: Counts


class PeriodRun:
    """Visits the shards and makes the steps that are due, a bounded number at a time."""

    def __init__(self, shards: Shards, progress: Progress, clock: Clock, every_s: float) -> None:
        self._shards = shards
        self._progress = progress
        self._clock = clock
        self._every_s = every_s
        self._numbers = {database.schema: number for number, database in enumerate(shards)}

    async def run(self) -> NoReturn:
        await self._shards.visit(self.sweep, every_s=self._every_s)

    async def sweep(self, database: Database) -> None:
        """Make every step of a shard that is due by now."""
        total = Counts()
        async for counts in self._work_off(self._numbers[database.schema], self._clock.now()):
            total += counts
        if total != Counts():
            _log.info("periods run", schema=database.schema, done=total.done, set_aside=total.set_aside)

    async def run_until(self, until: datetime) -> AsyncGenerator[Counts, None]:
        """Make every step of all shards that is due by a moment, shard by shard; yield what came of each batch.

        Raises:
            Unavailable: something that is needed cannot be reached. What was yielded is done.
        """
        for number in range(len(self._shards)):
            async with aclosing(self._work_off(number, until)) as batches:
                async for counts in batches:
                    yield counts

    async def report(self, until: datetime | None) -> AsyncIterator[Report]:
        """Make every step of all shards that is due by a moment, or by now; yield now and then how far it is.

        Raises:
            InvalidArgument: the moment is to come.
            Unavailable: as `run_until`.
        """
        now = self._clock.now()
        if until is not None and until > now:
            raise InvalidArgument([FieldViolation("until_time", "must not be in the future")])
        until, total = until or now, Counts()
        yield Report(await self._count_due(until), total)
        told_s = time.monotonic()
        async with aclosing(self.run_until(until)) as batches:
            async for counts in batches:
                total += counts
                if time.monotonic() - told_s >= _REPORT_EVERY_S:
                    yield Report(await self._count_due(until), total)
                    told_s = time.monotonic()
        yield Report(await self._count_due(until), total)

    async def _count_due(self, until: datetime) -> int:
        due = 0
        for database in self._shards:
            if due < _COUNTED_MAX:
                async with database.raw_connection() as connection:
                    due += await run_store.count_due(connection, until, _COUNTED_MAX - due)
        return due

    async def _work_off(self, number: int, until: datetime) -> AsyncGenerator[Counts, None]:
        """Run batches of a shard, some at a time, until none that is under way finds anything that it can do."""
        running: set[asyncio.Task[Counts]] = set()
        lanes = _LANES
        try:
            while lanes:
                while len(running) < lanes:
                    running.add(asyncio.create_task(self._progress.run_batch(number, until, _SUBSCRIPTIONS_MAX)))
                finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                results = await asyncio.gather(*finished)
                for counts in results:
                    yield counts
                # Another batch may hold all that is due, and find more to do for the same subscriptions later.
                lanes = _LANES if any(counts.done or counts.set_aside for counts in results) else len(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
