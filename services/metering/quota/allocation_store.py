"""The statements on allocations and their leases, by primary key where they say nothing else."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.ids import AFTER_TEXT, MAX, NIL
from services.metering.quota.allocation_domain import Allocation, Amount, Taken

Key = tuple[str, str]
"""The organization and the operation."""

FIRST_KEY: Final[Key] = (NIL, "")
_LAST_KEY: Final[Key] = (MAX, AFTER_TEXT)
SCAN_MAX: Final = 5_000
"""The most leases that one statement looks at."""

_FIND: Final = """
SELECT a.organization_id::text, a.operation_id, a.fingerprint, a.metrics, a.amounts, a.currency_code,
    a.counters::text[], a.taken, a.reserved, a.lease_end_time, a.create_time, a.released, a.lapsed, a.spent, a.declined
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN quota_allocations a
    ON a.organization_id = ANY (ARRAY[wanted.organization_id]) AND a.operation_id = wanted.operation_id
"""
# Inserts in the order of the keys, so that no two processes can deadlock. It waits for another process that is adding
# the same operation. Arrays come as text, since an array of arrays of different lengths is none.
_ADD: Final = """
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::text[])
        AS t(organization_id, operation_id, fingerprint, metrics, amounts, currency_code, counters, taken, reserved,
            lease_end_time, create_time, spent)
), added AS (
    INSERT INTO quota_allocations (organization_id, operation_id, fingerprint, metrics, amounts, currency_code,
        counters, taken, reserved, lease_end_time, released, lapsed, create_time, spent)
    SELECT organization_id, operation_id, fingerprint, metrics::text[], amounts::numeric[], currency_code,
        counters::uuid[], taken::numeric[], reserved::numeric[], lease_end_time, false, false, create_time,
        spent::numeric[]
    FROM item ORDER BY organization_id, operation_id ON CONFLICT DO NOTHING
    RETURNING organization_id, operation_id, lease_end_time
), leased AS (
    INSERT INTO quota_leases (organization_id, operation_id, lease_end_time)
    SELECT organization_id, operation_id, lease_end_time FROM added WHERE lease_end_time IS NOT NULL
)
SELECT count(*) FROM added
"""

# Takes leases out of the queue, in the order of their keys. It waits for who is ending one of them.
_TAKE_OUT: Final = """
WITH ended AS (
    SELECT l.organization_id, l.operation_id
    FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
    JOIN quota_leases l
        ON l.organization_id = ANY (ARRAY[wanted.organization_id]) AND l.operation_id = wanted.operation_id
    ORDER BY wanted.organization_id, wanted.operation_id FOR UPDATE OF l
)
DELETE FROM quota_leases l USING ended
WHERE l.organization_id = ANY (ARRAY[ended.organization_id]) AND l.operation_id = ended.operation_id
RETURNING l.organization_id::text, l.operation_id
"""
# The same without those that another process has locked, so that several share the work and never wait.
_TAKE_OUT_FREE: Final = _TAKE_OUT.replace("FOR UPDATE OF l", "FOR UPDATE OF l SKIP LOCKED")
# Whoever runs this holds locks on the counters of these operations, so each is released by one.
_RELEASE: Final = """
UPDATE quota_allocations a SET released = true, lapsed = a.lease_end_time <= $3::timestamptz
FROM unnest($1::uuid[], $2::text[]) AS ended(organization_id, operation_id)
WHERE a.organization_id = ANY (ARRAY[ended.organization_id]) AND a.operation_id = ended.operation_id
    AND a.lease_end_time IS NOT NULL AND NOT a.released
RETURNING a.organization_id::text, a.operation_id, a.lapsed
"""

# Whoever settles a lease holds its row in the queue until the end of the transaction, if it is there still, and then
# its allocation: so nobody else changes what it has reserved. It waits for who is ending it.
_HOLD_IN_QUEUE: Final = (
    "SELECT FROM quota_leases WHERE organization_id = $1::uuid AND operation_id = $2::text FOR UPDATE"
)
_LOCK_LEASE: Final = f"{_FIND.rstrip()} AND a.spent IS NOT NULL FOR UPDATE OF a"
_SETTLE: Final = """
WITH ended AS (
    DELETE FROM quota_leases
    WHERE $5::boolean AND organization_id = $1::uuid AND operation_id = $2::text
)
UPDATE quota_allocations SET reserved = ($3::text)::numeric[], spent = ($4::text)::numeric[], released = $5::boolean,
    lapsed = $6::boolean
WHERE organization_id = $1::uuid AND operation_id = $2::text
"""
_DECLINE: Final = """
UPDATE quota_allocations SET declined = true
WHERE organization_id = $1::uuid AND operation_id = $2::text AND NOT declined
"""
# Which of some operations are authorized. IS TRUE keeps the planner from making it a join.
_AUTHORIZED: Final = """
SELECT wanted.organization_id::text, wanted.operation_id
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
WHERE EXISTS (
    SELECT FROM authorizations a
    WHERE a.organization_id = ANY (ARRAY[wanted.organization_id]) AND a.operation_id = wanted.operation_id
) IS TRUE
"""

# The last key of the next window; by the primary key.
_WINDOW_END: Final = """
SELECT organization_id::text, operation_id FROM quota_leases
WHERE (organization_id, operation_id) > ($1::uuid, $2::text)
ORDER BY organization_id, operation_id OFFSET $3 LIMIT 1
"""
# Reads a window by the primary key.
_DUE: Final = """
SELECT organization_id::text, operation_id FROM quota_leases
WHERE (organization_id, operation_id) > ($1::uuid, $2::text)
    AND (organization_id, operation_id) <= ($3::uuid, $4::text)
    AND lease_end_time <= $5::timestamptz
