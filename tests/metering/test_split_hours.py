# ruff: noqa: S608 -- the statements are put together from names of columns.
"""Sums that the version before wrote, one for each hour, become those that begin where days begin in all zones."""

import asyncpg
import pytest

from libs.common.database_url import plain_url
from libs.common.sharding import shard_schema
from services.metering.tables import HOUR_KEY
from services.metering.usage.statements import HOUR_SUMS
from tests.metering.support import Platform
from tests.metering.test_zones import Recorded
from tests.support.sharded import shard_count

pytestmark = [pytest.mark.shards, pytest.mark.own_database]

TABLES = {"usage_hours": (HOUR_KEY, HOUR_SUMS), "usage_hour_units": ((*HOUR_KEY, "unit_id"), ("quantity",))}


def as_before(table: str) -> list[str]:
    """Return the statements that put the sums of an hour together, as the version before has written them."""
    key, names = TABLES[table]
    hour = "date_trunc('hour', hour, 'UTC')"
    of_hour = ", ".join(hour if name == "hour" else name for name in key)
    added = ", ".join(f"{name} = h.{name} + excluded.{name}" for name in names)
    return [
        f"""INSERT INTO {table} AS h ({", ".join((*key, *names))})
        SELECT {of_hour}, {", ".join(f"sum({name})" for name in names)} FROM {table} WHERE hour <> {hour}
        GROUP BY {of_hour} ON CONFLICT ({", ".join(key)}) DO UPDATE SET {added}""",
        f"DELETE FROM {table} WHERE hour <> {hour}",
    ]


async def sums(connection: asyncpg.Connection, table: str) -> list[tuple[object, ...]]:
    """Return the sums that are not zero: a row from which all was taken out may stay."""
    key, names = TABLES[table]
    nothing = " AND ".join(f"{name} = 0" for name in names)
    rows = await connection.fetch(
        f"SELECT {', '.join((*key, *names))} FROM {table} WHERE NOT ({nothing}) ORDER BY {', '.join(key)}"
    )
    return [tuple(row) for row in rows]


async def test_sums_of_the_version_before_are_split_exactly_and_again_without_effect(platform: Platform) -> None:
    await Recorded().make(platform.metering)
    assert await platform.metering.findings() == []
    split = 0
    for number in range(shard_count()):
        connection = await asyncpg.connect(plain_url(platform.admin_url))
        try:
            await connection.execute(f"SET search_path = {shard_schema('metering', number)}")
            expected = {table: await sums(connection, table) for table in TABLES}
            for table in TABLES:
                for statement in as_before(table):
                    await connection.execute(statement)
            merged = {table: await sums(connection, table) for table in TABLES}
            split += sum(len(expected[table]) - len(merged[table]) for table in TABLES)
            # A part of the hours was done before an interruption.
            await connection.execute("CALL split_usage_hours('2026-01-01')")
            for _ in range(2):
                await connection.execute("CALL split_usage_hours('-infinity')")
                assert {table: await sums(connection, table) for table in TABLES} == expected
        finally:
            await connection.close()
    assert split > 100
    assert await platform.metering.findings() == []


async def test_sums_of_usage_that_is_gone_stay_as_they_are(platform: Platform) -> None:
    """Months may be dropped: their sums stay, and cannot be computed again."""
    await Recorded().make(platform.metering)
    for number in range(shard_count()):
        connection = await asyncpg.connect(plain_url(platform.admin_url))
        try:
            await connection.execute(f"SET search_path = {shard_schema('metering', number)}")
            kept = {table: await sums(connection, table) for table in TABLES}
            await connection.execute("TRUNCATE usage_records, usage_correction_lines")
            await connection.execute("CALL split_usage_hours('-infinity')")
            assert {table: await sums(connection, table) for table in TABLES} == kept
        finally:
            await connection.close()
