"""Statements on received webhooks. All are in billing's own schema."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.billing.payment.webhook.domain import Decision, State


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook to keep."""

    webhook_id: str
    provider: str
    event_id: str
    kind: str
    state: State
    """WAITING, or REFUSED with a reason."""
    reason: str
    body: bytes
    body_sha256: bytes
    facts_sha256: bytes
    receive_time: datetime

    @property
    def key(self) -> tuple[str, str]:
        return self.provider, self.event_id


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a webhook that came before."""

    webhook_id: str
    body_sha256: bytes
    facts_sha256: bytes


@dataclass(frozen=True, slots=True)
class Due:
    """A webhook to apply."""

    webhook_id: str
    provider: str
    event_id: str
    kind: str
    body: bytes
    attempt_count: int
    """With this attempt."""
    wait_since_time: datetime


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook as operators see it."""

    webhook_id: str
    provider: str
    event_id: str
    kind: str
    state: State
    reason: str
    attempt_count: int
    receive_time: datetime
    next_attempt_time: datetime | None
    finish_time: datetime | None
    organization_id: str | None


# By primary key, which also makes the second of two equal ones wait for the first.
_INSERT: Final = """
    INSERT INTO billing.webhooks (
        webhook_id, provider, event_id, kind, state, reason, body, body_sha256, facts_sha256, receive_time,
        wait_since_time, next_attempt_time, finish_time, attempt_count
    )
    SELECT n.webhook_id, n.provider, n.event_id, n.kind, n.state, n.reason, n.body, n.body_sha256, n.facts_sha256,
        n.receive_time, n.receive_time, CASE WHEN n.state = 'WAITING' THEN n.receive_time END,
        CASE WHEN n.state <> 'WAITING' THEN n.receive_time END, 0
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[],
        $9::bytea[], $10::timestamptz[]) AS n (webhook_id, provider, event_id, kind, state, reason, body, body_sha256,
        facts_sha256, receive_time)
    ORDER BY n.provider, n.event_id
    ON CONFLICT (provider, event_id) DO NOTHING
    RETURNING webhook_id::text
"""
# By primary key.
_KEPT: Final = """
    SELECT w.provider, w.event_id, w.webhook_id::text, w.body_sha256, w.facts_sha256
    FROM unnest($1::text[], $2::text[]) AS k (provider, event_id)
    JOIN billing.webhooks AS w ON w.provider = k.provider AND w.event_id = k.event_id
"""
# By webhooks_due. Rows that another process is claiming are skipped; those that it has claimed are due later.
_CLAIM: Final = """
    UPDATE billing.webhooks AS w
    SET next_attempt_time = $2, attempt_count = w.attempt_count + 1
    FROM (
        SELECT provider, event_id FROM billing.webhooks
        WHERE next_attempt_time <= $1 ORDER BY next_attempt_time LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
    ) AS due
    WHERE w.provider = due.provider AND w.event_id = due.event_id
    RETURNING w.webhook_id::text, w.provider, w.event_id, w.kind, w.body, w.attempt_count,
        w.wait_since_time
"""
# By primary key. A webhook that another attempt has finished meanwhile stays as it is.
_SETTLE: Final = """
    UPDATE billing.webhooks AS w
    SET state = d.state, reason = d.reason, next_attempt_time = d.next_attempt_time,
        organization_id = coalesce(d.organization_id, w.organization_id),
        body = CASE WHEN d.state <> 'APPLIED' THEN w.body END,
        finish_time = CASE WHEN d.next_attempt_time IS NULL THEN $7::timestamptz END
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::uuid[])
        AS d (provider, event_id, state, reason, next_attempt_time, organization_id)
    WHERE w.provider = d.provider AND w.event_id = d.event_id AND w.state IN ('WAITING', 'PARKED')
"""
_COLUMNS: Final = """
    webhook_id::text, provider, event_id, kind, state, reason, attempt_count, receive_time, next_attempt_time,
    finish_time, organization_id::text
"""
# By webhooks_id_once backwards; with a state by webhooks_by_state.
_LIST: Final = f"""
    SELECT {_COLUMNS} FROM billing.webhooks
    WHERE webhook_id < $1 AND ($2 = '' OR provider = $2) ORDER BY webhook_id DESC LIMIT $3
"""  # noqa: S608 -- texts of this module.
_LIST_OF_STATE: Final = f"""
    SELECT {_COLUMNS} FROM billing.webhooks
    WHERE state = $4 AND webhook_id < $1 AND ($2 = '' OR provider = $2) ORDER BY webhook_id DESC LIMIT $3
"""  # noqa: S608 -- texts of this module.
# By webhooks_id_once. Locks the row.
_FIND: Final = f"SELECT {_COLUMNS} FROM billing.webhooks WHERE webhook_id = $1 FOR NO KEY UPDATE"  # noqa: S608
# By webhooks_id_once.
_RETRY: Final = f"""
    UPDATE billing.webhooks
    SET state = 'WAITING', next_attempt_time = $2, wait_since_time = $2, attempt_count = 0, finish_time = NULL
    WHERE webhook_id = $1 RETURNING {_COLUMNS}
"""  # noqa: S608 -- texts of this module.
# By primary key.
_COUNT: Final = """
    INSERT INTO billing.webhook_counts AS c (provider, count_date, outcome, kind, count)
    SELECT * FROM unnest($1::text[], $2::date[], $3::text[], $4::text[], $5::bigint[])
    ORDER BY 1, 2, 3, 4
    ON CONFLICT (provider, count_date, outcome, kind) DO UPDATE SET count = c.count + excluded.count
"""
# By primary key: at most so many days of a provider.
_COUNTS: Final = """
    SELECT outcome, kind, sum(count)::bigint AS count FROM billing.webhook_counts
    WHERE provider = $1 AND count_date >= $2 GROUP BY outcome, kind ORDER BY outcome, kind LIMIT $3
"""


