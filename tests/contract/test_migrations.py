"""The migrations create the tables that the code declares, without blocking traffic on a busy database."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Index, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint

from libs.common.database_url import plain_url
from libs.common.migrate import CONTEXTS, has_shards, render_sql
from tests.contract.sources import ROOT
from tests.support.database import TestPostgres
from tests.support.declared import declared_differences

# The migration tool's own table. It is created first, before any other table exists that could be locked.
VERSION_TABLE = re.compile(r"CREATE TABLE \w+\.alembic_version \(.*?\);", re.DOTALL)


Key = PrimaryKeyConstraint | UniqueConstraint | Index


@pytest.mark.parametrize("context", CONTEXTS)
async def test_migrated_tables_equal_declared_ones(context: str, postgres: TestPostgres) -> None:
    assert await declared_differences(context, postgres.admin_url) == []


@pytest.mark.parametrize("context", CONTEXTS)
def test_migrations_take_no_lock_that_stops_traffic(context: str, tmp_path: Path) -> None:
    scripts = _scripts(context, tmp_path)
    squawk = Path(sys.executable).with_name("squawk")
    command = [str(squawk), "--config", str(ROOT / ".squawk.toml"), "--reporter", "gcc", *map(str, scripts)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def _scripts(context: str, folder: Path) -> list[Path]:
    """Write each migration to its own file: the linter takes tables created in the same file as not in use yet."""
    scripts = []
    for chain, sql in _chains(context).items():
        settings, *migrations = VERSION_TABLE.sub("", sql).split("BEGIN;")
        for number, migration in enumerate(migrations, 1):
            scripts.append(folder / f"{chain}_{number:04}.sql")
            scripts[-1].write_text(f"{settings}BEGIN;{migration}", encoding="utf-8")
    return scripts


def _chains(context: str) -> dict[str, str]:
    """Return all migrations of a context as SQL, and those of its shards."""
    chains = {context: render_sql(context)}
    return chains | ({f"{context}_shards": render_sql(context, shards=True)} if has_shards(context) else {})


@pytest.mark.parametrize("context", CONTEXTS)
def test_migrations_use_no_trigger_and_no_cascade(context: str) -> None:
    sql = "".join(_chains(context).values()).upper()
    assert [word for word in ("CREATE TRIGGER", "ON DELETE CASCADE", "ON UPDATE CASCADE") if word in sql] == []


_QUEUES = {
    *("subscriptions_due", "next_steps_due", "subscriptions_set_aside", "entitlement_revisions_in_order"),
    *("events_to_dispatch", "events_by_age", "event_deliveries_due", "event_deliveries_waiting"),
    "credit_grants_expiring",
    *("event_requests_by_age", "event_endpoints_deleted"),
    "event_requests_by_age",
    "invoice_dues_due",
    "invoices_overdue",
    "usage_periods_due",
}
"""Indexes by which a shard's work is found for all its organizations, in the order of time."""
_OF_THE_PLATFORM = {
    *("plan_assignments_of_experiment", "payment_references_pkey"),
    *("invoice_numbers_pkey", "invoice_numbers_count_once"),
    *("rerate_parts_pkey", "rerate_slices_pkey"),
}
"""Indexes of what the platform counts over all organizations of a shard or of the installation, or finds whatever its
organization."""


@pytest.mark.parametrize("context", ["billing", "metering"])
def test_organization_leads_every_key_and_index_of_its_rows(context: str) -> None:
    """The tenant comes first, so that tables can be spread over machines by tenant without a rewrite."""
    tables = importlib.import_module(f"services.{context}.tables")
    both: tuple[MetaData, MetaData] = (tables.metadata, tables.shard_metadata)
    elsewhere = [
        f"{table.name}: {key.name} leads with {_first_column(key)}"
        for metadata in both
        for table in metadata.sorted_tables
        if "organization_id" in table.columns and not table.columns["organization_id"].nullable
        for key in _keys(table)
        if key.name not in _QUEUES | _OF_THE_PLATFORM and _first_column(key) != "organization_id"
    ]
    assert elsewhere == []


_CANNOT_MOVE = """
    SELECT c.oid::regclass::text || ' has no primary key' FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace::regnamespace::text ~ '^(billing|metering)'
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
    UNION ALL
    SELECT names.name || ' cannot take the number of a shard at its end'
    FROM (
        SELECT relname, relnamespace FROM pg_class WHERE relkind IN ('r', 'p', 'i', 'I')
        UNION SELECT conname, connamespace FROM pg_constraint
    ) AS names (name, schema)
    WHERE names.schema::regnamespace::text ~ '^(billing|metering)'
        AND (length(names.name) > 54 OR names.name ~ '_[0-9]{6,}$')
"""
"""Citus moves a table while it is written to only if it has a primary key. It appends `_102008` and the like to names,
which Postgres cuts at 63 characters, and such an end is taken off again by `libs.common.database_errors`."""


async def test_tables_and_names_are_such_that_a_shard_can_move_to_another_machine(
    database_admin_url: str,
) -> None:
    connection = await asyncpg.connect(plain_url(database_admin_url))
    try:
        assert [row[0] for row in await connection.fetch(_CANNOT_MOVE)] == []
    finally:
        await connection.close()


def _keys(table: Table) -> Iterator[Key]:
    yield from (key for key in table.constraints if isinstance(key, PrimaryKeyConstraint | UniqueConstraint))
    yield from table.indexes


def _first_column(key: Key) -> str:
    columns = key.expressions if isinstance(key, Index) else key.columns
    return next((str(column).rpartition(".")[2] for column in columns), "nothing")
