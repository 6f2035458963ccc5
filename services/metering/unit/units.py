"""The use cases of the catalogue's units. Access is checked by the pipeline before they are called."""

from collections.abc import Callable, Sequence

from libs.common.audit.recording import PLATFORM, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound, StaleEtag
from libs.common.repeats.once import Repeatable
from services.metering.errors import TooManyUnits, UnitExists, UnitNeeded
from services.metering.model.catalogue import Catalogue
from services.metering.model.repeats import once
from services.metering.model.store import take_next_revision
from services.metering.model.units import Kind, Unit
from services.metering.unit import store
from services.metering.unit.domain import NEEDED, UNITS_MAX, Changes, Entry, unit_changes


class CatalogueUnits:
    """Changes and reads units. Every change takes a revision of the catalogue first, so changes are serialized."""

    def __init__(self, database: Database, catalogue: Catalogue, clock: Clock) -> None:
        """`catalogue` is this process's, which is reloaded after each change."""
        self._database = database
        self._catalogue = catalogue
        self._clock = clock

    async def create(self, unit: Unit, repeatable: Repeatable, render: Callable[[Entry], bytes]) -> tuple[bytes, bool]:
        """Add a unit; return the rendered response, and whether it is a replay.

        Raises:
            UnitExists: there is a unit of this id.
            TooManyUnits: there are as many units as there can be.
        """

        async def add(connection: Transaction) -> bytes:
            revision, now = await take_next_revision(connection), self._clock.now()
            entry = Entry(unit, revision, now, now)
            if not await store.add_unit(connection, entry):
                raise UnitExists(unit_id=unit.unit_id)
            if await store.count_units(connection) > UNITS_MAX:
                raise TooManyUnits(units=UNITS_MAX)
            await _record(connection, None, entry)
            return render(entry)

        return await once(self._database, self._catalogue, self._clock, repeatable, add)

    async def update(
        self,
        unit_id: str,
        changes: Changes,
        etag: str,
        repeatable: Repeatable,
        render: Callable[[Entry], bytes],
    ) -> tuple[bytes, bool]:
        """Change some fields of a unit; return the rendered response, and whether it is a replay.

        Raises:
            NotFound: there is no such unit.
            StaleEtag: the unit has changed since it had this etag.
            UnitNeeded: it would be archived, and cannot be.
        """

        async def change(connection: Transaction) -> bytes:
            return render(await self._change(connection, unit_id, changes, etag))

        return await once(self._database, self._catalogue, self._clock, repeatable, change)

    async def archive(self, unit_id: str) -> Entry:
        """Archive a unit, and return it; one that is archived stays as it is.

        Raises:
            NotFound: there is no such unit.
            UnitNeeded: it cannot be archived.
        """
        async with self._database.transaction() as connection:
            entry = await self._change(connection, unit_id, Changes(archived=True))
        await self._catalogue.reload()
        return entry

    async def get(self, unit_id: str) -> Entry:
        """Return a unit as it is stored; raises NotFound."""
        async with self._database.transaction() as connection:
            return await _found(connection, unit_id)

    async def list_units(self, *, after: str, kind: Kind | None, active_only: bool, limit: int) -> Sequence[Entry]:
        """Return the units after an id, in the order of their ids."""
        async with self._database.transaction() as connection:
            return await store.list_units(connection, after=after, kind=kind, active_only=active_only, limit=limit)

    async def _change(self, connection: Transaction, unit_id: str, changes: Changes, etag: str = "") -> Entry:
        revision = await take_next_revision(connection)
        before = await _found(connection, unit_id)
        if etag and etag != str(before.revision):
            raise StaleEtag(resource_type="unit")
        unit = changes.applied_to(before.unit)
        if unit.archived and unit_id in NEEDED:
            raise UnitNeeded(unit_id=unit_id)
        if unit == before.unit:
            return before
        after = Entry(unit, revision, before.create_time, self._clock.now())
        await store.replace_unit(connection, after)
        await _record(connection, before, after)
        return after


async def _found(connection: Transaction, unit_id: str) -> Entry:
    entry = await store.find_unit(connection, unit_id)
    if entry is None:
        raise NotFound(resource_type="unit", resource_name=unit_id)
    return entry


async def _record(connection: Transaction, before: Entry | None, after: Entry) -> None:
    await record_event(
        connection,
        now=after.update_time,
        organization_id=PLATFORM,
        resource_type="unit",
        resource_id=after.unit.unit_id,
        changed=unit_changes(None if before is None else before.unit, after.unit),
    )
