"""Distributing over a cluster: what is asked of Citus, again and again and after failures. No Citus is needed here."""

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from libs.common.citus import ROLE_SETTINGS, ClusterNotReady, Distribution, distribute, nodes_of
from libs.common.database_url import plain_url, with_role
from libs.common.databases import create_database, drop_database, execute
from tests.support import citus_extension
from tests.support.database import TestPostgres, new_database_name

SCHEMAS = ("room_00", "room_01")
TABLES = ("house.models", "house.prices")


class Cluster:
    """A database with two shards and a role that works in them."""

    def __init__(self, url: str, role: str, password: str | None) -> None:
        self.url = url
        self.role = role
        self.password = password

    async def distribute(self) -> Distribution:
        return await distribute(self.url, SCHEMAS, TABLES, [self.role])

    async def column(self, statement: str, *arguments: object) -> list[object]:
        connection = await asyncpg.connect(plain_url(self.url))
        try:
            return [row[0] for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    async def calls(self) -> list[object]:
        """What was asked since the last time."""
        return await self.column("WITH gone AS (DELETE FROM calls RETURNING *) SELECT call FROM gone ORDER BY number")


def _role(name: str, password: str | None) -> str:
    return f"CREATE ROLE {name} LOGIN" + (f" PASSWORD '{password}'" if password else "")


def _tables(role: str) -> list[str]:
    statements = ["CREATE SCHEMA house", f"GRANT USAGE ON SCHEMA house TO {role}"]
    for schema in SCHEMAS:
        statements += [f"CREATE SCHEMA {schema}", f"GRANT USAGE ON SCHEMA {schema} TO {role}"]
    names = [*TABLES, *(f"{schema}.{table}" for schema in SCHEMAS for table in ("accounts", "transactions"))]
    statements += [f"CREATE TABLE {name} (id int PRIMARY KEY)" for name in names]
    statements += [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}" for name in names]
    append_only = ", ".join(["house.prices", *(f"{schema}.transactions" for schema in SCHEMAS)])
    return [*statements, f"REVOKE UPDATE, DELETE ON {append_only} FROM {role}"]


@pytest.fixture
async def plain(postgres: TestPostgres) -> AsyncIterator[Cluster]:
    """The database without the extension."""
    name, role = new_database_name(), f"tenant_{secrets.token_hex(8)}"
    url = await create_database(postgres.admin_url, name)
    await execute(url, [_role(role, postgres.password), *_tables(role)])
    yield Cluster(url, role, postgres.password)
    await drop_database(postgres.admin_url, name)
    await execute(postgres.admin_url, [f"DROP ROLE {role}"])


@pytest.fixture
async def cluster(plain: Cluster) -> Cluster:
    await citus_extension.install(plain.url)
    return plain


def _revokes(cluster: Cluster, table: str) -> list[object]:
    return [f"REVOKE {right} ON {table} FROM {cluster.role}" for right in ("DELETE", "UPDATE")]


async def test_all_is_distributed_once_and_the_rights_are_withheld_on_the_copies(cluster: Cluster) -> None:
    done = await cluster.distribute()

    assert done == Distribution(schemas=list(SCHEMAS), reference_tables=list(TABLES))
    assert await cluster.calls() == [
        "create_reference_table house.models",
        "create_reference_table house.prices",
        *_revokes(cluster, "house.prices"),
        "citus_schema_distribute room_00",
        *_revokes(cluster, "room_00.transactions"),
        "citus_schema_distribute room_01",
        *_revokes(cluster, "room_01.transactions"),
    ]


async def test_second_time_only_the_rights_are_withheld_again(cluster: Cluster) -> None:
    await cluster.distribute()
    await cluster.calls()

    assert await cluster.distribute() == Distribution(schemas=[], reference_tables=[])

    tables = ("house.prices", "room_00.transactions", "room_01.transactions")
    assert await cluster.calls() == [revoke for table in tables for revoke in _revokes(cluster, table)]


async def test_what_failed_is_done_the_next_time(cluster: Cluster) -> None:
    await execute(cluster.url, ["INSERT INTO broken VALUES ('room_01')"])
    with pytest.raises(asyncpg.InternalServerError, match="essential"):
        await cluster.distribute()
    assert (await nodes_of(cluster.url, SCHEMAS))["room_00"] == "first:5432"
    await cluster.calls()

    await execute(cluster.url, ["DELETE FROM broken"])
    assert await cluster.distribute() == Distribution(schemas=["room_01"], reference_tables=[])

    calls = await cluster.calls()
    assert [call for call in calls if not str(call).startswith("REVOKE")] == ["citus_schema_distribute room_01"]
    assert set(_revokes(cluster, "room_01.transactions")) <= set(calls)


async def test_steps_are_told_before_they_begin(cluster: Cluster) -> None:
    await execute(cluster.url, ["INSERT INTO broken VALUES ('room_00')"])
    steps: list[str] = []
    with pytest.raises(asyncpg.InternalServerError):
        await distribute(cluster.url, SCHEMAS, TABLES, [cluster.role], note=steps.append)
    assert steps == [
        "copying house.models to every node",
        "copying house.prices to every node",
        "distributing room_00",
    ]


async def test_role_has_its_settings_wherever_it_logs_in(cluster: Cluster) -> None:
    await cluster.distribute()
    settings = await cluster.column(
        "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = $1::text::regrole", cluster.role
    )
    assert settings == [f"{name}={value}" for name, value in ROLE_SETTINGS.items()]
    session = await asyncpg.connect(plain_url(with_role(cluster.url, cluster.role, cluster.password)))
    try:
        assert await session.fetchval("SHOW lock_timeout") == "500ms"
    finally:
        await session.close()


async def test_owner_that_may_not_change_roles_is_told_what_a_superuser_must_run(
    cluster: Cluster, postgres: TestPostgres
) -> None:
    owner = f"owner_{secrets.token_hex(8)}"
    everything = [
        _role(owner, postgres.password),
        f"GRANT ALL ON ALL TABLES IN SCHEMA public, house, room_00, room_01 TO {owner}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {owner}",
        f"GRANT ALL ON SCHEMA public, house, room_00, room_01 TO {owner}",
        *(f"ALTER SCHEMA {schema} OWNER TO {owner}" for schema in SCHEMAS),
    ]
    await execute(cluster.url, everything)
    own_url = with_role(cluster.url, owner, cluster.password)
    try:
        with pytest.raises(ClusterNotReady, match="superuser") as refused:
            await distribute(own_url, SCHEMAS, TABLES, [cluster.role])
        assert await cluster.calls() == []
        statements = str(refused.value).partition("again: ")[2].split("; ")
        assert len(statements) == len(ROLE_SETTINGS)

        await execute(cluster.url, statements)
        assert (await distribute(own_url, SCHEMAS, TABLES, [cluster.role])).schemas == list(SCHEMAS)
    finally:
        await execute(cluster.url, [f"REASSIGN OWNED BY {owner} TO CURRENT_USER", f"DROP OWNED BY {owner}"])
        await execute(postgres.admin_url, [f"DROP ROLE {owner}"])


async def test_server_without_the_extension_is_refused_and_nothing_is_changed(plain: Cluster) -> None:
    with pytest.raises(ClusterNotReady, match=r"without Citus.*CREATE EXTENSION citus.*Nothing was changed"):
        await plain.distribute()
    assert await plain.column("SELECT 1 FROM pg_db_role_setting WHERE setrole = $1::text::regrole", plain.role) == []


async def test_old_citus_and_a_cluster_without_nodes_are_refused(plain: Cluster) -> None:
    await citus_extension.install(plain.url, version="12.0-1")
    with pytest.raises(ClusterNotReady, match=r"has Citus 12\.0; 12\.1 or later is needed"):
        await plain.distribute()
    await execute(plain.url, ["UPDATE pg_extension SET extversion = '12.1-1' WHERE extname = 'citus'"])
    await execute(plain.url, ["UPDATE pg_dist_node SET shouldhaveshards = false"])
    with pytest.raises(ClusterNotReady, match="no node that takes shards"):
        await plain.distribute()
    assert await plain.calls() == []


async def test_names_that_are_not_there_are_refused_before_anything_is_changed(cluster: Cluster) -> None:
    with pytest.raises(ClusterNotReady, match=r"Not there: house\.nothing, nobody, room_02\. .*tollhouse migrate"):
        await distribute(
            cluster.url, ["room_00", "room_02"], ["house.models", "house.nothing"], [cluster.role, "nobody"]
        )
    assert await cluster.calls() == []


async def test_each_schema_is_on_the_node_that_has_its_tables(cluster: Cluster) -> None:
    server = (await nodes_of(cluster.url, ["house"]))["house"]
    assert server.startswith(("localhost:", "127.0.0.1:"))
    assert await nodes_of(cluster.url, SCHEMAS) == dict.fromkeys(SCHEMAS, server)

    await cluster.distribute()

    assert await nodes_of(cluster.url, [*SCHEMAS, "house"]) == {
        "room_00": "first:5432",
        "room_01": "second:6432",
        "house": server,
    }


async def test_on_a_plain_server_every_schema_is_on_the_server_itself(plain: Cluster) -> None:
    places = await nodes_of(plain.url, SCHEMAS)
    assert list(places) == list(SCHEMAS)
    assert len(set(places.values())) == 1
