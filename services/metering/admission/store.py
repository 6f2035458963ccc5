"""The statements of authorizations, all by primary key."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from services.metering.admission.model import Ask, Pinned, Stored

Key = tuple[str, str]

# In the order of the keys, so that two processes with the same operations wait for each other and never for ever.
_ADD: Final = """
INSERT INTO authorizations (organization_id, operation_id, project_id, user_id, service_account_id, api_key_id, model,
    endpoint, input_tokens, max_output_tokens, hold_ttl_ms, fingerprint, price_version_id, currency_code, amount,
    create_time)
SELECT organization_id, operation_id, project_id, user_id, service_account_id, api_key_id, model, endpoint,
    input_tokens, max_output_tokens, hold_ttl_ms, fingerprint, price_version_id, currency_code, amount::numeric,
    create_time
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::text[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[], $13::uuid[], $14::text[], $15::text[], $16::timestamptz[])
    AS t(organization_id, operation_id, project_id, user_id, service_account_id, api_key_id, model, endpoint,
    input_tokens, max_output_tokens, hold_ttl_ms, fingerprint, price_version_id, currency_code, amount, create_time)
ORDER BY organization_id, operation_id
ON CONFLICT DO NOTHING RETURNING organization_id::text, operation_id
"""

_FIND: Final = """
SELECT a.organization_id::text, a.operation_id, project_id::text, user_id::text, service_account_id::text,
    api_key_id::text, model, endpoint, input_tokens, max_output_tokens, hold_ttl_ms, fingerprint,
    price_version_id::text, currency_code, amount, create_time, cancelled
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN authorizations a USING (organization_id, operation_id)
"""

_CANCEL: Final = """
UPDATE authorizations SET cancelled = true WHERE organization_id = $1::uuid AND operation_id = $2::text
"""

_IS_RECORDED: Final = """
SELECT EXISTS (SELECT FROM usage_operations WHERE organization_id = $1::uuid AND operation_id = $2::text)
"""


async def add(connection: RawConnection, pinned: Sequence[Pinned]) -> set[Key]:
    """Add authorizations; return the keys of those that were new."""
    rows = [(*one.ask, *one[1:4], format_amount(one.amount), one.create_time) for one in pinned]
    added = await connection.fetch(_ADD, *zip(*rows, strict=True))
    return {(row[0], row[1]) for row in added}


async def find(connection: RawConnection, keys: Sequence[Key]) -> dict[Key, Stored]:
    rows = await connection.fetch(_FIND, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): _stored(row) for row in rows}


async def cancel(connection: RawConnection, key: Key) -> None:
    await connection.execute(_CANCEL, *key)


async def is_recorded(connection: RawConnection, key: Key) -> bool:
    """Tell whether the usage of an operation is recorded."""
    return bool(await connection.fetchval(_IS_RECORDED, *key))


def _stored(row: asyncpg.Record) -> Stored:
    values = tuple(row)
    return Stored(Pinned(Ask(*values[:11]), *values[11:16]), values[16])
