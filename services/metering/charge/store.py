"""The statements on charges."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.charge_filter import ChargeFilter
from libs.common.database import RawConnection
from libs.common.digests import PartDigest, bucket_sql, digest_sql
from libs.common.jumps import jumps
from services.metering.charge.domain import Charge, PendingCharge, Window
from services.metering.tables import GIVEN_UP_TIME

# Usage with what is charged for it, parts of calls with what they capture, and movements of corrections, of which those
# that give something back are below zero; and whether billing has confirmed it.
# What has no charge has a row all the same, so that a page has as many rows as operations were looked at.
_SIGNED: Final = "(CASE WHEN c.reverses_operation_id IS NULL THEN c.amount ELSE -c.amount END)"
_STATE: Final = f"""CASE WHEN x.next_attempt_time = {GIVEN_UP_TIME} THEN 'GIVEN_UP'
        ELSE coalesce(replace(x.state, 'DEAD', 'REFUSED'), 'SETTLED') END"""
_OF_PAGE: Final = f"""
SELECT page.organization_id::text, page.operation_id,
    coalesce(r.cost, p.cost, g.cost) - coalesce(r.captured_before, g.captured_before, 0),
    coalesce(r.currency_code, p.currency_code, g.currency_code),
    {_STATE}, page.occur_time,
    coalesce(r.charge_kind, p.charge_kind, g.charge_kind) AS charge_kind,
    greatest(r.create_time, p.create_time, g.create_time)
FROM page
LEFT JOIN usage_records r USING (organization_id, occur_time, usage_id)
LEFT JOIN dropped_usages g USING (organization_id, occur_time, usage_id)
LEFT JOIN usage_pricings p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id AND r.cost IS NULL
LEFT JOIN outbox x ON x.organization_id = page.organization_id AND x.operation_id = page.operation_id
WHERE page.usage_id IS NOT NULL
UNION ALL
SELECT page.organization_id::text, page.operation_id, s.amount, s.currency_code,
    {_STATE}, s.create_time, 'CAPTURE', s.create_time
FROM page
JOIN settlement_parts s ON s.organization_id = page.organization_id AND s.part_id = page.operation_id
LEFT JOIN outbox x ON x.organization_id = page.organization_id AND x.operation_id = page.operation_id
WHERE page.usage_id IS NULL
UNION ALL
SELECT page.organization_id::text, page.operation_id, {_SIGNED}, c.currency_code,
    {_STATE}, c.occur_time, 'DEBIT', c.create_time
FROM page
JOIN usage_correction_charges c ON c.organization_id = page.organization_id AND c.operation_id = page.operation_id
LEFT JOIN outbox x ON x.organization_id = page.organization_id AND x.operation_id = page.operation_id
WHERE page.usage_id IS NULL
ORDER BY organization_id, operation_id
"""  # noqa: S608 -- made of constants of ours alone.


def _page(condition: str) -> str:
    """Return the statement for a page of the operations, parts and movements of corrections with ids that a condition
    names, in byte order."""
    return f"""
