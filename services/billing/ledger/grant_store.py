"""The engine's statements on credit grants. They run only in batches that meet grants; the accounts are locked then."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from services.billing.ledger.books import AccountGrants, GrantUse
from services.billing.ledger.domain import Account, Movement, OperationKey
from services.billing.ledger.grants import Grant, GrantKind, GrantState, Standing, in_order
from services.billing.ledger.itemized import Itemized
from services.billing.ledger.store import HOLD_COLUMNS, hold_of

Key: TypeAlias = tuple[str, str]


class DueOwner(NamedTuple):
    """An account with a grant that begins or expires."""

    organization_id: str
    project_id: str | None
    currency_code: str
    account_id: str


# What a movement gives an account, and takes from the account on its other side.
_GIVEN: Final = "sum(CASE direction WHEN 'DEBIT' THEN -amount ELSE amount END)"
_TAKEN: Final = "sum(CASE direction WHEN 'DEBIT' THEN amount ELSE -amount END)"


def funding_sql(account_id: str, after: str, until: str = "") -> str:
    """Return what an account was given between two of its movements, other than by use; by the partial index."""
    up_to = (f" AND sequence <= {until}", f" AND counter_sequence <= {until}") if until else ("", "")
    return f"""
        coalesce((SELECT {_GIVEN} FROM transactions t WHERE t.organization_id = k.organization_id
            AND t.account_id = {account_id} AND sequence > {after}{up_to[0]}
            AND system_account IS DISTINCT FROM 'REVENUE'), 0)
        + coalesce((SELECT {_TAKEN} FROM transactions t WHERE t.organization_id = k.organization_id
            AND t.counter_account_id = {account_id} AND counter_sequence > {after}{up_to[1]}), 0)
    """  # noqa: S608 -- made of names of ours alone.


# One probe for the last standing of each account, and what came to the account since.
_STANDINGS: Final = f"""
    SELECT k.account_id::text, coalesce(s.sequence, 0), coalesce(s.funded, 0), s.used, s.used_beside,
        {funding_sql("k.account_id", "coalesce(s.sequence, 0)")}
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, account_id)
    LEFT JOIN LATERAL (
        SELECT sequence, funded, used, used_beside FROM grant_standings
        WHERE organization_id = k.organization_id AND account_id = k.account_id
        ORDER BY sequence DESC LIMIT 1
    ) AS s ON true
"""  # noqa: S608

GRANT_COLUMNS: Final = """
    organization_id::text, grant_id::text, account_id::text, project_id::text, operation_id, currency_code, kind,
    priority, amount, effective_time, at_once, expire_time, state, rest, expired, source_reference, description,
    metadata::text, create_time, actor, void_time, void_reason, void_actor, user_id::text, model, rollover_max
"""

# A range of the partial index for each account.
_OPEN: Final = f"""
    SELECT g.*
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, account_id)
    CROSS JOIN LATERAL (
        SELECT {GRANT_COLUMNS} FROM credit_grants
        WHERE organization_id = k.organization_id AND account_id = k.account_id AND state <> 'ENDED'
        OFFSET 0
    ) AS g
"""  # noqa: S608

# One probe of the unique operation for each.
_KNOWN: Final = f"""
    SELECT g.*
    FROM unnest($1::uuid[], $2::text[]) AS k (organization_id, operation_id)
    CROSS JOIN LATERAL (
        SELECT {GRANT_COLUMNS} FROM credit_grants
        WHERE organization_id = k.organization_id AND operation_id = k.operation_id
        OFFSET 0
    ) AS g
"""  # noqa: S608

# A range of the partial index of an account's open holds for each end.
_HELD_BEFORE: Final = """
    SELECT k.account_id::text, k.before, coalesce((
        SELECT sum(greatest(h.amount - h.captured_amount, 0)) FROM holds h
        WHERE h.organization_id = k.organization_id AND h.account_id = k.account_id AND h.state = 'OPEN'
            AND h.create_time < k.before
    ), 0)
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS k (organization_id, account_id, before)
"""

# A range of the partial index of an account's open holds for each account.
_RESERVED: Final = """
    SELECT k.account_id::text, u.key, sum(u.value::numeric)
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, account_id)
    CROSS JOIN LATERAL (
        SELECT reserves FROM holds
        WHERE organization_id = k.organization_id AND account_id = k.account_id AND state = 'OPEN'
        OFFSET 0
    ) AS h
    CROSS JOIN LATERAL jsonb_each_text(h.reserves) AS u
    GROUP BY 1, 2
