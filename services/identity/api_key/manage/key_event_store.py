"""Statements on keys that expire soon, and on the addresses of their owners."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.tables import users

# A range of `api_keys_by_expiry`, with what is noted of each and its owner by primary key. Keys that another process
# announces are passed over.
_EXPIRING: Final = """
    SELECT k.organization_id::text, k.api_key_id::text, k.name, k.user_id::text, k.service_account_id::text,
        k.project_id::text, k.expire_time, u.email
    FROM api_keys AS k
    LEFT JOIN api_key_notices AS n ON n.organization_id = k.organization_id AND n.api_key_id = k.api_key_id
    LEFT JOIN users AS u ON u.user_id = k.user_id AND u.delete_time IS NULL
    WHERE k.expire_time > $1 AND k.expire_time < $2 AND k.revoke_time IS NULL AND k.disable_time IS NULL
        AND k.rotated_to_api_key_id IS NULL AND n.expire_time IS DISTINCT FROM k.expire_time
    ORDER BY k.expire_time LIMIT $3 FOR UPDATE OF k SKIP LOCKED
"""
# By primary key.
_TOLD: Final = """
    INSERT INTO api_key_notices (organization_id, api_key_id, expire_time)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[])
    ON CONFLICT (organization_id, api_key_id) DO UPDATE SET expire_time = excluded.expire_time
"""


class ExpiringKey(NamedTuple):
    """A key that expires soon, with its owner's address where that is a person."""

    organization_id: str
    api_key_id: str
    name: str
    user_id: str | None
    service_account_id: str | None
    project_id: str | None
    expire_time: datetime
    email: str | None


async def lock_expiring(tx: AsyncConnection, after: datetime, before: datetime, limit: int) -> list[ExpiringKey]:
    """Return keys that expire in a time and are not announced for it, and lock them."""
    found = await tx.exec_driver_sql(_EXPIRING, (after, before, limit))
    return [ExpiringKey._make(row) for row in found]


async def note_told(tx: AsyncConnection, keys: Sequence[ExpiringKey]) -> None:
    """Note for which times at which they expire keys are announced."""
    columns = (
        [key.organization_id for key in keys],
        [key.api_key_id for key in keys],
        [key.expire_time for key in keys],
    )
    await tx.exec_driver_sql(_TOLD, columns)


async def find_email(tx: AsyncConnection, user_id: str) -> str | None:
    """Return the address of a user who is not deleted, by primary key."""
    found = await tx.execute(select(users.c.email).where(users.c.user_id == user_id, users.c.delete_time.is_(None)))
    return found.scalar_one_or_none()
