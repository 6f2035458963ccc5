"""Asks billing for the charges in the outbox, and remembers which are confirmed until their rows are deleted."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from libs.common.shards import Shards
from services.metering.clients.billing import BillingClient, Charge, Charged, NotCharged
from services.metering.usage import store
from services.metering.usage.domain import REFUSED
from services.metering.usage.store import Key

_log = structlog.get_logger("usage")

DONE_MAX: Final = 2_000
_REFUSED_AGAIN_AFTER: Final = timedelta(minutes=1)
_AWAY: Final = NotCharged("UNAVAILABLE", final=False)


class Charging:
    """Makes charges that are in the outbox already, so that the relay makes those that fail."""

    def __init__(self, shards: Shards, billing: BillingClient, clock: Clock) -> None:
        self._billing = billing
        self._clock = clock
        self._done: dict[Database, dict[Key, None]] = {database: {} for database in shards}
        """Confirmed charges, by shard: the next batch of the shard deletes them from the outbox."""
        self._done_apart: dict[Database, dict[Key, None]] = {database: {} for database in shards}
        """Confirmed charges whose deletion failed together with a batch: `flush` deletes them without a batch."""
        self._busy: set[Database] = set()
        """Shards with a batch since `flush_idle` last looked."""

    async def charge(self, database: Database, charges: Sequence[Charge]) -> list[Charged | NotCharged]:
        """Ask billing for charges of a shard, and note what becomes of them; one result for each, in their order."""
        if not charges or self._billing.seems_down:
            return [_AWAY] * len(charges)
        results = await self._billing.charge(charges)
        refused: dict[Key, tuple[str, str, datetime, int]] = {}
        for charge, result in zip(charges, results, strict=True):
            key = (charge.organization_id, charge.operation_id)
            if isinstance(result, Charged):
                self._done[database][key] = None
            elif result.final:
                refused[key] = (REFUSED, result.reason, self._clock.now() + _REFUSED_AGAIN_AFTER, 0)
        if refused:
            await self._note_refused(database, refused)
        return results

    def take_done(self, database: Database) -> dict[Key, None]:
        """Take confirmed charges of a shard, whose rows a batch deletes or gives back with `keep_done`."""
        self._busy.add(database)
        return self._take_done(database)

    def _take_done(self, database: Database) -> dict[Key, None]:
        waiting = self._done[database]
        if len(waiting) <= DONE_MAX:
            self._done[database] = {}
            return waiting
        done: dict[Key, None] = {}
        while len(done) < DONE_MAX:
            done[waiting.popitem()[0]] = None
        return done

    def keep_done(self, database: Database, done: dict[Key, None]) -> None:
        """Take back what could not be deleted. It is deleted without a batch, since it may be what failed."""
        self._done_apart[database].update(done)

    async def flush_idle(self, database: Database) -> None:
        """Flush a shard if no batch was written since the last look: a batch deletes such rows at no cost."""
        if database in self._busy and not self._done_apart[database]:
            self._busy.discard(database)
        else:
            await self.flush(database)

    async def flush(self, database: Database) -> None:
        """Delete the outbox rows of confirmed charges of a shard that no batch has deleted yet."""
        done = {**self._take_done(database), **self._done_apart[database]}
        self._done_apart[database] = {}
        if not done:
            return
        try:
            async with database.raw_connection() as connection:
                await store.finish(connection, done)
        except BaseException:
            self.keep_done(database, done)
            raise

    async def _note_refused(self, database: Database, refused: dict[Key, tuple[str, str, datetime, int]]) -> None:
        """Store why billing refuses charges. If that fails, the relay sends them again and stores the reason."""
        _log.error("billing refuses charges", reasons=sorted({reason for _, reason, *_ in refused.values()}))
        try:
            async with database.raw_connection() as connection:
                await store.put_back(connection, refused)
        except Refusal:
            _log.warning("refused charges could not be noted", charges=len(refused))