WITH page AS MATERIALIZED (
    (
        SELECT organization_id, operation_id, occur_time, usage_id FROM usage_operations
        WHERE {condition.format(id="operation_id")}
        ORDER BY organization_id, operation_id LIMIT $4
    )
    UNION ALL
    (
        SELECT organization_id, part_id, NULL, NULL FROM settlement_parts WHERE {condition.format(id="part_id")}
        ORDER BY organization_id, part_id LIMIT $4
    )
    UNION ALL
    (
        SELECT organization_id, operation_id, NULL, NULL FROM usage_correction_charges
        WHERE {condition.format(id="operation_id")}
        ORDER BY organization_id, operation_id LIMIT $4
    )
    ORDER BY organization_id, operation_id LIMIT $4
)
{_OF_PAGE}
"""  # noqa: S608 -- made of constants of ours alone.


# The page is cut from the operations and the movements by primary key, from the parts by the unique key of their ids.
_CHARGES: Final = _page("(organization_id, {id}) > ($1::uuid, $2::text) AND ($3::uuid IS NULL OR organization_id = $3)")
# The keys named.
_NAMED: Final = _page("organization_id = $1 AND {id} = ANY($2::text[]) AND {id} > $3")
# Part of one organization's keys is read from the indexes alone; the rows only of what is in the buckets.
_SCANNED: Final = """
SELECT operation_id FROM (
    SELECT operation_id FROM usage_operations WHERE organization_id = $1 AND operation_id > $2
    UNION ALL
    SELECT part_id FROM settlement_parts WHERE organization_id = $1 AND part_id > $2
    UNION ALL
    SELECT operation_id FROM usage_correction_charges WHERE organization_id = $1 AND operation_id > $2
) AS scanned
ORDER BY operation_id OFFSET $3 LIMIT 1
"""
_IN_BUCKETS: Final = f"""
SELECT operation_id FROM (
    SELECT operation_id FROM usage_operations WHERE organization_id = $1 AND operation_id > $2
    UNION ALL
    SELECT part_id FROM settlement_parts WHERE organization_id = $1 AND part_id > $2
    UNION ALL
    SELECT operation_id FROM usage_correction_charges WHERE organization_id = $1 AND operation_id > $2
) AS scanned
WHERE ($3::text IS NULL OR operation_id <= $3) AND {bucket_sql("operation_id", "$4")} = ANY($5::int[])
ORDER BY operation_id LIMIT $6
"""  # noqa: S608


async def charges_after(
    connection: RawConnection, wanted: ChargeFilter, after: tuple[str, str], limit: int
) -> tuple[list[Charge], tuple[str, str] | None]:
    """Return the charges of the next `limit` operations by key, and where the next begin; None when there are none."""
    rows = await connection.fetch(_CHARGES, *after, wanted.organization_id, limit)
    return _charges(rows, wanted), (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


async def charges_of(
    connection: RawConnection, wanted: ChargeFilter, operation_ids: Sequence[str], after: str, limit: int
) -> tuple[list[Charge], str | None]:
    """Return the charges of these operations of one organization, in byte order, and where the next begin."""
    rows = await connection.fetch(_NAMED, wanted.organization_id, list(operation_ids), after, limit)
    return _charges(rows, wanted), rows[-1][1] if len(rows) == limit else None


def _charges(rows: Sequence[asyncpg.Record], wanted: ChargeFilter) -> list[Charge]:
    """A capture of nothing only gives the hold back: it is no charge. Nor is usage that waits for its price, or a call
    of which only parts are settled.
    """
    return [
        Charge(*row[:6])
        for row in rows
        if row[6] is not None
        and row[2]
        and (wanted.since_time is None or row[5] >= wanted.since_time)
        and (wanted.until_time is None or row[7] <= wanted.until_time)
    ]


async def operations_in_buckets(
    connection: RawConnection, wanted: ChargeFilter, after: str, scanned_max: int, limit: int
) -> tuple[list[str], str | None]:
    """Look at the next `scanned_max` operations of one organization.

    Return those in the buckets, at most `limit`, and the operation at which to go on; None at the end.
    """
    end = await connection.fetchval(_SCANNED, wanted.organization_id, after, scanned_max - 1)
    rows = await connection.fetch(
        _IN_BUCKETS, wanted.organization_id, after, end, wanted.bucket_count, list(wanted.buckets), limit
    )
    found = [row[0] for row in rows]
    return found, found[-1] if len(found) == limit else end


# The plan is made for the values at hand. Whole tables are never read, since these statements are small parts of them.
PLAN_PARTS: Final = """
SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = off;
SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL work_mem = '16MB'
"""

# Each organization's first and last usage, by the primary key.
_SPAN: Final = """
SELECT min(first), max(last) FROM unnest($1::uuid[]) AS o(organization_id)
CROSS JOIN LATERAL (
    SELECT min(occur_time) AS first, max(occur_time) AS last FROM usage_records
    WHERE organization_id = o.organization_id AND occur_time >= $2
) AS span
"""


async def usage_span(
    connection: RawConnection, organization_ids: Sequence[str], since_time: datetime
) -> tuple[datetime, datetime] | None:
    """Return when the first and the last usage of organizations from then on was; None if there is none."""
    row = await connection.fetchrow(_SPAN, list(organization_ids), since_time)
    return None if row is None or row[0] is None else (row[0], row[1])


# From the primary key's index alone, where the pages are old enough.
_COUNT: Final = """
SELECT count(*) FROM (
    SELECT FROM usage_records
    WHERE organization_id = ANY($1::uuid[]) AND occur_time >= $2 AND occur_time < $3 LIMIT $4
) AS counted
"""


async def count_usage(connection: RawConnection, window: Window, limit: int) -> int:
    """Return how many rows a window has, counted up to a limit."""
    values = list(window.organization_ids), window.start, window.end, limit
    return int(await connection.fetchval(_COUNT, *values))


# The last row of a part of one organization's usage, by the primary key.
_PART_END: Final = """
SELECT occur_time, usage_id::text FROM usage_records
WHERE organization_id = $1 AND occur_time >= $2 AND (occur_time, usage_id) > ($2, $3::uuid) AND occur_time < $4
ORDER BY occur_time, usage_id OFFSET $5 LIMIT 1
"""


async def end_of_part(
    connection: RawConnection, organization_id: str, after: tuple[datetime, str], end: datetime, rows: int
) -> tuple[datetime, str] | None:
    """Return the key of the last of the next `rows` rows before `end`; None if there are fewer."""
    row = await connection.fetchrow(_PART_END, organization_id, *after, end, rows - 1)
    return None if row is None else (row[0], row[1])


# By the primary key, which is in the order of time, as the rows are in the table. Usage without a cost is given as one
# of no currency: its cost, if it has one by now, is elsewhere. The outbox is as long as the backlog.
_IN_WINDOW: Final = """
    r.organization_id = ANY($1::uuid[]) AND r.occur_time >= $2 AND r.occur_time < $3
