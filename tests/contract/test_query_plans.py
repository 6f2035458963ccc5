"""Statements find their rows by key, whatever the tables held when Postgres planned them.

The pools of billing's and metering's shards keep the first plan of a statement until Postgres has new statistics. A
plan made while a table was small must be right when it has grown.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Final, TypedDict, cast

import pytest

from libs.common.database import RawConnection
from libs.common.events import delivery_store as deliveries
from libs.common.events import store as events
from libs.common.shards import open_shards
from services.billing.tables import shard_metadata as billing_tables
from services.metering.tables import shard_metadata as metering_tables
from tests.support.sharded import SHARDS, execute_in_shards

_TABLES: Final = {"billing": billing_tables, "metering": metering_tables}
_VERBS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
_ON_THE_POOL_FOR_REPORTS: Final = (
    *("services.billing.charge.store", "services.metering.charge.store", "services.metering.charge.dropped_store"),
    "services.metering.retention.store",
)
"""These read whole ranges of many organizations. Their pool lets Postgres choose among all plans."""

_OF_THE_PLATFORM: Final = (
    "services.billing.clients.position_store",
    "services.billing.payment.webhook.reconciliation_store",
    "services.billing.payment.webhook.store",
    "services.metering.retention.forget_store",
    "services.metering.usage.rerate.job_store",
)
"""Their tables are in the service's own schema, and no pool of a shard reads them by key."""
_NOT_OF_ONE_ORGANIZATION: Final = {
    *("subscriptions_due", "next_steps_due", "entitlement_revisions_in_order", "entitlement_counter_pkey"),
    *("plans_code_once", "plan_versions_published_once"),
    *("credit_grants_expiring", "limit_alerts_to_deliver"),
    *("usage_periods_due", "invoice_dues_due", "invoices_overdue", "invoice_schedules_pkey"),
    *("events_to_dispatch", "events_by_age", "event_requests_by_age"),
    *("event_deliveries_due", "event_deliveries_waiting", "event_endpoints_deleted", "event_endpoints_of_usage"),
    # One row for each month that was dropped.
    "usage_drops_pkey",
    # Empty on good days.
    "usage_records_default_pkey",
}
"""Indexes by which a worker finds what is due in a shard, and those of rows that no organization has."""

_Node = TypedDict(
    "_Node",
    {"Node Type": str, "Index Name": str, "Index Cond": str, "Relation Name": str, "Plans": list["_Node"]},
    total=False,
)


def _modules(context: str) -> Iterator[ModuleType]:
    package = importlib.import_module(f"services.{context}")
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        elsewhere = (*_ON_THE_POOL_FOR_REPORTS, *_OF_THE_PLATFORM)
        if found.name.endswith(("store", "statements")) and found.name not in elsewhere:
            yield importlib.import_module(found.name)
    yield from (events, deliveries)


def _statements(context: str) -> dict[str, str]:
    """Return the statements on the driver's own connection, by name; without parts of other statements."""
    statements: dict[str, str] = {}
    for module in _modules(context):
        texts = {name: value for name, value in vars(module).items() if isinstance(value, str) and "$1" in value}
        for name, value in texts.items():
            is_part = any(value.strip() in other for other in texts.values() if other != value)
            if value.lstrip().startswith(_VERBS) and not is_part:
                statements[f"{module.__name__}.{name}"] = value
    return statements


async def plan_of(connection: RawConnection, statement: str) -> _Node:
    await connection.execute(f"PREPARE planned AS {statement}")
    try:
        count = await connection.fetchval(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'planned'"
        )
        nulls = ", ".join(["NULL"] * count)
        explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned ({nulls})")
        return cast("_Node", explained[0]["Plan"])
    finally:
        await connection.execute("DEALLOCATE planned")


def _read_without_key(node: _Node) -> list[str]:
    """Return the indexes and tables of which the plan reads more than what one organization has in an index."""
    found = [name for child in node.get("Plans", []) for name in _read_without_key(child)]
    index = node.get("Index Name", "")
    if index and index not in _NOT_OF_ONE_ORGANIZATION and "organization_id" not in node.get("Index Cond", ""):
        found.append(index)
    if node["Node Type"] == "Seq Scan":
        found.append(node["Relation Name"])
    return found


@pytest.mark.parametrize("analyzed", [False, True], ids=["new tables", "tables analyzed while empty"])
@pytest.mark.parametrize("context", _TABLES)
async def test_statements_planned_over_empty_tables_find_rows_by_key(
    context: str, analyzed: bool, database_urls: dict[str, str], database_admin_url: str
) -> None:
    if analyzed:
        for table in _TABLES[context].tables:
            await execute_in_shards(database_admin_url, f"VACUUM ANALYZE {context}.{table}")
    shards = open_shards(database_urls[context], schema=context, count=SHARDS, plan_by_key=True)
    async with next(iter(shards)).raw_connection() as connection:
        found = {
            name: _read_without_key(await plan_of(connection, text)) for name, text in _statements(context).items()
        }
    await shards.close()
    assert len(found) > 30
    assert {name: read for name, read in found.items() if read} == {}
