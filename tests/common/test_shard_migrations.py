"""Migrations of shards: all of them are brought to one version, whatever interrupts, and their number is fixed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from libs.common.database_url import plain_url
from libs.common.databases import create_database, drop_database, execute
from libs.common.migrate import MigrationStatus, Progress, ShardCountFixed, migrate, migration_status, shard_count
from libs.common.sharding import SHARDS_MAX
from scripts.migration import folder_of, next_migration
from tests.support.database import TestPostgres, new_database_name

_OWN = """
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE {context}.sharding (shard_count int NOT NULL)")
"""
_STEP = """
from alembic import op

revision = "{number}"
down_revision = {previous}


def upgrade() -> None:
    op.execute("{statement}")
"""


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """A context with shards, and one without, that exist only in these tests."""
    write(tmp_path / "north" / "migrations", "0001", _OWN.format(context="north"))
    write_step(tmp_path, "0001", "CREATE TABLE thing (organization_id int NOT NULL)")
    write(tmp_path / "south" / "migrations", "0001", _OWN.format(context="south"))
    return tmp_path


@pytest.fixture
async def url(postgres: TestPostgres) -> AsyncIterator[str]:
    name = new_database_name()
    yield await create_database(postgres.admin_url, name)
    await drop_database(postgres.admin_url, name)


def write(folder: Path, number: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}_migration.py").write_text(text)


def write_step(services: Path, number: str, statement: str) -> None:
    """Write a migration of the shards of the context north."""
    previous = f'"{int(number) - 1:04}"' if number != "0001" else "None"
    text = _STEP.format(number=number, previous=previous, statement=statement)
    write(services / "north" / "migrations" / "shards", number, text)


async def column(url: str, query: str) -> list[object]:
    connection = await asyncpg.connect(plain_url(url))
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def versions(url: str, count: int) -> list[object]:
    """Return each shard's version together with the transaction that wrote it."""
    one = "SELECT version_num || ' ' || xmin FROM north_{:02}.alembic_version"
    return [(await column(url, one.format(number)))[0] for number in range(count)]


async def at(url: str, count: int) -> list[str]:
    return [str(version).partition(" ")[0] for version in await versions(url, count)]


async def test_all_shards_are_brought_to_one_version_and_again_changes_nothing(url: str, services: Path) -> None:
    await migrate("north", url, shards=3, services=services)
    write_step(services, "0002", "ALTER TABLE thing ADD COLUMN size int")
    await migrate("north", url, services=services)
    migrated = await versions(url, 3)
    assert await at(url, 3) == ["0002"] * 3
    await migrate("north", url, shards=3, services=services)
    assert await versions(url, 3) == migrated
    tables = "SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'size' AND attrelid > 16384 ORDER BY 1"
    assert await column(url, tables) == ["north_00.thing", "north_01.thing", "north_02.thing"]


async def test_failure_at_one_shard_keeps_the_shards_before_it_and_the_rest_is_done_later(
    url: str, services: Path
) -> None:
    await migrate("north", url, shards=4, services=services)
    write_step(services, "0002", "SELECT 1 / (current_schema() <> 'north_02')::int")
    with pytest.raises(Exception, match="division by zero"):
        await migrate("north", url, services=services)
    assert await at(url, 4) == ["0002", "0002", "0001", "0001"]
    done = (await versions(url, 4))[:2]
    status = await migration_status(["north"], url, services=services)
    assert status["north_01"] == MigrationStatus(["0001_migration", "0002_migration"], [], [])
    assert status["north_02"] == MigrationStatus(["0001_migration"], ["0002_migration"], [])

    write_step(services, "0002", "ALTER TABLE thing ADD size int")
    await migrate("north", url, services=services)

    assert await at(url, 4) == ["0002"] * 4
    assert (await versions(url, 4))[:2] == done


async def test_step_outside_of_a_transaction_runs_in_each_shard(url: str, services: Path) -> None:
    statement = "CREATE INDEX CONCURRENTLY thing_ids ON thing (organization_id)"
    text = _STEP.format(number="0002", previous='"0001"', statement=statement)
    block = "    with op.get_context().autocommit_block():\n        op.execute"
    write(services / "north" / "migrations" / "shards", "0002", text.replace("    op.execute", block))
    await migrate("north", url, shards=2, services=services)
    assert await column(url, "SELECT schemaname::text FROM pg_indexes WHERE indexname = 'thing_ids' ORDER BY 1") == [
        *("north_00", "north_01")
    ]


