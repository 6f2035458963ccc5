"""The statements of calls that are settled in parts, on the driver's own connection."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from libs.common.database import RawConnection
from services.metering.usage.domain import Work
from services.metering.usage.part_domain import InParts, Part
from services.metering.usage.store import Key, quantities_text, read_quantities

_PART: Final = """{0}.part, {0}.model, {0}.service_tier, {0}.quantities::text, {0}.stated_amount,
    {0}.price_version_id::text, {0}.part_id, {0}.amount, {0}.captured_amount, {0}.currency_code, {0}.occur_time,
    {0}.create_time"""
_PART_COLUMNS: Final = len(Part._fields)

# By primary keys, each operation's parts from the last.
_FIND: Final = f"""
SELECT o.organization_id::text, o.operation_id, o.fingerprint, o.usage_id::text, {_PART.format("l")}
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN usage_operations o
    ON o.organization_id = ANY (ARRAY[wanted.organization_id]) AND o.operation_id = wanted.operation_id
LEFT JOIN LATERAL (
    SELECT * FROM settlement_parts p WHERE p.organization_id = o.organization_id AND p.operation_id = o.operation_id
    ORDER BY p.part DESC LIMIT 1
) l ON true
"""  # noqa: S608 -- made of constants of ours alone.

# By primary keys, like the one before.
_LAST_REQUESTS: Final = """
SELECT o.organization_id::text, o.operation_id, l.create_time, l.request
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN usage_operations o
    ON o.organization_id = ANY (ARRAY[wanted.organization_id]) AND o.operation_id = wanted.operation_id
CROSS JOIN LATERAL (
    SELECT * FROM settlement_parts p WHERE p.organization_id = o.organization_id AND p.operation_id = o.operation_id
    ORDER BY p.part DESC LIMIT 1
) l
WHERE o.fingerprint = ''
"""

# By the unique key of the fingerprint; the charge by its primary key.
_REPEATED: Final = f"""
SELECT {_PART.format("p")}, replace(x.state, 'DEAD', 'REFUSED') AS charge_state, x.last_error_reason
FROM settlement_parts p
LEFT JOIN outbox x ON x.organization_id = p.organization_id AND x.operation_id = p.part_id
WHERE p.organization_id = $1 AND p.operation_id = $2 AND p.fingerprint = $3
"""  # noqa: S608 -- made of constants of ours alone.

# One statement, one transaction: of two parts or settlements that have seen the same, one finds the dedupe row as it
# was, and the other writes nothing. The first part makes the dedupe row, each further one gives it another usage id.
# The first is noted as one that may lapse, too.
_ADD: Final = """
WITH begun AS (
    INSERT INTO usage_operations (organization_id, operation_id, fingerprint, usage_id, occur_time)
    SELECT $1::uuid, $2::text, '', $16::uuid, $20::timestamptz WHERE $17::uuid IS NULL
    ON CONFLICT DO NOTHING RETURNING organization_id
), continued AS (
    UPDATE usage_operations SET usage_id = $16::uuid
    WHERE organization_id = $1::uuid AND operation_id = $2::text AND fingerprint = '' AND usage_id = $17::uuid
    RETURNING organization_id
), claimed AS (
    TABLE begun UNION ALL TABLE continued
), added AS (
    INSERT INTO settlement_parts (organization_id, operation_id, part, fingerprint, part_id, model, service_tier,
        quantities, stated_amount, price_version_id, amount, captured_amount, currency_code, create_time, request,
        occur_time)
    SELECT $1::uuid, $2::text, $3::int, $4::bytea, $5::text, $6::text, $7::text, $8::text::jsonb, $9::numeric,
        $10::uuid, $11::numeric, $12::numeric, $13::text, $14::timestamptz, $15::bytea, $20::timestamptz
    FROM claimed
), noted AS (
    INSERT INTO lapse_checks (organization_id, operation_id, check_time)
    SELECT $1::uuid, $2::text, $21::timestamptz FROM begun ON CONFLICT DO NOTHING
), queued AS (
    INSERT INTO outbox (organization_id, operation_id, kind, state, amount, currency_code, project_id, description,
        attempt_count, next_attempt_time, create_time, hold_operation_id, user_id)
    SELECT $1::uuid, $5::text, 'CAPTURE', 'PENDING', $11::numeric, $13::text, $18::uuid, $6::text,
        0, $19::timestamptz, $14::timestamptz, $2::text, $22::uuid
    FROM claimed WHERE $5::text IS NOT NULL
)
SELECT count(*) FROM claimed
"""


class LastRequest(NamedTuple):
    """The settlement that is recorded of a call if no other one comes, and when it came."""

    create_time: datetime
    request: bytes


class Repeated(NamedTuple):
    """A part that was stored before, and the state of its charge."""

    part: Part
    charge_state: str | None
    """None where billing has confirmed the charge, or there is none."""
    refusal_reason: str | None


async def find(connection: RawConnection, keys: Sequence[Key]) -> dict[Key, InParts]:
    """Return what is known of operations that are settled, in parts or as a whole; each as of one moment."""
    rows = await connection.fetch(_FIND, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): InParts(row[2], row[3], _part(row, 4)) for row in rows}


async def last_requests(connection: RawConnection, keys: Sequence[Key]) -> dict[Key, LastRequest]:
    """Return the last parts of those of the operations that are settled in parts, and whose usage is not recorded."""
    rows = await connection.fetch(_LAST_REQUESTS, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): LastRequest(row[2], row[3]) for row in rows}


async def find_repeated(connection: RawConnection, work: Work) -> Repeated | None:
    """Return the part of the call that said the same; None if there is none."""
    row = await connection.fetchrow(_REPEATED, work.organization_id, work.operation_id, work.fingerprint)
    part = None if row is None else _part(row, 0)
    return None if row is None or part is None else Repeated(part, row["charge_state"], row["last_error_reason"])


async def add(
    connection: RawConnection,
    work: Work,
    part: Part,
    *,
    request: bytes,
    usage_id: str,
    seen_usage_id: str | None,
    due_time: datetime,
    expire_time: datetime,
) -> bool:
    """Store a part with its charge, if the dedupe row is as it was seen; tell whether it was.

    `usage_id` is the row's new one, `seen_usage_id` the present one, or None for the first part. `expire_time` is when
    the hold ends: from then on it is looked whether the call has lapsed.
    """
    claimed = await connection.fetchval(
        _ADD,
        work.organization_id,
        work.operation_id,
        part.part,
        work.fingerprint,
        part.part_id,
        part.model,
        part.service_tier,
        quantities_text(part.quantities),
        part.stated_amount,
        part.price_version_id,
        part.amount,
        part.captured_amount,
        part.currency_code,
        part.create_time,
        request,
        usage_id,
        seen_usage_id,
        work.project_id,
        due_time,
        part.occur_time,
        expire_time,
        work.user_id,
    )
    return bool(claimed)


def _part(row: asyncpg.Record, start: int) -> Part | None:
    values = row[start : start + _PART_COLUMNS]
    if values[0] is None:
        return None
    return Part._make((*values[:3], read_quantities(values[3]), *values[4:]))
