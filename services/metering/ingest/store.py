"""The SQL statements on mappings of events, of which there are a thousand at most."""

from collections.abc import Sequence

from sqlalchemy import RowMapping, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.metering.ingest.domain import Entry, from_json
from services.metering.tables import event_mappings as table


async def find(connection: AsyncConnection, event_type: str) -> Entry | None:
    """Return a mapping and lock it; by primary key."""
    found = await connection.execute(select(table).where(table.c.event_type == event_type).with_for_update())
    row = found.mappings().first()
    return None if row is None else _entry(row)


async def after(connection: AsyncConnection, event_type: str, limit: int) -> Sequence[Entry]:
    """Return the mappings after a type, in the order of their types; by primary key."""
    statement = select(table).where(table.c.event_type > event_type).order_by(table.c.event_type).limit(limit)
    return [_entry(row) for row in (await connection.execute(statement)).mappings()]


async def put(connection: AsyncConnection, entry: Entry) -> None:
    """Store a mapping, in place of one of the same type; by primary key."""
    values = {"mapping": entry.mapping.to_json(), "update_time": entry.update_time}
    statement = insert(table).values(event_type=entry.mapping.event_type, create_time=entry.create_time, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=[table.c.event_type], set_=values))


async def remove(connection: AsyncConnection, event_type: str) -> None:
    """Delete a mapping; by primary key."""
    await connection.execute(delete(table).where(table.c.event_type == event_type))


async def count(connection: AsyncConnection) -> int:
    """Return how many mappings there are; reads all of them."""
    return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


def _entry(row: RowMapping) -> Entry:
    return Entry(from_json(row["event_type"], row["mapping"]), row["create_time"], row["update_time"])
