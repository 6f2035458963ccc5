"""The engine's set-based writes: one statement per table and kind of change, whatever the size of the batch."""

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.database import RawConnection
from services.billing.ledger.domain import Account, Decline, Hold, Metadata, Movement

_INSERT_ACCOUNTS: Final = """
    INSERT INTO accounts (
        organization_id, account_id, owner_id, currency_code, posted, held, sequence, overdraft_limit, state,
        hold_expiry_from, last_movement_time, version, revision, create_time, update_time
    )
    SELECT v.organization_id, v.account_id, v.owner_id, v.currency_code, v.posted, v.held, v.sequence, 0, 'OPEN',
        v.hold_expiry_from, v.last_movement_time, 1, 0, $9, $9
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::numeric[], $6::numeric[], $7::bigint[],
        $8::timestamptz[], $10::timestamptz[]
    ) AS v (
        organization_id, account_id, owner_id, currency_code, posted, held, sequence, hold_expiry_from,
        last_movement_time
    )
"""

# Rows are locked since the batch began; no indexed column changes.
_UPDATE_ACCOUNTS: Final = """
    UPDATE accounts a SET posted = v.posted, held = v.held, sequence = v.sequence,
        hold_expiry_from = v.hold_expiry_from, last_movement_time = v.last_movement_time,
        revision = a.revision + 1
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::numeric[], $4::numeric[], $5::bigint[], $6::timestamptz[], $7::timestamptz[]
    ) AS v (organization_id, account_id, posted, held, sequence, hold_expiry_from, last_movement_time)
    WHERE a.organization_id = ANY (ARRAY[v.organization_id]) AND a.account_id = v.account_id
"""

_INSERT_MOVEMENTS: Final = """
    INSERT INTO transactions (
        organization_id, operation_id, transaction_id, kind, project_id, account_id, sequence, direction,
        currency_code, amount, balance_after, requested_amount, mode, overdrawn, system_account, description, metadata,
        create_time, counter_account_id, counter_project_id, counter_sequence, counter_balance_after,
        reverses_transaction_id, held_amount, actor
    )
    SELECT v.c1, v.c2, v.c3, v.c4, v.c5, v.c6, v.c7, v.c8, v.c9, v.c10::numeric, v.c11::numeric, v.c12::numeric,
        v.c13, v.c14, v.c15, v.c16, v.c17::jsonb, v.c18, v.c19, v.c20, v.c21, v.c22::numeric, v.c23, v.c24::numeric,
        v.c25
    FROM unnest(
        $1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::uuid[], $6::uuid[], $7::bigint[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::boolean[], $15::text[], $16::text[],
        $17::text[], $18::timestamptz[], $19::uuid[], $20::uuid[], $21::bigint[], $22::text[], $23::uuid[],
        $24::text[], $25::text[]
    ) AS v (
        c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21, c22, c23, c24,
        c25
    )
"""

# Charges, which are most movements, have neither another account nor a transaction to reverse.
_INSERT_CHARGES: Final = """
    INSERT INTO transactions (
        organization_id, operation_id, transaction_id, kind, project_id, account_id, sequence, direction,
        currency_code, amount, balance_after, requested_amount, mode, overdrawn, system_account, description, metadata,
        create_time, held_amount, actor, hold_operation_id
    )
    SELECT v.c1, v.c2, v.c3, v.c4, v.c5, v.c6, v.c7, 'DEBIT', v.c8, v.c9::numeric, v.c10::numeric, v.c11::numeric,
        v.c12, v.c13, 'REVENUE', v.c14, v.c15::jsonb, v.c16, v.c17::numeric, v.c18, v.c19
    FROM unnest(
        $1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::uuid[], $6::uuid[], $7::bigint[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::boolean[], $14::text[], $15::text[], $16::timestamptz[],
        $17::text[], $18::text[], $19::text[]
    ) AS v (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19)
"""

