"""Reading charges along the primary key, and their digests along the accounts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.charge_filter import ChargeFilter
from libs.common.database import RawConnection
from libs.common.digests import PartDigest, bucket_sql, digest_sql
from libs.common.jumps import jumps
from services.billing.charge.domain import Charge, Movements
from services.billing.ledger.domain import Kind

# What metering gives back is a charge below zero.
_SIGNED: Final = "(CASE t.kind WHEN 'REVERSAL' THEN -t.amount ELSE t.amount END)"
_IS_CHARGE: Final = """(
            t.kind IN ('DEBIT', 'CAPTURE') OR t.kind = 'REVERSAL' AND t.metadata->>'source' = 'metering')"""
_CHARGE: Final = f"""
    SELECT organization_id::text, operation_id, transaction_id::text, kind, currency_code, {_SIGNED}, create_time,
        coalesce(metadata->>'source', '')
    FROM transactions t
"""  # noqa: S608
# A range of the primary key: of one organization where one is given.
_CHARGES: Final = f"""
    {_CHARGE}
    WHERE (organization_id, operation_id) > ($1::uuid, $2::text) AND ($3::uuid IS NULL OR organization_id = $3)
        AND {_IS_CHARGE} AND ($5::timestamptz IS NULL OR create_time >= $5)
        AND ($6::timestamptz IS NULL OR create_time <= $6)
    ORDER BY organization_id, operation_id LIMIT $4
"""
# The primary keys named.
_NAMED: Final = f"""
    {_CHARGE}
    WHERE organization_id = $1 AND operation_id = ANY($2::text[]) AND operation_id > $3
        AND {_IS_CHARGE} AND ($5::timestamptz IS NULL OR create_time >= $5)
        AND ($6::timestamptz IS NULL OR create_time <= $6)
    ORDER BY operation_id LIMIT $4
"""
# Part of one organization's primary key is read from the index alone; the rows only of what is in the buckets.
_SCANNED: Final = """
    SELECT operation_id FROM transactions WHERE organization_id = $1 AND operation_id > $2
    ORDER BY operation_id OFFSET $3 LIMIT 1
"""
_IN_BUCKETS: Final = f"""
    SELECT operation_id FROM transactions
    WHERE organization_id = $1 AND operation_id > $2 AND ($3::text IS NULL OR operation_id <= $3)
        AND {bucket_sql("operation_id", "$4")} = ANY($5::int[])
    ORDER BY operation_id LIMIT $6
"""  # noqa: S608


async def charges_after(
    connection: RawConnection, wanted: ChargeFilter, after: tuple[str, str], limit: int
) -> list[Charge]:
    """Return the next charges by (organization_id, operation_id), of all operations."""
    times = wanted.since_time, wanted.until_time
    return [_charge(row) for row in await connection.fetch(_CHARGES, *after, wanted.organization_id, limit, *times)]


async def charges_of(
    connection: RawConnection, wanted: ChargeFilter, operation_ids: Sequence[str], after: str, limit: int
) -> list[Charge]:
    """Return the charges of these operations of one organization, in byte order."""
    values = wanted.organization_id, list(operation_ids), after, limit, wanted.since_time, wanted.until_time
    return [_charge(row) for row in await connection.fetch(_NAMED, *values)]


def _charge(row: asyncpg.Record) -> Charge:
    return Charge(row[0], row[1], row[2], Kind(row[3]), *row[4:])


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


# Jumps along the primary key.
_ORGANIZATIONS: Final = f"""{jumps("accounts", limit="$2", where="sequence > 0")}
SELECT organization_id::text, sum(sequence)::bigint FROM looked JOIN accounts USING (organization_id)
GROUP BY organization_id ORDER BY organization_id
"""  # noqa: S608 -- the table is a constant.
# The accounts of the organizations named, by primary key.
_THESE_ORGANIZATIONS: Final = """
SELECT organization_id::text, sum(sequence)::bigint FROM accounts
WHERE organization_id = ANY($1::uuid[]) AND sequence > 0 GROUP BY organization_id ORDER BY organization_id
"""


async def organizations_after(connection: RawConnection, after: str, limit: int) -> list[tuple[str, int]]:
    """Return the next organizations, by id, that have an account with movements, and how many movements."""
    return [(row[0], row[1]) for row in await connection.fetch(_ORGANIZATIONS, after, limit)]


async def these_organizations(connection: RawConnection, organization_ids: Sequence[str]) -> list[tuple[str, int]]:
    """Return those of the organizations that have an account with movements, and how many movements."""
    return [(row[0], row[1]) for row in await connection.fetch(_THESE_ORGANIZATIONS, list(organization_ids))]


# The plan is made for the values at hand. Whole tables are never read, since these statements are small parts of them.
PLAN_PARTS: Final = """
SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = off; SET LOCAL enable_mergejoin = off;
SET LOCAL enable_hashjoin = off; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL work_mem = '16MB'
"""

# A range of the accounts' primary key.
_ACCOUNTS: Final = """
SELECT organization_id::text, account_id::text, sequence FROM accounts
WHERE organization_id = ANY($1::uuid[]) AND (organization_id, account_id) > ($2::uuid, $3::uuid) AND sequence > 0
    AND ($4::timestamptz IS NULL OR last_movement_time IS NULL OR last_movement_time >= $4)
