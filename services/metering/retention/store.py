# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The statements of retention, by primary keys where they say nothing else.

Those that name an organization and a month take the nil id for the whole platform.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import asyncpg

from libs.common.database import RawConnection
from libs.common.digests import digest_sql
from libs.common.ids import MAX, NIL
from libs.common.jumps import jumps
from libs.common.timestamps import LATEST
from services.metering.retention.domain import DROPPED, Drop, Month, Numbers, Retention
from services.metering.tables import GIVEN_UP_TIME
from services.metering.usage.dropped_store import COUNTS, HOURS_DIGEST, IS_KEPT, UNITS_DIGEST, kept_digest

PART_MAX: Final = 50_000
_LAST: Final = (LATEST, MAX)
_END: Final = "{month}::timestamptz + interval '1 month'"
_IN_MONTH: Final = f"occur_time >= $2::timestamptz AND occur_time < {_END.format(month='$2')}"

_RETENTION: Final = """
SELECT organization_id::text, months, update_time FROM usage_retention WHERE organization_id = ANY($1::uuid[])
"""

_SET: Final = """
INSERT INTO usage_retention (organization_id, months, update_time) VALUES ($1::uuid, $2, $3)
ON CONFLICT (organization_id) DO UPDATE SET months = $2, update_time = $3
"""
_UNSET: Final = "DELETE FROM usage_retention WHERE organization_id = $1::uuid"


async def retention_of(connection: RawConnection, organization_id: str) -> Retention:
    """Return the retention in force of an organization, or of the platform."""
    rows = {row[0]: row for row in await connection.fetch(_RETENTION, [organization_id, NIL])}
    row = rows.get(organization_id) or rows.get(NIL)
    if row is None:
        return Retention(0, inherited=organization_id != NIL, update_time=None)
    return Retention(row[1], inherited=row[0] != organization_id, update_time=row[2])


async def set_retention(connection: RawConnection, organization_id: str, months: int | None, now: datetime) -> None:
    """Set a retention; None takes that of an organization away."""
    if months is None:
        await connection.execute(_UNSET, organization_id)
    else:
        await connection.execute(_SET, organization_id, months, now)


_DROP: Final = """organization_id::text, month, state, usage_count, totals::text, digest, refusal_reason,
    refusal_message, actor, create_time, update_time"""
_FIND_DROP: Final = f"SELECT {_DROP} FROM usage_drops WHERE organization_id = $1::uuid AND month = $2"
_SEAL: Final = f"""
INSERT INTO usage_drops (organization_id, month, state, usage_count, totals, digest, actor, create_time, update_time,
    lease_time)
VALUES ($1::uuid, $2, 'SEALED', $3, $4::jsonb, $5, $6, $7, $7, $8)
ON CONFLICT (organization_id, month) DO UPDATE SET state = 'SEALED', usage_count = $3, totals = $4::jsonb, digest = $5,
    actor = $6, create_time = $7, update_time = $7, lease_time = $8, refusal_reason = NULL, refusal_message = NULL
WHERE usage_drops.state = 'REFUSED'
RETURNING {_DROP}
"""
# There is one row for a month, and one for each organization with a drop of its own.
_TAKE_DROP: Final = f"""
UPDATE usage_drops SET lease_time = $2 WHERE (organization_id, month) = (
    SELECT organization_id, month FROM usage_drops WHERE state IN ('SEALED', 'DROPPING') AND lease_time <= $1
    ORDER BY create_time, organization_id, month LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING {_DROP}
"""
_KEEP_DROP: Final = "UPDATE usage_drops SET lease_time = $3 WHERE organization_id = $1::uuid AND month = $2"
_MOVE_ON: Final = """
UPDATE usage_drops SET state = $4, update_time = $5, refusal_reason = $6, refusal_message = $7
WHERE organization_id = $1::uuid AND month = $2 AND state = $3
"""


async def find_drop(connection: RawConnection, organization_id: str, month: datetime) -> Drop | None:
    row = await connection.fetchrow(_FIND_DROP, organization_id, month)
    return None if row is None else _drop(row)