"""
_IN_PART: Final = """
    r.organization_id = $1 AND r.occur_time >= $2 AND (r.occur_time, r.usage_id) > ($2, $6::uuid) AND r.occur_time < $3
    AND ($7::timestamptz IS NULL OR r.occur_time <= $7 AND (r.occur_time, r.usage_id) <= ($7, $8::uuid))
"""
_SETTLED: Final = """NOT EXISTS (
        SELECT FROM outbox x WHERE x.organization_id = r.organization_id AND x.operation_id = r.operation_id)"""


# What is charged for usage, of which parts have captured some before.
_CHARGED: Final = "(CASE WHEN r.captured_before IS NULL THEN r.cost ELSE r.cost - r.captured_before END)"
_CHARGED_LATE: Final = "(p.cost - coalesce(r.captured_before, 0))"


def _digests(where: str) -> str:
    return f"""
SELECT r.organization_id::text, {bucket_sql("r.operation_id", "$4")} AS bucket, r.currency_code, count(*),
    sum({_CHARGED}), {digest_sql("r.operation_id", _CHARGED)}
FROM usage_records r
WHERE {where} AND (r.cost IS NULL OR {_CHARGED} > 0 AND r.charge_kind IS NOT NULL)
    AND ($5::timestamptz IS NULL OR r.create_time <= $5) AND {_SETTLED}
GROUP BY r.organization_id, bucket, r.currency_code
"""  # noqa: S608


def _late_digests(where: str) -> str:
    return f"""
SELECT r.organization_id::text, {bucket_sql("r.operation_id", "$4")} AS bucket, p.currency_code, count(*),
    sum({_CHARGED_LATE}), {digest_sql("r.operation_id", _CHARGED_LATE)}
FROM usage_records r JOIN usage_pricings p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
WHERE {where} AND r.cost IS NULL AND {_CHARGED_LATE} > 0 AND p.charge_kind IS NOT NULL
    AND ($5::timestamptz IS NULL OR greatest(r.create_time, p.create_time) <= $5) AND {_SETTLED}
