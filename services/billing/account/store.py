"""The statements on accounts: terms under the row's lock, and an account's movements along their sequence."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.billing.account.domain import AccountTerms, StatementEntry
from services.billing.ledger.domain import Balance, Kind, Metadata

# Held leaves out holds that have expired by $1, even if they are still stored as open: a short range of the partial
# index.
#
# What is left of scoped grants, without what those open holds reserve, is read where the account has had any: by the
# partial indexes of open grants and of open holds.
_COLUMNS: Final = """
    a.organization_id::text, a.account_id::text, nullif(a.owner_id, a.organization_id)::text, a.state = 'CLOSED',
    a.version, a.metadata::text, a.create_time, a.update_time, a.currency_code, a.posted,
    a.held - CASE WHEN a.hold_expiry_from <= $1 THEN coalesce((
        SELECT sum(greatest(h.amount - h.captured_amount, 0)) FROM holds h
        WHERE h.organization_id = a.organization_id AND h.account_id = a.account_id AND h.state = 'OPEN'
            AND h.expire_time <= $1
    ), 0) ELSE 0 END,
    a.overdraft_limit, a.sequence, a.grant_due_from,
    CASE WHEN a.itemized_from IS NULL THEN 0 ELSE coalesce((
        SELECT sum(g.rest) FROM credit_grants g
        WHERE g.organization_id = a.organization_id AND g.account_id = a.account_id AND g.state = 'ACTIVE'
            AND num_nonnulls(g.user_id, g.model) > 0
    ), 0) - coalesce((
        SELECT sum(u.value::numeric)
        FROM holds h
        CROSS JOIN LATERAL jsonb_each_text(h.reserves) AS u
        JOIN credit_grants g ON g.organization_id = h.organization_id AND g.grant_id = u.key::uuid
        WHERE h.organization_id = a.organization_id AND h.account_id = a.account_id AND h.state = 'OPEN'
            AND h.expire_time > $1 AND num_nonnulls(g.user_id, g.model) > 0
    ), 0) END, a.low_balance_threshold
"""

# One probe of the primary key.
_BY_ID: Final = f"""
    SELECT {_COLUMNS} FROM accounts a WHERE a.organization_id = $2::uuid AND a.account_id = $3::uuid
"""  # noqa: S608 -- made of constants of ours alone.

# The same, locked against movements and other changes.
_LOCK: Final = f"{_BY_ID} FOR UPDATE OF a"

# A range of the unique owner and currency.
_BY_OWNER: Final = f"""
    SELECT {_COLUMNS} FROM accounts a WHERE a.organization_id = $2::uuid AND a.owner_id = $3::uuid
"""  # noqa: S608 -- made of constants of ours alone.

# A range of the primary key, which sorts by the time of opening.
_PAGE: Final = f"""
    SELECT {_COLUMNS} FROM accounts a
    WHERE a.organization_id = $2::uuid AND ($3::uuid IS NULL OR a.owner_id = $3)
        AND ($4::uuid IS NULL OR a.account_id > $4)
    ORDER BY a.account_id LIMIT $5
"""  # noqa: S608 -- made of constants of ours alone.

# One probe of the partial unique index.
_BY_REQUEST: Final = """
    SELECT account_id::text, request::text FROM accounts WHERE organization_id = $1::uuid AND request_id = $2
"""

_INSERT: Final = """
    INSERT INTO accounts (
        organization_id, account_id, owner_id, currency_code, posted, held, sequence, overdraft_limit, state, version,
        revision, request_id, request, metadata, create_time, update_time
    ) VALUES ($1::uuid, $2::uuid, $3::uuid, $4, 0, 0, 0, $5, 'OPEN', 1, 0, $6, $7::jsonb, $8::jsonb, $9, $9)
"""

_REOPEN: Final = """
    UPDATE accounts SET state = 'OPEN', overdraft_limit = $3, request_id = $4, request = $5::jsonb,
        metadata = $6::jsonb, version = version + 1, revision = revision + 1, update_time = $7
    WHERE organization_id = $1::uuid AND account_id = $2::uuid
"""

_UPDATE: Final = """
    UPDATE accounts SET overdraft_limit = $3, metadata = $4::jsonb, low_balance_threshold = $6::numeric,
        low_balance_told = low_balance_told AND low_balance_threshold IS NOT DISTINCT FROM $6::numeric,
        version = version + 1, revision = revision + 1, update_time = $5
    WHERE organization_id = $1::uuid AND account_id = $2::uuid
"""

_CLOSE: Final = """
    UPDATE accounts SET state = 'CLOSED', version = version + 1, revision = revision + 1, update_time = $3
    WHERE organization_id = $1::uuid AND account_id = $2::uuid
"""

# Both sides of an account's movements, each along its own unique sequence.
_ENTRY_AT: Final = """
    SELECT create_time, balance_after FROM transactions
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND sequence = $3
    UNION ALL
    SELECT create_time, counter_balance_after FROM transactions
    WHERE organization_id = $1::uuid AND counter_account_id = $2::uuid AND counter_sequence = $3
"""

_ENTRIES: Final = """
    SELECT sequence, transaction_id::text, operation_id, kind,
        CASE direction WHEN 'DEBIT' THEN -amount ELSE amount END, balance_after, coalesce(description, ''), create_time,
        coalesce(actor, '')
    FROM transactions
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND sequence > $3 AND sequence <= $4
    UNION ALL
    SELECT counter_sequence, transaction_id::text, operation_id, kind,
        CASE direction WHEN 'DEBIT' THEN amount ELSE -amount END, counter_balance_after, coalesce(description, ''),
        create_time, coalesce(actor, '')
    FROM transactions
    WHERE organization_id = $1::uuid AND counter_account_id = $2::uuid AND counter_sequence > $3
        AND counter_sequence <= $4
    ORDER BY 1
