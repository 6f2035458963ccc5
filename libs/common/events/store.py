"""The statements on events and endpoints, found in whatever schema the connection works in.

They are the driver's. Each names an organization, or is bounded and finds its rows by an index over the whole schema.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from libs.common.events.domain import Endpoint, Event

_EVENT: Final = """e.organization_id::text, e.event_id::text, e.subject, e.sequence, e.type, e.event_time,
    e.data::text, e.sealed_data"""
_ENDPOINT: Final = """p.organization_id::text, p.endpoint_id::text, p.url, p.types, p.description, p.enabled,
    p.disabled_reason, p.secret, p.previous_secret, p.previous_secret_expire_time, p.failing_since, p.version,
    p.create_time, p.update_time, p.delete_time"""

# By primary key, one row.
_FIND_ENDPOINT: Final = f"""
    SELECT {_ENDPOINT} FROM event_endpoints AS p WHERE p.organization_id = $1::uuid AND p.endpoint_id = $2::uuid
"""  # noqa: S608 -- constants of ours alone.
_LOCK_ENDPOINT: Final = f"{_FIND_ENDPOINT} FOR UPDATE"
# A range of the primary key, backwards.
_LIST_ENDPOINTS: Final = f"""
    SELECT {_ENDPOINT} FROM event_endpoints AS p
    WHERE p.organization_id = $1::uuid AND p.endpoint_id < $2::uuid AND p.delete_time IS NULL
    ORDER BY p.endpoint_id DESC LIMIT $3
"""  # noqa: S608 -- constants of ours alone.
# A range of the primary key for each organization: few rows, since few endpoints can be made.
_ENDPOINTS_OF: Final = f"""
    SELECT {_ENDPOINT} FROM unnest($1::uuid[]) AS wanted (organization_id)
    JOIN event_endpoints AS p ON p.organization_id = ANY (ARRAY[wanted.organization_id])
    WHERE p.enabled AND p.delete_time IS NULL
"""  # noqa: S608 -- constants of ours alone.
# By primary key.
_ENDPOINTS_OF_KEYS: Final = f"""
    SELECT {_ENDPOINT} FROM unnest($1::uuid[], $2::uuid[]) AS wanted (organization_id, endpoint_id)
    JOIN event_endpoints AS p ON p.organization_id = ANY (ARRAY[wanted.organization_id])
        AND p.endpoint_id = wanted.endpoint_id
"""  # noqa: S608 -- constants of ours alone.
# Held until the end of the transaction, so that two creations at once do not both count 19.
_LOCK_COUNT: Final = "SELECT pg_advisory_xact_lock(hashtextextended('tollhouse.event_endpoints.' || $1, 0))"
_COUNT_ENDPOINTS: Final = """
    SELECT count(*) FROM event_endpoints WHERE organization_id = $1::uuid AND delete_time IS NULL
"""
_INSERT_ENDPOINT: Final = """
    INSERT INTO event_endpoints (organization_id, endpoint_id, url, types, description, enabled, secret, create_time,
        update_time)
    VALUES ($1::uuid, $2::uuid, $3, $4::text[], $5, true, $6, $7, $7)
"""
# By primary key; the row is locked.
_UPDATE_ENDPOINT: Final = """
    UPDATE event_endpoints SET url = $3, types = $4::text[], description = $5, enabled = $6, disabled_reason = $7,
        secret = $8, previous_secret = $9, previous_secret_expire_time = $10, failing_since = $11,
        update_time = $12, delete_time = $13, version = version + 1
    WHERE organization_id = $1::uuid AND endpoint_id = $2::uuid
"""
# By primary key. No version: it is no change of what somebody has set.
_NOTE_FAILING: Final = """
    UPDATE event_endpoints SET failing_since = $3::timestamptz
    WHERE organization_id = $1::uuid AND endpoint_id = $2::uuid
        AND (failing_since IS NULL) = ($3::timestamptz IS NOT NULL)
"""

# The primary key makes the second of two calls wait for the first.
_CLAIM_REQUEST: Final = """
    INSERT INTO event_requests (organization_id, method, request_id, field_digests, outcome, create_time)
    VALUES ($1::uuid, $2, $3, $4::text::jsonb, '', $5) ON CONFLICT DO NOTHING RETURNING true