# Along `webhooks_by_age`. What another process deletes is passed over.
_DELETE_FINISHED: Final = """
    DELETE FROM billing.webhooks AS w USING (
        SELECT provider, event_id FROM billing.webhooks WHERE finish_time < $1
        ORDER BY finish_time LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE w.provider = old.provider AND w.event_id = old.event_id
    RETURNING w.state
"""
# By `webhook_counts_by_day`.
_DELETE_COUNTS: Final = """
    DELETE FROM billing.webhook_counts AS c USING (
        SELECT provider, count_date, outcome, kind FROM billing.webhook_counts WHERE count_date < $1
        ORDER BY count_date LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE c.provider = old.provider AND c.count_date = old.count_date AND c.outcome = old.outcome AND c.kind = old.kind
    RETURNING 1
"""


async def insert(tx: RawConnection, new: Sequence[NewWebhook]) -> set[str]:
    """Keep webhooks that have not come before; return the ids of those."""
    rows = await tx.fetch(
        _INSERT,
        [one.webhook_id for one in new],
        [one.provider for one in new],
        [one.event_id for one in new],
        [one.kind for one in new],
        [one.state.value for one in new],
        [one.reason for one in new],
        [one.body for one in new],
        [one.body_sha256 for one in new],
        [one.facts_sha256 for one in new],
        [one.receive_time for one in new],
    )
    return {row["webhook_id"] for row in rows}


async def find_kept(tx: RawConnection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Kept]:
    """Return what is known of webhooks, by provider and event id."""
    rows = await tx.fetch(_KEPT, [provider for provider, _ in keys], [event_id for _, event_id in keys])
    return {
        (row["provider"], row["event_id"]): Kept(row["webhook_id"], row["body_sha256"], row["facts_sha256"])
        for row in rows
    }


async def claim(connection: RawConnection, now: datetime, again_at: datetime, limit: int) -> list[Due]:
    """Return webhooks that are due, those that wait longest first; nobody else gets them before `again_at`."""
    rows = await connection.fetch(_CLAIM, now, again_at, limit)
    due = [Due(**dict(row)) for row in rows]
    return sorted(due, key=lambda one: one.webhook_id)


async def settle(connection: RawConnection, decided: Sequence[tuple[Due, Decision]], now: datetime) -> None:
    """Store what became of webhooks."""
    await connection.execute(
        _SETTLE,
        [due.provider for due, _ in decided],
        [due.event_id for due, _ in decided],
        [decision.state.value for _, decision in decided],
        [decision.reason for _, decision in decided],
        [decision.next_attempt_time for _, decision in decided],
        [decision.organization_id for _, decision in decided],
        now,
    )


async def list_before(
    connection: RawConnection, before_id: str, provider: str, state: State | None, limit: int
) -> list[Webhook]:
    """Return webhooks received before one, the latest first; an empty provider stands for all."""
    if state is None:
        rows = await connection.fetch(_LIST, before_id, provider, limit)
    else:
        rows = await connection.fetch(_LIST_OF_STATE, before_id, provider, limit, state.value)
    return [_webhook(row) for row in rows]


async def lock(tx: RawConnection, webhook_id: str) -> Webhook | None:
    """Return a webhook, locked until the end of the transaction."""
    row = await tx.fetchrow(_FIND, webhook_id)
    return None if row is None else _webhook(row)


async def retry(tx: RawConnection, webhook_id: str, now: datetime) -> Webhook:
    """Let a webhook be tried again from the start."""
    row = await tx.fetchrow(_RETRY, webhook_id, now)
    assert row is not None
    return _webhook(row)


async def add_counts(connection: RawConnection, counts: Mapping[tuple[str, date, str, str], int]) -> None:
    """Add to the counts, by provider, day, outcome and kind."""
    keys = list(counts)
    await connection.execute(
        _COUNT,
        [provider for provider, _, _, _ in keys],
        [day for _, day, _, _ in keys],
        [outcome for _, _, outcome, _ in keys],
        [kind for _, _, _, kind in keys],
        [counts[key] for key in keys],
    )


async def read_counts(connection: RawConnection, provider: str, since: date, limit: int) -> list[tuple[str, str, int]]:
    """Return the outcomes and kinds of a provider with their counts since a day."""
    rows = await connection.fetch(_COUNTS, provider, since, limit)
    return [(row["outcome"], row["kind"], row["count"]) for row in rows]


async def delete_finished(connection: RawConnection, before: datetime, limit: int) -> Counter[State]:
    """Delete webhooks that were finished before a moment, at most so many; return how many were in each state."""
    return Counter(State(row[0]) for row in await connection.fetch(_DELETE_FINISHED, before, limit))


async def delete_counts(connection: RawConnection, before: date, limit: int) -> int:
    """Delete counts of days before one, at most so many; return how many those were."""
    return len(await connection.fetch(_DELETE_COUNTS, before, limit))


def _webhook(row: asyncpg.Record) -> Webhook:
    return Webhook(
        webhook_id=row["webhook_id"],
        provider=row["provider"],
        event_id=row["event_id"],
        kind=row["kind"],
        state=State(row["state"]),
        reason=row["reason"],
        attempt_count=row["attempt_count"],
        receive_time=row["receive_time"],
        next_attempt_time=row["next_attempt_time"],
        finish_time=row["finish_time"],
        organization_id=row["organization_id"],
    )