"""

# The same index.
_OPEN_HOLDS: Final = f"""
    SELECT h.*
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, account_id)
    CROSS JOIN LATERAL (
        SELECT {HOLD_COLUMNS} FROM holds
        WHERE organization_id = k.organization_id AND account_id = k.account_id AND state = 'OPEN'
        OFFSET 0
    ) AS h
"""  # noqa: S608

# What movements have used of grants: a range of the unique key of the account's movement for each.
_USES: Final = f"""
    SELECT g.*, k.transaction_id::text, u.amount
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
        AS k (organization_id, transaction_id, account_id, sequence)
    JOIN grant_uses u ON u.organization_id = ANY (ARRAY[k.organization_id]) AND u.account_id = k.account_id
        AND u.sequence = k.sequence
    CROSS JOIN LATERAL (
        SELECT {GRANT_COLUMNS} FROM credit_grants
        WHERE organization_id = u.organization_id AND grant_id = u.grant_id
        OFFSET 0
    ) AS g
    ORDER BY u.account_id, u.sequence, u.place
"""  # noqa: S608

_INSERT_USES: Final = """
    INSERT INTO grant_uses (
        organization_id, grant_id, account_id, sequence, place, amount, used, rest, user_id, model
    )
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::integer[], $6::numeric[], $7::numeric[], $8::numeric[],
        $9::uuid[], $10::text[]
    )
"""

_INSERT_GRANTS: Final = """
    INSERT INTO credit_grants (
        organization_id, grant_id, account_id, project_id, operation_id, currency_code, kind, priority, amount,
        effective_time, at_once, expire_time, state, rest, expired, source_reference, description, metadata,
        create_time, actor, user_id, model, rollover_max
    )
    SELECT v.c1, v.c2, v.c3, v.c4, v.c5, v.c6, v.c7, v.c8, v.c9, v.c10, v.c11, v.c12, v.c13, v.c14, v.c15, v.c16,
        v.c17, v.c18::jsonb, v.c19, v.c20, v.c21, v.c22, v.c23
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::integer[],
        $9::numeric[], $10::timestamptz[], $11::boolean[], $12::timestamptz[], $13::text[], $14::numeric[],
        $15::numeric[], $16::text[], $17::text[], $18::text[], $19::timestamptz[], $20::text[],
        $21::uuid[], $22::text[], $23::numeric[]
    ) AS v (
        c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21, c22, c23
    )
"""

# The accounts are locked, so nobody else changes these. By primary key.
_UPDATE_GRANTS: Final = """
    UPDATE credit_grants g SET state = v.state, rest = v.rest, expired = v.expired, void_time = v.void_time,
        void_reason = v.void_reason, void_actor = v.void_actor
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::numeric[], $5::numeric[], $6::timestamptz[], $7::text[], $8::text[]
    ) AS v (organization_id, grant_id, state, rest, expired, void_time, void_reason, void_actor)
    WHERE g.organization_id = ANY (ARRAY[v.organization_id]) AND g.grant_id = v.grant_id
"""

_INSERT_STANDINGS: Final = """
    INSERT INTO grant_standings (organization_id, account_id, sequence, funded, used, used_beside, rests)
    SELECT v.c1, v.c2, v.c3, v.c4, v.c5, v.c6, v.c7::jsonb
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::bigint[], $4::numeric[], $5::numeric[], $6::numeric[], $7::text[]
    ) AS v (c1, c2, c3, c4, c5, c6, c7)
"""

_UPDATE_DUE: Final = """
    UPDATE accounts a SET grant_due_from = v.grant_due_from, itemized_from = v.itemized_from
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[])
        AS v (organization_id, account_id, grant_due_from, itemized_from)
    WHERE a.organization_id = ANY (ARRAY[v.organization_id]) AND a.account_id = v.account_id
