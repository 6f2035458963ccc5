"""The statements on times whose usage is charged, in one shard each."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.billing.plan.usage_charge_domain import usage_charge_of_json
from services.billing.subscription.domain import Subscription
from services.billing.subscription.store import SUBSCRIPTION_COLUMNS, subscription_of
from services.billing.usage_charge.domain import Movement, Stored

_COLUMNS: Final = """
    p.organization_id::text, p.subscription_id::text, p.start_time, p.usage_charge_code, p.end_time, p.plan_code,
    p.currency_code, p.with_unsubscribed, p.charge::text, p.base, p.quantity, p.amount, p.sequence, p.due_time,
    p.attempts, p.looked_time IS NULL
"""
_KEY: Final = """
    organization_id = $1::uuid AND subscription_id = $2::uuid AND start_time = $3::timestamptz
        AND usage_charge_code = $4
"""

# The index of what is due, from its beginning; what others take at this moment is passed over. Whoever takes one has it
# for a time, and its due_time is how it is known to have it still.
_TAKE: Final = f"""
    WITH found AS MATERIALIZED (
        SELECT organization_id, subscription_id, start_time, usage_charge_code FROM usage_periods
        WHERE due_time <= $1::timestamptz
        ORDER BY due_time, organization_id, subscription_id, start_time, usage_charge_code
        LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    UPDATE usage_periods AS p SET due_time = $2::timestamptz
    FROM found AS f
    WHERE p.organization_id = ANY (ARRAY[f.organization_id]) AND p.subscription_id = f.subscription_id
        AND p.start_time = f.start_time AND p.usage_charge_code = f.usage_charge_code
    RETURNING {_COLUMNS}
"""  # noqa: S608 -- constants of ours alone.

# By primary key.
_LOCK: Final = f"SELECT {_COLUMNS} FROM usage_periods AS p WHERE {_KEY} AND due_time = $5 FOR UPDATE"  # noqa: S608
_PLANNED: Final = f"""
    SELECT sequence, operation_id, quantity, amount, change FROM usage_period_movements
    WHERE {_KEY} AND planned ORDER BY sequence DESC LIMIT 1
"""  # noqa: S608
_LOOK: Final = f"UPDATE usage_periods SET quantity = $5, amount = $6, sequence = $7 WHERE {_KEY}"  # noqa: S608
_PLAN: Final = """
    INSERT INTO usage_period_movements (organization_id, subscription_id, start_time, usage_charge_code, sequence,
        operation_id, quantity, amount, change, planned, create_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, true, $10)
"""
_MOVED: Final = f"""
    UPDATE usage_period_movements SET planned = false WHERE {_KEY} AND sequence = $5 AND planned::integer = 1
"""  # noqa: S608
_DONE: Final = f"""
    UPDATE usage_periods SET looked_time = $6, due_time = $7, attempts = 0, error = ''
    WHERE {_KEY} AND due_time = $5
"""  # noqa: S608
_LATER: Final = f"""
    UPDATE usage_periods SET due_time = $6, attempts = $7, error = $8 WHERE {_KEY} AND due_time = $5
"""  # noqa: S608

# The times of one subscription: a range of the primary key.
_WAKE_MINIMUM: Final = """
    UPDATE usage_periods SET due_time = $4
    WHERE organization_id = $1::uuid AND subscription_id = $2::uuid AND usage_charge_code = ''
        AND start_time <= $3::timestamptz AND end_time > $3::timestamptz
"""
_WITHIN: Final = """
    SELECT coalesce(sum(amount), 0), coalesce(bool_or(looked_time IS NULL), false) FROM usage_periods
    WHERE organization_id = $1::uuid AND subscription_id = $2::uuid AND usage_charge_code <> ''
        AND start_time >= $3::timestamptz AND start_time < $4::timestamptz
"""

# The subscriptions of one organization, by primary key.
_RUNNING: Final = f"""
    SELECT {SUBSCRIPTION_COLUMNS} FROM subscriptions AS s
    WHERE s.organization_id = $1::uuid AND s.usage_since_time IS NOT NULL
    ORDER BY s.subscription_id LIMIT $2
"""  # noqa: S608


async def take(connection: RawConnection, now: datetime, until: datetime, limit: int) -> list[Stored]:
    """Take times that are to be looked at, the longest due first: nobody else has them until a moment."""
    return list(map(_stored, await connection.fetch(_TAKE, now, until, limit)))


async def lock(connection: RawConnection, taken: Stored) -> tuple[Stored, Movement | None] | None:
    """Lock a time until the end of the transaction; return it with the movement that is planned.

    None where this process has it no more.
    """
    row = await connection.fetchrow(_LOCK, *taken.key, taken.due_time)
    if row is None:
        return None
    planned = await connection.fetchrow(_PLANNED, *taken.key)
    return _stored(row), None if planned is None else Movement(*planned)


async def plan(
    connection: RawConnection, stored: Stored, quantity: Decimal, movement: Movement | None, now: datetime
) -> None:
    """Store what a time comes to now, and the movement that follows from it."""
    if movement is None:
        await connection.execute(_LOOK, *stored.key, quantity, stored.amount, stored.sequence)
        return
    await connection.execute(_LOOK, *stored.key, quantity, movement.amount, movement.sequence)
    values = movement.sequence, movement.operation_id, movement.quantity, movement.amount, movement.change
    await connection.execute(_PLAN, *stored.key, *values, now)


async def moved(connection: RawConnection, stored: Stored, movement: Movement) -> None:
    """Note that a movement is made."""
    await connection.execute(_MOVED, *stored.key, movement.sequence)


async def done(connection: RawConnection, stored: Stored, now: datetime, due_time: datetime | None) -> None:
    """Note that a time was looked at, and when it is again; nothing where this process has it no more."""
    await connection.execute(_DONE, *stored.key, stored.due_time, now, due_time)


async def postpone(connection: RawConnection, stored: Stored, due_time: datetime, attempts: int, error: str) -> None:
    """Leave a time for later, because of an error or of what it waits for."""
    await connection.execute(_LATER, *stored.key, stored.due_time, due_time, attempts, error)


async def wake_minimum(connection: RawConnection, stored: Stored, now: datetime) -> None:
    """Have the minimum looked at again that the usage charges of a time count towards."""
    await connection.execute(_WAKE_MINIMUM, stored.organization_id, stored.subscription_id, stored.start, now)


async def charged_within(connection: RawConnection, minimum: Stored) -> tuple[Decimal, bool]:
    """Return what the usage charges of the time of a minimum come to, and whether some were never looked at."""
    row = await connection.fetchrow(
        _WITHIN, minimum.organization_id, minimum.subscription_id, minimum.start, minimum.end
    )
    assert row is not None
    return row[0], row[1]


async def running(connection: RawConnection, organization_id: str, limit: int) -> list[Subscription]:
    """Return subscriptions of an organization whose usage counts for usage charges now."""
    return list(map(subscription_of, await connection.fetch(_RUNNING, organization_id, limit)))


def _stored(row: asyncpg.Record) -> Stored:
    values = list(row)
    values[8] = None if values[8] is None else usage_charge_of_json(json.loads(values[8]))
    return Stored(*values)