async def seal(connection: RawConnection, drop: Drop, lease_time: datetime) -> Drop | None:
    """Add a drop, or begin one anew that was refused; None if another call has done so."""
    totals = json.dumps({code: str(total) for code, total in drop.numbers.costs.items()})
    numbers = drop.numbers.usage_count, totals, drop.numbers.digest
    row = await connection.fetchrow(
        _SEAL, drop.organization_id, drop.month, *numbers, drop.actor, drop.create_time, lease_time
    )
    return None if row is None else _drop(row)


async def take_drop(connection: RawConnection, now: datetime, lease_time: datetime) -> Drop | None:
    """Take the next drop that is in progress and that no process works on, until the lease ends."""
    row = await connection.fetchrow(_TAKE_DROP, now, lease_time)
    return None if row is None else _drop(row)


async def keep_drop(connection: RawConnection, drop: Drop, lease_time: datetime) -> None:
    """Put off the end of the lease of a drop."""
    await connection.execute(_KEEP_DROP, drop.organization_id, drop.month, lease_time)


async def move_on(
    connection: RawConnection,
    drop: Drop,
    states: tuple[str, str],
    now: datetime,
    refusal: tuple[str | None, str | None] = (None, None),
) -> None:
    """Change the state of a drop from the first to the second, if it is the first."""
    await connection.execute(_MOVE_ON, drop.organization_id, drop.month, *states, now, *refusal)


def _drop(row: asyncpg.Record) -> Drop:
    return Drop._make((*row[:3], _numbers(*row[3:6]), *row[6:]))


def _numbers(usage_count: int, totals: str, digest: int) -> Numbers:
    return Numbers(usage_count, {code: Decimal(total) for code, total in json.loads(totals).items()}, digest)


# An organization that has a longer retention of its own is left out of what is done for all.
_COVERED: Final = f"""($1::uuid IS NOT NULL OR NOT EXISTS (
    SELECT FROM usage_retention r WHERE r.organization_id = {{organization}} AND {IS_KEPT.format(month="$2", now="$3")}
))"""
# What may change usage of the month still. All of these tables are as long as what is open, but for the operations and
# authorizations, which are found by their keys.
_OPEN: Final = f"""
SELECT cause FROM (
    SELECT 'usage waits for a price' AS cause WHERE EXISTS (
        SELECT FROM unpriced_usages u WHERE ($1::uuid IS NULL OR u.organization_id = $1) AND u.{_IN_MONTH}
            AND {_COVERED.format(organization="u.organization_id")})
    UNION ALL SELECT 'charges wait for billing' WHERE EXISTS (
        SELECT FROM outbox x JOIN usage_operations o ON o.organization_id = x.organization_id
            AND o.operation_id = ANY (ARRAY[x.operation_id, x.corrects, x.hold_operation_id])
        WHERE x.next_attempt_time < {GIVEN_UP_TIME} AND ($1::uuid IS NULL OR x.organization_id = $1) AND o.{_IN_MONTH}
            AND {_COVERED.format(organization="x.organization_id")})
    UNION ALL SELECT 'authorizations are open' WHERE EXISTS (
        SELECT FROM lapse_checks c
        JOIN authorizations a ON a.organization_id = c.organization_id AND a.operation_id = c.operation_id
        WHERE ($1::uuid IS NULL OR c.organization_id = $1) AND a.create_time < {_END.format(month="$2")}
            AND {_COVERED.format(organization="c.organization_id")})
    UNION ALL SELECT 'authorizations were not looked at for their lapse' WHERE EXISTS (
        SELECT FROM lapse_walks w WHERE ($1::uuid IS NULL OR w.organization_id = $1) AND EXISTS (
            SELECT FROM authorizations a
            WHERE a.organization_id = w.organization_id AND a.create_time >= w.create_time
                AND (a.create_time, a.operation_id) > (w.create_time, w.operation_id)
                AND a.create_time < {_END.format(month="$2")}
        ) AND {_COVERED.format(organization="w.organization_id")})
    UNION ALL SELECT 'leases are open' WHERE EXISTS (
        SELECT FROM quota_leases l
        JOIN quota_allocations a ON a.organization_id = l.organization_id AND a.operation_id = l.operation_id
        WHERE ($1::uuid IS NULL OR l.organization_id = $1) AND a.create_time < {_END.format(month="$2")}
            AND {_COVERED.format(organization="l.organization_id")})
) AS open LIMIT 1
"""


