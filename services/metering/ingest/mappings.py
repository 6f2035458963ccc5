"""The mappings of events: set, read and deleted by operators, and kept in memory for the events."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from libs.common.audit.recording import PLATFORM, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import InvalidArgument, NotFound
from services.metering.ingest import store
from services.metering.ingest.domain import MAPPINGS_MAX, Entry, EventMapping, changes_of, flaws_of
from services.metering.model.catalogue import Catalogue
from services.metering.usage_errors import TooManyEventMappings

_FRESH_S: Final = 2.0
"""How long a process uses the mappings it has read: for that long it may not know of a change in another process."""


class EventMappings:
    """Keeps what events mean."""

    def __init__(self, platform: Database, catalogue: Catalogue, clock: Clock) -> None:
        self._database = platform
        self._catalogue = catalogue
        self._clock = clock
        self._known: Mapping[str, EventMapping] = {}
        self._read_s: float | None = None

    async def known(self) -> Mapping[str, EventMapping]:
        """Return all mappings by their types, as they were at most two seconds ago."""
        if self._read_s is None or time.monotonic() - self._read_s > _FRESH_S:
            read_s = time.monotonic()
            entries = await self.list_mappings("", MAPPINGS_MAX)
            self._known = {one.mapping.event_type: one.mapping for one in entries}
            self._read_s = read_s
        return self._known

    async def set_mapping(self, mapping: EventMapping) -> Entry:
        """Store a mapping, in place of that of the same type, and return it; one that is stored already is not changed.

        Raises:
            InvalidArgument: it names a unit that there is not, or contradicts itself.
            TooManyEventMappings: there are as many as there may be.
        """
        await self._catalogue.refresh_for_unknown()
        flaws = flaws_of(mapping, {unit_id: unit.archived for unit_id, unit in self._catalogue.units.items()})
        if flaws:
            raise InvalidArgument(flaws)
        now = self._clock.now()
        async with self._database.transaction() as connection:
            before = await store.find(connection, mapping.event_type)
            if before is not None and before.mapping == mapping:
                return before
            if before is None and await store.count(connection) >= MAPPINGS_MAX:
                raise TooManyEventMappings(mappings=MAPPINGS_MAX)
            entry = Entry(mapping, before.create_time if before else now, now)
            await store.put(connection, entry)
            await self._record(connection, before.mapping if before else None, mapping)
        self._read_s = None
        return entry

    async def delete(self, event_type: str) -> None:
        """Delete a mapping.

        Raises:
            NotFound: there is none of this type.
        """
        async with self._database.transaction() as connection:
            before = _found(await store.find(connection, event_type), event_type)
            await store.remove(connection, event_type)
            await self._record(connection, before.mapping, None)
        self._read_s = None

    async def get(self, event_type: str) -> Entry:
        """Return a mapping as it is stored; raises NotFound."""
        async with self._database.transaction() as connection:
            return _found(await store.find(connection, event_type), event_type)

    async def list_mappings(self, after: str, limit: int) -> Sequence[Entry]:
        """Return the mappings after a type, in the order of their types."""
        async with self._database.transaction() as connection:
            return await store.after(connection, after, limit)

    async def _record(self, connection: Transaction, before: EventMapping | None, after: EventMapping | None) -> None:
        mapping = after or before
        assert mapping is not None  # One of them is given.
        await record_event(
            connection,
            now=self._clock.now(),
            organization_id=PLATFORM,
            resource_type="event_mapping",
            resource_id=mapping.event_type,
            changed=changes_of(before, after),
        )


def _found(entry: Entry | None, event_type: str) -> Entry:
    if entry is None:
        raise NotFound(resource_type="event_mapping", resource_name=event_type)
    return entry