_INSERT_HOLDS: Final = """
    INSERT INTO holds (
        organization_id, operation_id, hold_id, project_id, account_id, currency_code, amount, ttl_ms, state,
        description, metadata, create_time, expire_time, end_time, actor, user_id, model, reserves
    )
    SELECT v.c1, v.c2, v.c3, v.c4, v.c5, v.c6, v.c7::numeric, v.c8, v.c9, v.c10, v.c11::jsonb, v.c12, v.c13, v.c14,
        v.c15, v.c16, v.c17, v.c18::jsonb
    FROM unnest(
        $1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bigint[], $9::text[],
        $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::text[],
        $16::uuid[], $17::text[], $18::text[]
    ) AS v (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18)
"""

_UPDATE_HOLDS: Final = """
    UPDATE holds h SET state = v.state, expire_time = v.expire_time, end_time = v.end_time
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
        AS v (organization_id, operation_id, state, expire_time, end_time)
    WHERE h.organization_id = ANY (ARRAY[v.organization_id]) AND h.operation_id = v.operation_id
"""

# Few batches have parts of holds, or enlarge any.
_UPDATE_HOLD_AMOUNTS: Final = """
    UPDATE holds h SET amount = v.amount::numeric, captured_amount = v.captured_amount::numeric,
        requested_amount = v.requested_amount::numeric
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
        AS v (organization_id, operation_id, amount, captured_amount, requested_amount)
    WHERE h.organization_id = ANY (ARRAY[v.organization_id]) AND h.operation_id = v.operation_id
"""

_UPDATE_RESERVES: Final = """
    UPDATE holds h SET reserves = v.reserves::jsonb
    FROM unnest($1::uuid[], $2::text[], $3::text[]) AS v (organization_id, operation_id, reserves)
    WHERE h.organization_id = ANY (ARRAY[v.organization_id]) AND h.operation_id = v.operation_id
"""

_INSERT_DECLINES: Final = """
    INSERT INTO declines (organization_id, operation_id, slot, reason, request, facts, create_time, actor)
    SELECT v.c1, v.c2, v.c3, 'INSUFFICIENT_BALANCE', v.c4::jsonb, v.c5::jsonb, v.c6, v.c7
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
        AS v (c1, c2, c3, c4, c5, c6, c7)
"""


async def insert_accounts(connection: RawConnection, accounts: Collection[Account], now: datetime) -> None:
    """Insert new accounts as they are after the batch."""
    await connection.execute(
        _INSERT_ACCOUNTS,
        [a.organization_id for a in accounts],
        [a.account_id for a in accounts],
        [a.owner_id for a in accounts],
        [a.currency_code for a in accounts],
        [a.posted for a in accounts],
        [a.held for a in accounts],
        [a.sequence for a in accounts],
        [a.hold_expiry_from for a in accounts],
        now,
        [a.last_movement_time for a in accounts],
    )


async def update_accounts(connection: RawConnection, accounts: Collection[Account]) -> None:
    """Update accounts to what they are after the batch."""
    await connection.execute(
        _UPDATE_ACCOUNTS,
        [a.organization_id for a in accounts],
        [a.account_id for a in accounts],
        [a.posted for a in accounts],
        [a.held for a in accounts],
        [a.sequence for a in accounts],
        [a.hold_expiry_from for a in accounts],
        [a.last_movement_time for a in accounts],
    )


async def insert_charges(connection: RawConnection, movements: Sequence[Movement]) -> None:
    """Insert debits and captures: the hot path of the whole service."""
    await connection.execute(
        _INSERT_CHARGES,
        [m.organization_id for m in movements],
        [m.operation_id for m in movements],
        [m.transaction_id for m in movements],
        [m.kind for m in movements],
        [m.project_id for m in movements],
        [m.account_id for m in movements],
        [m.sequence for m in movements],
        [m.currency_code for m in movements],
        [str(m.amount) for m in movements],
        [str(m.balance_after) for m in movements],
        [str(m.requested_amount) for m in movements],
        [m.mode for m in movements],
        [m.overdrawn for m in movements],
        [m.description or None for m in movements],
        [_json(m.metadata) for m in movements],
        [m.create_time for m in movements],
        [None if m.held_amount is None else str(m.held_amount) for m in movements],
        [m.actor for m in movements],
        [m.hold_operation_id for m in movements],
    )


