"""The pool of connections that all shards of a process share."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest
from sqlalchemy import text

from libs.common.database_url import plain_url
from libs.common.databases import create_database, drop_database
from libs.common.errors import Unavailable
from libs.common.shards import Shards, open_shards
from tests.support.database import TestPostgres, new_database_name
from tests.support.transaction_pooler import pooled

ROOMS: Final = 64
POOL_SIZE: Final = 6
_ROOM: Final = "CREATE SCHEMA {schema}; CREATE TABLE {schema}.room AS SELECT '{schema}' AS name"


@pytest.fixture
async def url(postgres: TestPostgres) -> AsyncIterator[str]:
    """A database of 64 small shards, each with a row that says which one it is."""
    name = new_database_name()
    created = await create_database(postgres.admin_url, name)
    connection = await asyncpg.connect(plain_url(created))
    await connection.execute(";".join(_ROOM.format(schema=f"room_{number:02d}") for number in range(ROOMS)))
    await connection.close()
    yield created
    await drop_database(postgres.admin_url, name)


@pytest.fixture
async def shards(url: str) -> AsyncIterator[Shards]:
    shards = open_shards(url, schema="room", count=ROOMS, pool_size=POOL_SIZE, acquire_timeout_ms=30_000)
    yield shards
    await shards.close()


async def opened(url: str) -> int:
    """Return how many connections of the shards' pool the server has."""
    connection = await asyncpg.connect(plain_url(url))
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'tollhouse-room'"
        )
        return count
    finally:
        await connection.close()


async def names(shards: Shards, number: int) -> set[str]:
    """Return what a shard calls itself, asked in every way."""
    shard, query, found = shards[number], "SELECT name FROM room", set()
    async with shard.raw_connection() as raw:
        found.add(await raw.fetchval(query))
    async with shard.raw_transaction() as raw:
        found.add(await raw.fetchval(query))
    for kind in (shard.transaction, shard.snapshot):
        async with kind() as connection:
            found.add((await connection.execute(text(query))).scalar_one())
    return found


async def test_connection_given_back_by_a_shard_shows_the_next_one_its_own_rows(shards: Shards, url: str) -> None:
    for turn in range(2):
        found = await asyncio.gather(*(names(shards, number) for number in range(ROOMS)))
        assert found == [{f"room_{number:02d}"} for number in range(ROOMS)], turn
    assert 0 < await opened(url) <= POOL_SIZE


async def test_failed_and_cancelled_work_of_a_shard_leaves_the_next_one_its_own_rows(shards: Shards) -> None:
    async def fail(number: int) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            async with shards[number].raw_connection() as raw:
                await raw.execute("SELECT FROM nothing_of_this_name")

    async def leave(number: int) -> None:
        async with shards[number].raw_transaction() as raw:
            await raw.execute("SET LOCAL search_path = room_00")
            await raw.execute("SELECT pg_sleep(0.2)")

    for number in range(12):
        await fail(number)
        task = asyncio.create_task(leave(number))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait((task,))
        assert await names(shards, number + 20) == {f"room_{number + 20:02d}"}


async def test_shards_keep_to_one_pool_of_connections_and_give_all_of_them_back(url: str) -> None:
    shards = open_shards(url, schema="room", count=ROOMS, pool_size=POOL_SIZE, acquire_timeout_ms=30_000)
    counts: list[int] = []

    async def ask(number: int) -> None:
        async with shards[number].raw_connection() as raw:
            await raw.execute("SELECT pg_sleep(0.02)")

    async def watch() -> None:
        for _ in range(10):
            counts.append(await opened(url))
            await asyncio.sleep(0.02)

    await asyncio.gather(watch(), *(ask(number % ROOMS) for number in range(3 * ROOMS)))
    assert 1 < max(counts) <= POOL_SIZE

    await shards.close()
    assert await opened(url) == 0


async def test_shard_that_uses_half_of_the_pool_leaves_the_other_half(url: str) -> None:
    shards = open_shards(url, schema="room", count=ROOMS, pool_size=POOL_SIZE, acquire_timeout_ms=300)

    async def hold(number: int) -> None:
        async with shards[number].raw_connection() as raw:
            await raw.execute("SELECT pg_sleep(1.5)")

    holders = [asyncio.create_task(hold(0)) for _ in range(POOL_SIZE // 2)]
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable):
        await hold(0)
    assert await asyncio.wait_for(names(shards, 1), 1) == {"room_01"}
    await asyncio.gather(*holders)
    assert await names(shards, 0) == {"room_00"}
    await shards.close()


async def test_connection_belongs_to_one_shard_where_the_pool_has_four_for_each(url: str) -> None:
    shards = open_shards(url, schema="room", count=4, pool_size=16, acquire_timeout_ms=30_000)
    users: dict[int, set[int]] = {}

    async def ask(number: int) -> None:
        async with shards[number].raw_connection() as raw:
            users.setdefault(raw.get_server_pid(), set()).add(number)
            await raw.execute("SELECT pg_sleep(0.001)")

    for number in range(4):
        await asyncio.gather(*(ask(number) for _ in range(20)))
    await asyncio.gather(*(ask(turn % 4) for turn in range(80)))
    assert len(users) <= 16
    assert all(len(numbers) == 1 for numbers in users.values())
    await shards.close()


@pytest.mark.parametrize("pool_size", [1, 2, 3])
async def test_smallest_pools_serve_every_shard(url: str, pool_size: int) -> None:
    shards = open_shards(url, schema="room", count=ROOMS, pool_size=pool_size, acquire_timeout_ms=30_000)
    found = await asyncio.gather(*(names(shards, number) for number in range(16)))
    assert found == [{f"room_{number:02d}"} for number in range(16)]
    await shards.close()


async def test_statements_go_to_the_right_shard_through_a_transaction_pooler(url: str) -> None:
    async with pooled(url) as (through, pooler):
        shards = open_shards(through, schema="room", count=3, pool_size=POOL_SIZE, statement_cache_size=0)
        for _ in range(5):
            found = await asyncio.gather(*(names(shards, number % 3) for number in range(6)))
            assert found == [{f"room_{number % 3:02d}"} for number in range(6)]
        await shards.close()
        assert pooler.transactions >= 5 * 6 * 4