ORDER BY organization_id, account_id LIMIT $5
"""


async def accounts_after(
    connection: RawConnection,
    organization_ids: Sequence[str],
    after: tuple[str, str],
    since_time: datetime | None,
    limit: int,
) -> list[Movements]:
    """Return all movements of the next accounts of the organizations, by id, that have any from then on."""
    rows = await connection.fetch(_ACCOUNTS, list(organization_ids), *after, since_time, limit)
    return [Movements(row[0], row[1], 1, row[2]) for row in rows]


# One probe of an index for each account. A movement may be missing at its own sequence: an account has the other side
# of transfers under `counter_sequence`.
_MOVEMENTS_AT: Final = """
SELECT t.sequence, t.create_time >= $4::timestamptz
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) WITH ORDINALITY AS a(organization_id, account_id, sequence, number)
LEFT JOIN LATERAL (
    SELECT sequence, create_time FROM transactions
    WHERE organization_id = a.organization_id AND account_id = a.account_id AND sequence >= a.sequence
    ORDER BY sequence LIMIT 1
) t ON true
ORDER BY a.number
"""


async def movements_at(
    connection: RawConnection, accounts: Sequence[Movements], sequences: Sequence[int], since_time: datetime
) -> list[tuple[int, bool] | None]:
    """Return the first movement of each account at or after a sequence, and whether it is as late as `since_time`."""
    rows = await connection.fetch(
        _MOVEMENTS_AT,
        [account.organization_id for account in accounts],
        [account.account_id for account in accounts],
        list(sequences),
        since_time,
    )
    return [None if row[0] is None else (row[0], row[1]) for row in rows]


# Ranges of the index on (organization_id, account_id, sequence), and their rows.
_DIGESTS: Final = f"""
SELECT t.organization_id::text, {bucket_sql("t.operation_id", "$5")} AS bucket, t.currency_code, count(*),
    sum({_SIGNED}), {digest_sql("t.operation_id", _SIGNED)}
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[]) AS a(organization_id, account_id, first, last)
JOIN transactions t ON t.organization_id = a.organization_id AND t.account_id = a.account_id
    AND t.sequence BETWEEN a.first AND a.last
WHERE t.kind IN ('DEBIT', 'CAPTURE', 'REVERSAL') AND t.amount > 0 AND t.metadata->>'source' = 'metering'
    AND ($6::timestamptz IS NULL OR t.create_time >= $6) AND ($7::timestamptz IS NULL OR t.create_time <= $7)
GROUP BY t.organization_id, bucket, t.currency_code
"""  # noqa: S608


async def digests(
    connection: RawConnection,
    accounts: Sequence[Movements],
    bucket_count: int,
    since_time: datetime | None,
    until_time: datetime | None,
) -> list[PartDigest]:
    """Return the digests of what metering charged among these movements."""
    rows = await connection.fetch(
        _DIGESTS,
        [account.organization_id for account in accounts],
        [account.account_id for account in accounts],
        [account.first for account in accounts],
        [account.last for account in accounts],
        bucket_count,
        since_time,
        until_time,
    )
    return [PartDigest(*row) for row in rows]
