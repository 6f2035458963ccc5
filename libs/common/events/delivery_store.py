"""The statements on deliveries, and on the queue of events that have none yet.

A lane is the deliveries of one subject's events to one endpoint, in the order of their numbers. The lowest of a lane
that is not finished is PENDING, and those after it are WAITING, until they have waited for too long. Whoever adds to a
lane or finishes one of it keeps to this order of statements, so that no delivery is left WAITING behind nothing: first
lock or change the lowest, then see which is the lowest now.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from libs.common.database import RawConnection
from libs.common.events.domain import Delivery, Endpoint, Event, Outcome, Status
from libs.common.events.store import event_of

_DELIVERY: Final = """d.organization_id::text, d.event_id::text, d.endpoint_id::text, d.subject, d.sequence, d.status,
    d.attempt_count, d.failure_count, d.next_attempt_time, d.last_attempt_time, d.last_reason, d.last_detail,
    d.http_status, d.replay_count, d.start_time, d.finish_time"""
_KEYS: Final = "unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS k (organization_id, event_id, endpoint_id)"
_LANES: Final = "unnest($1::uuid[], $2::text[], $3::uuid[]) AS lane (organization_id, subject, endpoint_id)"
# One probe of `event_deliveries_lanes` for each lane.
_LOWEST: Final = """
    SELECT f.organization_id, f.event_id, f.endpoint_id, f.status FROM event_deliveries AS f
    WHERE f.organization_id = lane.organization_id AND f.subject = lane.subject COLLATE "C"
        AND f.endpoint_id = lane.endpoint_id AND f.status IN ('WAITING', 'PENDING')
    ORDER BY f.sequence LIMIT 1"""

# The queue's index in its order, which along a subject is that of the numbers.
_UNDISPATCHED: Final = """
    SELECT e.organization_id::text, e.event_id::text FROM events AS e WHERE NOT e.dispatched
    ORDER BY e.event_time, e.organization_id, e.subject, e.sequence LIMIT $1
"""
# By primary key, in the order of the queue. A second process waits for the first one's rows and then passes over them,
# so that no number is dispatched before a lower one.
_LOCK_UNDISPATCHED: Final = """
    SELECT e.organization_id::text, e.event_id::text, e.subject, e.sequence, e.type, e.event_time, e.data::text,
        e.sealed_data
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, event_id) JOIN events AS e
        ON e.organization_id = ANY (ARRAY[k.organization_id]) AND e.event_id = k.event_id
    WHERE NOT e.dispatched ORDER BY e.event_time, e.organization_id, e.subject, e.sequence FOR UPDATE OF e
"""
# By primary key; the rows are locked.
_DISPATCHED: Final = """
    UPDATE events AS e SET dispatched = true FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, event_id)
    WHERE e.organization_id = ANY (ARRAY[k.organization_id]) AND e.event_id = k.event_id
"""
_LOCK_LANES: Final = f"""
    SELECT count(*) FROM (
        SELECT lowest.* FROM {_LANES} CROSS JOIN LATERAL ({_LOWEST} FOR UPDATE) AS lowest
    ) AS locked
"""  # noqa: S608 -- constants of ours alone.
_ADDITION: Final = """
    INSERT INTO event_deliveries (organization_id, event_id, endpoint_id, subject, sequence, status, next_attempt_time,
        start_time)
    SELECT k.organization_id, k.event_id, k.endpoint_id, k.subject, k.sequence, 'WAITING', $6::timestamptz,
        $6::timestamptz
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[])
        AS k (organization_id, event_id, endpoint_id, subject, sequence)
    ON CONFLICT (organization_id, event_id, endpoint_id) DO """
# What is there already stays as it is, or begins anew where it was finished.
_ADD: Final = f"{_ADDITION} NOTHING"
_REPLAY: Final = f"""{_ADDITION}
    UPDATE SET status = 'WAITING', failure_count = 0, next_attempt_time = excluded.start_time,
        start_time = excluded.start_time, finish_time = NULL, replay_count = event_deliveries.replay_count + 1
    WHERE event_deliveries.status IN ('DELIVERED', 'FAILED')"""
_PROMOTE: Final = f"""
    UPDATE event_deliveries AS d SET status = 'PENDING', next_attempt_time = $4::timestamptz
    FROM {_LANES} CROSS JOIN LATERAL ({_LOWEST}) AS lowest
    WHERE d.organization_id = ANY (ARRAY[lowest.organization_id]) AND d.event_id = lowest.event_id
        AND d.endpoint_id = lowest.endpoint_id AND lowest.status = 'WAITING' AND d.status = 'WAITING'
