"""The statements on the counters of limits, by primary key where they say nothing else."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.by_key import by_key
from libs.common.database import RawConnection
from libs.common.ids import MAX, NIL

Key = tuple[str, str]
"""The organization and the counter's id, or the operation's."""

FIRST_KEY: Final[Key] = (NIL, NIL)
_LAST_KEY: Final[Key] = (MAX, MAX)
SWEEP_MAX: Final = 5_000
"""The most counters that one step of the sweep looks at."""


class New(NamedTuple):
    """A counter to create."""

    organization_id: str
    counter_id: str
    limit_id: str
    subject: str
    window_start: datetime
    window_end: datetime | None
    drop_time: datetime | None
    metric: str
    currency_code: str
    entitled: bool


class Change(NamedTuple):
    """By how much a counter changes."""

    used: Decimal
    reserved: Decimal


class Counted(NamedTuple):
    """What a counter has."""

    used: Decimal
    reserved: Decimal


class Identity(NamedTuple):
    """What a counter counts. It never changes."""

    limit_id: str
    subject: str
    window_start: datetime
    window_end: datetime | None


class Reservation(NamedTuple):
    """What an authorization has reserved in a counter."""

    counter_id: str
    amount: Decimal


# Inserts in the order of the keys, in a transaction of its own: so no two processes can deadlock with each other, nor
# with those that hold locks on counters. What is locked for a sliding window, which has no end, is kept for longer.
_CREATE: Final = """
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::timestamptz[],
        $7::timestamptz[], $8::text[], $9::text[], $10::boolean[])
        AS t(organization_id, counter_id, limit_id, subject, window_start, window_end, drop_time, metric, currency_code,
        entitled)
)
INSERT INTO limit_counters (organization_id, counter_id, limit_id, subject, window_start, window_end, drop_time, metric,
    currency_code, entitled, used, reserved)
SELECT item.*, 0, 0 FROM item ORDER BY organization_id, counter_id
ON CONFLICT (organization_id, counter_id) DO UPDATE SET drop_time = excluded.drop_time
    WHERE excluded.window_end IS NULL AND excluded.drop_time IS NOT NULL
        AND (limit_counters.drop_time < excluded.drop_time) IS NOT FALSE
"""

_WANTED: Final = """
SELECT c.organization_id::text, c.counter_id::text, c.used, c.reserved
FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, counter_id)
JOIN limit_counters c
    ON c.organization_id = ANY (ARRAY[wanted.organization_id]) AND c.counter_id = wanted.counter_id
