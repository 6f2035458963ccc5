"""Limits of organizations, and what their counters have, in one line each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Final

import asyncpg

from libs.common.clock import SystemClock
from libs.common.database_url import plain_url
from libs.common.ids import new_id
from libs.common.shards import open_shards
from services.metering.quota import store
from services.metering.quota.book import LimitBook
from services.metering.quota.domain import Enforcement, Entry, Limit, Scope, Shape, Terms, Window
from tests.metering.support import Platform
from tests.support.clock import ShiftedClock
from tests.support.sharded import in_shard_of, shard_count

BOOKS: Final[list[LimitBook]] = []
"""The books of the processes that a test has started, which forget an organization when one of its limits is set."""


def begin_minute(clock: ShiftedClock) -> None:
    """Move the clock to just after the beginning of a minute, so that a test meets one window of a minute alone."""
    now = clock.now()
    clock.advance(timedelta(seconds=60 - now.second, microseconds=1000 - now.microsecond))


async def set_limit(
    platform: Platform,
    organization_id: str,
    name: str,
    maximum: str | None,
    *,
    metric: str = "requests",
    window: Window = Window.HOUR,
    scope: Scope = Scope.ORGANIZATION,
    scope_value: str = "",
    label: str = "",
    currency_code: str = "",
    sliding: bool = False,
    enforcement: Enforcement = Enforcement.HARD,
    burst: str = "0",
    replaces: bool = False,
) -> Limit:
    """Set a limit, as SetLimit does, and return when it holds in every process of the test."""
    shape = Shape(metric, currency_code, window, sliding, "", 0, scope, scope_value, label)
    terms = Terms(None if maximum is None else Decimal(maximum), enforcement, Decimal(burst), replaces)
    shards = open_shards(platform.urls["metering"], schema="metering", count=shard_count())
    now = SystemClock().now()
    try:
        async with shards.of(organization_id).raw_transaction() as connection:
            revision = await store.next_revision(connection)
            before = await store.lock(connection, organization_id, name)
            limit_id = new_id() if before is None else before.limit.limit_id
            entry = Entry(Limit(limit_id, name, shape, terms), revision, now, now)
            if before is None:
                assert await store.add(connection, organization_id, entry)
            else:
                await store.change(connection, organization_id, entry)
    finally:
        await shards.close()
    for book in BOOKS:
        book.forget(organization_id)
    return entry.limit


async def delete_limit(platform: Platform, organization_id: str, limit: Limit) -> None:
    """Delete a limit, and return when that holds in every process of the test."""
    shards = open_shards(platform.urls["metering"], schema="metering", count=shard_count())
    try:
        async with shards.of(organization_id).raw_transaction() as connection:
            await store.next_revision(connection)
            await store.delete(connection, organization_id, limit.limit_id)
    finally:
        await shards.close()
    for book in BOOKS:
        book.forget(organization_id)


async def counted(platform: Platform, organization_id: str, limit: Limit) -> tuple[object, object]:
    """Return what is used and what is reserved of a limit, in all windows together, as decimals."""
    query = (
        "SELECT coalesce(sum(used), 0), coalesce(sum(reserved), 0) FROM metering.limit_counters"
        " WHERE organization_id = $1 AND limit_id = $2"
    )
    async with _connected(platform) as connection:
        row = await connection.fetchrow(in_shard_of(organization_id, query), organization_id, limit.limit_id)
    assert row is not None
    return row[0], row[1]


async def reserved(platform: Platform, organization_id: str, *limits: Limit) -> list[object]:
    """Return what is reserved of each limit, as a decimal."""
    return [(await counted(platform, organization_id, limit))[1] for limit in limits]


@asynccontextmanager
async def _connected(platform: Platform) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        yield connection
    finally:
        await connection.close()
