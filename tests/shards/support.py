"""Organizations of chosen shards, and a shard whose tables are locked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import asyncpg
import grpc

from libs.common.database_url import plain_url
from libs.common.ids import new_id
from libs.common.sharding import shard_number, shard_schema

SHARDS: Final = 3
SOON_S: Final = 5.0
"""Within this time a call is answered whose shard nobody disturbs: much less than the time for which one is locked."""

_T = TypeVar("_T")


def organization_in(shard: int, count: int = SHARDS) -> str:
    """Return the id of a new organization of this shard."""
    while shard_number(organization_id := new_id(), count) != shard:
        pass
    return organization_id


def one_in_each() -> list[str]:
    """Return an organization of each shard, in their order."""
    return [organization_in(shard) for shard in range(SHARDS)]


async def soon(*calls: Awaitable[_T]) -> list[_T]:
    """Return the answers; fail if they do not come soon."""
    async with asyncio.timeout(SOON_S):
        return await asyncio.gather(*calls)


async def answered(call: Awaitable[object]) -> None:
    """Return when a call is answered or refused."""
    with suppress(grpc.aio.AioRpcError):
        await call


@asynccontextmanager
async def locked(admin_url: str, context: str, shard: int, tables: Sequence[str]) -> AsyncIterator[None]:
    """Keep everybody else from reading and writing tables of a shard."""
    names = ", ".join(f"{shard_schema(context, shard)}.{table}" for table in tables)
    connection = await asyncpg.connect(plain_url(admin_url))
    try:
        await connection.execute(f"BEGIN; LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        await connection.close()