async def test_cancelled_migration_of_a_new_database_goes_on_with_the_same_number(url: str, services: Path) -> None:
    reached = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        if progress.shard == 5:
            reached.set()

    migrating = asyncio.create_task(migrate("north", url, shards=40, services=services, on_progress=on_progress))
    await reached.wait()
    migrating.cancel()
    await asyncio.wait([migrating])
    assert await column(url, "SELECT shard_count FROM north.sharding") == [40]
    with pytest.raises(ShardCountFixed):
        await migrate("north", url, shards=39, services=services)
    await migrate("north", url, services=services)
    assert await at(url, 40) == ["0001"] * 40


async def test_concurrent_migrations_make_each_shard_once(url: str, services: Path) -> None:
    await asyncio.gather(*(migrate("north", url, shards=3, services=services) for _ in range(3)))
    assert await at(url, 3) == ["0001"] * 3
    assert await column(url, "SELECT shard_count FROM north.sharding") == [3]


async def test_progress_names_every_shard_in_turn(url: str, services: Path) -> None:
    told: list[Progress] = []
    await migrate(["south", "north"], url, shards=3, services=services, on_progress=told.append)
    of_shards = [Progress("north", number, 3) for number in range(3)]
    assert told == [Progress("south", None, 0), Progress("north", None, 3), *of_shards]


async def test_another_number_is_refused_before_any_context_is_changed(url: str, services: Path) -> None:
    await migrate("north", url, shards=3, services=services)
    with pytest.raises(ShardCountFixed, match="north has 3 shards in this database, not 4"):
        await migrate(["south", "north"], url, shards=4, services=services)
    assert await column(url, "SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^(north|south)' ORDER BY 1") == [
        *("north", "north_00", "north_01", "north_02")
    ]


@pytest.mark.parametrize("count", [0, SHARDS_MAX + 1])
async def test_impossible_number_is_refused(url: str, services: Path, count: int) -> None:
    with pytest.raises(ShardCountFixed, match=f"1 to {SHARDS_MAX}"):
        await migrate("north", url, shards=count, services=services)
    assert await column(url, "SELECT nspname::text FROM pg_namespace WHERE nspname = 'north'") == []


async def test_all_contexts_of_a_database_have_the_same_number(url: str) -> None:
    assert await shard_count(url) is None
    await migrate("billing", url, shards=2)
    assert await shard_count(url) == 2
    with pytest.raises(ShardCountFixed):
        await migrate("metering", url, shards=3)
    await migrate("metering", url)
    assert await column(url, "SELECT shard_count FROM metering.sharding") == [2]
    await execute(url, ["UPDATE metering.sharding SET shard_count = 3"])
    with pytest.raises(ShardCountFixed, match="metering has 3 shards in this database, not 2"):
        await shard_count(url)


async def test_shards_from_before_their_number_was_recorded_are_taken_for_one(url: str, services: Path) -> None:
    await migrate("north", url, shards=1, services=services)
    await execute(url, ["DELETE FROM north.sharding", "INSERT INTO north_00.thing VALUES (1)"])
    with pytest.raises(ShardCountFixed, match="north has 1 shard in this database, not 2"):
        await migrate("north", url, shards=2, services=services)
    await execute(url, ["DELETE FROM north_00.thing"])
    await migrate("north", url, shards=2, services=services)
    assert await at(url, 2) == ["0001"] * 2


@pytest.mark.timeout(120)
async def test_the_highest_number_of_shards_can_be_migrated(url: str, services: Path) -> None:
    await migrate("north", url, shards=SHARDS_MAX, services=services)
    assert await at(url, SHARDS_MAX) == ["0001"] * SHARDS_MAX


async def test_new_migration_of_shards_is_written_beside_those_of_shards(url: str, services: Path) -> None:
    path, text = next_migration(folder_of("north", shards=True, services=services), "add_size")
    path.write_text(text.replace('"""\n        """', '"ALTER TABLE thing ADD size int"'))
    await migrate("north", url, shards=2, services=services)
    assert path == services / "north" / "migrations" / "shards" / "0002_add_size.py"
    assert await at(url, 2) == ["0002"] * 2
    with pytest.raises(ValueError, match="south has no shards"):
        folder_of("south", shards=True, services=services)
