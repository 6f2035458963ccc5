"""Compares the tables that a context declares, also for its shards, with the tables that its migrations create.

Both are built, each in a database of its own, and Postgres is asked to describe them. Its own wording makes the
comparison exact: types, defaults, checks, keys, index predicates, partition keys and storage settings all count.
Partitions are left out, because months are added and dropped at run time.
"""

import importlib
import uuid
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy import MetaData, pool
from sqlalchemy.ext.asyncio import create_async_engine

from libs.common.database_url import plain_url
from libs.common.databases import create_database, drop_database, execute
from libs.common.migrate import has_shards, migrate
from libs.common.sharding import shard_schema

if TYPE_CHECKING:
    from libs.common.database import RawConnection

_TABLES = """
SELECT c.oid, format('table %s', c.relname) AS name,
       format('kind %s, partitioned by %s, settings %s', c.relkind, pg_get_partkeydef(c.oid), c.reloptions) AS is
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'alembic_version'
"""

_PARTS = """
SELECT format('column %s.%s', c.relname, a.attname) AS name,
       format('%s%s, default %s, identity %s, generated %s, collation %s', format_type(a.atttypid, a.atttypmod),
              CASE WHEN a.attnotnull THEN ' not null' END, pg_get_expr(d.adbin, d.adrelid), a.attidentity,
              a.attgenerated, a.attcollation::regcollation) AS is
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('constraint %s.%s', conrelid::regclass, conname), pg_get_constraintdef(oid)
FROM pg_constraint WHERE conrelid = ANY($1::oid[]) AND contype <> 'n'
UNION ALL
SELECT format('index %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index WHERE indrelid = ANY($1::oid[])
UNION ALL
SELECT format('trigger %s.%s', tgrelid::regclass, tgname), pg_get_triggerdef(oid)
FROM pg_trigger WHERE tgrelid = ANY($1::oid[]) AND NOT tgisinternal
"""


async def declared_differences(context: str, admin_url: str) -> list[str]:
    """Every difference as a sentence; none when the declarations and the migrations agree.

    Two shards are looked at: the first gets its tables by a move, the others by migrations of their own.
    """
    name = f"declared_{context}_{uuid.uuid4().hex[:12]}"
    schemas = {context: "metadata"}
    if has_shards(context):
        schemas |= dict.fromkeys((shard_schema(context, 0), shard_schema(context, 1)), "shard_metadata")
    try:
        migrated_url = await create_database(admin_url, f"{name}_m")
        await migrate(context, migrated_url, shards=2)
        declared_url = await create_database(admin_url, f"{name}_d")
        found: list[str] = []
        for schema, attribute in schemas.items():
            await execute(declared_url, [f"CREATE SCHEMA {schema}"])
            await _create_declared(_declared(context, attribute), declared_url, schema)
            found += _differences(await _describe(declared_url, schema), await _describe(migrated_url, schema))
        return found
    finally:
        await drop_database(admin_url, f"{name}_m")
        await drop_database(admin_url, f"{name}_d")


def _declared(context: str, attribute: str) -> MetaData:
    metadata = getattr(importlib.import_module(f"services.{context}.tables"), attribute)
    if not isinstance(metadata, MetaData):
        raise TypeError(f"services.{context}.tables.{attribute} is no MetaData")
    return metadata


async def _create_declared(metadata: MetaData, url: str, schema: str) -> None:
    engine = create_async_engine("postgresql+asyncpg://", connect_args={"dsn": plain_url(url)}, poolclass=pool.NullPool)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"SET search_path = {schema}")
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


async def _describe(url: str, schema: str) -> dict[str, str]:
    """What Postgres says of every table of the schema and its parts, by name."""
    connection: RawConnection = await asyncpg.connect(
        plain_url(url), timeout=5, server_settings={"search_path": schema}
    )
    try:
        tables = await connection.fetch(_TABLES, schema)
        parts = await connection.fetch(_PARTS, [table["oid"] for table in tables])
    finally:
        await connection.close()
    return {row["name"]: row["is"] for row in (*tables, *parts)}


def _differences(declared: dict[str, str], migrated: dict[str, str]) -> list[str]:
    found = []
    for name in sorted(declared.keys() | migrated.keys()):
        if name not in migrated:
            found.append(f"{name} is declared and no migration makes it")
        elif name not in declared:
            found.append(f"{name} is made by a migration and not declared")
        elif declared[name] != migrated[name]:
            found.append(f"{name} is declared as ({declared[name]}) and migrated as ({migrated[name]})")
    return found
