"""The statements on authorizations, all by primary key."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from services.metering.admission.domain import Ask, Pinned, Stored
from services.metering.usage.store import quantities_text, read_quantities

Key = tuple[str, str]

# Inserts in the order of the keys, so that two processes with the same operations cannot deadlock. Returns the keys
# that existed before, which is nearly always none.
_ADD: Final = """
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::text[],
        $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::uuid[],
        $17::text[], $18::text[], $19::timestamptz[])
        AS t(organization_id, operation_id, project_id, user_id, service_account_id, api_key_id, model, endpoint,
        input_tokens, max_output_tokens, hold_ttl_ms, quantities, service_tier, environment, fingerprint,
        price_version_id, currency_code, amount, create_time)
), added AS (
    INSERT INTO authorizations (organization_id, operation_id, project_id, user_id, service_account_id, api_key_id,
        model, endpoint, input_tokens, max_output_tokens, hold_ttl_ms, quantities, service_tier, environment,
        fingerprint, price_version_id, currency_code, amount, create_time)
    SELECT organization_id, operation_id, project_id, user_id, service_account_id, api_key_id,
        model, endpoint, input_tokens, max_output_tokens, hold_ttl_ms, quantities::jsonb, service_tier, environment,
        fingerprint, price_version_id, currency_code, amount::numeric, create_time
    FROM item ORDER BY organization_id, operation_id
    ON CONFLICT DO NOTHING RETURNING organization_id, operation_id
)
SELECT organization_id::text, operation_id FROM item
WHERE ((organization_id, operation_id) IN (SELECT organization_id, operation_id FROM added)) IS NOT TRUE
"""

_FIND: Final = """
SELECT a.organization_id::text, a.operation_id, project_id::text, user_id::text, service_account_id::text,
    api_key_id::text, model, endpoint, input_tokens, max_output_tokens, hold_ttl_ms,
    quantities::text, service_tier, environment, a.fingerprint,
    price_version_id::text, currency_code, amount, create_time, cancelled, o.operation_id IS NOT NULL AS settled
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN authorizations a USING (organization_id, operation_id)
LEFT JOIN usage_operations o ON o.organization_id = a.organization_id AND o.operation_id = a.operation_id
"""

_CANCEL: Final = """
UPDATE authorizations SET cancelled = true WHERE organization_id = $1::uuid AND operation_id = $2::text
"""


async def add(connection: RawConnection, pinned: Sequence[Pinned]) -> list[Key]:
    """Insert authorizations; return the keys of those that existed before."""
    rows = [(*one.ask, *one[1:4], format_amount(one.amount), one.create_time) for one in pinned]
    before = await connection.fetch(_ADD, *map(_sent, zip(*rows, strict=True)))
    return [(row[0], row[1]) for row in before]


def _sent(column: Sequence[object]) -> Sequence[object]:
    """Return the array to send for a column: empty if all values are null, since `unnest` then fills in nulls."""
    return () if column.count(None) == len(column) else column


async def find(connection: RawConnection, keys: Sequence[Key]) -> dict[Key, Stored]:
    rows = await connection.fetch(_FIND, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): _stored(row) for row in rows}


async def cancel(connection: RawConnection, key: Key) -> None:
    await connection.execute(_CANCEL, *key)


def _stored(row: asyncpg.Record) -> Stored:
    values = tuple(row)
    asked = len(Ask._fields)
    ask = Ask(*values[:asked])
    if ask.quantities is not None:
        # Postgres writes JSON in its own way.
        ask = ask._replace(quantities=quantities_text(read_quantities(ask.quantities)))
    return Stored(Pinned(ask, *values[asked : asked + 5]), *values[asked + 5 :])
