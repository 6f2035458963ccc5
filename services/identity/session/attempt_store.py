"""How often somebody tried to sign in, counted in the database so that all processes count together."""

from datetime import datetime
from typing import Final

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import Database
from services.identity.session.model import ATTEMPTS_WINDOW, Attempts
from services.identity.tables import sign_in_attempts

# One row each by primary key, locked until commit: the address first, and the account only while the address is within
# its limit, so that no address can fill the table with accounts.
_COUNT: Final = text(
    """
    WITH address AS (
        INSERT INTO identity.sign_in_attempts AS known (key_digest, window_time, attempts)
        VALUES (:address_digest, :now, 1)
        ON CONFLICT (key_digest) DO UPDATE SET
            attempts = CASE WHEN known.window_time > :window_start THEN least(known.attempts, 1000000) + 1 ELSE 1 END,
            window_time = CASE WHEN known.window_time > :window_start THEN known.window_time ELSE :now END
        RETURNING attempts, window_time
    ), account AS (
        INSERT INTO identity.sign_in_attempts AS known (key_digest, window_time, attempts)
        SELECT :account_digest, :now, 1 FROM address WHERE attempts <= :address_max
        ON CONFLICT (key_digest) DO UPDATE SET
            attempts = CASE WHEN known.window_time > :window_start THEN least(known.attempts, 1000000) + 1 ELSE 1 END,
            window_time = CASE WHEN known.window_time > :window_start THEN known.window_time ELSE :now END
        RETURNING attempts, window_time
    )
    SELECT address.attempts AS by_address, address.window_time AS address_window_time,
           coalesce(account.attempts, 0) AS on_account,
           coalesce(account.window_time, address.window_time) AS account_window_time
    FROM address LEFT JOIN account ON true
    """
)

# Oldest first along the index of windows; rows that are being counted up at this moment are left alone.
_FORGET: Final = """
    DELETE FROM sign_in_attempts WHERE key_digest IN (
        SELECT key_digest FROM sign_in_attempts WHERE window_time < $1
        ORDER BY window_time LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def count_attempt(
    tx: AsyncConnection, *, address_digest: bytes, account_digest: bytes, address_max: int, now: datetime
) -> Attempts:
    """Count one attempt and return how many that makes, for the address and for the account, in their windows."""
    counted = await tx.execute(
        _COUNT,
        {
            "address_digest": address_digest,
            "account_digest": account_digest,
            "address_max": address_max,
            "now": now,
            "window_start": now - ATTEMPTS_WINDOW,
        },
    )
    return Attempts(**counted.mappings().one())


async def clear_attempts(tx: AsyncConnection, account_digest: bytes) -> None:
    """Forget the attempts on an account, by primary key."""
    await tx.execute(delete(sign_in_attempts).where(sign_in_attempts.c.key_digest == account_digest))


async def forget_attempts(database: Database, before: datetime, limit: int) -> None:
    """Delete counts whose window is over."""
    async with database.raw_connection() as connection:
        await connection.execute(_FORGET, before, limit)
