"""The statements of jobs. Their tables are in the service's own schema, which the connection of each shard reaches."""

import json
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

import asyncpg

from libs.common.database import RawConnection
from services.metering.usage.rerate.domain import NO_DIGEST, Sums, sums_of
from services.metering.usage.rerate.store import Place, Slice


class State(StrEnum):
    """What a job does."""

    CHECKING = "CHECKING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    DONE = "DONE"
    CANCELED = "CANCELED"
    REFUSED = "REFUSED"


ACTIVE: Final = frozenset((State.CHECKING, State.RUNNING))
ENDED: Final = frozenset((State.DONE, State.CANCELED, State.REFUSED))


class Job(NamedTuple):
    """A job that re-rates usage."""

    job_id: str
    operation_id: str
    request: bytes
    state: State
    checked: bool
    """Whether nothing is left to compare with the digest of the request."""
    refusal_reason: str
    actor: str
    create_time: datetime
    end_time: datetime | None


class Part(NamedTuple):
    """How far a job is in a shard."""

    place: Place
    walked: bool


class Given(NamedTuple):
    """A slice that is given to a process until its lease ends."""

    slice_id: str
    wanted: Slice
    attempt_count: int


_JOB: Final = """
SELECT job_id::text, operation_id, request, state, checked, refusal_reason, actor, create_time, end_time
FROM rerate_jobs
"""
_ADD: Final = """
INSERT INTO rerate_jobs (job_id, operation_id, request, state, checked, actor, create_time)
VALUES ($1::uuid, $2, $3, $4, $5, $6, $7) ON CONFLICT (operation_id) DO NOTHING RETURNING true
"""
_ADD_PARTS: Final = """
INSERT INTO rerate_parts (job_id, shard, organization_id, occur_time, usage_id, walked, digest, sums)
SELECT $1::uuid, shard, $3::uuid, $4::timestamptz, $5::uuid, false, $6, $7::jsonb
FROM generate_series(0, $2::int - 1) AS shard
"""
_COUNT_OPEN: Final = "SELECT count(*) FROM rerate_jobs WHERE end_time IS NULL"
# Serializes the making of jobs until the end of the transaction.
_LOCK_MAKING: Final = "SELECT pg_advisory_xact_lock(hashtextextended('metering.rerate_jobs', 0))"
_OF_OPERATION: Final = f"{_JOB} WHERE operation_id = $1"
_OF_ID: Final = f"{_JOB} WHERE job_id = $1::uuid"
_LOCK: Final = f"{_OF_ID} FOR UPDATE"
_KEEP_STATE: Final = "SELECT true FROM rerate_jobs WHERE job_id = $1::uuid AND state = $2 FOR SHARE"
_LIST: Final = f"{_JOB} WHERE $1::uuid IS NULL OR job_id < $1 ORDER BY job_id DESC LIMIT $2"
_OPEN: Final = f"{_JOB} WHERE end_time IS NULL AND state = ANY ($1::text[]) ORDER BY job_id"
_SUMS: Final = "SELECT job_id::text, sums::text FROM rerate_parts WHERE job_id = ANY ($1::uuid[])"
_UPDATE: Final = """
UPDATE rerate_jobs SET state = $2, checked = $3, refusal_reason = $4, end_time = $5::timestamptz WHERE job_id = $1::uuid
"""
_PROGRESS: Final = """
SELECT bool_and(walked), (SELECT count(*) FROM rerate_slices WHERE job_id = $1::uuid), array_agg(digest)
FROM rerate_parts WHERE job_id = $1::uuid
"""
_BEGIN_AGAIN: Final = """
UPDATE rerate_parts SET organization_id = $2::uuid, occur_time = $3::timestamptz, usage_id = $4::uuid, walked = false,
    sums = $5::jsonb
WHERE job_id = $1::uuid
"""
_DROP_SLICES: Final = "DELETE FROM rerate_slices WHERE job_id = $1::uuid"
_END_LEASES: Final = "UPDATE rerate_slices SET lease_time = $2::timestamptz WHERE job_id = $1::uuid"
_LOCK_PART: Final = """
SELECT organization_id::text, occur_time, usage_id::text, walked FROM rerate_parts
WHERE job_id = $1::uuid AND shard = $2 FOR UPDATE
"""
_MOVE: Final = """
UPDATE rerate_parts SET organization_id = $3::uuid, occur_time = $4::timestamptz, usage_id = $5::uuid, walked = $6
WHERE job_id = $1::uuid AND shard = $2
"""
_GIVE: Final = """
INSERT INTO rerate_slices (job_id, shard, slice_id, organization_id, after_time, after_usage_id, until_time,
    until_usage_id, lease_time, attempt_count)
VALUES ($1::uuid, $2, $3::uuid, $4::uuid, $5::timestamptz, $6::uuid, $7::timestamptz, $8::uuid, $9::timestamptz, $10)
"""
# Along the primary key: there are as many as processes work on, and those that were left behind.
_TAKE_LEFT: Final = """
WITH due AS (
    SELECT slice_id FROM rerate_slices WHERE job_id = $1::uuid AND shard = $2 AND lease_time <= $3::timestamptz
    ORDER BY slice_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE rerate_slices s SET lease_time = $4::timestamptz, attempt_count = attempt_count + 1
FROM due WHERE s.job_id = $1::uuid AND s.shard = $2 AND s.slice_id = due.slice_id
RETURNING s.slice_id::text, s.organization_id::text, s.after_time, s.after_usage_id::text, s.until_time,
    s.until_usage_id::text, s.attempt_count
"""
_LEAVE: Final = """
UPDATE rerate_slices SET lease_time = $4::timestamptz WHERE job_id = $1::uuid AND shard = $2 AND slice_id = $3::uuid
"""
# A slice whose lease has ended may be worked on by two processes. Only one of them finds it as it was.
_AS_IT_WAS: Final = """
WHERE job_id = $1::uuid AND shard = $2 AND slice_id = $3::uuid AND after_time = $4::timestamptz
    AND after_usage_id = $5::uuid
RETURNING true
"""
_FINISH: Final = f"DELETE FROM rerate_slices {_AS_IT_WAS}"  # noqa: S608 -- made of the constant above alone.
_ADVANCE: Final = f"""
UPDATE rerate_slices SET after_time = $6::timestamptz, after_usage_id = $7::uuid, lease_time = $8::timestamptz,
    attempt_count = 1
{_AS_IT_WAS}
"""  # noqa: S608
_LOCK_SUMS: Final = """
SELECT digest, sums::text FROM rerate_parts WHERE job_id = $1::uuid AND shard = $2 FOR UPDATE
"""
_SET_SUMS: Final = "UPDATE rerate_parts SET digest = $3, sums = $4::jsonb WHERE job_id = $1::uuid AND shard = $2"


