"""What Database promises its callers when statements fail, calls are cancelled and servers go away."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import exc, text

from libs.common.database import Database, open_database, violated_constraint
from libs.common.database_url import database_name, plain_url
from libs.common.databases import create_database, drop_database, execute
from libs.common.errors import Conflict, DeadlineExceeded, Unavailable
from tests.support.database import TestPostgres, new_database_name

_TABLE = [
    "CREATE SCHEMA room",
    "CREATE TABLE room.thing (id int CONSTRAINT thing_unique UNIQUE, size int CONSTRAINT thing_size CHECK (size > 0))",
]


@pytest.fixture
async def url(postgres: TestPostgres) -> AsyncIterator[str]:
    name = new_database_name()
    created = await create_database(postgres.admin_url, name)
    await execute(created, _TABLE)
    yield created
    await drop_database(postgres.admin_url, name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = open_database(url, schema="room", pool_size=2, statement_timeout_ms=300, lock_timeout_ms=100)
    yield database
    await database.close()


async def count(database: Database) -> int:
    async with database.raw_connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM thing"))


async def end_all_sessions(url: str) -> None:
    others = "pid <> pg_backend_pid() AND datname = current_database()"
    await execute(url, [f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"])  # noqa: S608


async def test_session_settings_are_ours(database: Database) -> None:
    async with database.raw_connection() as connection:
        names = ("TimeZone", "statement_timeout", "lock_timeout", "search_path", "application_name")
        found = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
    assert found == ["UTC", "300ms", "100ms", '"room"', "tollhouse-room"]


async def test_statement_with_few_keys_is_planned_once(url: str) -> None:
    database = open_database(url, schema="room", plan_by_key=True)
    query = "SELECT count(*) FROM unnest($1::int[]) AS k (id) CROSS JOIN LATERAL (SELECT FROM thing WHERE id = k.id) f"
    plans = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement = $1"
    async with database.raw_connection() as connection:
        for _ in range(20):
            await connection.fetchval(query, [1])
        assert tuple(await connection.fetchrow(plans, query) or ()) == (20, 0)
    await database.close()


async def test_cluster_does_not_look_through_its_shards_for_the_drivers_queries(database: Database) -> None:
    warnings: list[str] = []
    async with database.raw_connection() as connection:
        connection.add_log_listener(lambda _, message: warnings.append(str(message)))
        assert await connection.fetchval("SHOW citus.override_table_visibility") == "off"
        assert await connection.fetchval("SELECT ARRAY[1]::numeric[] || 2::numeric") == [1, 2]
    assert warnings == []


async def test_built_in_types_are_asked_about_once_in_a_process_and_others_by_each_connection(url: str) -> None:
    await execute(url, ["CREATE TYPE room.colour AS ENUM ('red', 'green')"])
    asked: list[list[str]] = []
    for _ in range(2):
        database = open_database(url, schema="room", pool_size=1)
        async with database.raw_connection() as connection:
            queries: list[str] = []
            asked.append(queries)
            with connection.query_logger(lambda record, into=queries: into.append(record.query)):
                found = await connection.fetchval("SELECT $1::uuid[]", ["018f3f2c-6f0e-7cc3-9a55-0d6a2b1c4e01"])
                assert str(found[0]) == "018f3f2c-6f0e-7cc3-9a55-0d6a2b1c4e01"
                assert await connection.fetchval("SELECT $1::macaddr[]", ["08:00:2b:01:02:03"]) is not None
                assert await connection.fetchval("SELECT $1::colour", "green") == "green"
        await database.close()
    lookups = [sum("typeinfo" in query for query in queries) for queries in asked]
    assert lookups[0] >= 2
    assert lookups[1] == 1


async def test_transaction_commits_when_the_body_ends(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("INSERT INTO thing VALUES (1, 1)"))
    async with database.raw_transaction() as raw:
        await raw.execute("INSERT INTO thing VALUES (2, 1)")
    assert await count(database) == 2


async def test_transaction_rolls_back_when_the_body_raises(database: Database) -> None:
    async def core() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (1, 1)"))
            raise LookupError

    async def raw() -> None:
        async with database.raw_transaction() as connection:
            await connection.execute("INSERT INTO thing VALUES (1, 1)")
            raise LookupError

    for body in (core, raw):
        with pytest.raises(LookupError):
            await body()
    assert await count(database) == 0


async def test_violated_constraint_is_named_in_core_and_raw_transactions(database: Database) -> None:
    with pytest.raises(exc.IntegrityError) as core:
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (1, 0)"))
    with pytest.raises(Exception, match="thing_unique") as raw_error:
        async with database.raw_transaction() as raw:
            await raw.execute("INSERT INTO thing VALUES (1, 1), (1, 1)")
    assert violated_constraint(core.value) == "thing_size"
    assert violated_constraint(raw_error.value) == "thing_unique"
    assert violated_constraint(LookupError()) is None


async def test_swallowed_statement_error_is_never_taken_for_a_commit(database: Database) -> None:
    async def core() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (1, 1)"))
            with pytest.raises(exc.IntegrityError):
                await connection.execute(text("INSERT INTO thing VALUES (2, 0)"))

    async def raw() -> None:
        async with database.raw_transaction() as connection:
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute("INSERT INTO thing VALUES (2, 0)")

    with pytest.raises(exc.DBAPIError):
        await core()
    with pytest.raises(RuntimeError):
        await raw()
    assert await count(database) == 0


async def test_savepoint_rollback_keeps_changes_outside_it(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("INSERT INTO thing VALUES (1, 1)"))
        with pytest.raises(exc.IntegrityError):
            async with connection.begin_nested():
                await connection.execute(text("INSERT INTO thing VALUES (2, 0)"))
    assert await count(database) == 1


async def test_snapshot_is_read_only_and_consistent(database: Database) -> None:
    async with database.snapshot() as connection:
        before = await connection.scalar(text("SELECT count(*) FROM thing"))
        async with database.raw_transaction() as raw:
            await raw.execute("INSERT INTO thing VALUES (1, 1)")
        assert await connection.scalar(text("SELECT count(*) FROM thing")) == before
    with pytest.raises(Unavailable):
        async with database.snapshot() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (2, 1)"))


async def test_slow_statement_becomes_deadline_exceeded(database: Database) -> None:
    with pytest.raises(DeadlineExceeded):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT pg_sleep(2)"))
    with pytest.raises(DeadlineExceeded):
        async with database.raw_connection() as raw:
            await raw.execute("SELECT pg_sleep(2)")
    await database.ping()


async def test_lock_timeout_becomes_conflict(database: Database) -> None:
    async with database.raw_transaction() as holder:
        await holder.execute("LOCK TABLE thing")
        with pytest.raises(Conflict):
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO thing VALUES (1, 1)"))
        with pytest.raises(Conflict):
            async with database.raw_transaction() as raw:
                await raw.execute("INSERT INTO thing VALUES (1, 1)")


async def test_full_pool_becomes_unavailable(url: str) -> None:
    database = open_database(url, schema="room", pool_size=1, acquire_timeout_ms=50)
    async with database.raw_connection():
        with pytest.raises(Unavailable):
            async with database.raw_connection():
                pass
        with pytest.raises(Unavailable):
            async with database.transaction():
                pass
    await database.ping()
    await database.close()


async def test_unreachable_server_becomes_unavailable(url: str) -> None:
    database = open_database("postgresql://nobody@127.0.0.1:1/nothing", schema="room")
    with pytest.raises(Unavailable):
        await database.ping()
    await database.close()


async def test_lost_session_becomes_unavailable_and_the_next_call_works(database: Database, url: str) -> None:
    async def core() -> None:
        async with database.transaction() as connection:
            await end_all_sessions(url)
            await connection.execute(text("SELECT 1"))

    async def raw() -> None:
        async with database.raw_transaction() as connection:
            await end_all_sessions(url)
            await connection.execute("SELECT 1")

    for body in (core, raw):
        with pytest.raises(Unavailable):
            await body()
    await database.ping()


async def test_session_lost_while_idle_is_replaced_without_an_error(database: Database, url: str) -> None:
    await database.warm(2)
    await end_all_sessions(url)
    await asyncio.sleep(0.05)
    for _ in range(3):
        await database.ping()


async def test_changed_table_under_a_prepared_statement_becomes_conflict(database: Database, url: str) -> None:
    statement = "SELECT * FROM thing"
    async with database.raw_transaction() as raw:
        await raw.fetch(statement)
    await execute(url, ["ALTER TABLE room.thing ADD COLUMN colour text"])
    with pytest.raises(Conflict):
        async with database.raw_transaction() as raw:
            await raw.fetch(statement)
    async with database.raw_transaction() as raw:
        await raw.fetch(statement)


@pytest.mark.parametrize("way", ["core", "raw"])
async def test_cancelled_statement_leaves_no_change_and_a_usable_pool(database: Database, way: str) -> None:
    async def core() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (1, 1)"))
            await connection.execute(text("SELECT pg_sleep(0.2)"))

    async def raw() -> None:
        async with database.raw_transaction() as connection:
            await connection.execute("INSERT INTO thing VALUES (1, 1)")
            await connection.execute("SELECT pg_sleep(0.2)")

    for _ in range(5):
        task = asyncio.create_task(core() if way == "core" else raw())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await count(database) == 0
    await asyncio.gather(*(count(database) for _ in range(6)))


@pytest.mark.parametrize("way", ["core", "raw"])
async def test_cancellation_at_any_moment_keeps_all_or_nothing(database: Database, way: str) -> None:
    """Both rows or none are stored, whenever the cancellation happens, and every connection stays usable."""

    async def core(number: int) -> None:
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (:id, 1)"), {"id": 2 * number})
            await connection.execute(text("INSERT INTO thing VALUES (:id, 1)"), {"id": 2 * number + 1})

    async def raw(number: int) -> None:
        async with database.raw_transaction() as connection:
            await connection.execute("INSERT INTO thing VALUES ($1, 1)", 2 * number)
            await connection.execute("INSERT INTO thing VALUES ($1, 1)", 2 * number + 1)

    finished = set()
    for number in range(120):
        task = asyncio.create_task(core(number) if way == "core" else raw(number))
        for _ in range(number % 40):
            await asyncio.sleep(0)
        await asyncio.sleep(0 if number % 3 else 0.001)
        task.cancel()
        try:
            await task
            finished.add(number)
        except asyncio.CancelledError:
            pass
    async with database.raw_connection() as connection:
        rows = await connection.fetch("SELECT id / 2 AS number, count(*) AS rows FROM thing GROUP BY 1")
    assert {row["rows"] for row in rows} <= {2}
    assert finished <= {row["number"] for row in rows}
    await asyncio.gather(*(database.ping() for _ in range(6)))


async def test_cancellation_during_commit_waits_for_its_outcome(database: Database) -> None:
    """A caller that cancels and waits may read the table at once: no commit is still running in the background."""
    async with database.raw_connection() as connection:
        await connection.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN PERFORM pg_sleep(0.15); RETURN NULL; END'"
        )
        await connection.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON thing DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION wait()"
        )

    async def insert() -> None:
        async with database.raw_transaction() as raw:
            await raw.execute("INSERT INTO thing VALUES (1, 1)")

    task = asyncio.create_task(insert())
    await asyncio.sleep(0.08)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(database) == 1


async def wait_until_no_session_is_left(admin_url: str, url: str) -> None:
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'tollhouse-room'"
    connection = await asyncpg.connect(plain_url(admin_url))
    try:
        async with asyncio.timeout(10):
            while await connection.fetchval(left, database_name(url)):  # noqa: ASYNC110 -- Postgres tells of no end.
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


@pytest.mark.parametrize("way", ["raw", "core"])
async def test_connection_that_is_given_back_after_the_close_ends(url: str, postgres: TestPostgres, way: str) -> None:
    database = open_database(url, schema="room")
    inside, closed = asyncio.Event(), asyncio.Event()

    async def insert() -> None:
        if way == "raw":
            async with database.raw_transaction() as raw:
                await raw.execute("INSERT INTO thing VALUES (1, 1)")
                inside.set()
                await closed.wait()
        else:
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO thing VALUES (1, 1)"))
                inside.set()
                await closed.wait()

    task = asyncio.create_task(insert())
    await inside.wait()
    await database.close()
    closed.set()
    await task
    await wait_until_no_session_is_left(postgres.admin_url, url)
    assert await count(database) == 1, "it was committed, and then its connection ended"
    await wait_until_no_session_is_left(postgres.admin_url, url)


@pytest.mark.parametrize("steps", range(6))
async def test_connection_that_is_made_during_the_close_ends(url: str, postgres: TestPostgres, steps: int) -> None:
    database = open_database(url, schema="room")
    task = asyncio.create_task(database.ping())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await database.close()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    await wait_until_no_session_is_left(postgres.admin_url, url)
