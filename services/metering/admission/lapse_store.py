"""The statements that find authorizations whose settlement does not come."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from libs.common.database import RawConnection
from libs.common.ids import AFTER_TEXT, MAX, NIL
from services.metering.admission.store import EXPIRE_TIME, Key

FIRST_KEY: Final[Key] = (NIL, "")
_LAST_KEY: Final[Key] = (MAX, AFTER_TEXT)
WALKS_MAX: Final = 50
"""The most organizations that are walked through in one statement."""
STEPS_MAX: Final = 200
"""The most authorizations of each that one statement looks at."""
SCAN_MAX: Final = 5_000


class Walked(NamedTuple):
    """What one statement walked through."""

    last_organization_id: str | None
    """None where there was no organization left to walk through."""
    is_more: bool
    """Whether one of the organizations has more authorizations to look at."""


# Takes the next organizations that charge for lapses, without those that another process walks through at this moment;
# by primary keys. Looks at the next authorizations of each: a range of `authorizations_by_time`, usage by its primary
# key. What may lapse is noted in the order of its keys, so that no two processes can deadlock.
_WALK: Final = f"""
WITH walk AS (
    SELECT w.organization_id, w.create_time, w.operation_id,
        least($2::timestamptz, $3::timestamptz - p.lapse_after_ms * interval '1 millisecond') AS until_time
    FROM lapse_walks w JOIN admission_policies p ON p.organization_id = ANY (ARRAY[w.organization_id])
    WHERE w.organization_id > $1::uuid ORDER BY w.organization_id LIMIT $4 FOR UPDATE OF w SKIP LOCKED
), seen AS (
    SELECT a.organization_id, a.create_time, a.operation_id, {EXPIRE_TIME} AS expire_time,
        a.environment = 'LIVE' AND NOT a.cancelled AND NOT a.declined AND NOT EXISTS (
            SELECT FROM usage_operations o
            WHERE o.organization_id = ANY (ARRAY[a.organization_id]) AND o.operation_id = a.operation_id
        ) AS may_lapse
    FROM walk CROSS JOIN LATERAL (
        SELECT * FROM authorizations
        WHERE organization_id = walk.organization_id AND create_time <= walk.until_time
            AND (create_time, operation_id) > (walk.create_time, walk.operation_id)
        ORDER BY create_time, operation_id LIMIT $5
    ) a
), noted AS (
    INSERT INTO lapse_checks (organization_id, operation_id, check_time)
    SELECT organization_id, operation_id, expire_time FROM seen WHERE may_lapse
    ORDER BY organization_id, operation_id ON CONFLICT DO NOTHING
), last AS (
    SELECT DISTINCT ON (organization_id) organization_id, create_time, operation_id,
        count(*) OVER (PARTITION BY organization_id) AS steps
    FROM seen ORDER BY organization_id, create_time DESC, operation_id DESC
), moved AS (
    UPDATE lapse_walks w SET create_time = last.create_time, operation_id = last.operation_id
    FROM last WHERE w.organization_id = ANY (ARRAY[last.organization_id])
)
SELECT (SELECT max(organization_id::text COLLATE "C") FROM walk), EXISTS (SELECT FROM last WHERE steps = $5)
"""  # noqa: S608 -- made of constants of ours alone.

# The last key of the next window; by the primary key.
_WINDOW_END: Final = """
SELECT organization_id::text, operation_id FROM lapse_checks
WHERE (organization_id, operation_id) > ($1::uuid, $2::text)
ORDER BY organization_id, operation_id OFFSET $3 LIMIT 1
"""

# Reads a window by the primary key, without rows that another process has locked, so that two share the work.
_TAKE_DUE: Final = """
WITH due AS (
    SELECT organization_id, operation_id FROM lapse_checks
    WHERE (organization_id, operation_id) > ($1::uuid, $2::text)
        AND (organization_id, operation_id) <= ($3::uuid, $4::text)
        AND check_time <= $5::timestamptz
    ORDER BY organization_id, operation_id LIMIT $6 FOR UPDATE SKIP LOCKED
)
UPDATE lapse_checks c SET check_time = $7::timestamptz
FROM due WHERE c.organization_id = ANY (ARRAY[due.organization_id]) AND c.operation_id = due.operation_id
RETURNING c.organization_id::text, c.operation_id
"""

# By primary key, both of them. A row that has another time by now was taken by another process, or put off by an
# extension: it stays.
_FINISH: Final = """
DELETE FROM lapse_checks c USING unnest($1::uuid[], $2::text[]) AS done(organization_id, operation_id)
WHERE c.organization_id = ANY (ARRAY[done.organization_id]) AND c.operation_id = done.operation_id
    AND c.check_time = $3::timestamptz
"""
_PUT_OFF: Final = """
UPDATE lapse_checks c SET check_time = later.check_time
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS later(organization_id, operation_id, check_time)
WHERE c.organization_id = ANY (ARRAY[later.organization_id]) AND c.operation_id = later.operation_id
    AND c.check_time = $4::timestamptz
"""


async def walk(connection: RawConnection, after: str, until_time: datetime, now: datetime) -> Walked:
    """Walk on through the authorizations of the organizations after one, up to what was created at a moment."""
    row = await connection.fetchrow(_WALK, after, until_time, now, WALKS_MAX, STEPS_MAX)
    assert row is not None, "a query without a FROM has one row"
    return Walked(row[0], row[1])


async def window_end(connection: RawConnection, after: Key) -> Key | None:
    """Return the last key of the next window of checks; None when the rest fits into one window."""
    row = await connection.fetchrow(_WINDOW_END, *after, SCAN_MAX - 1)
    return None if row is None else (row[0], row[1])


async def take_due(
    connection: RawConnection, *, after: Key, until: Key | None, now: datetime, lease_time: datetime, limit: int
) -> list[Key]:
    """Take the due checks of a window until the lease ends. After a crash another process takes them then."""
    rows = await connection.fetch(_TAKE_DUE, *after, *(until or _LAST_KEY), now, limit, lease_time)
    return [(row[0], row[1]) for row in rows]


async def finish(connection: RawConnection, keys: Collection[Key], lease_time: datetime) -> None:
    """Delete checks that were taken and are decided."""
    await connection.execute(_FINISH, [key[0] for key in keys], [key[1] for key in keys], lease_time)


async def put_off(connection: RawConnection, check_times: Mapping[Key, datetime], lease_time: datetime) -> None:
    """Let checks that were taken be made at a later time."""
    keys = list(check_times)
    await connection.execute(
        _PUT_OFF, [key[0] for key in keys], [key[1] for key in keys], list(check_times.values()), lease_time
    )