"""
_FIND_REQUEST: Final = """
    SELECT field_digests::text, outcome FROM event_requests
    WHERE organization_id = $1::uuid AND method = $2 AND request_id = $3
"""
_KEEP_OUTCOME: Final = """
    UPDATE event_requests SET outcome = $4 WHERE organization_id = $1::uuid AND method = $2 AND request_id = $3
"""

# A range of `events_by_time`, backwards; of `events_by_type` or of `events_of_subject` where these are given.
_LIST_EVENTS: Final = f"""
    SELECT {_EVENT} FROM events AS e
    WHERE e.organization_id = $1::uuid AND (e.event_time, e.event_id) < ($2::timestamptz, $3::uuid)
        AND e.event_time >= $4::timestamptz
    ORDER BY e.event_time DESC, e.event_id DESC LIMIT $5
"""  # noqa: S608 -- constants of ours alone.
_LIST_OF_TYPE: Final = f"""
    SELECT {_EVENT} FROM events AS e
    WHERE e.organization_id = $1::uuid AND (e.event_time, e.event_id) < ($2::timestamptz, $3::uuid)
        AND e.event_time >= $4::timestamptz AND e.type = $6
    ORDER BY e.event_time DESC, e.event_id DESC LIMIT $5
"""  # noqa: S608 -- constants of ours alone.
_LIST_OF_SUBJECT: Final = f"""
    SELECT {_EVENT} FROM events AS e
    WHERE e.organization_id = $1::uuid AND (e.event_time, e.event_id) < ($2::timestamptz, $3::uuid)
        AND e.event_time >= $4::timestamptz AND e.subject = $6 AND ($7 = '' OR e.type = $7)
    ORDER BY e.event_time DESC, e.event_id DESC LIMIT $5
"""  # noqa: S608 -- constants of ours alone.
# The same forwards.
_EVENTS_AFTER: Final = f"""
    SELECT {_EVENT} FROM events AS e
    WHERE e.organization_id = $1::uuid AND (e.event_time, e.event_id) > ($2::timestamptz, $3::uuid)
        AND e.event_time < $4::timestamptz
    ORDER BY e.event_time, e.event_id LIMIT $5
"""  # noqa: S608 -- constants of ours alone.
# By primary key.
_EVENTS_OF_KEYS: Final = f"""
    SELECT {_EVENT} FROM unnest($1::uuid[], $2::uuid[]) AS wanted (organization_id, event_id)
    JOIN events AS e ON e.organization_id = ANY (ARRAY[wanted.organization_id]) AND e.event_id = wanted.event_id