"""  # noqa: S608 -- constants of ours alone.

# Goes from endpoint to endpoint along `event_deliveries_due`, whatever waits for each, and takes of each what is due up
# to what the endpoint may still have under way, first of the organizations with the fewest attempts under way. Rows
# that another process is taking are passed over.
_CLAIM: Final = f"""
    WITH RECURSIVE waiting AS (
        (SELECT endpoint_id FROM event_deliveries WHERE status = 'PENDING' ORDER BY endpoint_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT d.endpoint_id FROM event_deliveries AS d
            WHERE d.status = 'PENDING' AND d.endpoint_id > waiting.endpoint_id ORDER BY d.endpoint_id LIMIT 1
        ) FROM waiting WHERE waiting.endpoint_id IS NOT NULL
    ), allowed AS (
        SELECT waiting.endpoint_id, coalesce(busy.free, $4) AS free
        FROM waiting LEFT JOIN unnest($2::uuid[], $3::integer[]) AS busy (endpoint_id, free) USING (endpoint_id)
        WHERE waiting.endpoint_id IS NOT NULL
    ), ranked AS (
        SELECT d.*, coalesce(busy.attempts, 0)
            + row_number() OVER (PARTITION BY d.organization_id ORDER BY d.next_attempt_time) AS place
        FROM allowed CROSS JOIN LATERAL (
            SELECT organization_id, event_id, endpoint_id, next_attempt_time FROM event_deliveries
            WHERE status = 'PENDING' AND endpoint_id = allowed.endpoint_id AND next_attempt_time <= $1::timestamptz
            ORDER BY next_attempt_time, organization_id, event_id LIMIT allowed.free FOR UPDATE SKIP LOCKED
        ) AS d LEFT JOIN unnest($7::uuid[], $8::integer[]) AS busy (organization_id, attempts) USING (organization_id)
    ), due AS (
        SELECT * FROM ranked WHERE place <= $9 ORDER BY place, next_attempt_time LIMIT $5
    )
    UPDATE event_deliveries AS d
    SET attempt_count = d.attempt_count + 1, last_attempt_time = $1::timestamptz, next_attempt_time = $6::timestamptz
    FROM due
    WHERE d.organization_id = ANY (ARRAY[due.organization_id]) AND d.event_id = due.event_id
        AND d.endpoint_id = due.endpoint_id
    RETURNING {_DELIVERY}
"""  # noqa: S608 -- constants of ours alone.
# By primary key. What another process has taken since, because this one was slow, is that one's to finish.
_FINISH: Final = """
    UPDATE event_deliveries SET status = $5, failure_count = failure_count + $6, next_attempt_time = $7::timestamptz,
        last_reason = $8, last_detail = $9, http_status = $10, finish_time = $11::timestamptz
    WHERE organization_id = $1::uuid AND event_id = $2::uuid AND endpoint_id = $3::uuid AND attempt_count = $4
        AND status = 'PENDING'
    RETURNING true
