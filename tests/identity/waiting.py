"""Makes concurrent calls wait for one lock in a known order, and counts the resulting deadlocks."""

import asyncio
from collections.abc import Awaitable

import grpc
from sqlalchemy import text

from libs.common.database import Database
from libs.common.status import reason_of

_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


async def until_waiting(database: Database, count: int) -> None:
    """Return once the given number of connections wait for a lock."""
    async with asyncio.timeout(20):
        while True:
            async with database.transaction() as tx:
                if (await tx.execute(_WAITING)).scalar_one() >= count:
                    return
            await asyncio.sleep(0.01)


async def reason_or_done(call: Awaitable[object]) -> str:
    """Return the reason with which a call is refused, or an empty string."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    return ""


async def deadlocks(database: Database) -> int:
    """Return how many deadlocks Postgres had to break in the test's database."""
    async with database.transaction() as tx:
        await tx.execute(text("SELECT pg_stat_force_next_flush()"))
    async with database.transaction() as tx:
        found = await tx.execute(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
        return int(found.scalar_one())
