"""Spreads the shards over the machines of a Citus cluster, and tells on which machine each one is.

Citus is an extension of Postgres. Its coordinator takes all connections and sends each statement to the node that has
the data. A shard's schema becomes a distributed schema: its tables are on one node together, and move together
(`citus_schema_move`). Tables that statements of every shard join become reference tables, with a copy on each node.
deploy/citus/README.md is the guide.

The functions and the tables of the catalogue named here are those of Citus 12.1 and later.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from libs.common.database_url import database_name, plain_url
from libs.common.roles import quoted
from libs.common.session_settings import CLUSTER_SETTINGS, LOCK_TIMEOUT_MS

if TYPE_CHECKING:
    from libs.common.database import RawConnection

ROLE_SETTINGS: Final[Mapping[str, str]] = {
    "lock_timeout": f"{LOCK_TIMEOUT_MS}ms",
    "jit": "off",
    "TimeZone": "UTC",
    **CLUSTER_SETTINGS,
}
"""What a service's role is given on every node. A session's own settings hold on the coordinator only, and the
coordinator logs in to the nodes as the same role. The statement timeout is not among them: where it runs out on the
coordinator, the node's part is cancelled, and the checks of `tollhouse verify` rightly take longer."""

_OLDEST: Final = (12, 1)
_LOCK_WAIT: Final = "10s"
_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")

# Asked of the catalogue, and not of the view `citus_shards`, which asks all nodes for the sizes of their tables.
_PLACES: Final = """
    SELECT n.nspname AS schema, string_agg(DISTINCT w.nodename || ':' || w.nodeport, ', ') AS nodes
    FROM pg_dist_schema d
    JOIN pg_namespace n ON n.oid = d.schemaid
    JOIN pg_dist_partition t ON t.colocationid = d.colocationid
    JOIN pg_dist_shard s ON s.logicalrelid = t.logicalrelid
    JOIN pg_dist_placement p ON p.shardid = s.shardid
    JOIN pg_dist_node w ON w.groupid = p.groupid AND w.noderole = 'primary'
    WHERE n.nspname = ANY($1::text[])
    GROUP BY n.nspname
"""
_DISTRIBUTED: Final = """
    SELECT n.nspname FROM pg_dist_schema d JOIN pg_namespace n ON n.oid = d.schemaid WHERE n.nspname = ANY($1::text[])
"""
_REFERENCE_TABLES: Final = """
    SELECT name FROM unnest($1::text[]) AS name
    JOIN pg_dist_partition t ON t.logicalrelid = name::regclass AND t.partmethod = 'n' AND t.repmodel = 't'
"""
_NODES: Final = """
    SELECT count(*) FROM pg_dist_node WHERE noderole = 'primary' AND isactive AND shouldhaveshards
"""
_MISSING: Final = """
    SELECT name FROM unnest($1::text[]) AS name WHERE to_regnamespace(quote_ident(name)) IS NULL
    UNION ALL SELECT name FROM unnest($2::text[]) AS name WHERE to_regclass(name) IS NULL
    UNION ALL SELECT name FROM unnest($3::text[]) AS name WHERE to_regrole(quote_ident(name)) IS NULL
"""
_ROLE_SETTINGS: Final = """
    SELECT unnest(s.setconfig) FROM pg_db_role_setting s
    JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database()
    WHERE s.setrole = $1::text::regrole
"""
# By role and kind of right, the tables of which a role that works in their schema has not that right.
_WITHHELD: Final = """
    SELECT quote_ident(role) AS role, "right", string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) AS tables
    FROM pg_class c
    JOIN pg_dist_partition t ON t.logicalrelid = c.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN unnest($3::text[]) AS role
    CROSS JOIN unnest($4::text[]) AS "right"
    WHERE (n.nspname = $1 OR c.oid = ANY($2::text[]::regclass[]))
        AND has_schema_privilege(role, n.oid, 'USAGE') AND NOT has_table_privilege(role, c.oid, "right")
    GROUP BY role, "right" ORDER BY role, "right"
"""


class ClusterNotReady(Exception):
    """The database cannot be distributed as it is; the message says why and what to do. No table was moved."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a call of `distribute` changed; empty where all was as it should be."""

    schemas: Sequence[str]
    reference_tables: Sequence[str]


def _ignore(_: str) -> None:
    return


async def distribute(
    admin_url: str,
    schemas: Sequence[str],
    reference_tables: Sequence[str],
    roles: Sequence[str],
    *,
    note: Callable[[str], None] = _ignore,
) -> Distribution:
    """Make schemas distributed and tables reference tables, where they are not yet.

    Each step is a transaction of its own, so after a failure a second call does what is left. `admin_url` logs in to
    the coordinator as the owner of the schemas. Reference tables are named with their schema, a table that another one
    refers to before it. `roles` are the login roles of the services: they get the settings that they need on each node,
    and their rights are taken back once more, because the copies on the nodes are made with a schema's default rights.
    `note` is told of each step before it begins.

    Raises:
        ClusterNotReady: the extension is missing or too old, the cluster has no node for shards, something named does
            not exist, or the login may not change the roles' settings. No table was moved.
    """
    async with _connect(admin_url) as connection:
        await _require_cluster(connection, database_name(admin_url))
        await _require_existing(connection, schemas, reference_tables, roles)
        await connection.execute("SELECT pg_advisory_lock(hashtextextended('tollhouse.distribute', 0))")
        for role in roles:
            await _set_up_role(connection, role, database_name(admin_url))
        shared = await _names(connection, _REFERENCE_TABLES, reference_tables)
        new_tables = [table for table in reference_tables if table not in shared]
        for table in new_tables:
            note(f"copying {table} to every node")
            await connection.execute("SELECT create_reference_table($1::text::regclass)", table)
        await _withhold_rights(connection, "", reference_tables, roles)
        distributed = await _names(connection, _DISTRIBUTED, schemas)
        new_schemas = [schema for schema in schemas if schema not in distributed]
        for schema in schemas:
            if schema in new_schemas:
                note(f"distributing {schema}")
                await connection.execute("SELECT citus_schema_distribute(quote_ident($1)::regnamespace)", schema)
            await _withhold_rights(connection, schema, (), roles)
    return Distribution(schemas=new_schemas, reference_tables=new_tables)


