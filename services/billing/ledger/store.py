"""The engine's statements that lock and read. Those that write are in `posting_store` and `standing_store`.

They run on the driver's own connection in the batch's transaction. Keys are sent as arrays. Each is looked up by a
lateral subquery, which makes the planner use one index probe per key, whatever its statistics say.
"""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeAlias

import asyncpg

from libs.common.database import RawConnection
from services.billing.ledger.domain import (
    Account,
    Balance,
    Decline,
    Direction,
    Hold,
    HoldState,
    Kind,
    Metadata,
    Mode,
    Movement,
    OperationKey,
    Slot,
    SystemAccount,
)

Key: TypeAlias = tuple[str, str]

_ACCOUNT_COLUMNS: Final = """
    a.organization_id::text, a.account_id::text, a.owner_id::text, a.currency_code, a.posted, a.held, a.sequence,
    a.overdraft_limit, a.state = 'CLOSED', a.hold_expiry_from, a.last_movement_time, a.grant_due_from, a.revision,
    a.itemized_from
"""

# Locks in the order of the accounts' ids, so that two batches never deadlock. An account opened by another batch
# meanwhile is not seen here; opening it again then fails on its unique key, and the batch is run again.
_LOCK_OWNED: Final = f"""
    SELECT {_ACCOUNT_COLUMNS}
    FROM (
        SELECT DISTINCT found.organization_id, found.account_id
        FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, owner_id)
        CROSS JOIN LATERAL (
            SELECT organization_id, account_id FROM accounts
            WHERE organization_id = k.organization_id AND owner_id = k.owner_id
            OFFSET 0
        ) AS found
        ORDER BY 1, 2
    ) AS wanted
    CROSS JOIN LATERAL (
        SELECT * FROM accounts
        WHERE organization_id = wanted.organization_id AND account_id = wanted.account_id
        FOR UPDATE
    ) AS a
"""  # noqa: S608 -- made of the constants above alone.

# The same without locks, for those who only read: by owner, and by the accounts' own ids.
_OWNED: Final = f"""
    SELECT {_ACCOUNT_COLUMNS} FROM accounts a WHERE a.organization_id = $1::uuid AND a.owner_id = $2::uuid
"""  # noqa: S608
_ACCOUNTS: Final = f"""
    SELECT {_ACCOUNT_COLUMNS} FROM accounts a WHERE a.organization_id = $1::uuid AND a.account_id = ANY($2::uuid[])
"""  # noqa: S608

# The same for batches that also name accounts through holds and through transactions to reverse.
_LOCK_ALL: Final = f"""
    SELECT {_ACCOUNT_COLUMNS}
    FROM (
        SELECT organization_id, account_id FROM (
            SELECT found.organization_id, found.account_id
            FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, owner_id)
            CROSS JOIN LATERAL (
                SELECT organization_id, account_id FROM accounts
                WHERE organization_id = k.organization_id AND owner_id = k.owner_id
                OFFSET 0
            ) AS found
            UNION ALL
            SELECT found.organization_id, found.account_id
            FROM unnest($3::uuid[], $4::text[]) AS k (organization_id, operation_id)
            CROSS JOIN LATERAL (
                SELECT organization_id, account_id FROM holds
                WHERE organization_id = k.organization_id AND operation_id = k.operation_id
                OFFSET 0
            ) AS found
            UNION ALL
            SELECT found.organization_id, unnest(ARRAY[found.account_id, found.counter_account_id])
            FROM unnest($5::uuid[], $6::uuid[]) AS k (organization_id, transaction_id)
            CROSS JOIN LATERAL (
                SELECT organization_id, account_id, counter_account_id FROM transactions
                WHERE organization_id = k.organization_id AND transaction_id = k.transaction_id
                OFFSET 0
            ) AS found
        ) AS named
        GROUP BY organization_id, account_id
        ORDER BY organization_id, account_id
    ) AS wanted
    CROSS JOIN LATERAL (
        SELECT * FROM accounts
        WHERE organization_id = wanted.organization_id AND account_id = wanted.account_id
        FOR UPDATE
    ) AS a
"""  # noqa: S608 -- made of the constants above alone.