"""
# Locks in the order of the keys, which are sorted before any row is looked for: sorted after that, Postgres could read
# the whole index in its order instead. It waits for decisions of other processes on the same limits.
_LOCK: Final = f"""
SELECT c.organization_id::text, c.counter_id::text, c.used, c.reserved
FROM (
    SELECT organization_id, counter_id FROM unnest($1::uuid[], $2::uuid[]) AS t(organization_id, counter_id)
    ORDER BY organization_id, counter_id
) AS wanted
CROSS JOIN LATERAL (
    SELECT * FROM limit_counters
    WHERE {by_key("wanted.organization_id", "counter_id", "wanted.counter_id")} FOR NO KEY UPDATE
) AS c
"""  # noqa: S608 -- made of constants of ours alone.

# Whatever it is for: who has read the counter without a lock finds that it has changed.
_ADD: Final = """
UPDATE limit_counters c SET used = c.used + d.used::numeric, reserved = c.reserved + d.reserved::numeric,
    authorized = c.authorized + 1, revision = c.revision + 1
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS d(organization_id, counter_id, used, reserved)
WHERE c.organization_id = ANY (ARRAY[d.organization_id]) AND c.counter_id = d.counter_id
"""

# From one subject to the next, by the index limit_counters_of_limit: each step reads an entry of it. Whether a subject
# has used something in its present window is read from its counters of that time, by the same index.
_SUBJECTS: Final = """
WITH RECURSIVE looked AS (
    (SELECT c.subject, 1 AS number FROM limit_counters c
        WHERE c.organization_id = $1::uuid AND c.limit_id = $2::uuid AND c.subject > $3::text
        ORDER BY c.subject LIMIT 1)
    UNION ALL
    SELECT following.subject, looked.number + 1 FROM looked, LATERAL (
        SELECT c.subject FROM limit_counters c
        WHERE c.organization_id = $1::uuid AND c.limit_id = $2::uuid AND c.subject > looked.subject
        ORDER BY c.subject LIMIT 1
    ) AS following WHERE looked.number < $5::integer
)
SELECT looked.subject, EXISTS (
    SELECT FROM limit_counters c
    WHERE c.organization_id = $1::uuid AND c.limit_id = $2::uuid AND c.subject = looked.subject
        AND c.window_start >= $4::timestamptz AND (c.used > 0 OR c.reserved > 0)
) FROM looked ORDER BY looked.number
"""

# What is counted for requests of proxies, of which nothing else is stored.
_ADD_HITS: Final = """
UPDATE limit_counters c SET used = c.used + d.used::numeric, hits = c.hits + d.used::numeric
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS d(organization_id, counter_id, used)
WHERE c.organization_id = ANY (ARRAY[d.organization_id]) AND c.counter_id = d.counter_id
"""

# Takes of several counters what all of them leave, or nothing of any: it locks them in the order of their keys, as
# _LOCK does, compares what they have then, and changes them only if each has enough.
_TAKE_IF_LEFT: Final = f"""
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])
        AS t(organization_id, counter_id, used, maximum)
    ORDER BY organization_id, counter_id
), found AS MATERIALIZED (
    SELECT wanted.organization_id, wanted.counter_id, wanted.used::numeric AS wanted, c.used, c.reserved,
        c.used + c.reserved + wanted.used::numeric <= wanted.maximum::numeric AS is_left,
        c.limit_id, c.subject, c.window_start
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT * FROM limit_counters
        WHERE {by_key("wanted.organization_id", "counter_id", "wanted.counter_id")} FOR NO KEY UPDATE
    ) AS c
), changed AS (
    UPDATE limit_counters c SET used = c.used + d.wanted, hits = c.hits + d.wanted
    FROM found AS d
    WHERE c.organization_id = ANY (ARRAY[d.organization_id]) AND c.counter_id = d.counter_id
        AND c.limit_id = d.limit_id AND c.subject = d.subject AND c.window_start = d.window_start
        AND (SELECT count(*) = cardinality($1::uuid[]) AND bool_and(is_left) FROM found)
    RETURNING c.counter_id
)
SELECT organization_id::text, counter_id::text, used, reserved FROM found WHERE EXISTS (SELECT FROM changed)
"""  # noqa: S608 -- made of constants of ours alone.

_METRICS: Final = """
SELECT c.organization_id::text, c.counter_id::text, c.metric, c.currency_code
FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, counter_id)
JOIN limit_counters c
    ON c.organization_id = ANY (ARRAY[wanted.organization_id]) AND c.counter_id = wanted.counter_id
"""

_IDENTITIES: Final = """
SELECT c.counter_id::text, c.limit_id::text, c.subject, c.window_start, c.window_end
FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, counter_id)
JOIN limit_counters c
    ON c.organization_id = ANY (ARRAY[wanted.organization_id]) AND c.counter_id = wanted.counter_id
"""

_RESERVED: Final = """
SELECT a.organization_id::text, a.operation_id, a.counters::text[], a.reserved
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN authorizations a
    ON a.organization_id = ANY (ARRAY[wanted.organization_id]) AND a.operation_id = wanted.operation_id