"""

# The partial index has only accounts with grants that will begin or expire.
_DUE: Final = """
    SELECT organization_id::text, nullif(owner_id, organization_id)::text, currency_code, account_id::text
    FROM accounts
    WHERE grant_due_from IS NOT NULL AND grant_due_from <= $1 AND (organization_id, account_id) > ($2::uuid, $3::uuid)
    ORDER BY organization_id, account_id LIMIT $4
"""


async def find_account_grants(
    connection: RawConnection, accounts: Sequence[Account], now: datetime
) -> dict[str, AccountGrants]:
    """Return the grants of accounts that have not ended, as of their last event, by account id.

    Where charges are entered grant by grant the grants are as they are now; what of them is available to some charges
    only is set in the accounts given.
    """
    keys = [account.organization_id for account in accounts], [account.account_id for account in accounts]
    posted = {account.account_id: account.posted for account in accounts}
    held = {account.account_id: account.held for account in accounts}
    by_account: dict[str, list[Grant]] = {account.account_id: [] for account in accounts}
    for row in await connection.fetch(_OPEN, *keys):
        grant = grant_of(row)
        by_account[grant.account_id].append(grant)
    found: dict[str, AccountGrants] = {}
    for account_id, sequence, funded, used, used_beside, since in await connection.fetch(_STANDINGS, *keys):
        if used is None:  # The account has had no grant: whatever was used of it, no grant covered.
            used = used_beside = since - posted[account_id]
        grants = by_account[account_id]
        active = in_order(grant for grant in grants if grant.state is GrantState.ACTIVE)
        scheduled = [grant for grant in grants if grant.state is GrantState.SCHEDULED]
        standing = Standing(used, used_beside, active)
        found[account_id] = AccountGrants(funded + since, standing, scheduled, {}, sequence)
    itemized = [account for account in accounts if account.itemized_from is not None]
    if itemized:
        await _read_itemized(connection, itemized, found)
    ends = [
        (grant.organization_id, grant.account_id, grant.holds_before)
        for grants in found.values()
        for grant in grants.standing.grants
        if grants.itemized is None and grant.end_time is not None and grant.end_time <= now and held[grant.account_id]
    ]
    if ends:
        for account_id, before, amount in await connection.fetch(_HELD_BEFORE, *map(list, zip(*ends, strict=True))):
            found[account_id].held_before[before] = amount
    return found


async def _read_itemized(
    connection: RawConnection, accounts: Sequence[Account], found: Mapping[str, AccountGrants]
) -> None:
    """Read what open holds reserve of the grants of accounts whose charges are entered grant by grant."""
    keys = [account.organization_id for account in accounts], [account.account_id for account in accounts]
    reserved: dict[str, dict[str, Decimal]] = {account.account_id: {} for account in accounts}
    for account_id, grant_id, amount in await connection.fetch(_RESERVED, *keys):
        reserved[account_id][grant_id] = amount
    for account in accounts:
        grants = found[account.account_id]
        grants.itemized = Itemized(grants.standing.grants, reserved[account.account_id])
        account.scoped = grants.itemized.scoped


async def read_open_holds(
    connection: RawConnection, accounts: Sequence[Account], found: Mapping[str, AccountGrants]
) -> None:
    """Read the open holds of accounts whose charges will be entered grant by grant because of the batch."""
    keys = [account.organization_id for account in accounts], [account.account_id for account in accounts]
    for row in await connection.fetch(_OPEN_HOLDS, *keys):
        hold = hold_of(row)
        found[hold.account_id].open_holds.append(hold)


async def find_uses(
    connection: RawConnection, movements: Collection[Movement]
) -> dict[str, list[tuple[Grant, Decimal]]]:
    """Return what movements have used of which grants, in the order of use, by transaction id."""
    found: dict[str, list[tuple[Grant, Decimal]]] = {}
    rows = await connection.fetch(
        _USES,
        [m.organization_id for m in movements],
        [m.transaction_id for m in movements],
        [m.account_id for m in movements],
        [m.sequence for m in movements],
    )
    for row in rows:
        found.setdefault(row[-2], []).append((grant_of(row), row[-1]))
    return found


async def insert_uses(connection: RawConnection, uses: Collection[GrantUse]) -> None:
    """Insert what movements have used of grants, or given back. Nothing ever changes it."""
    rows = [
        (
            *(one.grant.organization_id, one.grant.grant_id, one.grant.account_id, one.sequence, one.place),
            *(one.amount, one.grant.used, one.grant.rest, one.user_id, one.model),
        )
        for one in uses
    ]
    await connection.execute(_INSERT_USES, *map(list, zip(*rows, strict=True)))


async def find_known_grants(connection: RawConnection, keys: Collection[OperationKey]) -> list[Grant]:
    """Return what these operations have granted."""
    rows = await connection.fetch(_KNOWN, [key[0] for key in keys], [key[1] for key in keys])
    return [grant_of(row) for row in rows]


async def insert_grants(connection: RawConnection, grants: Collection[Grant]) -> None:
    """Insert new grants in their state after the batch."""
    rows = [
        (
            *(g.organization_id, g.grant_id, g.account_id, g.project_id, g.operation_id, g.currency_code),
            *(g.kind, g.priority, g.amount, g.effective_time, g.at_once, g.expire_time, g.state, g.rest, g.expired),
            *(g.source_reference, g.description, json.dumps(g.metadata) if g.metadata else None),
            *(g.create_time, g.actor, g.user_id, g.model, g.rollover_max),
        )
        for g in grants
    ]
    await connection.execute(_INSERT_GRANTS, *map(list, zip(*rows, strict=True)))


async def update_grants(connection: RawConnection, grants: Iterable[Grant]) -> None:
    """Update grants to their state after the batch."""
    rows = [
        (
            *(g.organization_id, g.grant_id, g.state, g.rest, g.expired),
            *(g.void_time, g.void_reason or None, g.void_actor or None),
        )
        for g in grants
    ]
    await connection.execute(_UPDATE_GRANTS, *map(list, zip(*rows, strict=True)))


async def insert_standings(
    connection: RawConnection, standings: Iterable[tuple[Account, int, Decimal, Standing]]
) -> None:
    """Insert what was left of the grants of accounts at events. Nothing ever changes it."""
    rows = [
        (
            *(account.organization_id, account.account_id, sequence, funded, standing.used, standing.used_beside),
            json.dumps({g.grant_id: [format_amount(g.rest), format_amount(g.expired)] for g in standing.grants}),
        )
        for account, sequence, funded, standing in standings
    ]
    await connection.execute(_INSERT_STANDINGS, *map(list, zip(*rows, strict=True)))


async def update_due(connection: RawConnection, accounts: Mapping[str, Account]) -> None:
    """Note when the next grant of accounts begins or expires, and from when on their charges are entered by grant."""
    rows = [(a.organization_id, a.account_id, a.grant_due_from, a.itemized_from) for a in accounts.values()]
    await connection.execute(_UPDATE_DUE, *map(list, zip(*rows, strict=True)))


async def find_due_owners(connection: RawConnection, now: datetime, after: Key, limit: int) -> list[DueOwner]:
    """Return accounts with grants that are due, in the order of their keys."""
    return [DueOwner(*row) for row in await connection.fetch(_DUE, now, *after, limit)]


def grant_of(row: asyncpg.Record) -> Grant:
    """Return the grant in a row of GRANT_COLUMNS."""
    return Grant(
        organization_id=row[0],
        grant_id=row[1],
        account_id=row[2],
        project_id=row[3],
        operation_id=row[4],
        currency_code=row[5],
        kind=GrantKind(row[6]),
        priority=row[7],
        amount=row[8],
        effective_time=row[9],
        at_once=row[10],
        expire_time=row[11],
        state=GrantState(row[12]),
        rest=row[13],
        expired=row[14],
        source_reference=row[15],
        description=row[16],
        metadata=json.loads(row[17]) if row[17] else None,
        create_time=row[18],
        actor=row[19],
        void_time=row[20],
        void_reason=row[21] or "",
        void_actor=row[22] or "",
        user_id=row[23],
        model=row[24],
        rollover_max=row[25],
    )