MOVEMENT_COLUMNS: Final = """
    organization_id::text, operation_id, transaction_id::text, kind, project_id::text, account_id::text, sequence,
    direction, currency_code, amount, balance_after, requested_amount, mode, overdrawn, system_account, description,
    metadata::text, create_time, counter_account_id::text, counter_project_id::text, counter_sequence,
    counter_balance_after, reverses_transaction_id::text, held_amount, actor, hold_operation_id
"""

# Most operations are new, and this is all that is read for them: two probes of primary keys per operation.
_COUNT_KNOWN: Final = """
    SELECT count(*)
    FROM unnest($1::uuid[], $2::text[]) AS k (organization_id, operation_id)
    CROSS JOIN LATERAL (
        SELECT 1 FROM transactions WHERE organization_id = k.organization_id AND operation_id = k.operation_id
        UNION ALL
        SELECT 1 FROM declines WHERE organization_id = k.organization_id AND operation_id = k.operation_id
        LIMIT 1
    ) AS known
"""

# One probe of the primary key per operation.
_MOVEMENTS: Final = f"""
    SELECT t.*
    FROM unnest($1::uuid[], $2::text[]) AS k (organization_id, operation_id)
    CROSS JOIN LATERAL (
        SELECT {MOVEMENT_COLUMNS} FROM transactions
        WHERE organization_id = k.organization_id AND operation_id = k.operation_id
        OFFSET 0
    ) AS t
"""  # noqa: S608 -- made of the constants above alone.

# One probe of the unique transaction id per reversal, and one index range for what was reversed before.
_ORIGINALS: Final = f"""
    SELECT t.*, (
        SELECT coalesce(sum(r.amount), 0) FROM transactions r
        WHERE r.organization_id = k.organization_id AND r.reverses_transaction_id = k.transaction_id
    )
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, transaction_id)
    CROSS JOIN LATERAL (
        SELECT {MOVEMENT_COLUMNS} FROM transactions
        WHERE organization_id = k.organization_id AND transaction_id = k.transaction_id
        OFFSET 0
    ) AS t
"""  # noqa: S608 -- made of the constants above alone.

# One probe of the primary key per operation; both slots are read.
_DECLINES: Final = """
    SELECT d.*
    FROM unnest($1::uuid[], $2::text[]) AS k (organization_id, operation_id)
    CROSS JOIN LATERAL (
        SELECT organization_id::text, operation_id, slot, request::text, facts::text, create_time, actor
        FROM declines
        WHERE organization_id = k.organization_id AND operation_id = k.operation_id
        OFFSET 0
    ) AS d
"""

HOLD_COLUMNS: Final = """
    organization_id::text, operation_id, hold_id::text, project_id::text, account_id::text, currency_code, amount,
    ttl_ms, state, description, metadata::text, create_time, expire_time, end_time, actor, captured_amount,
    requested_amount, user_id::text, model, reserves::text
"""

# One probe of the primary key per operation.
_HOLDS: Final = f"""
    SELECT h.*
    FROM unnest($1::uuid[], $2::text[]) AS k (organization_id, operation_id)
    CROSS JOIN LATERAL (
        SELECT {HOLD_COLUMNS} FROM holds
        WHERE organization_id = k.organization_id AND operation_id = k.operation_id
        OFFSET 0
    ) AS h
"""  # noqa: S608 -- made of the constants above alone.

# Reads the partial index, which has open holds only, in its order.
_DUE: Final = """
    SELECT organization_id::text, account_id::text FROM (
        SELECT DISTINCT organization_id, account_id FROM holds
        WHERE state = 'OPEN' AND expire_time <= $1 AND (organization_id, account_id) > ($2::uuid, $3::uuid)
        ORDER BY organization_id, account_id LIMIT $4
    ) AS due
    ORDER BY due.organization_id, due.account_id
"""