WHERE a.counters IS NOT NULL AND NOT a.limits_released
"""
# Whether a settled call lapses need not be looked at any more. In the order of the keys; by primary keys.
_CONTRADICTED: Final = """
WITH seen AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bool[]) AS t(organization_id, operation_id, reserves)
    ORDER BY organization_id, operation_id
), looked_at AS (
    DELETE FROM lapse_checks l USING seen
    WHERE seen.reserves AND l.organization_id = ANY (ARRAY[seen.organization_id])
        AND l.operation_id = seen.operation_id
)
SELECT a.organization_id::text, a.operation_id
FROM seen JOIN authorizations a
    ON a.organization_id = ANY (ARRAY[seen.organization_id]) AND a.operation_id = seen.operation_id
WHERE a.counters IS NOT NULL AND a.limits_released = seen.reserves
"""
# Whoever runs this holds locks on the counters of these operations. A settlement takes the same locks after it has
# written its usage, and only then reads what was released: so each reservation is given back by one of the two.
_RELEASE: Final = """
UPDATE authorizations a SET limits_released = true
FROM unnest($1::uuid[], $2::text[]) AS ended(organization_id, operation_id)
WHERE a.organization_id = ANY (ARRAY[ended.organization_id]) AND a.operation_id = ended.operation_id
    AND a.counters IS NOT NULL AND NOT a.limits_released
    AND ($3::timestamptz IS NULL OR a.cancelled OR a.declined
        OR coalesce(a.expire_time, a.create_time + a.hold_ttl_ms * interval '1 millisecond') < $3::timestamptz)
    AND NOT EXISTS (
        SELECT FROM usage_operations o
        WHERE o.organization_id = ANY (ARRAY[a.organization_id]) AND o.operation_id = a.operation_id
            AND o.fingerprint <> ''
    )