"""  # noqa: S608 -- constants of ours alone.


def event_of(row: asyncpg.Record) -> Event:
    """Return the event in a row of _EVENT."""
    fields = dict(row)
    return Event(**{**fields, "data": json.loads(fields["data"])})


def endpoint_of(row: asyncpg.Record) -> Endpoint:
    """Return the endpoint in a row of _ENDPOINT."""
    fields = dict(row)
    return Endpoint(**{**fields, "types": tuple(fields["types"])})


async def find_endpoint(
    connection: RawConnection, organization_id: str, endpoint_id: str, *, lock: bool = False
) -> Endpoint | None:
    """Return an endpoint, also a deleted one; locked until the end of the transaction if asked for."""
    row = await connection.fetchrow(_LOCK_ENDPOINT if lock else _FIND_ENDPOINT, organization_id, endpoint_id)
    return None if row is None else endpoint_of(row)


async def list_endpoints(connection: RawConnection, organization_id: str, before: str, limit: int) -> list[Endpoint]:
    """Return the endpoints of an organization, the newest first."""
    return [endpoint_of(row) for row in await connection.fetch(_LIST_ENDPOINTS, organization_id, before, limit)]


async def endpoints_of(connection: RawConnection, organization_ids: Sequence[str]) -> list[Endpoint]:
    """Return the endpoints of organizations that are switched on."""
    return [endpoint_of(row) for row in await connection.fetch(_ENDPOINTS_OF, organization_ids)]


async def endpoints_of_keys(connection: RawConnection, keys: Sequence[tuple[str, str]]) -> dict[str, Endpoint]:
    """Return endpoints by their ids, given the organization and the id of each."""
    columns = [key[0] for key in keys], [key[1] for key in keys]
    found = map(endpoint_of, await connection.fetch(_ENDPOINTS_OF_KEYS, *columns))
    return {endpoint.endpoint_id: endpoint for endpoint in found}


async def count_endpoints(connection: RawConnection, organization_id: str) -> int:
    """Return how many endpoints an organization has; nobody adds one until the end of the transaction."""
    await connection.fetchval(_LOCK_COUNT, organization_id)
    return int(await connection.fetchval(_COUNT_ENDPOINTS, organization_id))


async def insert_endpoint(connection: RawConnection, endpoint: Endpoint) -> None:
    """Add an endpoint."""
    key = endpoint.organization_id, endpoint.endpoint_id
    fields = endpoint.url, list(endpoint.types), endpoint.description, endpoint.secret, endpoint.create_time
    await connection.execute(_INSERT_ENDPOINT, *key, *fields)


async def update_endpoint(connection: RawConnection, endpoint: Endpoint) -> None:
    """Change an endpoint that is locked; its version grows by one."""
    await connection.execute(
        _UPDATE_ENDPOINT,
        endpoint.organization_id,
        endpoint.endpoint_id,
        endpoint.url,
        list(endpoint.types),
        endpoint.description,
        endpoint.enabled,
        endpoint.disabled_reason,
        endpoint.secret,
        endpoint.previous_secret,
        endpoint.previous_secret_expire_time,
        endpoint.failing_since,
        endpoint.update_time,
        endpoint.delete_time,
    )


async def note_failing(connection: RawConnection, endpoint: Endpoint, since: datetime | None) -> None:
    """Note since when every attempt at an endpoint fails, unless that is noted; None when one has not."""
    await connection.execute(_NOTE_FAILING, endpoint.organization_id, endpoint.endpoint_id, since)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is carried out once."""

    organization_id: str
    method: str
    request_id: str
    field_digests: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.organization_id, self.method, self.request_id


async def claim_request(
    connection: RawConnection, request: Request, now: datetime
) -> tuple[dict[str, str], str] | None:
    """Claim a request id; return the digests and the outcome of the request that had it before, or None."""
    claimed = await connection.fetchval(_CLAIM_REQUEST, *request.key, json.dumps(request.field_digests), now)
    if claimed:
        return None
    row = await connection.fetchrow(_FIND_REQUEST, *request.key)
    assert row is not None, "a request is kept while its organization is locked"
    return json.loads(row[0]), row[1]


async def keep_outcome(connection: RawConnection, request: Request, outcome: str) -> None:
    """Store what came of a request that was claimed."""
    await connection.execute(_KEEP_OUTCOME, *request.key, outcome)


@dataclass(frozen=True, slots=True)
class EventFilters:
    """Which events of an organization to list; what is empty leaves nothing out."""

    organization_id: str
    start_time: datetime
    end_time: datetime
    type: str = ""
    subject: str = ""


async def list_events(
    connection: RawConnection, filters: EventFilters, before: tuple[datetime, str], limit: int
) -> list[Event]:
    """Return events of an organization before a place in their order, the newest first."""
    values = filters.organization_id, *before, filters.start_time, limit
    if filters.subject:
        rows = await connection.fetch(_LIST_OF_SUBJECT, *values, filters.subject, filters.type)
    elif filters.type:
        rows = await connection.fetch(_LIST_OF_TYPE, *values, filters.type)
    else:
        rows = await connection.fetch(_LIST_EVENTS, *values)
    return list(map(event_of, rows))


async def events_after(
    connection: RawConnection, organization_id: str, after: tuple[datetime, str], end_time: datetime, limit: int
) -> list[Event]:
    """Return events of an organization after a place in their order and before a time, the oldest first."""
    rows = await connection.fetch(_EVENTS_AFTER, organization_id, *after, end_time, limit)
    return [event_of(row) for row in rows]


async def events_of_keys(connection: RawConnection, keys: Sequence[tuple[str, str]]) -> dict[str, Event]:
    """Return events by their ids, given the organization and the id of each."""
    columns = [key[0] for key in keys], [key[1] for key in keys]
    return {event.event_id: event for event in map(event_of, await connection.fetch(_EVENTS_OF_KEYS, *columns))}
