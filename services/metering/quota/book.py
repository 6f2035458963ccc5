"""The limits of organizations, as this process knows them.

An organization's limits are read once and kept until a limit of its shard changes: every second the number of the
shard's last change is read. When it has not been read for five seconds, nothing that is kept is used. So a change holds
in every process within two seconds, or the calls that need the limits fail with the database.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final, NoReturn

import structlog

from libs.common.database import Database
from libs.common.deadline import leave_deadline
from libs.common.errors import Unavailable
from libs.common.shards import Shards
from services.metering.quota import store
from services.metering.quota.domain import Limit

_log = structlog.get_logger("limits")

_LOOK_EVERY_S: Final = 1.0
_FRESH_FOR_S: Final = 5.0
_KNOWN_MAX: Final = 100_000

Known = Sequence[Limit] | Unavailable
"""The limits of an organization, or why they are not known."""


class LimitBook:
    """Reads and caches the limits of organizations."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._known: OrderedDict[str, Sequence[Limit]] = OrderedDict()
        self._reading: dict[str, asyncio.Task[dict[str, Known]]] = {}
        """The reads that have not ended, by the organizations they are for: calls that come meanwhile share them."""
        self._revisions: dict[Database, tuple[int, float]] = {}
        """The last change of each shard that was seen, and when."""

    async def of(self, organization_ids: Collection[str]) -> dict[str, Known]:
        """Return the limits of organizations, or why they cannot be read. What is not cached is read by shard."""
        found: dict[str, Known] = {}
        reads: dict[str, asyncio.Task[dict[str, Known]]] = {}
        missing: dict[Database, list[str]] = {}
        for organization_id in organization_ids:
            database = self._shards.of(organization_id)
            known = self._known.get(organization_id) if self._is_fresh(database) else None
            if known is not None:
                found[organization_id] = known
            elif organization_id in self._reading:
                reads[organization_id] = self._reading[organization_id]
            else:
                missing.setdefault(database, []).append(organization_id)
        for database, absent in missing.items():
            task = asyncio.create_task(self._read(database, absent), name="limits")
            for organization_id in absent:
                reads[organization_id] = self._reading[organization_id] = task
        for organization_id, read in reads.items():
            found[organization_id] = (await asyncio.shield(read))[organization_id]
        return found

    def forget(self, organization_id: str) -> None:
        """Read the limits of an organization anew when they are needed next: this process has changed one."""
        self._known.pop(organization_id, None)
        # Whoever comes from now on must not share a read that began before the change.
        self._reading.pop(organization_id, None)

    async def watch(self) -> NoReturn:
        """Look for changes in every shard again and again until cancelled."""
        await self._shards.visit(self.look, every_s=_LOOK_EVERY_S)

    async def look(self, database: Database) -> None:
        """Drop what is kept of a shard if one of its limits has changed."""
        began_s = time.monotonic()
        async with database.raw_connection() as connection:
            revision = await store.revision(connection)
        before = self._revisions.get(database)
        if before is None or before[0] != revision:
            for organization_id in [one for one in self._known if self._shards.of(one) is database]:
                self.forget(organization_id)
            for organization_id in [one for one in self._reading if self._shards.of(one) is database]:
                self.forget(organization_id)
        self._revisions[database] = revision, began_s

    def _is_fresh(self, database: Database) -> bool:
        seen = self._revisions.get(database)
        return seen is not None and time.monotonic() < seen[1] + _FRESH_FOR_S

    async def _read(self, database: Database, organization_ids: Collection[str]) -> dict[str, Known]:
        leave_deadline()
        this = asyncio.current_task()
        try:
            async with database.raw_connection() as connection:
                entries = await store.of(connection, organization_ids)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the outcome of the calls that need the limits.
            _log.warning("limits not read", schema=database.schema, exc_info=error)
            for organization_id in organization_ids:
                if self._reading.get(organization_id) is this:
                    del self._reading[organization_id]
            return dict.fromkeys(organization_ids, _why(error))
        read: dict[str, Sequence[Limit]] = {
            one: [entry.limit for entry in entries.get(one, ())] for one in organization_ids
        }
        for organization_id, limits in read.items():
            # What was forgotten meanwhile may have been read before the change.
            if self._reading.get(organization_id) is this:
                del self._reading[organization_id]
                self._known.pop(organization_id, None)
                self._known[organization_id] = limits
        while len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)
        return dict(read)


def _why(error: Exception) -> Unavailable:
    return error if isinstance(error, Unavailable) else Unavailable(dependency="database")
