"""Statements behind imports of keys."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.api_key.domain import ApiKey, Digest, NewApiKey
from services.identity.api_key.store import api_key_of, values_of
from services.identity.tables import api_keys, imported_prefixes


async def insert_api_keys(
    tx: AsyncConnection, keys: Sequence[tuple[str, NewApiKey, Digest]], *, now: datetime
) -> frozenset[bytes]:
    """Insert keys in the order of their digests; return the digests that are new. The unique index leaves out the rest,
    and waits for whoever is inserting one of them."""
    rows = [values_of(api_key_id, new, digest=digest, now=now) for api_key_id, new, digest in keys]
    if not rows:
        return frozenset()
    rows.sort(key=lambda row: str(row["digest"]))
    made = await tx.execute(
        insert(api_keys)
        .values(rows)
        .on_conflict_do_nothing(constraint="api_keys_digest_once")
        .returning(api_keys.c.digest)
    )
    return frozenset(made.scalars())


async def find_api_keys(tx: AsyncConnection, digests: Sequence[bytes]) -> dict[bytes, ApiKey]:
    """Read the keys stored under the digests, along their unique index."""
    found = await tx.execute(select(api_keys).where(api_keys.c.digest.in_(digests)))
    return {row["digest"]: api_key_of(row) for row in found.mappings()}


async def add_prefix(tx: AsyncConnection, prefix: str, *, prefixes_max: int, now: datetime) -> bool:
    """Keep a prefix, by primary key, unless there are as many as there may be; tell whether it is there now."""
    await tx.execute(
        insert(imported_prefixes)
        .values(prefix=prefix, create_time=now)
        .on_conflict_do_nothing(constraint="imported_prefixes_pkey")
    )
    # A handful of rows.
    counted = await tx.execute(select(func.count()).select_from(imported_prefixes))
    return int(counted.scalar_one()) <= prefixes_max