ORDER BY organization_id, operation_id LIMIT $6
"""


async def find(connection: RawConnection, keys: Collection[Key]) -> dict[Key, Allocation]:
    """Return those of the allocations that are stored."""
    found = map(_allocation, await connection.fetch(_FIND, *_arrays(keys)))
    return {(one.organization_id, one.operation_id): one for one in found}


async def add(connection: RawConnection, allocations: Sequence[Allocation]) -> int:
    """Add allocations and their leases; return how many were not there."""
    added = await connection.fetchval(
        _ADD,
        [one.organization_id for one in allocations],
        [one.operation_id for one in allocations],
        [one.fingerprint for one in allocations],
        [_array(amount.metric for amount in one.amounts) for one in allocations],
        [_array(format_amount(amount.value) for amount in one.amounts) for one in allocations],
        [one.currency_code for one in allocations],
        [_array(taken.counter_id for taken in one.taken) for one in allocations],
        [_array(format_amount(taken.used) for taken in one.taken) for one in allocations],
        [_array(format_amount(taken.reserved) for taken in one.taken) for one in allocations],
        [one.lease_end_time for one in allocations],
        [one.create_time for one in allocations],
        [None if one.spent is None else _array(map(format_amount, one.spent)) for one in allocations],
    )
    return int(added)


async def take_out(connection: RawConnection, keys: Collection[Key]) -> None:
    """Take leases out of the queue; wait for those that another process is ending."""
    await connection.fetch(_TAKE_OUT, *_arrays(keys))


async def take_out_free(connection: RawConnection, keys: Collection[Key]) -> list[Key]:
    """Take leases out of the queue that no other process is ending; return them."""
    return [(row[0], row[1]) for row in await connection.fetch(_TAKE_OUT_FREE, *_arrays(keys))]


async def release(connection: RawConnection, keys: Collection[Key], now: datetime) -> dict[Key, bool]:
    """Note that places are given back; return the allocations for which that was still to be done, and whether their
    leases had ended."""
    return {(row[0], row[1]): row[2] for row in await connection.fetch(_RELEASE, *_arrays(keys), now)}


async def lock_lease(connection: RawConnection, key: Key) -> Allocation | None:
    """Return a lease as it is, locked until the end of the transaction; None where there is none."""
    await connection.fetch(_HOLD_IN_QUEUE, *key)
    # With a statement of its own: it sees what was committed while the lock was waited for.
    rows = await connection.fetch(_LOCK_LEASE, [key[0]], [key[1]])
    return None if not rows else _allocation(rows[0])


async def settle_lease(connection: RawConnection, lease: Allocation) -> None:
    """Store what a locked lease has reserved still, what was used of it, and whether it has ended."""
    reserved = _array(format_amount(one.reserved) for one in lease.taken)
    spent = _array(map(format_amount, lease.spent or ()))
    await connection.execute(
        _SETTLE, lease.organization_id, lease.operation_id, reserved, spent, lease.released, lease.lapsed
    )


async def decline(connection: RawConnection, key: Key) -> None:
    """Note that billing declined the hold of a lease."""
    await connection.execute(_DECLINE, *key)


async def authorized(connection: RawConnection, keys: Collection[Key]) -> set[Key]:
    """Return those of the operations that are authorized."""
    return {(row[0], row[1]) for row in await connection.fetch(_AUTHORIZED, *_arrays(keys))}


async def window_end(connection: RawConnection, after: Key) -> Key | None:
    """Return the last key of the next window of leases; None when the rest fits into one window."""
    row = await connection.fetchrow(_WINDOW_END, *after, SCAN_MAX - 1)
    return None if row is None else (row[0], row[1])


async def due(connection: RawConnection, after: Key, until: Key | None, now: datetime, limit: int) -> list[Key]:
    """Return the next leases of a window that have ended."""
    rows = await connection.fetch(_DUE, *after, *(until or _LAST_KEY), now, limit)
    return [(row[0], row[1]) for row in rows]


def _allocation(row: asyncpg.Record) -> Allocation:
    return Allocation(
        organization_id=row[0],
        operation_id=row[1],
        fingerprint=row[2],
        amounts=[Amount(*pair) for pair in zip(row[3], row[4], strict=True)],
        currency_code=row[5],
        taken=[Taken(*each) for each in zip(row[6], row[7], row[8], strict=True)],
        lease_end_time=row[9],
        create_time=row[10],
        released=row[11],
        lapsed=row[12],
        spent=row[13],
        declined=row[14],
    )


def _array(values: Iterable[str]) -> str:
    """Return an array of values without special characters as Postgres reads it."""
    return f"{{{','.join(values)}}}"


def _arrays(keys: Collection[Key]) -> tuple[list[str], list[str]]:
    return [key[0] for key in keys], [key[1] for key in keys]