async def require_cluster(admin_url: str) -> None:
    """Return where `distribute` can begin, as far as that can be told before anything is migrated.

    Raises:
        ClusterNotReady: the extension is missing or too old, or the cluster has no node for shards.
    """
    async with _connect(admin_url) as connection:
        await _require_cluster(connection, database_name(admin_url))


async def nodes_of(admin_url: str, schemas: Sequence[str]) -> Mapping[str, str]:
    """Return the machine that each schema is on, as `host:port`; for one that is not distributed, the server itself.

    No node is asked, so it answers while one is down.
    """
    own = _address(admin_url)
    async with _connect(admin_url) as connection:
        if await _version(connection) is None:
            return dict.fromkeys(schemas, own)
        places = await connection.fetch(_PLACES, list(schemas))
    return dict.fromkeys(schemas, own) | {place["schema"]: place["nodes"] for place in places}


async def _require_cluster(connection: "RawConnection", database: str) -> None:
    version = await _version(connection)
    guide = "deploy/citus/README.md says how. Nothing was changed."
    if version is None:
        raise ClusterNotReady(
            f"The database {database} is on a server without Citus. Shards can be spread over several machines only on"
            " a Citus cluster: install the extension on each of its servers, name it in shared_preload_libraries, and"
            f' run "CREATE EXTENSION citus" in this database. {guide}'
        )
    if version < _OLDEST:
        needed, found = (".".join(map(str, numbers)) for numbers in (_OLDEST, version))
        raise ClusterNotReady(f"The database {database} has Citus {found}; {needed} or later is needed. {guide}")
    if not await connection.fetchval(_NODES):
        raise ClusterNotReady(
            "The Citus cluster has no node that takes shards: add one with citus_add_node, or let the coordinator take"
            f" some with citus_set_node_property. {guide}"
        )


async def _version(connection: "RawConnection") -> tuple[int, ...] | None:
    """The version of the extension, such as 13, 2; None where it is not there."""
    found = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
    return None if found is None else tuple(int(part) for part in str(found).partition("-")[0].split("."))


async def _require_existing(
    connection: "RawConnection", schemas: Sequence[str], tables: Sequence[str], roles: Sequence[str]
) -> None:
    missing = await _names(connection, _MISSING, schemas, tables, roles)
    if missing:
        names = ", ".join(sorted(missing))
        raise ClusterNotReady(f'Not there: {names}. Run "tollhouse migrate" first. Nothing was changed.')


async def _set_up_role(connection: "RawConnection", role: str, database: str) -> None:
    """Give a role its settings on every node.

    Citus repeats ALTER ROLE on the nodes that have the role, and sends the settings along when it makes the role on
    another one.
    """
    statements = [
        f"ALTER ROLE {_identifier(role)} IN DATABASE {_identifier(database)} SET {name} = {quoted(value)}"
        for name, value in ROLE_SETTINGS.items()
    ]
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        present = await _names(connection, _ROLE_SETTINGS, role)
        if present >= {f"{name}={value}" for name, value in ROLE_SETTINGS.items()}:
            return  # Somebody who may has set them before.
        raise ClusterNotReady(
            f"The login may not change the settings of {role}. Let a superuser run this on the coordinator, and"
            " distribute again: " + "; ".join(statements)
        ) from error


async def _withhold_rights(
    connection: "RawConnection", schema: str, tables: Sequence[str], roles: Sequence[str]
) -> None:
    """Revoke once more what roles may not do with a schema's tables, so that Citus repeats it on their copies."""
    for withheld in await connection.fetch(_WITHHELD, schema, list(tables), list(roles), list(_RIGHTS)):
        await connection.execute(f"REVOKE {withheld['right']} ON {withheld['tables']} FROM {withheld['role']}")


async def _names(connection: "RawConnection", statement: str, *arguments: Sequence[str]) -> set[str]:
    """The only column of a statement's answer."""
    values = [argument if isinstance(argument, str) else list(argument) for argument in arguments]
    return {str(row[0]) for row in await connection.fetch(statement, *values)}


@asynccontextmanager
async def _connect(admin_url: str) -> AsyncIterator["RawConnection"]:
    """A connection without a limit on statements: distributing a schema copies all that is in it."""
    settings = {"application_name": "tollhouse-migrate", "lock_timeout": _LOCK_WAIT, "statement_timeout": "0"}
    connection = await asyncpg.connect(
        plain_url(admin_url), timeout=5, server_settings={**settings, **CLUSTER_SETTINGS}
    )
    try:
        yield connection
    finally:
        await connection.close()


def _address(url: str) -> str:
    """The host and port of a URL; a socket is on this machine."""
    parts = urlsplit(plain_url(url))
    query = parse_qs(parts.query)
    host = parts.hostname or query.get("host", ["localhost"])[0]
    port = parts.port or query.get("port", ["5432"])[0]
    return f"{'localhost' if host.startswith('/') else host}:{port}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
