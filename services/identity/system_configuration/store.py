"""Statements on the platform's configuration, which is one row."""

from datetime import datetime

from sqlalchemy import Select, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.configuration import Configuration
from services.identity.tables import system_configurations


async def find_configuration(tx: AsyncConnection) -> Configuration:
    """Read the configuration."""
    return await _read(tx, select(system_configurations))


async def hold_configuration(tx: AsyncConnection, now: datetime) -> Configuration:
    """Read the configuration and lock it until commit (exclusive lock on the row)."""
    await tx.execute(
        insert(system_configurations)
        .values(single=True, entries={}, version=0, update_time=now)
        .on_conflict_do_nothing(constraint="system_configurations_pkey")
    )
    return await _read(tx, select(system_configurations).with_for_update())


async def write_configuration(tx: AsyncConnection, configuration: Configuration, now: datetime) -> None:
    """Store the configuration; the row must be locked."""
    await tx.execute(
        update(system_configurations)
        .where(system_configurations.c.single)
        .values(entries=dict(configuration.entries), version=configuration.version, update_time=now)
    )


async def _read(tx: AsyncConnection, statement: Select[tuple[object, ...]]) -> Configuration:
    row = (await tx.execute(statement)).first()
    if row is None or row.version == 0:
        return Configuration({})
    return Configuration(row.entries, row.version, row.update_time)
