"""The statements on limits, by primary key where they say nothing else."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.metering.quota.domain import Enforcement, Entry, Limit, Scope, Shape, Terms, Window

LIMITS_MAX: Final = 1_000
"""The most limits that an organization may have."""

_COLUMNS: Final = """organization_id::text, limit_id::text, name, metric, currency_code, "window", sliding, time_zone,
    week_start, scope, scope_value, label, maximum, enforcement, burst, replaces, thresholds, revision, create_time,
    update_time"""
_OF: Final = f"""
SELECT {_COLUMNS} FROM limits WHERE organization_id = ANY($1::uuid[]) ORDER BY organization_id, name COLLATE "C"
"""  # noqa: S608 -- ours.
# Index: limits_name_once.
_FIND: Final = f"SELECT {_COLUMNS} FROM limits WHERE organization_id = $1::uuid AND name = $2::text"  # noqa: S608 -- ours.
_LOCK: Final = f"{_FIND} FOR UPDATE"
# Index: limits_name_once, read from a name on.
_LIST: Final = f"""
SELECT {_COLUMNS} FROM limits WHERE organization_id = $1::uuid AND name > $2::text ORDER BY name LIMIT $3
"""  # noqa: S608 -- ours.
_COUNT: Final = "SELECT count(*) FROM limits WHERE organization_id = $1::uuid"
_ADD: Final = """
INSERT INTO limits (organization_id, limit_id, name, metric, currency_code, "window", sliding, time_zone, week_start,
    scope, scope_value, label, maximum, enforcement, burst, replaces, thresholds, revision, create_time, update_time)
VALUES ($1::uuid, $2::uuid, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
ON CONFLICT DO NOTHING RETURNING true
"""
_CHANGE: Final = """
UPDATE limits SET maximum = $3, enforcement = $4, burst = $5, replaces = $6, thresholds = $7, revision = $8,
    update_time = $9
WHERE organization_id = $1::uuid AND limit_id = $2::uuid
"""
_DELETE: Final = "DELETE FROM limits WHERE organization_id = $1::uuid AND limit_id = $2::uuid"
# The only row. Whoever changes a limit holds it until the end of the transaction, so revisions become visible in order.
_NEXT_REVISION: Final = "UPDATE limit_state SET revision = revision + 1 RETURNING revision"
_REVISION: Final = "SELECT revision FROM limit_state"


async def of(connection: RawConnection, organization_ids: Collection[str]) -> dict[str, list[Entry]]:
    """Return the limits of those organizations that have any, in the order of their names."""
    found: dict[str, list[Entry]] = {}
    for row in await connection.fetch(_OF, list(organization_ids)):
        found.setdefault(row[0], []).append(_entry(row))
    return found


async def find(connection: RawConnection, organization_id: str, name: str) -> Entry | None:
    row = await connection.fetchrow(_FIND, organization_id, name)
    return None if row is None else _entry(row)


async def lock(connection: RawConnection, organization_id: str, name: str) -> Entry | None:
    """Return a limit, locked against other changes; None where there is none of this name."""
    row = await connection.fetchrow(_LOCK, organization_id, name)
    return None if row is None else _entry(row)


async def page(connection: RawConnection, organization_id: str, after: str, limit: int) -> Sequence[Entry]:
    """Return the limits that follow a name, in the order of their names."""
    return [_entry(row) for row in await connection.fetch(_LIST, organization_id, after, limit)]


async def count(connection: RawConnection, organization_id: str) -> int:
    return int(await connection.fetchval(_COUNT, organization_id))


async def add(connection: RawConnection, organization_id: str, entry: Entry) -> bool:
    """Add a limit; return whether there was none of this name. Waits for whoever is adding one."""
    limit = entry.limit
    shape, terms = limit.shape, limit.terms
    added = await connection.fetchval(
        _ADD,
        organization_id,
        limit.limit_id,
        limit.name,
        shape.metric,
        shape.currency_code,
        shape.window.value,
        shape.sliding,
        shape.time_zone,
        shape.week_start,
        shape.scope.value,
        shape.scope_value,
        shape.label,
        terms.maximum,
        terms.enforcement.value,
        terms.burst,
        terms.replaces,
        list(terms.thresholds),
        entry.revision,
        entry.create_time,
        entry.update_time,
    )
    return bool(added)


async def change(connection: RawConnection, organization_id: str, entry: Entry) -> None:
    """Change what a limit allows."""
    terms = entry.limit.terms
    await connection.execute(
        _CHANGE,
        organization_id,
        entry.limit.limit_id,
        terms.maximum,
        terms.enforcement.value,
        terms.burst,
        terms.replaces,
        list(terms.thresholds),
        entry.revision,
        entry.update_time,
    )


async def delete(connection: RawConnection, organization_id: str, limit_id: str) -> None:
    await connection.execute(_DELETE, organization_id, limit_id)


async def next_revision(connection: RawConnection) -> int:
    """Return the number of a change of the shard's limits. Changes wait for each other until they are committed."""
    return int(await connection.fetchval(_NEXT_REVISION))


async def revision(connection: RawConnection) -> int:
    """Return the number of the last change of the shard's limits."""
    return int(await connection.fetchval(_REVISION))


def _entry(row: asyncpg.Record) -> Entry:
    created: datetime = row["create_time"]
    shape = Shape(
        row["metric"],
        row["currency_code"],
        Window(row["window"]),
        row["sliding"],
        row["time_zone"],
        row["week_start"],
        Scope(row["scope"]),
        row["scope_value"],
        row["label"],
    )
    terms = Terms(
        row["maximum"], Enforcement(row["enforcement"]), row["burst"], row["replaces"], tuple(row["thresholds"])
    )
    return Entry(Limit(row["limit_id"], row["name"], shape, terms), row["revision"], created, row["update_time"])
