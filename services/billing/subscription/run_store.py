"""The statements of the run of periods: each reads or writes many subscriptions of a shard.

Rows are locked until what is due for them is done, and skipped by everybody else who looks for work. Each array of
parameters is one column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

import asyncpg

from libs.common.database import RawConnection
from services.billing.ledger.grants import GrantKind
from services.billing.subscription import event_store, store
from services.billing.subscription.domain import Event, Subscription

Key: TypeAlias = tuple[str, str]
"""(organization_id, subscription_id)"""

# The index of what is due, from its beginning.
_LOCK_DUE: Final = f"""
    SELECT {store.SUBSCRIPTION_COLUMNS} FROM subscriptions AS s
    WHERE s.due_time <= $1 AND s.set_aside_time IS NULL
    ORDER BY s.due_time, s.organization_id, s.subscription_id LIMIT $2
    FOR UPDATE OF s SKIP LOCKED
"""  # noqa: S608 -- constants of ours alone.

# A batch that holds the lock is done sooner, and all statements are given up after two seconds.
_WAIT: Final = "SET LOCAL lock_timeout = 1500"

# One probe for each of the partial unique index on planned events. It is read once the rows are locked.
_PLANNED: Final = f"""
    SELECT found.* FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, subscription_id)
    CROSS JOIN LATERAL (
        SELECT {event_store.EVENT_COLUMNS} FROM subscription_events AS e
        WHERE e.organization_id = k.organization_id AND e.subscription_id = k.subscription_id AND e.planned
        OFFSET 0
    ) AS found
"""  # noqa: S608

# Arrays of arrays have one length in Postgres, so that operation ids, which have no space, come as one text.
_EVENT_NAMES: Final = ", ".join(name for name, _ in event_store.COLUMN_TYPES)
_EVENT_ARRAYS: Final = ", ".join(
    f"${number}::{'text' if kind == 'text[]' else kind}[]"
    for number, (_, kind) in enumerate(event_store.COLUMN_TYPES, start=1)
)
_EVENT_VALUES: Final = ", ".join(
    f"string_to_array(v.{name}, ' ')" if kind == "text[]" else f"v.{name}" for name, kind in event_store.COLUMN_TYPES
)
_ADD_EVENTS: Final = f"""
    INSERT INTO subscription_events ({_EVENT_NAMES})
    SELECT {_EVENT_VALUES} FROM unnest({_EVENT_ARRAYS}) AS v ({_EVENT_NAMES})
"""  # noqa: S608

# By primary key; the rows of their subscriptions are locked. `planned` itself would let the planner take the index of
# planned events, which it would read as a whole.
_MAKE_DONE: Final = """
    UPDATE subscription_events AS e SET planned = false
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS v (organization_id, subscription_id, sequence)
    WHERE e.organization_id = ANY (ARRAY[v.organization_id]) AND e.subscription_id = v.subscription_id
        AND e.sequence = v.sequence AND e.planned::integer = 1
"""

# The same, with what came instead.
_REPLACE_EVENTS: Final = f"""
    UPDATE subscription_events AS e SET {
    ", ".join(
        f"{name} = " + (f"string_to_array(v.{name}, ' ')" if kind == "text[]" else f"v.{name}")
        for name, kind in event_store.COLUMN_TYPES[3:]
    )
}
    FROM unnest({_EVENT_ARRAYS}) AS v ({_EVENT_NAMES})
    WHERE e.organization_id = ANY (ARRAY[v.organization_id]) AND e.subscription_id = v.subscription_id
        AND e.sequence = v.sequence AND e.planned::integer = 1
"""  # noqa: S608

_CHANGED: Final = frozenset(
    {
        *("plan_id", "plan_code", "plan_version", "state", "state_reason", "state_time", "waits_for"),
        *("trial_end_time", "anchor_time", "period_number", "period_start_time", "period_end_time", "period_paid"),
        *("cancel_at_period_end", "next_plan_id", "next_plan_code", "next_plan_version", "payment_attempts"),
        *("next_payment_time", "owed_currency_code", "owed_amount", "due_time", "set_aside_time", "set_aside_reason"),
        *("last_sequence", "revision", "update_time", "collection", "collection_provider"),
        *("minimum_currency_code", "minimum_amount", "minimum_since_time", "usage_since_time"),
    }
)
_PLACES: Final = [place for place, (name, _) in enumerate(store.COLUMN_TYPES) if place < 2 or name in _CHANGED]
_NAMES: Final = ", ".join(store.COLUMN_TYPES[place][0] for place in _PLACES)

# By primary key; the rows are locked.
_UPDATE: Final = f"""
    UPDATE subscriptions AS s SET {
    ", ".join(f"{name} = v.{name}" for name, _ in store.COLUMN_TYPES if name in _CHANGED)
}
    FROM unnest({
    ", ".join(f"${number}::{store.COLUMN_TYPES[place][1]}[]" for number, place in enumerate(_PLACES, start=1))
}) AS v ({_NAMES})
    WHERE s.organization_id = ANY (ARRAY[v.organization_id]) AND s.subscription_id = v.subscription_id
"""  # noqa: S608

# By primary key.
_SET_ASIDE: Final = """
    UPDATE subscriptions SET set_aside_time = $3, set_aside_reason = $4, update_time = $3, revision = revision + 1
    WHERE organization_id = $1::uuid AND subscription_id = $2::uuid AND set_aside_time IS NULL