async def find_open(connection: RawConnection, organization_id: str, month: datetime, now: datetime) -> str | None:
    """Return why usage of a month can still change; None if it cannot."""
    cause: str | None = await connection.fetchval(_OPEN, _one(organization_id), month, now)
    return cause


# Jumps along the primary keys of both tables.
_COVERED_ORGANIZATIONS: Final = f"""{jumps("usage_hours", "dropped_usage_months", limit="$4")}
SELECT looked.organization_id::text, EXISTS (
    SELECT FROM usage_records u WHERE u.organization_id = looked.organization_id AND u.{_IN_MONTH}
), EXISTS (
    SELECT FROM dropped_usage_months m WHERE m.organization_id = looked.organization_id AND m.month = $2
), EXISTS (
    SELECT FROM usage_retention r
    WHERE r.organization_id = looked.organization_id AND {IS_KEPT.format(month="$2", now="$3")}
)
FROM looked
"""


class Organization(NamedTuple):
    """An organization of a shard, as a month sees it."""

    organization_id: str
    has_usage: bool
    is_counted: bool
    """Whether the month has a row for it."""
    is_kept: bool
    """Whether it has a longer retention of its own."""


async def organizations_after(
    connection: RawConnection, after: str, month: datetime, now: datetime, limit: int
) -> list[Organization]:
    """Return the next organizations that ever had usage, by id."""
    return [Organization(*row) for row in await connection.fetch(_COVERED_ORGANIZATIONS, after, month, now, limit)]


class Part(NamedTuple):
    """What was read of a month in one statement."""

    usage_count: int
    totals: Mapping[str, Decimal]
    digest: int
    kept_digest: int


_PART_END: Final = f"""
SELECT occur_time, usage_id::text FROM usage_records
WHERE organization_id = $1::uuid AND {_IN_MONTH} AND (occur_time, usage_id) > ($3, $4::uuid)
ORDER BY occur_time, usage_id OFFSET $5 LIMIT 1
"""
_COST: Final = "coalesce(r.cost, p.cost)"
_KEPT_DIGEST: Final = kept_digest(
    "r.",
    cost=_COST,
    currency_code="coalesce(r.currency_code, p.currency_code)",
    charge_kind="coalesce(r.charge_kind, p.charge_kind)",
    create_time="greatest(r.create_time, p.create_time)",
)
_PART: Final = f"""
SELECT coalesce(r.currency_code, p.currency_code, ''), count(*), coalesce(sum({_COST}), 0),
    {digest_sql("r.operation_id", f"coalesce({_COST}, 0)")}, {_KEPT_DIGEST}
FROM (
    SELECT * FROM usage_records WHERE organization_id = $1::uuid AND {_IN_MONTH}
        AND (occur_time, usage_id) > ($3, $4::uuid)
        AND (occur_time, usage_id) <= ($5, $6::uuid)
) AS r
LEFT JOIN usage_pricings p
    ON p.organization_id = ANY (ARRAY[r.organization_id]) AND p.usage_id = r.usage_id AND r.cost IS NULL
GROUP BY 1
"""


async def read_part(
    connection: RawConnection, organization_id: str, month: datetime, after: tuple[datetime, str]
) -> tuple[Part, tuple[datetime, str] | None]:
    """Return the numbers of the next usages of an organization's month, and where to go on; None at the end."""
    row = await connection.fetchrow(_PART_END, organization_id, month, *after, PART_MAX - 1)
    last = None if row is None else (row[0], row[1])
    count, digest, kept, totals = 0, 0, 0, {}
    for code, usages, total, hashed, kept_hash in await connection.fetch(
        _PART, organization_id, month, *after, *(last or _LAST)
    ):
        count, digest, kept = count + usages, digest ^ hashed, kept ^ kept_hash
        if code:
            totals[code] = total
    return Part(count, totals, digest, kept), last