# One probe of the primary key per account. Accounts in use are skipped: whoever uses them ends their holds.
_LOCK_UNUSED: Final = f"""
    SELECT {_ACCOUNT_COLUMNS}
    FROM unnest($1::uuid[], $2::uuid[]) AS due (organization_id, account_id)
    CROSS JOIN LATERAL (
        SELECT * FROM accounts
        WHERE organization_id = due.organization_id AND account_id = due.account_id
        FOR UPDATE SKIP LOCKED
    ) AS a
"""  # noqa: S608 -- made of constants of ours alone.

# The accounts are locked already, which keeps anybody else from ending these holds. They are found by a range of the
# partial index on open holds for each account, and each is updated by primary key.
_EXPIRE: Final = """
    WITH ended AS (
        UPDATE holds h SET state = 'EXPIRED', end_time = expire_time
        FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, account_id)
        CROSS JOIN LATERAL (
            SELECT organization_id, operation_id FROM holds
            WHERE organization_id = k.organization_id AND account_id = k.account_id AND state = 'OPEN'
                AND expire_time <= $3
            OFFSET 0
        ) AS expired
        WHERE h.organization_id = ANY (ARRAY[expired.organization_id]) AND h.operation_id = expired.operation_id
        RETURNING h.account_id, greatest(h.amount - h.captured_amount, 0) AS amount
    )
    SELECT k.account_id::text, coalesce((SELECT sum(amount) FROM ended e WHERE e.account_id = k.account_id), 0),
        (SELECT count(*) FROM ended e WHERE e.account_id = k.account_id), (
        SELECT min(expire_time) FROM holds h
        WHERE h.organization_id = k.organization_id AND h.account_id = k.account_id
            AND h.state = 'OPEN' AND h.expire_time > $3
    )
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, account_id)
"""

_EARLIEST_EXPIRY: Final = """
    SELECT k.account_id::text, h.expire_time
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, account_id)
    CROSS JOIN LATERAL (
        SELECT min(expire_time) AS expire_time FROM holds
        WHERE organization_id = k.organization_id AND account_id = k.account_id AND state = 'OPEN'
    ) AS h
"""


async def lock_accounts(
    connection: RawConnection,
    owners: Collection[Key],
    *,
    holds: Collection[OperationKey] = (),
    transactions: Collection[Key] = (),
) -> list[Account]:
    """Lock every account the batch may use: of these owners, of these holds, of these transactions."""
    if holds or transactions:
        rows = await connection.fetch(_LOCK_ALL, *_columns(owners), *_columns(holds), *_columns(transactions))
    else:
        rows = await connection.fetch(_LOCK_OWNED, *_columns(owners))
    return [Account(*row) for row in rows]


async def find_owned(connection: RawConnection, organization_id: str, owner_id: str) -> list[Account]:
    """Return an owner's accounts, without locking them; by the unique owner and currency."""
    return [Account(*row) for row in await connection.fetch(_OWNED, organization_id, owner_id)]


async def find_accounts(connection: RawConnection, organization_id: str, account_ids: Collection[str]) -> list[Account]:
    """Return accounts by their ids, without locking them; by primary key."""
    return [Account(*row) for row in await connection.fetch(_ACCOUNTS, organization_id, list(account_ids))]


async def any_known(connection: RawConnection, keys: Collection[OperationKey]) -> bool:
    """Return whether any of these operations has moved money or was declined before."""
    return bool(await connection.fetchval(_COUNT_KNOWN, *_columns(keys)))


async def find_movements(connection: RawConnection, keys: Collection[OperationKey]) -> list[Movement]:
    """Return the movements that these operations already have."""
    return [movement_of(row) for row in await connection.fetch(_MOVEMENTS, *_columns(keys))]


async def find_originals(connection: RawConnection, keys: Collection[Key]) -> list[tuple[Movement, Decimal]]:
    """Return transactions by their id, each with the sum of its reversals."""
    return [(movement_of(row), row[-1]) for row in await connection.fetch(_ORIGINALS, *_columns(keys))]