async def add(connection: RawConnection, job: Job, place: Place, shards: int) -> bool:
    """Store a new job that begins at a place of each shard; tell whether its operation id was free."""
    values = job.job_id, job.operation_id, job.request, job.state.value, job.checked, job.actor, job.create_time
    if not await connection.fetchval(_ADD, *values):
        return False
    await connection.execute(_ADD_PARTS, job.job_id, shards, *place, NO_DIGEST, _text(Sums()))
    return True


async def lock_making(connection: RawConnection) -> None:
    """Let no other process make a job until the transaction ends."""
    await connection.execute(_LOCK_MAKING)


async def count_open(connection: RawConnection) -> int:
    """Return how many jobs have not ended."""
    return int(await connection.fetchval(_COUNT_OPEN))


async def find_by_operation(connection: RawConnection, operation_id: str) -> Job | None:
    row = await connection.fetchrow(_OF_OPERATION, operation_id)
    return None if row is None else _job(row)


async def find(connection: RawConnection, job_id: str, *, lock: bool = False) -> Job | None:
    """Return a job; where it is locked, nobody else locks it or corrects for it until the transaction ends."""
    row = await connection.fetchrow(_LOCK if lock else _OF_ID, job_id)
    return None if row is None else _job(row)


async def keep_state(connection: RawConnection, job: Job) -> bool:
    """Let a job stay in its state until the transaction ends; tell whether it is in it. Many may do so at once."""
    return bool(await connection.fetchval(_KEEP_STATE, job.job_id, job.state.value))


async def list_before(connection: RawConnection, before: str | None, limit: int) -> list[Job]:
    """Return the latest jobs, before the one of an id if one is given."""
    return [_job(row) for row in await connection.fetch(_LIST, before, limit)]


async def active(connection: RawConnection) -> list[Job]:
    """Return the jobs that are under way, the earliest first."""
    return [_job(row) for row in await connection.fetch(_OPEN, list(ACTIVE))]


