"""What is to be done after a change was committed: written in its transaction, and worked off until it is done.

Each statement touches one shard. A step that is added again while somebody is at it is done once more.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from libs.common.database import RawConnection


class StepKind(StrEnum):
    """What is to be looked at; the key of a step says which."""

    PAYMENT = "PAYMENT"
    """A payment of a plan that was completed, by its id."""
    EXTERNAL_SUBSCRIPTION = "EXTERNAL_SUBSCRIPTION"
    """A subscription that a provider renews, by the provider, a slash and its id."""
    SUBSCRIPTION = "SUBSCRIPTION"
    """A subscription of which its provider is to be told something, by its id."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """A step that somebody is at."""

    organization_id: str
    kind: StepKind
    key: str
    number: int
    attempt_count: int


CLAIMED_FOR: Final = timedelta(seconds=60)
"""How long nobody else takes a step that somebody is at."""

# By primary key.
_ADD: Final = """
    INSERT INTO next_steps AS n (organization_id, kind, key, number, since_time, due_time, attempt_count, failure)
    VALUES ($1::uuid, $2, $3, 1, $4, $4, 0, '')
    ON CONFLICT ON CONSTRAINT next_steps_pkey DO UPDATE SET number = n.number + 1, due_time = excluded.due_time,
        since_time = least(n.since_time, excluded.since_time)
"""

# The index of what is due, from its beginning; then each by primary key.
_CLAIM: Final = """
    UPDATE next_steps AS n SET due_time = $2
    FROM (
        SELECT organization_id, kind, key FROM next_steps WHERE due_time <= $1 AND kind = ANY($4::text[])
        ORDER BY due_time, organization_id, kind, key LIMIT $3 FOR UPDATE SKIP LOCKED
    ) AS d
    WHERE n.organization_id = ANY (ARRAY[d.organization_id]) AND n.kind = d.kind AND n.key = d.key
    RETURNING n.organization_id::text, n.kind, n.key, n.number, n.attempt_count
"""

_WAITS: Final = """
    SELECT EXISTS (SELECT FROM next_steps WHERE organization_id = $1::uuid AND kind = $2 AND key = $3)
"""

# By primary key, unless the step was added again.
_DONE: Final = """
    DELETE FROM next_steps WHERE organization_id = $1::uuid AND kind = $2 AND key = $3 AND number = $4
"""
_LATER: Final = """
    UPDATE next_steps SET due_time = $5, since_time = $5, attempt_count = 0, failure = ''
    WHERE organization_id = $1::uuid AND kind = $2 AND key = $3 AND number = $4
"""
_FAILED: Final = """
    UPDATE next_steps SET due_time = $5, attempt_count = attempt_count + 1, failure = $6
    WHERE organization_id = $1::uuid AND kind = $2 AND key = $3 AND number = $4
"""


async def add(connection: RawConnection, organization_id: str, kind: StepKind, key: str, now: datetime) -> None:
    """Add a step that is due now."""
    await connection.execute(_ADD, organization_id, kind.value, key, now)


async def claim(connection: RawConnection, now: datetime, kinds: Collection[StepKind], limit: int) -> list[NextStep]:
    """Take steps of some kinds that are due; nobody else takes them for a while."""
    rows = await connection.fetch(_CLAIM, now, now + CLAIMED_FOR, limit, [kind.value for kind in kinds])
    return [NextStep(row[0], StepKind(row[1]), *row[2:]) for row in rows]


async def waits(connection: RawConnection, organization_id: str, kind: StepKind, key: str) -> bool:
    """Return whether a step is still to be done."""
    return bool(await connection.fetchval(_WAITS, organization_id, kind.value, key))


async def done(connection: RawConnection, step: NextStep) -> bool:
    """Remove a step; return whether it was there, as it was when it was taken."""
    status: str = await connection.execute(_DONE, step.organization_id, step.kind.value, step.key, step.number)
    return status == "DELETE 1"


async def later(connection: RawConnection, step: NextStep, due_time: datetime) -> None:
    """Let a step wait for a time before which it cannot be done."""
    await connection.execute(_LATER, step.organization_id, step.kind.value, step.key, step.number, due_time)


async def failed(connection: RawConnection, step: NextStep, failure: str, due_time: datetime) -> None:
    """Have a step tried again that could not be done."""
    await connection.execute(_FAILED, step.organization_id, step.kind.value, step.key, step.number, due_time, failure)