GROUP BY r.organization_id, bucket, p.currency_code
"""  # noqa: S608


_OF_WINDOW: Final = (_digests(_IN_WINDOW), _late_digests(_IN_WINDOW))
_OF_PART: Final = (_digests(_IN_PART), _late_digests(_IN_PART))


async def window_digests(
    connection: RawConnection, window: Window, bucket_count: int, until_time: datetime | None
) -> list[PartDigest]:
    """Return the digests of what billing has confirmed of a window's usage."""
    return await _read(
        connection, _OF_WINDOW, list(window.organization_ids), window.start, window.end, bucket_count, until_time
    )


async def part_digests(
    connection: RawConnection,
    window: Window,
    after: tuple[datetime, str],
    last: tuple[datetime, str] | None,
    bucket_count: int,
    until_time: datetime | None,
) -> list[PartDigest]:
    """Return the digests of a window of one organization after one row, up to another or to the end."""
    (organization_id,) = window.organization_ids
    values = organization_id, after[0], window.end, bucket_count, until_time, after[1], *(last or (None, None))
    return await _read(connection, _OF_PART, *values)


async def _read(connection: RawConnection, statements: tuple[str, str], *values: object) -> list[PartDigest]:
    rows = await connection.fetch(statements[0], *values)
    priced = [PartDigest(*row) for row in rows if row[2] is not None]
    if len(priced) == len(rows):
        return priced
    return priced + [PartDigest(*row) for row in await connection.fetch(statements[1], *values)]


# One probe of two indexes for each organization.
_WITH_PARTS: Final = """
SELECT o.organization_id::text FROM unnest($1::uuid[]) AS o(organization_id)
WHERE EXISTS (
    SELECT FROM settlement_parts s WHERE s.organization_id = o.organization_id AND s.part_id IS NOT NULL
) OR EXISTS (SELECT FROM usage_correction_charges c WHERE c.organization_id = o.organization_id)
"""

# A range of one organization's parts and movements of corrections, by the unique keys of their ids.
_PARTS: Final = f"""(
    SELECT organization_id, part_id, amount, currency_code, create_time FROM settlement_parts
    UNION ALL
    SELECT c.organization_id, c.operation_id, {_SIGNED}, c.currency_code, c.create_time
    FROM usage_correction_charges c
)"""  # noqa: S608
_PARTS_END: Final = f"""
SELECT part_id FROM {_PARTS} AS s WHERE organization_id = $1 AND part_id > $2 ORDER BY part_id OFFSET $3 LIMIT 1
"""  # noqa: S608
_OF_PARTS: Final = f"""
SELECT s.organization_id::text, {bucket_sql("s.part_id", "$6")} AS bucket, s.currency_code, count(*),
    sum(s.amount), {digest_sql("s.part_id", "s.amount")}
FROM {_PARTS} AS s
WHERE s.organization_id = $1 AND s.part_id > $2 AND ($3::text IS NULL OR s.part_id <= $3)
    AND ($4::timestamptz IS NULL OR s.create_time >= $4) AND ($5::timestamptz IS NULL OR s.create_time <= $5)
    AND NOT EXISTS (
        SELECT FROM outbox x WHERE x.organization_id = s.organization_id AND x.operation_id = s.part_id)
GROUP BY s.organization_id, bucket, s.currency_code
"""  # noqa: S608


async def organizations_with_parts(connection: RawConnection, organization_ids: Sequence[str]) -> list[str]:
    """Return those of the organizations that have parts with a charge, or movements of corrections."""
    return [row[0] for row in await connection.fetch(_WITH_PARTS, list(organization_ids))]


async def end_of_parts(connection: RawConnection, organization_id: str, after: str, rows: int) -> str | None:
    """Return the id of the last of the next `rows` parts; None if there are fewer."""
    end: str | None = await connection.fetchval(_PARTS_END, organization_id, after, rows - 1)
    return end


