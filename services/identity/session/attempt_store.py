"""Counts sign-in attempts in the database, so that all processes share the counts."""

from datetime import datetime
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import Database
from services.identity.session.domain import ATTEMPTS_WINDOW, Attempts, Count
from services.identity.tables import sign_in_attempts

_COUNT_UP: Final = """
    ON CONFLICT (key_digest) DO UPDATE SET
        attempts = CASE WHEN known.window_time > $2 THEN least(known.attempts, 1000000) + 1 ELSE 1 END,
        window_time = CASE WHEN known.window_time > $2 THEN known.window_time ELSE $1 END
"""

# One row by primary key, locked for this statement only.
_COUNT_ONE: Final = f"""
    INSERT INTO sign_in_attempts AS known (key_digest, window_time, attempts) VALUES ($3, $1, 1) {_COUNT_UP}
"""  # noqa: S608 -- a text of ours.

# One row each by primary key, locked for this statement only, so that calls from one address wait no longer. The
# account is counted only while the address is within its limit, so that no address can fill the table with accounts.
_COUNT: Final = f"""
    WITH address AS (
        INSERT INTO sign_in_attempts AS known (key_digest, window_time, attempts)
        VALUES ($3, $1, 1) {_COUNT_UP}
        RETURNING attempts, window_time
    ), account AS (
        INSERT INTO sign_in_attempts AS known (key_digest, window_time, attempts)
        SELECT $4, $1, 1 FROM address WHERE attempts <= $5 {_COUNT_UP}
        RETURNING attempts, window_time
    )
    SELECT address.attempts AS by_address, address.window_time AS address_window_time,
           coalesce(account.attempts, 0) AS on_account,
           coalesce(account.window_time, address.window_time) AS account_window_time
    FROM address LEFT JOIN account ON true
"""  # noqa: S608 -- a text of ours.

# Oldest first along the index of windows; rows that are locked by a count are skipped.
_FORGET: Final = """
    DELETE FROM sign_in_attempts WHERE key_digest IN (
        SELECT key_digest FROM sign_in_attempts WHERE window_time < $1
        ORDER BY window_time LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def count_attempt(
    database: Database, *, address_digest: bytes, account_digest: bytes, address_max: int, now: datetime
) -> Attempts:
    """Count one attempt; return the counts of the address and of the account in their current windows."""
    async with database.raw_connection() as connection:
        rows = await connection.fetch(_COUNT, now, now - ATTEMPTS_WINDOW, address_digest, account_digest, address_max)
    (row,) = rows
    return Attempts(
        by_address=Count(row["by_address"], row["address_window_time"]),
        on_account=Count(row["on_account"], row["account_window_time"]),
    )


async def count_one(database: Database, key_digest: bytes, now: datetime) -> None:
    """Count one attempt under one digest."""
    async with database.raw_connection() as connection:
        await connection.execute(_COUNT_ONE, now, now - ATTEMPTS_WINDOW, key_digest)


async def find_count(tx: AsyncConnection, key_digest: bytes, now: datetime) -> Count:
    """Read the count of a digest in its current window, by primary key."""
    found = await tx.execute(
        select(sign_in_attempts.c.attempts, sign_in_attempts.c.window_time).where(
            sign_in_attempts.c.key_digest == key_digest, sign_in_attempts.c.window_time > now - ATTEMPTS_WINDOW
        )
    )
    row = found.first()
    return Count(0, now) if row is None else Count(row.attempts, row.window_time)


async def clear_attempts(tx: AsyncConnection, account_digest: bytes) -> None:
    """Delete the count of an account, by primary key."""
    await tx.execute(delete(sign_in_attempts).where(sign_in_attempts.c.key_digest == account_digest))


async def forget_attempts(database: Database, before: datetime, limit: int) -> None:
    """Delete counts whose window is over."""
    async with database.raw_connection() as connection:
        await connection.execute(_FORGET, before, limit)
