"""Statements of tests on the tables of shards, and what keeps a shard's connection out of the other shards.

The whole suite runs with as many shards as TOLLHOUSE_TEST_SHARDS says, 1 by default. A test that needs another number
sets TOLLHOUSE_SHARDS, which the services of the test and the functions of this module read.
"""

import os
import re
from typing import Final

import asyncpg
from sqlalchemy import MetaData

from libs.common import database as database_module
from libs.common.database import Database, set_path_statement
from libs.common.database_url import plain_url
from libs.common.roles import role_of
from libs.common.sharding import shard_number, shard_schema
from services.billing.tables import shard_metadata as billing_tables
from services.metering.tables import shard_metadata as metering_tables

SHARDS: Final = int(os.environ.get("TOLLHOUSE_TEST_SHARDS", "1"))
_TABLES: Final[dict[str, MetaData]] = {"billing": billing_tables, "metering": metering_tables}
_NAMES: Final = "|".join(
    {*billing_tables.tables, *metering_tables.tables, "usage_records_[a-z0-9_]+", "ensure_usage_month"}
)
_TABLE: Final = re.compile(rf"\b(billing|metering)\.(?=(?:{_NAMES})\b)")
_MAKE_ROLE: Final = """DO $$ BEGIN
    CREATE ROLE {role} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT {role} TO {login}"""
# Gives a role the rights of another on everything in a schema.
_RIGHTS: Final = """
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', $1::text, $3::text)
UNION ALL
SELECT format('GRANT %s ON %I.%I TO %I', acl.privilege_type, $1::text, c.relname, $3::text)
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) acl JOIN pg_roles r ON r.oid = acl.grantee
WHERE c.relnamespace = $1::text::regnamespace AND r.rolname = $2::text
UNION ALL
SELECT format('GRANT %s (%I) ON %I.%I TO %I', acl.privilege_type, a.attname, $1::text, c.relname, $3::text)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN LATERAL aclexplode(a.attacl) acl
    JOIN pg_roles r ON r.oid = acl.grantee
WHERE c.relnamespace = $1::text::regnamespace AND r.rolname = $2::text
UNION ALL
SELECT format('GRANT EXECUTE ON ROUTINE %s TO %I', p.oid::regprocedure, $3::text)
FROM pg_proc p WHERE p.pronamespace = $1::text::regnamespace
"""


def shard_count() -> int:
    """Return how many shards the databases and services of the running test have."""
    return int(os.environ.get("TOLLHOUSE_SHARDS", SHARDS))


def in_each_shard(statement: str) -> list[str]:
    """Return a statement on tables such as `billing.accounts` once for each shard, and any other one as it is."""
    if not _TABLE.search(statement):
        return [statement]
    return [_TABLE.sub(rf"\1_{number:02d}.", statement) for number in range(shard_count())]


def over_all_shards(statement: str) -> str:
    """Return a query on tables such as `billing.accounts` as one over the rows of all shards."""
    return _TABLE.sub(r"every_\1.", statement)


def in_shard_of(organization_id: str, statement: str) -> str:
    """Return a statement on tables such as `billing.accounts` as one on the shard of an organization."""
    schema = shard_schema(r"\1", shard_number(organization_id, shard_count()))
    return _TABLE.sub(rf"{schema}.", statement)


async def execute_in_shards(admin_url: str, statement: str, *values: object) -> None:
    """Run a statement on tables such as `billing.accounts` in each shard, as the owner of the schemas."""
    connection = await asyncpg.connect(plain_url(admin_url))
    try:
        for one in in_each_shard(statement):
            await connection.execute(one, *values)
    finally:
        await connection.close()


async def value_over_shards(admin_url: str, query: str, *values: object) -> object:
    """Return the value of a query on tables such as `billing.accounts` over the rows of all shards."""
    return await _value(admin_url, over_all_shards(query), *values)


async def value_in_shard_of(organization_id: str, admin_url: str, query: str, *values: object) -> object:
    """Return the value of a query on tables such as `billing.accounts` in the shard of an organization."""
    return await _value(admin_url, in_shard_of(organization_id, query), *values)


async def _value(admin_url: str, query: str, *values: object) -> object:
    connection = await asyncpg.connect(plain_url(admin_url))
    try:
        return await connection.fetchval(query, *values)
    finally:
        await connection.close()


async def prepare_shards(admin_url: str, count: int = SHARDS) -> None:
    """Make the views over all shards, and a role for each shard that can see no other one."""
    connection = await asyncpg.connect(plain_url(admin_url))
    try:
        for context, metadata in _TABLES.items():
            await connection.execute(f"CREATE SCHEMA every_{context}")
            for table in [*metadata.tables, *(["usage_records_default"] if context == "metering" else [])]:
                parts = [f"TABLE {shard_schema(context, number)}.{table}" for number in range(count)]
                await connection.execute(f"CREATE VIEW every_{context}.{table} AS {' UNION ALL '.join(parts)}")
            for number in range(count if count > 1 else 0):
                await connection.execute(_MAKE_ROLE.format(role=_shard_role(context, number), login=role_of(context)))
                for schema in (context, shard_schema(context, number)):
                    rights = await connection.fetch(_RIGHTS, schema, role_of(context), _shard_role(context, number))
                    await connection.execute(";".join(row[0] for row in rights))
    finally:
        await connection.close()


def _shard_role(context: str, number: int) -> str:
    return f"{role_of(context)}_in_shard_{number:02d}"


def keep_shards_apart() -> None:
    """Let each connection of a shared pool work as a role that sees its own shard only.

    A statement that touches two shards fails then.
    """

    def set_path_and_role(database: Database) -> str:
        context, _, number = database.schema.rpartition("_")
        if context not in _TABLES:
            return set_path_statement(database)
        return f"{set_path_statement(database)}; SET ROLE {_shard_role(context, int(number))}"

    database_module.set_path_statement = set_path_and_role