"""

# What was held at an earlier moment. Reads the account's holds, and the index of parts for those that have some: a
# report, not a hot path.
_HELD_AT: Final = """
    SELECT coalesce(sum(greatest(h.amount - coalesce((
        SELECT sum(t.amount) FROM transactions t
        WHERE h.captured_amount > 0 AND t.organization_id = h.organization_id
            AND t.hold_operation_id = h.operation_id AND t.create_time <= $3
    ), 0), 0)), 0)
    FROM holds h
    WHERE h.organization_id = $1::uuid AND h.account_id = $2::uuid AND h.create_time <= $3 AND h.expire_time > $3
        AND (h.end_time IS NULL OR h.end_time > $3)
"""


async def find(connection: RawConnection, organization_id: str, account_id: str, now: datetime) -> AccountTerms | None:
    row = await connection.fetchrow(_BY_ID, now, organization_id, account_id)
    return None if row is None else _terms_of(row)


async def lock(connection: RawConnection, organization_id: str, account_id: str, now: datetime) -> AccountTerms | None:
    row = await connection.fetchrow(_LOCK, now, organization_id, account_id)
    return None if row is None else _terms_of(row)


async def find_owned(
    connection: RawConnection, organization_id: str, owner_id: str, now: datetime
) -> list[AccountTerms]:
    return [_terms_of(row) for row in await connection.fetch(_BY_OWNER, now, organization_id, owner_id)]


async def find_page(
    connection: RawConnection, organization_id: str, owner_id: str | None, after: str | None, limit: int, now: datetime
) -> list[AccountTerms]:
    rows = await connection.fetch(_PAGE, now, organization_id, owner_id, after, limit)
    return [_terms_of(row) for row in rows]


async def find_request(
    connection: RawConnection, organization_id: str, request_id: str
) -> tuple[str, dict[str, object]] | None:
    """Return the account that a request opened, and that request."""
    row = await connection.fetchrow(_BY_REQUEST, organization_id, request_id)
    return None if row is None else (row[0], json.loads(row[1]))


async def insert(
    connection: RawConnection,
    *,
    organization_id: str,
    account_id: str,
    owner_id: str,
    currency_code: str,
    overdraft_limit: Decimal,
    request_id: str | None,
    request: dict[str, object],
    metadata: Metadata | None,
    now: datetime,
) -> None:
    await connection.execute(
        _INSERT,
        organization_id,
        account_id,
        owner_id,
        currency_code,
        overdraft_limit,
        request_id,
        json.dumps(request),
        json.dumps(metadata) if metadata else None,
        now,
    )


async def reopen(
    connection: RawConnection,
    account: AccountTerms,
    *,
    overdraft_limit: Decimal,
    request_id: str | None,
    request: dict[str, object],
    metadata: Metadata | None,
    now: datetime,
) -> None:
    await connection.execute(
        _REOPEN,
        account.organization_id,
        account.account_id,
        overdraft_limit,
        request_id,
        json.dumps(request),
        json.dumps(metadata) if metadata else None,
        now,
    )


async def update(
    connection: RawConnection,
    account: AccountTerms,
    *,
    overdraft_limit: Decimal,
    metadata: Metadata | None,
    low_balance_threshold: Decimal | None,
    now: datetime,
) -> None:
    """Change a locked account. That its balance is below a new threshold is announced anew."""
    key = account.organization_id, account.account_id
    text = json.dumps(metadata) if metadata else None
    await connection.execute(_UPDATE, *key, overdraft_limit, text, now, low_balance_threshold)


async def close(connection: RawConnection, account: AccountTerms, now: datetime) -> None:
    await connection.execute(_CLOSE, account.organization_id, account.account_id, now)


async def entry_at(connection: RawConnection, account: AccountTerms, sequence: int) -> tuple[datetime, Decimal]:
    """Return when the account's movement of this number was posted, and the balance after it."""
    row = await connection.fetchrow(_ENTRY_AT, account.organization_id, account.account_id, sequence)
    if row is None:
        raise LookupError(f"account {account.account_id} has no movement {sequence}")
    return row[0], row[1]


async def entries(connection: RawConnection, account: AccountTerms, *, after: int, up_to: int) -> list[StatementEntry]:
    rows = await connection.fetch(_ENTRIES, account.organization_id, account.account_id, after, up_to)
    return [StatementEntry(row[0], row[1], row[2], Kind(row[3]), *row[4:]) for row in rows]


async def held_at(connection: RawConnection, account: AccountTerms, moment: datetime) -> Decimal:
    held = await connection.fetchval(_HELD_AT, account.organization_id, account.account_id, moment)
    return Decimal(held)


def _terms_of(row: asyncpg.Record) -> AccountTerms:
    return AccountTerms(
        organization_id=row[0],
        account_id=row[1],
        project_id=row[2],
        closed=row[3],
        version=row[4],
        metadata=json.loads(row[5]) if row[5] else None,
        create_time=row[6],
        update_time=row[7],
        balance=Balance(row[8], row[9], row[10], row[11], row[12], row[14]),
        grant_due_from=row[13],
        low_balance_threshold=row[15],
    )