async def find_sums(connection: RawConnection, job_ids: Sequence[str]) -> dict[str, Sums]:
    """Return what jobs have done until now, by their ids."""
    found = {job_id: Sums() for job_id in job_ids}
    for job_id, text in await connection.fetch(_SUMS, job_ids):
        found[job_id].merge(sums_of(json.loads(text)))
    return found


async def update(connection: RawConnection, job: Job, *, now: datetime) -> None:
    """Store what may change of a job that is locked. Others may take its slices; it has none once it has ended."""
    values = job.job_id, job.state.value, job.checked, job.refusal_reason, job.end_time
    await connection.execute(_UPDATE, *values)
    if job.end_time is None:
        await connection.execute(_END_LEASES, job.job_id, now)
    else:
        await connection.execute(_DROP_SLICES, job.job_id)


async def progress(connection: RawConnection, job_id: str) -> tuple[bool, list[str]]:
    """Return whether nothing is left to do, and the digests of the parts."""
    row = await connection.fetchrow(_PROGRESS, job_id)
    assert row is not None, "an aggregate has a row"
    return row[0] and not row[1], list(row[2])


async def begin_again(connection: RawConnection, job_id: str, place: Place) -> None:
    """Let a job begin at a place of each shard, with nothing done."""
    await connection.execute(_BEGIN_AGAIN, job_id, *place, _text(Sums()))


async def take_left(
    connection: RawConnection, job_id: str, shard: int, now: datetime, lease_time: datetime
) -> Given | None:
    """Take a slice whose lease has ended. What others are taking is passed over."""
    row = await connection.fetchrow(_TAKE_LEFT, job_id, shard, now, lease_time)
    if row is None:
        return None
    after = Place(row[1], row[2], row[3])
    return Given(row[0], Slice(after, Place(row[1], row[4], row[5])), row[6])


async def lock_part(connection: RawConnection, job_id: str, shard: int) -> Part:
    """Lock how far a job is in a shard."""
    row = await connection.fetchrow(_LOCK_PART, job_id, shard)
    assert row is not None, "a job has a part in each shard"
    return Part(Place(*row[:3]), row[3])


async def move(connection: RawConnection, job_id: str, shard: int, part: Part) -> None:
    await connection.execute(_MOVE, job_id, shard, *part.place, part.walked)


async def give(connection: RawConnection, job_id: str, shard: int, given: Given, lease_time: datetime) -> None:
    """Store a slice that is worked on until its lease ends."""
    after, until = given.wanted
    values = given.slice_id, *after, *until[1:], lease_time, given.attempt_count
    await connection.execute(_GIVE, job_id, shard, *values)


async def leave(connection: RawConnection, job_id: str, shard: int, slice_id: str, until: datetime) -> None:
    """Let a slice be taken from a time on."""
    await connection.execute(_LEAVE, job_id, shard, slice_id, until)


async def finish(connection: RawConnection, job_id: str, shard: int, given: Given) -> bool:
    """Take a slice away; tell whether it was there as it was given."""
    return bool(await connection.fetchval(_FINISH, job_id, shard, given.slice_id, *given.wanted.after[1:]))


async def advance(
    connection: RawConnection, job_id: str, shard: int, given: Given, until: Place, lease_time: datetime
) -> bool:
    """Let a slice begin at the end of a part that is done; tell whether it was there as it was given."""
    values = given.slice_id, *given.wanted.after[1:], *until[1:], lease_time
    return bool(await connection.fetchval(_ADVANCE, job_id, shard, *values))


async def lock_sums(connection: RawConnection, job_id: str, shard: int) -> tuple[str, Sums]:
    """Lock and return the digest and the sums of a part."""
    row = await connection.fetchrow(_LOCK_SUMS, job_id, shard)
    assert row is not None, "a job has a part in each shard"
    return row[0], sums_of(json.loads(row[1]))


async def set_sums(connection: RawConnection, job_id: str, shard: int, digest: str, sums: Sums) -> None:
    await connection.execute(_SET_SUMS, job_id, shard, digest, _text(sums))


def _text(sums: Sums) -> str:
    return json.dumps(sums.plain())


def _job(row: asyncpg.Record) -> Job:
    return Job._make((*row[:3], State(row[3]), *row[4:]))