"""

# By primary key. Whatever changes a subscription says anew when it is due.
_POSTPONE: Final = """
    UPDATE subscriptions SET due_time = $3 WHERE organization_id = $1::uuid AND subscription_id = $2::uuid
"""

# The accounts' grants that have not ended: a range of the partial index on those.
_OPEN_REFILLS: Final = """
    SELECT operation_id FROM credit_grants
    WHERE organization_id = $1::uuid AND state <> 'ENDED' AND source_reference = $2 AND kind = $3
        AND void_time IS NULL
    ORDER BY operation_id
"""

# By the unique key on operation ids.
_GRANTS: Final = """
    SELECT operation_id, grant_id::text, currency_code FROM credit_grants
    WHERE organization_id = $1::uuid AND operation_id = ANY($2::text[])
"""

# The index of what is due; of each shard some thousand at most are counted.
_COUNT_DUE: Final = """
    SELECT count(*) FROM (
        SELECT 1 FROM subscriptions WHERE due_time <= $1 AND set_aside_time IS NULL LIMIT $2
    ) AS due
"""


@dataclass(frozen=True, slots=True)
class Due:
    """A row that is locked: the subscription, or the error with which it could not be read."""

    key: Key
    found: Subscription | Exception


async def lock_due(connection: RawConnection, until: datetime, limit: int) -> list[Due]:
    """Lock subscriptions that something is due for, the longest due first, but those that are locked already."""
    return [_due(row) for row in await connection.fetch(_LOCK_DUE, until, limit)]


def _due(row: asyncpg.Record) -> Due:
    key = row["organization_id"], row["subscription_id"]
    try:
        return Due(key, store.subscription_of(row))
    except Exception as error:  # noqa: BLE001 -- a row that cannot be read is set aside, and stops no other.
        return Due(key, error)


async def wait_for_locks(connection: RawConnection) -> None:
    """Let the transaction wait for a lock as long as a batch of the run may hold it."""
    await connection.execute(_WAIT)


async def find_planned(connection: RawConnection, keys: Sequence[Key]) -> dict[Key, Event]:
    """Return the planned events of subscriptions whose rows are locked."""
    rows = await connection.fetch(_PLANNED, [key[0] for key in keys], [key[1] for key in keys])
    return {(event.organization_id, event.subscription_id): event for event in map(event_store.event_of, rows)}


async def add_events(connection: RawConnection, events: Iterable[Event]) -> None:
    """Add events, planned or complete."""
    rows = list(map(_event_row, events))
    if rows:
        await connection.execute(_ADD_EVENTS, *zip(*rows, strict=True))


async def make_done(connection: RawConnection, events: Iterable[Event]) -> None:
    """Complete planned events as they are."""
    rows = [(event.organization_id, event.subscription_id, event.sequence) for event in events]
    if rows:
        _check(await connection.execute(_MAKE_DONE, *zip(*rows, strict=True)), len(rows))


async def replace_events(connection: RawConnection, events: Iterable[Event]) -> None:
    """Put complete events in the place of planned ones of the same sequences."""
    rows = list(map(_event_row, events))
    if rows:
        _check(await connection.execute(_REPLACE_EVENTS, *zip(*rows, strict=True)), len(rows))


async def update(connection: RawConnection, subscriptions: Iterable[Subscription]) -> None:
    """Write what a step changes of subscriptions whose rows are locked."""
    rows = [[values[place] for place in _PLACES] for values in map(store.values_of, subscriptions)]
    if rows:
        _check(await connection.execute(_UPDATE, *zip(*rows, strict=True)), len(rows))


async def set_aside(connection: RawConnection, key: Key, reason: str, now: datetime) -> None:
    """Leave a subscription to an operator."""
    await connection.execute(_SET_ASIDE, *key, now, reason)


async def postpone(connection: RawConnection, keys: Iterable[Key], until: datetime) -> None:
    """Let others have their turn before subscriptions whose rows are locked."""
    for key in keys:
        await connection.execute(_POSTPONE, *key, until)


async def open_refills(connection: RawConnection, organization_id: str, source_reference: str) -> list[str]:
    """Return the operation ids of the grants that a subscription has brought and that have not ended."""
    rows = await connection.fetch(_OPEN_REFILLS, organization_id, source_reference, GrantKind.INCLUDED.value)
    return [row[0] for row in rows]


async def find_grants(
    connection: RawConnection, organization_id: str, operation_ids: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Return of grants, by their operation ids, the grant's id and its unit."""
    rows = await connection.fetch(_GRANTS, organization_id, operation_ids)
    return {row[0]: (row[1], row[2]) for row in rows}


async def count_due(connection: RawConnection, until: datetime, limit: int) -> int:
    """Return how many subscriptions something is due for, or the limit if they are more."""
    return int(await connection.fetchval(_COUNT_DUE, until, limit))


def _event_row(event: Event) -> list[object]:
    return [" ".join(value) if isinstance(value, list) else value for value in event_store.values_of(event)]


def _check(status: str, rows: int) -> None:
    if status != f"UPDATE {rows}":
        raise RuntimeError(f"{status}, instead of {rows}")
