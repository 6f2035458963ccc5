"""The SQL statements on units, of which there are a thousand at most."""

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.metering.model.units import Kind, Unit
from services.metering.tables import units
from services.metering.unit.domain import Entry


async def find_unit(connection: AsyncConnection, unit_id: str) -> Entry | None:
    """Return a unit; by primary key. Changes are serialized by the catalogue's revision, so no row is locked."""
    row = (await connection.execute(select(units).where(units.c.unit_id == unit_id))).first()
    return None if row is None else _entry(row)


async def list_units(
    connection: AsyncConnection, *, after: str, kind: Kind | None, active_only: bool, limit: int
) -> list[Entry]:
    """Return units sorted by id; by primary key."""
    statement = select(units).where(units.c.unit_id > after).order_by(units.c.unit_id).limit(limit)
    if kind is not None:
        statement = statement.where(units.c.kind == kind.value)
    if active_only:
        statement = statement.where(units.c.archived.is_(False))
    return [_entry(row) for row in await connection.execute(statement)]


async def add_unit(connection: AsyncConnection, entry: Entry) -> bool:
    """Add a unit, and return whether there was none of its id; by primary key."""
    statement = insert(units).values(_values(entry)).on_conflict_do_nothing().returning(units.c.unit_id)
    return (await connection.execute(statement)).first() is not None


async def replace_unit(connection: AsyncConnection, entry: Entry) -> None:
    """Change a unit; by primary key."""
    await connection.execute(update(units).where(units.c.unit_id == entry.unit.unit_id).values(_values(entry)))


async def count_units(connection: AsyncConnection) -> int:
    """Return how many units there are; reads all of them."""
    return int((await connection.execute(select(func.count()).select_from(units))).scalar_one())


def _values(entry: Entry) -> dict[str, object]:
    unit = entry.unit
    return {
        "unit_id": unit.unit_id,
        "name": unit.name,
        "description": unit.description,
        "kind": unit.kind.value,
        "counts_toward_context": unit.counts_toward_context,
        "step_thousandths": unit.step_thousandths,
        "archived": unit.archived,
        "revision": entry.revision,
        "create_time": entry.create_time,
        "update_time": entry.update_time,
    }


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    unit = Unit(
        unit_id=row.unit_id,
        name=row.name,
        description=row.description,
        kind=Kind(row.kind),
        counts_toward_context=row.counts_toward_context,
        step_thousandths=row.step_thousandths,
        archived=row.archived,
    )
    return Entry(unit, row.revision, row.create_time, row.update_time)
