"""The statements of a metered call find each row by its primary key, not by another index that begins alike.

`test_query_plans` is content with any index that begins with the organization. Over small tables these cost the same,
and a busy organization has many rows. An index that holds all columns that the statement compares is as good.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import pytest

from libs.common.database import RawConnection
from libs.common.ids import new_id
from libs.common.shards import open_shards
from services.metering.admission import store as admission_store
from services.metering.quota import counter_store
from services.metering.quota.counter_store import New
from services.metering.usage import statements
from tests.contract.test_query_plans import plan_of
from tests.support.sharded import SHARDS, execute_in_shards

_STATEMENTS: Final = {
    "authorize": admission_store._ADD_WITHIN_LIMITS,
    "settle": statements.RECORD_COUNTED,
    "settle with units": statements.RECORD_COUNTED_UNITS,
    "lock counters": counter_store._LOCK,
    "take for a proxy": counter_store._TAKE_IF_LEFT,
}
_TABLES: Final = ("authorizations", "limit_counters", "quota_allocations", "usage_operations")


def _filtered(node: dict[str, object]) -> Iterator[str]:
    """Yield the indexes of which rows are read that the statement then leaves out."""
    index, condition, left_out = node.get("Index Name"), node.get("Index Cond", ""), node.get("Filter", "")
    named = f"{condition} {left_out}"
    if node.get("Relation Name") in _TABLES and index is not None:
        by_whole_key = str(index).endswith("_pkey") and not left_out
        by_another_key = all(column in named for column in ("limit_id", "subject", "window_start"))
        if not by_whole_key and not by_another_key:
            yield f"{index} by {condition}, without {left_out}"
    children = node.get("Plans", [])
    assert isinstance(children, list)
    for child in children:
        yield from _filtered(child)


@pytest.mark.parametrize("analyzed", [False, True], ids=["as made", "analyzed"])
async def test_metered_call_finds_rows_by_their_whole_keys_however_small_the_tables_were(
    analyzed: bool, database_urls: dict[str, str], database_admin_url: str
) -> None:
    shards = open_shards(database_urls["metering"], schema="metering", count=SHARDS, plan_by_key=True)
    organizations = [new_id() for _ in range(5)]
    read: dict[tuple[int, str], list[str]] = {}
    async with next(iter(shards)).raw_connection() as connection:
        for rows in (0, 10, 1_000):
            await _create_counters(connection, organizations, rows)
            if analyzed:
                for table in _TABLES:
                    await execute_in_shards(database_admin_url, f"VACUUM ANALYZE metering.{table}")
            for name, text in _STATEMENTS.items():
                read[rows, name] = [*_filtered(dict(await plan_of(connection, text)))]
    await shards.close()
    assert {planned: found for planned, found in read.items() if found} == {}


async def _create_counters(connection: RawConnection, organizations: Sequence[str], rows: int) -> None:
    now = datetime.now(UTC)
    new = [
        New(organizations[number % len(organizations)], new_id(), new_id(), "", now, None, None, "requests", "", False)
        for number in range(rows)
    ]
    if new:
        await counter_store.create(connection, new)