async def find_declines(connection: RawConnection, keys: Collection[OperationKey]) -> list[Decline]:
    """Return the declines of these operations."""
    return [_decline_of(row) for row in await connection.fetch(_DECLINES, *_columns(keys))]


async def find_holds(connection: RawConnection, keys: Collection[OperationKey]) -> list[Hold]:
    """Return the holds of these operations."""
    return [hold_of(row) for row in await connection.fetch(_HOLDS, *_columns(keys))]


async def expire_holds(connection: RawConnection, accounts: Sequence[Account], now: datetime) -> int:
    """End the expired holds of these locked accounts, change the accounts given accordingly, and return how many."""
    keys = [(account.organization_id, account.account_id) for account in accounts]
    by_id = {account.account_id: account for account in accounts}
    ended = 0
    for account_id, amount, count, expiry_from in await connection.fetch(_EXPIRE, *_columns(keys), now):
        by_id[account_id].held -= amount
        by_id[account_id].hold_expiry_from = expiry_from
        ended += count
    return ended


async def find_due_accounts(connection: RawConnection, now: datetime, after: Key, limit: int) -> list[Key]:
    """Return (organization_id, account_id) of accounts with expired open holds, in this order, after a key."""
    return [(row[0], row[1]) for row in await connection.fetch(_DUE, now, *after, limit)]


async def lock_unused_accounts(connection: RawConnection, keys: Collection[Key]) -> list[Account]:
    """Lock these accounts and return them, without those that another transaction has locked."""
    return [Account(*row) for row in await connection.fetch(_LOCK_UNUSED, *_columns(keys))]


async def earliest_expiries(connection: RawConnection, accounts: Collection[Key]) -> dict[str, datetime | None]:
    """Return when the next open hold of each account expires."""
    return {row[0]: row[1] for row in await connection.fetch(_EARLIEST_EXPIRY, *_columns(accounts))}


def movement_of(row: asyncpg.Record) -> Movement:
    """Return the movement in a row of MOVEMENT_COLUMNS."""
    movement = Movement(*row[:26])
    movement.kind = Kind(movement.kind)
    movement.direction = Direction(movement.direction)
    movement.mode = None if movement.mode is None else Mode(movement.mode)
    movement.system_account = None if movement.system_account is None else SystemAccount(movement.system_account)
    movement.description = movement.description or ""
    movement.metadata = _metadata_of(row[16])
    return movement


def hold_of(row: asyncpg.Record) -> Hold:
    """Return the hold in a row of HOLD_COLUMNS."""
    hold = Hold(*row)
    hold.state = HoldState(hold.state)
    hold.description = hold.description or ""
    hold.metadata = _metadata_of(row[10])
    hold.reserves = {name: Decimal(part) for name, part in json.loads(row[19]).items()} if row[19] else None
    return hold


def _columns(keys: Collection[Key]) -> tuple[list[str], list[str]]:
    return [key[0] for key in keys], [key[1] for key in keys]


def _decline_of(row: asyncpg.Record) -> Decline:
    facts = json.loads(row[4])
    release = facts["earliest_release_time"]
    return Decline(
        organization_id=row[0],
        operation_id=row[1],
        slot=Slot(row[2]),
        request=json.loads(row[3]),
        account_id=facts["account_id"],
        needed=Decimal(facts["needed"]),
        balance=Balance(
            facts["currency_code"],
            Decimal(facts["posted"]),
            Decimal(facts["held"]),
            Decimal(facts["overdraft_limit"]),
            facts["sequence"],
            Decimal(facts.get("scoped", "0")),
        ),
        create_time=row[5],
        actor=row[6],
        earliest_release_time=None if release is None else datetime.fromisoformat(release),
        is_new=False,
    )


def _metadata_of(text: str | None) -> Metadata | None:
    return json.loads(text) if text else None
