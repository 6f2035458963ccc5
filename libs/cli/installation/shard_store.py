"""What each shard of a database holds. Read with the login that owns the schemas; nothing is written.

A statement reads the tables of one shard's schema, or the catalogue alone: on a Citus cluster each shard may be on
another machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from libs.common.database_url import plain_url
from libs.common.session_settings import CLUSTER_SETTINGS

if TYPE_CHECKING:
    from libs.common.database import RawConnection

ORGANIZATIONS_MAX: Final = 100_000
"""How many organizations of a shard are counted."""
_STATEMENT_TIMEOUT: Final = "60s"

# Catalogue only. A table that was never analyzed has -1 rows.
_SIZES: Final = """
    SELECT n.nspname AS schema, sum(greatest(c.reltuples, 0))::bigint AS rows,
           sum(pg_total_relation_size(c.oid))::bigint AS bytes
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY($1::text[]) AND c.relkind = 'r' AND c.relname <> 'alembic_version'
    GROUP BY n.nspname
"""
# What a node has of a table is asked of that node. The coordinator's catalogue knows nothing of its rows.
_SIZES_ON_NODES: Final = """
    SELECT n.nspname AS schema, sum(citus_total_relation_size(c.oid))::bigint AS bytes
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_dist_schema d ON d.schemaid = n.oid
    JOIN pg_dist_partition t ON t.logicalrelid = c.oid
    WHERE n.nspname = ANY($1::text[]) AND c.relkind = 'r' AND c.relname <> 'alembic_version'
    GROUP BY n.nspname
"""
# Jumps along the primary key from one organization to the next, instead of reading all accounts.
_ORGANIZATIONS: Final = """
    WITH RECURSIVE jumps (organization_id) AS (
        (SELECT organization_id FROM accounts ORDER BY organization_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT a.organization_id FROM accounts a
            WHERE a.organization_id > jumps.organization_id ORDER BY a.organization_id LIMIT 1
        )
        FROM jumps WHERE jumps.organization_id IS NOT NULL
    )
    SELECT count(organization_id) FROM (SELECT organization_id FROM jumps LIMIT $1) AS counted
"""


@dataclass(frozen=True, slots=True)
class ShardContent:
    """What a shard's schema holds."""

    version: str | None
    """Its newest migration, by its number; None where the schema or a table is missing."""
    rows: int | None = None
    """About how many rows it has, as of its tables' last ANALYZE; None where only another machine knows."""
    bytes: int = 0
    """The size of its tables with their indexes."""
    organizations: int | None = None
    """How many organizations have an account in it, at most ORGANIZATIONS_MAX + 1; None for a schema without."""


async def read_shards(url: str, schemas: Sequence[str], *, with_accounts: Sequence[str]) -> Mapping[str, ShardContent]:
    """Return what each schema holds. `with_accounts` are those of them in which organizations are counted."""
    settings = {
        "application_name": "tollhouse-shards",
        "statement_timeout": _STATEMENT_TIMEOUT,
        "default_transaction_read_only": "on",
    }
    connection = await asyncpg.connect(plain_url(url), timeout=5, server_settings={**settings, **CLUSTER_SETTINGS})
    try:
        sizes = {row["schema"]: (row["rows"], row["bytes"]) for row in await connection.fetch(_SIZES, list(schemas))}
        if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"):
            on_nodes = await connection.fetch(_SIZES_ON_NODES, list(schemas))
            sizes |= {row["schema"]: (None, row["bytes"]) for row in on_nodes}
        return {
            schema: await _read_shard(connection, schema, sizes.get(schema, (0, 0)), counted=schema in with_accounts)
            for schema in schemas
        }
    finally:
        await connection.close()


async def _read_shard(
    connection: "RawConnection", schema: str, size: tuple[int | None, int], *, counted: bool
) -> ShardContent:
    # The search path names the shard, so that the statements are constant. A missing schema on it is no error.
    await connection.execute("SELECT set_config('search_path', quote_ident($1), false)", schema)
    try:
        version: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        organizations: int | None = None
        if counted:
            organizations = await connection.fetchval(_ORGANIZATIONS, ORGANIZATIONS_MAX + 1)
    except asyncpg.UndefinedTableError:
        return ShardContent(version=None)
    return ShardContent(version, *size, organizations)
