"""Migrations, the roles they create, and what those roles may not do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from libs.common.database_url import plain_url, with_role
from libs.common.databases import create_database, drop_database, execute
from libs.common.migrate import MigrationLocked, MigrationStatus, migrate, migration_status
from libs.common.roles import role_of
from scripts.migration import next_migration
from tests.support.database import TestPostgres, new_database_name

_FIRST = """
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE {context}.thing (id int PRIMARY KEY)")
    op.execute("CREATE TABLE {context}.kept (id int PRIMARY KEY)")
    op.execute("REVOKE UPDATE, DELETE ON {context}.kept FROM tollhouse_{context}")
"""

_SECOND = """
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("INSERT INTO {context}.thing VALUES (1)")
    op.execute("{statement}")
"""


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """Two contexts that exist only in these tests."""
    for context in ("north", "south"):
        write_migration(tmp_path, context, "0001", _FIRST.format(context=context))
    return tmp_path


@pytest.fixture
async def url(postgres: TestPostgres) -> AsyncIterator[str]:
    name = new_database_name()
    yield await create_database(postgres.admin_url, name)
    await drop_database(postgres.admin_url, name)


def write_migration(services: Path, context: str, number: str, text: str) -> None:
    folder = services / context / "migrations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}_migration.py").write_text(text)


async def value(url: str, query: str) -> object:
    connection = await asyncpg.connect(plain_url(url))
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def as_role(url: str, context: str, statement: str) -> None:
    """Runs a statement with a context's rights."""
    await execute(url, [f"SET ROLE {role_of(context)}; {statement}"])


async def test_migrating_again_changes_nothing(url: str, services: Path) -> None:
    await migrate("north", url, services=services)
    before = await value(url, "SELECT xmin::text FROM north.alembic_version")
    await migrate("north", url, services=services)
    assert await value(url, "SELECT xmin::text FROM north.alembic_version") == before


async def test_concurrent_migrations_apply_each_step_once(url: str, services: Path) -> None:
    write_migration(services, "north", "0002", _SECOND.format(context="north", statement="SELECT pg_sleep(0.1)"))
    await asyncio.gather(*(migrate(["north", "south"], url, services=services) for _ in range(4)))
    assert await value(url, "SELECT count(*) FROM north.thing") == 1


async def test_failed_migration_keeps_earlier_ones_and_can_be_repeated(url: str, services: Path) -> None:
    write_migration(services, "north", "0002", _SECOND.format(context="north", statement="SELECT 1 / 0"))
    with pytest.raises(Exception, match="division by zero"):
        await migrate("north", url, services=services)
    assert await value(url, "SELECT version_num FROM north.alembic_version") == "0001"
    assert await value(url, "SELECT count(*) FROM north.thing") == 0
    write_migration(services, "north", "0002", _SECOND.format(context="north", statement="SELECT 1"))
    await migrate("north", url, services=services)
    assert await value(url, "SELECT version_num FROM north.alembic_version") == "0002"


async def test_migration_waits_a_limited_time_for_another(url: str, services: Path) -> None:
    holder = await asyncpg.connect(plain_url(url))
    try:
        await holder.execute("SELECT pg_advisory_lock(hashtextextended('tollhouse.migrate.north', 0))")
        with pytest.raises(MigrationLocked):
            await migrate("north", url, lock_wait_s=0.2, services=services)
    finally:
        await holder.close()
    await migrate("north", url, services=services)


async def test_migration_gives_up_a_lock_and_gets_it_later(url: str, services: Path) -> None:
    await migrate("north", url, services=services)
    statement = "ALTER TABLE north.thing ADD COLUMN size int"
    write_migration(services, "north", "0002", _SECOND.format(context="north", statement=statement))
    holder = await asyncpg.connect(plain_url(url))
    try:
        await holder.execute("BEGIN; SELECT * FROM north.thing")
        migrating = asyncio.create_task(migrate("north", url, services=services))
        await asyncio.sleep(1.3)
        assert not migrating.done()
        await holder.execute("COMMIT")
        await migrating
    finally:
        await holder.close()
    assert await value(url, "SELECT count(*) FROM north.thing") == 1


async def test_role_works_in_its_own_schema_only(url: str, services: Path) -> None:
    await migrate(["north", "south"], url, services=services)
    await as_role(url, "north", "INSERT INTO north.thing VALUES (1); UPDATE north.thing SET id = 2")
    await as_role(url, "north", "INSERT INTO north.kept VALUES (1); DELETE FROM north.thing")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM north.thing",
        "INSERT INTO north.thing VALUES (1)",
        "CREATE TABLE north.mine (id int)",
        "CREATE TABLE south.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "DROP TABLE south.thing",
        "UPDATE south.kept SET id = 2",
        "DELETE FROM south.kept",
        "UPDATE south.alembic_version SET version_num = '0000'",
        "CREATE ROLE mine",
    ],
)
async def test_role_may_only_change_rows_of_its_own_tables(url: str, services: Path, statement: str) -> None:
    await migrate(["north", "south"], url, services=services)
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError)):
        await as_role(url, "south", statement)


async def test_rights_revoked_by_a_migration_stay_revoked(url: str, services: Path) -> None:
    for _ in range(2):
        await migrate("north", url, services=services)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_role(url, "north", "DELETE FROM north.kept")


async def test_status_lists_applied_and_pending_migrations_and_changes_nothing(url: str, services: Path) -> None:
    pending = MigrationStatus(applied=[], pending=["0001_migration"], unknown=[])
    assert await migration_status(["north", "south"], None, services=services) == {"north": pending, "south": pending}
    assert await migration_status(["north"], url, services=services) == {"north": pending}
    assert await value(url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'north'") == 0

    await migrate("north", url, services=services)
    write_migration(services, "north", "0002", _SECOND.format(context="north", statement="SELECT 1"))

    partly = MigrationStatus(applied=["0001_migration"], pending=["0002_migration"], unknown=[])
    assert await migration_status(["north"], url, services=services) == {"north": partly}


async def test_status_is_read_without_the_right_to_write(url: str, services: Path) -> None:
    await migrate("north", url, services=services)
    # The service's own role may write rows of its tables, but neither the version table nor any schema.
    own = MigrationStatus(applied=["0001_migration"], pending=[], unknown=[])
    assert await migration_status(["north"], with_role(url, role_of("north")), services=services) == {"north": own}


async def test_status_names_a_migration_that_only_a_newer_version_has(url: str, services: Path) -> None:
    write_migration(services, "north", "0002", _SECOND.format(context="north", statement="SELECT 1"))
    await migrate("north", url, services=services)
    (services / "north" / "migrations" / "0002_migration.py").unlink()
    newer = MigrationStatus(applied=["0001_migration"], pending=[], unknown=["0002"])
    assert await migration_status(["north"], url, services=services) == {"north": newer}


async def test_new_migrations_form_one_chain_and_can_be_applied(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "north" / "migrations"
    folder.mkdir(parents=True)
    for name in ("first", "add_things", "drop_things"):
        path, text = next_migration(folder, name)
        path.write_text(text.replace('"""\n        """', '"SELECT 1"'))
    await migrate("north", url, services=tmp_path)
    (status,) = (await migration_status(["north"], url, services=tmp_path)).values()
    assert status.applied == ["0001_first", "0002_add_things", "0003_drop_things"]


@pytest.mark.parametrize("name", ["", "Add", "add things", "../x", "1st", "x" * 62, "a\n", "first"])
def test_invalid_migration_name_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.py").touch()
    with pytest.raises(ValueError, match="name"):
        next_migration(tmp_path, name)