RETURNING a.organization_id::text, a.operation_id
"""
# The last key of the next window; by the primary key.
_SWEEP_END: Final = """
SELECT organization_id::text, counter_id::text FROM limit_counters
WHERE (organization_id, counter_id) > ($1::uuid, $2::uuid)
ORDER BY organization_id, counter_id OFFSET $3 LIMIT 1
"""
# Reads a range of the primary key, without counters that are in use at this moment. Limits: by the primary key.
_SWEEP: Final = """
WITH over AS (
    SELECT c.organization_id, c.counter_id FROM limit_counters c
    WHERE (c.organization_id, c.counter_id) > ($1::uuid, $2::uuid)
        AND (c.organization_id, c.counter_id) <= ($3::uuid, $4::uuid)
        AND (c.drop_time < $5::timestamptz OR NOT c.entitled AND NOT EXISTS (
            SELECT FROM limits l
            WHERE l.organization_id = ANY (ARRAY[c.organization_id]) AND l.limit_id = c.limit_id
        ))
    ORDER BY c.organization_id, c.counter_id FOR UPDATE OF c SKIP LOCKED
)
DELETE FROM limit_counters c USING over
WHERE c.organization_id = ANY (ARRAY[over.organization_id]) AND c.counter_id = over.counter_id
"""


async def create(connection: RawConnection, new: Sequence[New]) -> None:
    """Create those counters that do not exist, and keep those without an end until their new `drop_time`."""
    await connection.execute(_CREATE, *zip(*new, strict=True))


async def lock(connection: RawConnection, keys: Collection[Key]) -> dict[Key, Counted]:
    """Lock counters until the end of the transaction, in the order of their keys, and return those that exist."""
    return {(row[0], row[1]): Counted(row[2], row[3]) for row in await connection.fetch(_LOCK, *_arrays(keys))}


async def read(connection: RawConnection, keys: Collection[Key]) -> dict[Key, Counted]:
    """Return those of the counters that exist."""
    return {(row[0], row[1]): Counted(row[2], row[3]) for row in await connection.fetch(_WANTED, *_arrays(keys))}


async def add(connection: RawConnection, changes: Mapping[Key, Change]) -> None:
    """Change counters that the transaction has locked."""
    used = [format_amount(change.used) for change in changes.values()]
    reserved = [format_amount(change.reserved) for change in changes.values()]
    await connection.execute(_ADD, *_arrays(changes), used, reserved)


async def subjects(
    connection: RawConnection, organization_id: str, limit_id: str, *, after: str, since: datetime, count: int
) -> Sequence[tuple[str, bool]]:
    """Return for whom a limit has counters, after a subject and in their order, at most `count`, and whether something
    is used or reserved in those of windows that began at `since` or later."""
    rows = await connection.fetch(_SUBJECTS, organization_id, limit_id, after, since, count)
    return [(row[0], row[1]) for row in rows]


async def add_hits(connection: RawConnection, changes: Mapping[Key, Change]) -> None:
    """Count what requests of proxies use in counters that the transaction has locked. They reserve nothing."""
    used = [format_amount(change.used) for change in changes.values()]
    await connection.execute(_ADD_HITS, *_arrays(changes), used)


async def take_if_left(connection: RawConnection, wanted: Mapping[Key, tuple[Decimal, Decimal]]) -> dict[Key, Counted]:
    """Count what requests of proxies use in counters, if none would have more than its maximum then; return what they
    had before, or nothing where nothing was counted. What is wanted of each comes with its maximum."""
    used = [format_amount(one) for one, _ in wanted.values()]
    maxima = [format_amount(maximum) for _, maximum in wanted.values()]
    rows = await connection.fetch(_TAKE_IF_LEFT, *_arrays(wanted), used, maxima)
    return {(row[0], row[1]): Counted(row[2], row[3]) for row in rows}


async def metrics(connection: RawConnection, keys: Collection[Key]) -> dict[Key, tuple[str, str]]:
    """Return the metric and currency of those of the counters that exist."""
    return {(row[0], row[1]): (row[2], row[3]) for row in await connection.fetch(_METRICS, *_arrays(keys))}


async def identities(connection: RawConnection, keys: Collection[Key]) -> dict[str, Identity]:
    """Return what those of the counters count that exist, by their ids."""
    return {row[0]: Identity(*row[1:]) for row in await connection.fetch(_IDENTITIES, *_arrays(keys))}


async def reserved_by(connection: RawConnection, operations: Collection[Key]) -> dict[Key, Sequence[Reservation]]:
    """Return what authorizations have reserved and was not given back."""
    rows = await connection.fetch(_RESERVED, *_arrays(operations))
    return {(row[0], row[1]): [Reservation(*pair) for pair in zip(row[2], row[3], strict=True)] for row in rows}


async def contradicted(connection: RawConnection, reserves: Mapping[Key, bool]) -> set[Key]:
    """Return the operations that are not as they were seen: what they had reserved was given back meanwhile, or they
    have reserved something and were seen without it. They are recorded now, so none of them is checked for a lapse."""
    rows = await connection.fetch(_CONTRADICTED, *_arrays(reserves), list(reserves.values()))
    return {(row[0], row[1]) for row in rows}


async def release(connection: RawConnection, operations: Collection[Key], ended_before: datetime | None) -> set[Key]:
    """Note that reservations are given back; return the operations for which that was still to be done.

    Where a time is given, those whose holds end later are left out, but for cancelled and declined ones.
    """
    return {(row[0], row[1]) for row in await connection.fetch(_RELEASE, *_arrays(operations), ended_before)}


async def sweep_end(connection: RawConnection, after: Key) -> Key | None:
    """Return the last key of the next step of the sweep; None when the rest fits into one step."""
    row = await connection.fetchrow(_SWEEP_END, *after, SWEEP_MAX - 1)
    return None if row is None else (row[0], row[1])


async def sweep(connection: RawConnection, after: Key, until: Key | None, drop_time: datetime) -> None:
    """Delete the counters of a range that nothing looks at any more, and those of deleted limits."""
    await connection.execute(_SWEEP, *after, *(until or _LAST_KEY), drop_time)


def _arrays(keys: Collection[Key]) -> tuple[list[str], list[str]]:
    return [key[0] for key in keys], [key[1] for key in keys]
