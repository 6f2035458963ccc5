"""Statements of imports."""

from collections.abc import Sequence
from datetime import datetime

import structlog
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database_errors import driver_error, refusal_for
from services.identity.api_key.domain import ApiKey, Digest, NewApiKey
from services.identity.api_key.store import api_key_of, values_of
from services.identity.tables import api_keys, imported_prefixes

_log = structlog.get_logger("imports")


async def insert_api_keys(
    tx: AsyncConnection, keys: Sequence[tuple[str, NewApiKey, Digest]], *, now: datetime
) -> frozenset[bytes]:
    """Insert keys in the order of their digests; return the digests of those that were inserted.

    The unique index leaves out keys that exist already, and waits for a transaction that is inserting the same key. A
    key that the database refuses is left out, too; the others are inserted.
    """
    rows = [values_of(api_key_id, new, digest=digest, now=now) for api_key_id, new, digest in keys]
    rows.sort(key=lambda row: str(row["digest"]))
    return frozenset(await _insert(tx, rows)) if rows else frozenset()


async def _insert(tx: AsyncConnection, rows: Sequence[dict[str, object]]) -> list[bytes]:
    """Insert rows in one statement; where that fails, in halves, so that in the end only the odd row is left out."""
    try:
        async with tx.begin_nested():
            made = await tx.execute(
                insert(api_keys)
                .values(rows)
                .on_conflict_do_nothing(constraint="api_keys_digest_once")
                .returning(api_keys.c.digest)
            )
            return list(made.scalars())
    except DBAPIError as error:
        if refusal_for(error) is not None:
            raise  # The database does not answer, or is busy: that is no row's fault.
        if len(rows) == 1:
            _log.error("a key could not be imported", error=type(driver_error(error)).__name__)
            return []
    middle = len(rows) // 2
    return await _insert(tx, rows[:middle]) + await _insert(tx, rows[middle:])


async def find_api_keys(tx: AsyncConnection, digests: Sequence[bytes]) -> dict[bytes, ApiKey]:
    """Read the keys stored under the digests, along their unique index."""
    found = await tx.execute(select(api_keys).where(api_keys.c.digest.in_(digests)))
    return {row["digest"]: api_key_of(row) for row in found.mappings()}


async def add_prefix(tx: AsyncConnection, prefix: str, *, prefixes_max: int, now: datetime) -> bool:
    """Insert a prefix, by primary key, unless the limit is reached; return whether it is stored now."""
    await tx.execute(
        insert(imported_prefixes)
        .values(prefix=prefix, create_time=now)
        .on_conflict_do_nothing(constraint="imported_prefixes_pkey")
    )
    # The table holds a handful of rows.
    counted = await tx.execute(select(func.count()).select_from(imported_prefixes))
    return int(counted.scalar_one()) <= prefixes_max