_SUMS: Final = f"""
SELECT count(*), coalesce(bit_xor(digest), 0) FROM (
    SELECT {HOURS_DIGEST} AS digest FROM usage_hours
    WHERE organization_id = $1::uuid AND hour >= $2::timestamptz AND hour < $2::timestamptz + interval '1 day'
    UNION ALL SELECT {UNITS_DIGEST} FROM usage_hour_units
    WHERE organization_id = $1::uuid AND hour >= $2::timestamptz AND hour < $2::timestamptz + interval '1 day'
) AS summed
"""
_ADD_MONTH: Final = """
INSERT INTO dropped_usage_months (organization_id, month, state, usage_count, totals, digest, kept_digest, sum_count,
    sum_digest, create_time)
VALUES ($1::uuid, $2, 'COUNTED', $3, $4::jsonb, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
"""


async def sums_of_day(connection: RawConnection, organization_id: str, day: datetime) -> tuple[int, int]:
    """Return how many hourly sums a day has, and the exclusive or of their hashes."""
    ((count, digest),) = await connection.fetch(_SUMS, organization_id, day)
    return count, digest


async def add_month(
    connection: RawConnection,
    organization_id: str,
    month: datetime,
    numbers: Numbers,
    kept: int,
    sums: tuple[int, int],
    now: datetime,
) -> None:
    """Store the numbers of an organization's month, unless they are."""
    totals = json.dumps({code: str(total) for code, total in numbers.costs.items()})
    values = numbers.usage_count, totals, numbers.digest, kept, *sums, now
    await connection.execute(_ADD_MONTH, organization_id, month, *values)


# One row for each organization that has usage in the month; by primary key, or all of them for the platform.
_COUNTED: Final = """
SELECT organization_id::text, state, usage_count, totals::text, digest FROM dropped_usage_months
WHERE month = $2 AND CASE WHEN $1::uuid IS NULL THEN organization_id > $3::uuid ELSE organization_id = $1 END
ORDER BY organization_id LIMIT $4
"""
_FORGET_COUNTED: Final = """
DELETE FROM dropped_usage_months
WHERE ($1::uuid IS NULL OR organization_id = $1) AND month = $2 AND state = 'COUNTED'
"""
# What is being copied is moved instead where the partition has to stay.
_BEGIN: Final = """
UPDATE dropped_usage_months SET state = $3
WHERE organization_id = $1::uuid AND month = $2 AND (state = 'COUNTED' OR state = 'COPYING' AND $3 = 'MOVING')
"""
_FINISH: Final = f"""
UPDATE dropped_usage_months SET state = 'DROPPED', drop_time = $3
WHERE organization_id = $1::uuid AND month = $2 AND state = 'MOVING' AND NOT EXISTS (
    SELECT FROM usage_records WHERE organization_id = $1::uuid AND {_IN_MONTH})
"""


class Counted(NamedTuple):
    """What is known of an organization's month."""

    organization_id: str
    state: str
    numbers: Numbers


async def counted_after(
    connection: RawConnection, organization_id: str, month: datetime, after: str, limit: int
) -> list[Counted]:
    """Return what is known of a month, by organization."""
    rows = await connection.fetch(_COUNTED, _one(organization_id), month, after, limit)
    return [Counted(row[0], row[1], _numbers(*row[2:])) for row in rows]


async def forget_counted(connection: RawConnection, organization_id: str, month: datetime) -> None:
    """Delete the numbers of months of which nothing was dropped."""
    await connection.execute(_FORGET_COUNTED, _one(organization_id), month)


async def begin(connection: RawConnection, organization_id: str, month: datetime, state: str) -> None:
    await connection.execute(_BEGIN, organization_id, month, state)


async def finish(connection: RawConnection, organization_id: str, month: datetime, now: datetime) -> None:
    """Note that an organization's month is dropped, if no usage of it is left."""
    await connection.execute(_FINISH, organization_id, month, now)


