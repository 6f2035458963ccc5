# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""What is known of usage whose month was dropped, and what is refused of it.

Rows for the whole platform have the nil UUID as their organization.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from libs.common.errors import OperationIdReused, Refusal
from libs.common.ids import NIL
from services.metering.usage.domain import LAPSED, month_of
from services.metering.usage.store import Key
from services.metering.usage_errors import UsageDropped, UsageMonthDropped

KEPT: Final = (
    *("operation_id", "usage_id", "occur_time", "model"),
    *("cost", "currency_code", "charge_kind", "captured_before", "create_time"),
)
"""The columns of what is kept of a usage."""


def kept_digest(prefix: str = "", **others: str) -> str:
    """Return the SQL aggregate over what is kept of usages; `others` are expressions for columns."""
    return _digest(others.get(name, prefix + name) for name in KEPT)


# Digests of sums are stored for ever, so these columns stay as they are when others are added.
_HOUR: Final = (
    *("hour", "model", "project_id", "user_id", "api_key_id", "dimension_id"),
    *("currency_code", "provider_currency_code"),
)
_SUMS: Final = (
    *("requests", "errors", "input", "output", "cache_read", "cache_write"),
    *("reasoning", "audio_input", "audio_output", "image"),
    *("cost", "provider_cost", "latency_count", "latency_sum_ms"),
)
HOURS_DIGEST: Final = f"hash_record_extended(ROW({', '.join((*_HOUR, *_SUMS))}), 0)"
"""The SQL for the hash of a row of hourly sums."""
UNITS_DIGEST: Final = f"hash_record_extended(ROW({', '.join((*_HOUR, 'unit_id', 'quantity'))}), 0)"
"""The same for a sum of a unit."""
COUNTS: Final = "state IN ('MOVING', 'DROPPED')"
"""Whether what is kept of a month's usage stands for usage that is not there any more."""


def _digest(columns: Iterable[str]) -> str:
    return f"coalesce(bit_xor(hash_record_extended(ROW({', '.join(columns)}), 0)), 0)"


# By primary keys.
_FIND: Final = """
SELECT o.organization_id::text, o.operation_id, o.fingerprint, o.occur_time
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN usage_operations o
    ON o.organization_id = ANY (ARRAY[wanted.organization_id]) AND o.operation_id = wanted.operation_id
CROSS JOIN LATERAL (
    SELECT FROM dropped_usages
    WHERE organization_id = o.organization_id AND occur_time = o.occur_time AND usage_id = o.usage_id OFFSET 0
) AS d
"""


async def find_dropped(connection: RawConnection, keys: Collection[Key]) -> dict[Key, tuple[bytes, datetime]]:
    """Return the fingerprints and times of those operations whose usage was dropped."""
    if not keys:
        return {}
    rows = await connection.fetch(_FIND, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def repeat_of_dropped(operation_id: str, stored: tuple[bytes, datetime], fingerprint: bytes) -> Refusal:
    """Return the answer to work whose operation id has usage that was dropped: it is never recorded again."""
    if stored[0] in (fingerprint, LAPSED):
        return UsageDropped(operation_id=operation_id, month=month_text(stored[1]))
    return OperationIdReused(operation_id=operation_id, field="usage")


IS_KEPT: Final = "(r.months = 0 OR {month} + make_interval(months => r.months + 1) > {now})"
"""Whether a retention `r` keeps a month still."""

# By primary keys. A drop for the whole platform leaves out organizations that have a longer retention of their own.
_SEALED: Final = f"""
SELECT wanted.organization_id::text, wanted.month
FROM (SELECT DISTINCT * FROM unnest($1::uuid[], $2::timestamptz[]) AS t(organization_id, month)) AS wanted
WHERE EXISTS (
    SELECT FROM usage_drops s
    WHERE s.organization_id = ANY (ARRAY[wanted.organization_id, $3::uuid]) AND s.month = wanted.month
        AND s.state <> 'REFUSED' AND (s.organization_id <> $3 OR NOT EXISTS (
            SELECT FROM usage_retention r WHERE r.organization_id = ANY (ARRAY[wanted.organization_id])
                AND {IS_KEPT.format(month="wanted.month", now="$4::timestamptz")}
        ))
) OR EXISTS (
    SELECT FROM dropped_usage_months d
    WHERE d.organization_id = ANY (ARRAY[wanted.organization_id]) AND d.month = wanted.month AND d.state <> 'COUNTED'
)
"""


async def sealed_months(
    connection: RawConnection, moments: Iterable[tuple[str, datetime]], now: datetime
) -> set[tuple[str, datetime]]:
    """Return the organizations and months of those times that are in a month which is dropped, or will be."""
    wanted = {(organization_id, month_of(moment)) for organization_id, moment in moments}
    if not wanted:
        return set()
    rows = await connection.fetch(_SEALED, [one[0] for one in wanted], [one[1] for one in wanted], NIL, now)
    return {(row[0], row[1]) for row in rows}


_DROPPED_MONTHS: Final = f"""
SELECT month FROM dropped_usage_months
WHERE organization_id = $1::uuid AND month >= $2 AND month < $3 AND {COUNTS} ORDER BY month
"""
# The months of which usage of some organizations was dropped.
_DROPPED_OF_SOME: Final = """
SELECT DISTINCT month FROM usage_drops WHERE month >= $1 AND month < $2 AND state IN ('DROPPING', 'DROPPED')
ORDER BY month LIMIT 1200
"""


async def dropped_months(
    connection: RawConnection, organization_id: str | None, start_time: datetime, end_time: datetime
) -> list[str]:
    """Return the months between two times whose usage was dropped, such as `2026-01`: of an organization, or of any."""
    first = month_of(start_time)
    if organization_id is None:
        rows = await connection.fetch(_DROPPED_OF_SOME, first, end_time)
    else:
        rows = await connection.fetch(_DROPPED_MONTHS, organization_id, first, end_time)
    return [month_text(row[0]) for row in rows]


async def refuse_dropped_range(
    connection: RawConnection, organization_id: str | None, start_time: datetime, end_time: datetime
) -> None:
    """Raise UsageMonthDropped if usage between two times was dropped: of an organization, or of any."""
    for month in await dropped_months(connection, organization_id, start_time, end_time):
        raise UsageMonthDropped(organization_id=organization_id or "", month=month)


def month_text(moment: datetime) -> str:
    return f"{month_of(moment):%Y-%m}"


_LINK: Final = """
INSERT INTO usage_links (organization_id, operation_id, corrects_operation_id)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[]) ORDER BY 1, 2 ON CONFLICT DO NOTHING
"""
# By the primary key.
_LINKED: Final = """
SELECT l.organization_id::text, l.operation_id, l.corrects_operation_id
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN usage_links l
    ON l.organization_id = ANY (ARRAY[wanted.organization_id]) AND l.operation_id = wanted.operation_id
"""


async def link(connection: RawConnection, links: Collection[tuple[str, str, str]]) -> None:
    """Store which dropped usages others correct, each as an organization and the two operation ids."""
    await connection.execute(_LINK, *map(list, zip(*links, strict=True)))


async def find_links(connection: RawConnection, keys: Collection[Key]) -> dict[Key, str]:
    """Return the operation ids of the dropped usages that usages correct; those that correct none are left out."""
    rows = await connection.fetch(_LINKED, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): row[2] for row in rows}
