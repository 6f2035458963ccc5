"""Statements on the configurations of users."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.configuration import Configuration
from services.identity.tables import user_configurations


async def find_configuration(tx: AsyncConnection, user_id: str) -> Configuration:
    """Read a user's configuration, by primary key; to change it, lock the user's row first."""
    found = await tx.execute(select(user_configurations).where(user_configurations.c.user_id == user_id))
    row = found.first()
    return Configuration({}) if row is None else Configuration(row.entries, row.version, row.update_time)


async def write_configuration(tx: AsyncConnection, user_id: str, configuration: Configuration, now: datetime) -> None:
    """Store a user's configuration, by primary key."""
    values = {"entries": dict(configuration.entries), "version": configuration.version, "update_time": now}
    await tx.execute(
        insert(user_configurations)
        .values(user_id=user_id, **values)
        .on_conflict_do_update(constraint="user_configurations_pkey", set_=values)
    )