async def keep_part(connection: RawConnection, organization_id: str, month: datetime, rows: int) -> int:
    """Keep what is needed of the next usages, and delete them where the month is MOVING; return how many."""
    moved: int = await connection.fetchval(
        "SELECT keep_dropped_usage($1::uuid, $2, $3::integer)", organization_id, month, rows
    )
    return moved


async def drop_partition(connection: RawConnection, month: datetime, now: datetime) -> str:
    """Detach a month's partition, or drop one that is detached; see the function of the migration."""
    done: str = await connection.fetchval("SELECT drop_usage_month($1, $2)", month, now)
    return done


_IS_EMPTY: Final = f"SELECT NOT EXISTS (SELECT FROM usage_records WHERE {_IN_MONTH.replace('$2', '$1')})"


async def is_empty(connection: RawConnection, month: datetime) -> bool:
    """Tell whether a shard has no usage of a month."""
    return bool(await connection.fetchval(_IS_EMPTY, month))


# The months of partitions, with estimates of the database; and those of which something was dropped.
_PLATFORM_MONTHS: Final = f"""
SELECT month, CAST(sum(usages) AS bigint), CAST(sum(dropped) AS bigint), coalesce(bool_or(state <> 'DROPPED'), false),
    coalesce(bool_or(state = 'DROPPED'), false), CAST(sum(size) AS bigint)
FROM (
    SELECT to_timestamp(right(c.relname, 7) || ' UTC', 'YYYY_MM TZ') AS month,
        greatest(c.reltuples, 0) AS usages, 0 AS dropped, NULL AS state, pg_total_relation_size(c.oid) AS size
    FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE i.inhparent = to_regclass(format('%I.usage_records', current_schema()))
        AND c.relname ~ '^usage_records_[0-9]{{4}}_[0-9]{{2}}$'
    UNION ALL
    SELECT m.month, 0, CASE WHEN {COUNTS} THEN m.usage_count ELSE 0 END, m.state, 0
    FROM dropped_usage_months m
) AS months GROUP BY 1 ORDER BY 1
"""
# By the primary key of the hourly sums, a month at a time, and by the dropped months. Counts are those of the sums:
# corrected usage is in the month that it is in now.
_MONTHS: Final = """
WITH RECURSIVE found AS (
    SELECT date_trunc('month', (
        SELECT hour FROM usage_hours WHERE organization_id = $1::uuid AND hour >= $2 ORDER BY hour LIMIT 1
    ), 'UTC') AS month
    UNION ALL
    SELECT date_trunc('month', (
        SELECT hour FROM usage_hours
        WHERE organization_id = $1::uuid AND hour >= found.month + interval '1 month' ORDER BY hour LIMIT 1
    ), 'UTC')
    FROM found WHERE found.month IS NOT NULL
)
SELECT found.month, (
    SELECT CAST(coalesce(sum(requests), 0) AS bigint) FROM usage_hours
    WHERE organization_id = $1::uuid AND hour >= found.month AND hour < found.month + interval '1 month'
), coalesce(m.usage_count, 0), coalesce(m.state, '')
FROM (SELECT month FROM found WHERE month IS NOT NULL LIMIT $3) AS found
LEFT JOIN dropped_usage_months m ON m.organization_id = $1::uuid AND m.month = found.month
ORDER BY 1
"""


async def platform_months(connection: RawConnection) -> list[Month]:
    """Return the months of a shard."""
    return [Month(*row) for row in await connection.fetch(_PLATFORM_MONTHS)]


async def months_of(connection: RawConnection, organization_id: str, first: datetime, limit: int) -> list[Month]:
    """Return the next months of an organization's usage."""
    months = []
    for month, usages, dropped, state in await connection.fetch(_MONTHS, organization_id, first, limit):
        is_dropped = state == DROPPED
        left, gone = (0, dropped) if is_dropped else (usages, 0)
        months.append(Month(month, left, gone, bool(state) and not is_dropped, is_dropped))
    return months


def _one(organization_id: str) -> str | None:
    """Return what limits a statement to an organization; None for the platform."""
    return None if organization_id == NIL else organization_id
