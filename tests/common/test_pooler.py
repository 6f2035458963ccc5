"""Everything also works through a transaction-pooling proxy, at the cost of more messages."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest
from sqlalchemy import text

from libs.common.database import Database, open_database
from libs.common.errors import DeadlineExceeded, Unavailable
from tests.billing.support import BillingServer, organization
from tests.support.callers import Callers
from tests.support.transaction_pooler import TransactionPooler, pooled


@pytest.fixture
async def through(database_urls: dict[str, str]) -> AsyncIterator[tuple[str, TransactionPooler]]:
    async with pooled(database_urls["billing"]) as (url, pooler):
        yield url, pooler


@pytest.fixture
async def database(through: tuple[str, TransactionPooler]) -> AsyncIterator[Database]:
    database = open_database(through[0], schema="billing", statement_cache_size=0, statement_timeout_ms=400)
    yield database
    await database.close()


async def test_settings_hold_in_every_kind_of_transaction(database: Database) -> None:
    names = ("search_path", "statement_timeout", "TimeZone", "citus.override_table_visibility")
    ours = ['"billing"', "400ms", "UTC", "off"]
    for _ in range(4):
        async with database.raw_connection() as raw:
            assert [await raw.fetchval("SELECT current_setting($1)", name) for name in names] == ours
        async with database.raw_transaction() as raw:
            assert [await raw.fetchval("SELECT current_setting($1)", name) for name in names] == ours
        for kind in (database.transaction, database.snapshot):
            async with kind() as connection:
                found = [
                    (await connection.execute(text("SELECT current_setting(:name)"), {"name": name})).scalar_one()
                    for name in names
                ]
            assert found == ours


async def test_tasks_that_share_server_connections_never_get_each_others_statements(database: Database) -> None:
    async def work(number: int) -> None:
        for turn in range(10):
            value = number * 1000 + turn
            async with database.raw_connection() as raw:
                assert await raw.fetchval("SELECT $1::bigint", value) == value
            async with database.transaction() as connection:
                statement = text("SELECT CAST(:value AS bigint), CAST('{\"a\": 1}' AS jsonb)")
                assert (await connection.execute(statement, {"value": value})).one() == (value, {"a": 1})

    await asyncio.gather(*(work(number) for number in range(16)))


async def test_slow_statement_is_cancelled_and_its_connection_stays_usable(database: Database) -> None:
    with pytest.raises(DeadlineExceeded):
        async with database.raw_connection() as raw:
            await raw.execute("SELECT pg_sleep(2)")
    await database.ping()


async def test_proxy_refuses_settings_in_the_startup_message(
    through: tuple[str, TransactionPooler],
) -> None:
    url, pooler = through
    database = open_database(url, schema="billing")
    with pytest.raises((asyncpg.PostgresError, Unavailable)):
        await database.ping()
    assert pooler.refused
    await database.close()


async def test_ledger_works_through_the_proxy(
    through: tuple[str, TransactionPooler], tmp_path_factory: pytest.TempPathFactory
) -> None:
    url, pooler = through
    callers = Callers(tmp_path_factory.mktemp("callers"))
    org = organization()
    async with BillingServer(callers, url).start(statement_cache_size=0) as ledger:
        await ledger.credit(org, "top-up", "100")
        await asyncio.gather(*(ledger.debit(org, f"call-{number}", "1") for number in range(60)))
        await ledger.hold(org, "held", "10")
        await ledger.capture(org, "held", "12")
        last = await ledger.credit(org, "end", "1")
        assert Decimal(last.balance.posted.value) == 100 - 60 - 12 + 1
        assert await ledger.findings() == []
    assert pooler.transactions > 10