async def digests_of_parts(
    connection: RawConnection,
    organization_id: str,
    after: str,
    last: str | None,
    times: tuple[datetime | None, datetime | None],
    bucket_count: int,
) -> list[PartDigest]:
    """Return the digests of what billing has confirmed of the parts of an organization, in a range of their ids."""
    rows = await connection.fetch(_OF_PARTS, organization_id, after, last, *times, bucket_count)
    return [PartDigest(*row) for row in rows]


# Jumps along the primary key.
_ORGANIZATIONS: Final = f"""{jumps("usage_operations", after="CAST(:after AS uuid)", limit=":limit")}
SELECT organization_id::text FROM looked
"""  # noqa: S608 -- the table is a constant.


async def organizations_after(connection: AsyncConnection, after: str, limit: int) -> list[str]:
    """Return the next organizations, by id, that have usage."""
    return list((await connection.execute(text(_ORGANIZATIONS), {"after": after, "limit": limit})).scalars())


# One probe of the primary key for each.
_THESE_ORGANIZATIONS: Final = text("""
SELECT o.organization_id::text FROM unnest(CAST(:organization_ids AS uuid[])) AS o(organization_id)
WHERE EXISTS (SELECT FROM usage_operations u WHERE u.organization_id = o.organization_id) ORDER BY 1
""")


async def these_organizations(connection: AsyncConnection, organization_ids: Sequence[str]) -> list[str]:
    """Return those of the organizations that have usage."""
    values = {"organization_ids": list(organization_ids)}
    return list((await connection.execute(_THESE_ORGANIZATIONS, values)).scalars())


_PENDING: Final = text(f"""
SELECT organization_id::text, operation_id, amount, currency_code, replace(state, 'DEAD', 'REFUSED'), attempt_count,
    last_error_reason, next_attempt_time, create_time
FROM outbox
WHERE (create_time, organization_id, operation_id)
        > (CAST(:after_time AS timestamptz), CAST(:after_organization_id AS uuid), :after_operation_id)
    AND next_attempt_time < {GIVEN_UP_TIME} AND (NOT :refused_only OR state IN ('REFUSED', 'DEAD'))
ORDER BY create_time, organization_id, operation_id LIMIT :limit
""")  # noqa: S608 -- made of constants of ours alone.


async def list_pending(
    connection: AsyncConnection, *, refused_only: bool, after: tuple[datetime, str, str], limit: int
) -> Sequence[PendingCharge]:
    """Return unconfirmed charges, the oldest first. Sorts the backlog, which is empty on good days."""
    values = {
        "after_time": after[0],
        "after_organization_id": after[1],
        "after_operation_id": after[2],
        "refused_only": refused_only,
        "limit": limit,
    }
    return [PendingCharge(*row) for row in await connection.execute(_PENDING, values)]


# What is given up is sent again where it is named: then the relay sends what gives it back, too.
_RETRY: Final = text(f"""
UPDATE outbox o SET state = 'PENDING', next_attempt_time = :now
FROM (
    SELECT organization_id, operation_id FROM outbox
    WHERE organization_id = CAST(:organization_id AS uuid)
        AND CASE WHEN cardinality(CAST(:operation_ids AS text[])) = 0
            THEN state IN ('REFUSED', 'DEAD') AND next_attempt_time < {GIVEN_UP_TIME}
            ELSE operation_id = ANY(CAST(:operation_ids AS text[])) END
    ORDER BY organization_id, operation_id LIMIT 1000 FOR UPDATE
) chosen
WHERE o.organization_id = chosen.organization_id AND o.operation_id = chosen.operation_id
""")  # noqa: S608 -- made of constants of ours alone.


async def retry(
    connection: AsyncConnection, *, organization_id: str, operation_ids: Sequence[str], now: datetime
) -> int:
    """Make charges of an organization due; return how many."""
    values = {"organization_id": organization_id, "operation_ids": list(operation_ids), "now": now}
    return (await connection.execute(_RETRY, values)).rowcount