async def insert_movements(connection: RawConnection, movements: Sequence[Movement]) -> None:
    """Insert movements of any kind."""
    await connection.execute(_INSERT_MOVEMENTS, *zip(*map(_movement_row, movements), strict=True))


async def insert_holds(connection: RawConnection, holds: Sequence[Hold]) -> None:
    """Insert holds that the batch placed, in their state after it, without what was captured in parts."""
    await connection.execute(_INSERT_HOLDS, *zip(*map(_hold_row, holds), strict=True))


async def update_holds(connection: RawConnection, holds: Iterable[Hold]) -> None:
    """Update state and times of holds that were placed before, to what they are after the batch."""
    rows = [(h.organization_id, h.operation_id, h.state, h.expire_time, h.end_time) for h in holds]
    await connection.execute(_UPDATE_HOLDS, *zip(*rows, strict=True))


async def update_hold_amounts(connection: RawConnection, holds: Iterable[Hold]) -> None:
    """Update the amounts of holds, also of those that the batch inserted, to what they are after it."""
    rows = [
        (h.organization_id, h.operation_id, str(h.amount), str(h.captured_amount), _text(h.requested_amount))
        for h in holds
    ]
    await connection.execute(_UPDATE_HOLD_AMOUNTS, *zip(*rows, strict=True))


async def update_reserves(connection: RawConnection, holds: Iterable[Hold]) -> None:
    """Update what holds reserve of grants. By primary key."""
    rows = [(h.organization_id, h.operation_id, _reserves(h)) for h in holds]
    await connection.execute(_UPDATE_RESERVES, *zip(*rows, strict=True))


async def insert_declines(connection: RawConnection, declines: Sequence[Decline]) -> None:
    """Insert declines. They are final: nothing ever changes them."""
    rows = [
        (
            *(d.organization_id, d.operation_id, d.slot),
            *(json.dumps(d.request), json.dumps(_facts(d)), d.create_time, d.actor),
        )
        for d in declines
    ]
    await connection.execute(_INSERT_DECLINES, *zip(*rows, strict=True))


def _movement_row(m: Movement) -> tuple[object, ...]:
    return (
        m.organization_id,
        m.operation_id,
        m.transaction_id,
        m.kind,
        m.project_id,
        m.account_id,
        m.sequence,
        m.direction,
        m.currency_code,
        str(m.amount),
        str(m.balance_after),
        _text(m.requested_amount),
        m.mode,
        m.overdrawn,
        m.system_account,
        m.description or None,
        _json(m.metadata),
        m.create_time,
        m.counter_account_id,
        m.counter_project_id,
        m.counter_sequence,
        _text(m.counter_balance_after),
        m.reverses_transaction_id,
        _text(m.held_amount),
        m.actor,
    )


def _hold_row(h: Hold) -> tuple[object, ...]:
    return (
        h.organization_id,
        h.operation_id,
        h.hold_id,
        h.project_id,
        h.account_id,
        h.currency_code,
        str(h.amount),
        h.ttl_ms,
        h.state,
        h.description or None,
        _json(h.metadata),
        h.create_time,
        h.expire_time,
        h.end_time,
        h.actor,
        h.user_id,
        h.model,
        _reserves(h),
    )


def _facts(decline: Decline) -> dict[str, str | int | None]:
    balance, release = decline.balance, decline.earliest_release_time
    scoped: dict[str, str | int | None] = {"scoped": str(balance.scoped)} if balance.scoped else {}
    return scoped | {
        "account_id": decline.account_id,
        "currency_code": balance.currency_code,
        "needed": str(decline.needed),
        "posted": str(balance.posted),
        "held": str(balance.held),
        "overdraft_limit": str(balance.overdraft_limit),
        "sequence": balance.sequence,
        "earliest_release_time": None if release is None else release.isoformat(),
    }


def _reserves(hold: Hold) -> str | None:
    return None if hold.reserves is None else json.dumps({name: str(part) for name, part in hold.reserves.items()})


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _json(metadata: Metadata | None) -> str | None:
    return json.dumps(metadata) if metadata else None