"""
# Along `event_deliveries_waiting`, a bounded number of rows.
_RELEASE: Final = """
    UPDATE event_deliveries AS d SET status = 'PENDING', next_attempt_time = d.start_time
    FROM (
        SELECT organization_id, event_id, endpoint_id FROM event_deliveries
        WHERE status = 'WAITING' AND start_time < $1::timestamptz
        ORDER BY start_time, organization_id, event_id, endpoint_id LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS late
    WHERE d.organization_id = ANY (ARRAY[late.organization_id]) AND d.event_id = late.event_id
        AND d.endpoint_id = late.endpoint_id
"""

# Along `events_by_age`, a bounded number of rows. That is also the order of the numbers, and of each subject only what
# comes before all that is unfinished goes: so the events that stay have no gap between them.
_FORGET: Final = """
    WITH old AS (
        SELECT e.organization_id, e.event_id, e.subject, e.sequence, e.dispatched FROM events AS e
        WHERE e.event_time < $1::timestamptz
        ORDER BY e.event_time, e.organization_id, e.subject, e.sequence LIMIT $2 FOR UPDATE
    ), gone AS (
        SELECT old.organization_id, old.event_id FROM old
        WHERE old.dispatched AND old.sequence < coalesce((
            SELECT min(d.sequence) FROM event_deliveries AS d
            WHERE d.organization_id = old.organization_id AND d.subject = old.subject
                AND d.status IN ('WAITING', 'PENDING')
        ), old.sequence + 1)
    ), deliveries AS (
        DELETE FROM event_deliveries AS d USING gone
        WHERE d.organization_id = ANY (ARRAY[gone.organization_id]) AND d.event_id = gone.event_id
    )
    DELETE FROM events AS e USING gone
    WHERE e.organization_id = ANY (ARRAY[gone.organization_id]) AND e.event_id = gone.event_id
"""
# Along `event_endpoints_deleted`, a bounded number of rows.
_FORGET_ENDPOINTS: Final = """
    DELETE FROM event_endpoints AS p USING (
        SELECT organization_id, endpoint_id FROM event_endpoints WHERE delete_time < $1::timestamptz
        ORDER BY delete_time LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE p.organization_id = ANY (ARRAY[old.organization_id]) AND p.endpoint_id = old.endpoint_id
"""
# Along `event_requests_by_age`, a bounded number of rows.
_FORGET_REQUESTS: Final = """
    DELETE FROM event_requests AS r USING (
        SELECT organization_id, method, request_id FROM event_requests WHERE create_time < $1::timestamptz
        ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE r.organization_id = ANY (ARRAY[old.organization_id]) AND r.method = old.method
        AND r.request_id = old.request_id
"""

# A range of the primary key, or of `event_deliveries_by_endpoint`, backwards.
_OF_EVENT: Final = f"""
    SELECT {_DELIVERY} FROM event_deliveries AS d
    WHERE d.organization_id = $1::uuid AND d.event_id = $2::uuid AND d.endpoint_id < $3::uuid
    ORDER BY d.endpoint_id DESC LIMIT $4
"""  # noqa: S608 -- constants of ours alone.
_TO_ENDPOINT: Final = f"""
    SELECT {_DELIVERY} FROM event_deliveries AS d
    WHERE d.organization_id = $1::uuid AND d.endpoint_id = $2::uuid AND d.event_id < $3::uuid
    ORDER BY d.event_id DESC LIMIT $4
"""  # noqa: S608 -- constants of ours alone.
# By primary key. The status would let the planner take the index of lanes, which it would read as a whole.
_UNFINISHED_OF: Final = f"""
    SELECT d.event_id::text FROM {_KEYS} JOIN event_deliveries AS d
        ON d.organization_id = ANY (ARRAY[k.organization_id]) AND d.event_id = k.event_id
        AND d.endpoint_id = k.endpoint_id
    WHERE d.finish_time IS NULL
"""  # noqa: S608 -- constants of ours alone.


class Lane(NamedTuple):
    """The events of one subject for one endpoint."""

    organization_id: str
    subject: str
    endpoint_id: str


class Key(NamedTuple):
    """An event."""

    organization_id: str
    event_id: str


Pair = tuple[Event, Endpoint]


def delivery_of(row: asyncpg.Record) -> Delivery:
    """Return the delivery in a row of _DELIVERY."""
    fields = dict(row)
    return Delivery(**{**fields, "status": Status(fields["status"])})


async def undispatched(connection: RawConnection, limit: int) -> list[Key]:
    """Return the oldest events whose deliveries are not made."""
    return [Key(*row) for row in await connection.fetch(_UNDISPATCHED, limit)]


async def lock_undispatched(connection: RawConnection, keys: Sequence[Key]) -> list[Event]:
    """Return those events whose deliveries are still not made, locked until the end of the transaction."""
    return [event_of(row) for row in await connection.fetch(_LOCK_UNDISPATCHED, *_columns(keys))]


async def mark_dispatched(connection: RawConnection, events: Sequence[Event]) -> None:
    """Note that the deliveries of locked events are made."""
    columns = [event.organization_id for event in events], [event.event_id for event in events]
    await connection.execute(_DISPATCHED, *columns)


async def add(connection: RawConnection, pairs: Sequence[Pair], now: datetime, *, replay: bool = False) -> None:
    """Add a delivery for each event and endpoint, behind what is unfinished of the same subject.

    What is there already stays as it is, or with `replay` begins anew where it was finished.
    """
    lanes = sorted({Lane(event.organization_id, event.subject, end.endpoint_id) for event, end in pairs})
    columns = _columns(lanes)
    await connection.fetchval(_LOCK_LANES, *columns)
    rows = [(e.organization_id, e.event_id, p.endpoint_id, e.subject, e.sequence) for e, p in pairs]
    await connection.execute(_REPLAY if replay else _ADD, *map(list, zip(*sorted(rows), strict=True)), now)
    await connection.execute(_PROMOTE, *columns, now)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]


class Capacity(NamedTuple):
    """How much may be taken: of endpoints that are named, of each other, and in all."""

    named: dict[str, int]
    each: int
    all: int
    under_way: dict[str, int]
    """How many attempts organizations have under way."""
    of_organization: int
    """How many attempts an organization may have under way."""


async def claim(connection: RawConnection, now: datetime, until: datetime, capacity: Capacity) -> list[Delivery]:
    """Take deliveries that are due for an attempt each; nobody else takes them before `until`."""
    named = list(capacity.named), list(capacity.named.values())
    busy = list(capacity.under_way), list(capacity.under_way.values()), capacity.of_organization
    rows = await connection.fetch(_CLAIM, now, *named, capacity.each, capacity.all, until, *busy)
    return [delivery_of(row) for row in rows]


async def finish(
    connection: RawConnection, taken: Delivery, outcome: Outcome, *, retry_time: datetime | None, now: datetime
) -> bool:
    """Store what came of an attempt; return whether it was still ours. Without a `retry_time` there is no other.

    The subject's next event becomes PENDING then.
    """
    status = Status.DELIVERED if outcome.delivered else Status.FAILED if retry_time is None else Status.PENDING
    finished = await connection.fetchval(
        _FINISH,
        taken.organization_id,
        taken.event_id,
        taken.endpoint_id,
        taken.attempt_count,
        status.value,
        0 if outcome.delivered else 1,
        retry_time or now,
        outcome.reason.value,
        outcome.detail,
        outcome.http_status,
        None if status is Status.PENDING else now,
    )
    if finished and status is not Status.PENDING:
        lane = Lane(taken.organization_id, taken.subject, taken.endpoint_id)
        await connection.execute(_PROMOTE, *_columns([lane]), now)
    return bool(finished)


async def release(connection: RawConnection, waiting_since: datetime, limit: int) -> None:
    """Let deliveries that have waited since before a moment be sent though the event before them is not finished."""
    await connection.execute(_RELEASE, waiting_since, limit)


async def forget(connection: RawConnection, before: datetime, requests_before: datetime, limit: int) -> bool:
    """Delete events of before a time with their deliveries, unless some are unfinished.

    Delete endpoints that were deleted before it, and old request ids, too. Return whether there may be more.
    """
    done = [
        await connection.execute(_FORGET, before, limit),
        await connection.execute(_FORGET_ENDPOINTS, before, limit),
        await connection.execute(_FORGET_REQUESTS, requests_before, limit),
    ]
    return f"DELETE {limit}" in done


async def list_of_event(
    connection: RawConnection, organization_id: str, event_id: str, before: str, limit: int
) -> list[Delivery]:
    """Return the deliveries of an event to endpoints with lower ids."""
    return [delivery_of(row) for row in await connection.fetch(_OF_EVENT, organization_id, event_id, before, limit)]


async def list_to_endpoint(
    connection: RawConnection, organization_id: str, endpoint_id: str, before: str, limit: int
) -> list[Delivery]:
    """Return the deliveries to an endpoint of events with lower ids."""
    rows = await connection.fetch(_TO_ENDPOINT, organization_id, endpoint_id, before, limit)
    return [delivery_of(row) for row in rows]


async def unfinished_of(connection: RawConnection, events: Sequence[Event], endpoint_id: str) -> set[str]:
    """Return which of the events are on the way to an endpoint."""
    ids = [event.organization_id for event in events], [event.event_id for event in events]
    rows = await connection.fetch(_UNFINISHED_OF, *ids, [endpoint_id] * len(events))
    return {str(row[0]) for row in rows}
