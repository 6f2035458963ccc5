"""The one statement that posts a batch that was decided over cached accounts and holds.

It is a transaction of its own: one round trip and one commit. It checks every assumption of the batch under the locks
it takes, and fails as a whole if one is wrong.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeAlias

from libs.common.array_text import array_text
from libs.common.database import RawConnection
from services.billing.ledger.books import Books
from services.billing.ledger.domain import Account, Hold, Metadata, Movement

# The statement updates the accounts, which locks them. An account that was changed meanwhile has another revision and
# is not updated. Then it ends the holds that are captured; one that has ended is not found. It is asked for its end and
# not for its state, because the index of open holds, which has the same condition, does not have the operation. After
# that, one probe of the primary key per operation looks for declines. If one of these assumptions is wrong, the
# operation id to insert is null, which the column refuses. An operation that has moved money or placed a hold before is
# refused by the primary key. What movements have in common, such as their account and actor, is sent once, and each
# takes it by its number: a join would need a hash table, which these connections do not plan.

_ACCOUNTS: Final = """
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::timestamptz[]{more_columns})
        AS v (organization_id, account_id, revision, posted, sequence, last_movement_time{more_names})
    WHERE a.organization_id = ANY (ARRAY[v.organization_id]) AND a.account_id = v.account_id
        AND a.revision = v.revision
    RETURNING 1
"""
_ALL_MOVED: Final = """
    (SELECT count(*) FROM moved) = cardinality($1::uuid[]) AND NOT EXISTS (
        SELECT FROM unnest($7::uuid[], $8::text::text[]) AS k (organization_id, operation_id)
        CROSS JOIN LATERAL (
            SELECT FROM declines d
            WHERE d.organization_id = k.organization_id AND d.operation_id = k.operation_id AND d.slot = 'MOVEMENT'
            OFFSET 0
        ) AS declined
    )
"""


def _insert_movements(*, held_amount: str, more_columns: str = "", more_names: str = "") -> str:
    return f"""
    INSERT INTO transactions (
        organization_id, operation_id, transaction_id, kind, project_id, account_id, sequence, direction,
        currency_code, amount, balance_after, requested_amount, mode, overdrawn, system_account, description, metadata,
        create_time, held_amount, actor
    )
    SELECT v.organization_id, CASE WHEN assumed.holds THEN v.operation_id END, v.transaction_id,
        ($14::text[])[v.common], ($15::uuid[])[v.common], ($16::uuid[])[v.common], v.sequence, 'DEBIT',
        ($17::text[])[v.common], v.amount::numeric, v.balance_after::numeric,
        coalesce(($18::text[])[v.common], v.amount)::numeric, ($19::text[])[v.common], ($20::boolean[])[v.common],
        'REVENUE', ($21::text[])[v.common], ($22::text[])[v.common]::jsonb, ($23::timestamptz[])[v.common],
        {held_amount}, ($24::text[])[v.common]
    FROM assumed
    CROSS JOIN unnest(
        $7::uuid[], $8::text::text[], $9::uuid[], $10::bigint[], $11::text::text[], $12::text::text[],
        $13::integer[]{more_columns}
    ) AS v (organization_id, operation_id, transaction_id, sequence, amount, balance_after, common{more_names})
"""  # noqa: S608 -- the parts are constants of this file.


_POST_DEBITS: Final = f"""
    WITH moved AS (
        UPDATE accounts a SET posted = v.posted::numeric, sequence = v.sequence,
            last_movement_time = v.last_movement_time, revision = v.revision + 1
        {_ACCOUNTS.format(more_columns="", more_names="")}
    ),
    assumed AS MATERIALIZED (SELECT {_ALL_MOVED} AS holds)
    {_insert_movements(held_amount="NULL::numeric")}
"""  # noqa: S608 -- made of the constants above alone.

# The same for batches with holds to place or to capture.
_POST: Final = f"""
    WITH moved AS (
        UPDATE accounts a SET posted = v.posted::numeric, sequence = v.sequence,
            last_movement_time = v.last_movement_time, revision = v.revision + 1,
            held = v.held::numeric, hold_expiry_from = v.hold_expiry_from
        {_ACCOUNTS.format(more_columns=", $25::text[], $26::timestamptz[]", more_names=", held, hold_expiry_from")}
    ),
    captured AS (
        UPDATE holds h SET state = 'CAPTURED', end_time = $29::timestamptz
        FROM unnest($27::uuid[], $28::text[]) AS v (organization_id, operation_id)
        WHERE h.organization_id = ANY (ARRAY[v.organization_id]) AND h.operation_id = v.operation_id
            AND h.end_time IS NULL
        RETURNING 1
    ),
    assumed AS MATERIALIZED (
        SELECT {_ALL_MOVED} AND (SELECT count(*) FROM captured) = cardinality($27::uuid[]) AND NOT EXISTS (
            SELECT FROM unnest($30::uuid[], $31::text[]) AS k (organization_id, operation_id)
            CROSS JOIN LATERAL (
                SELECT FROM declines d
                WHERE d.organization_id = k.organization_id AND d.operation_id = k.operation_id AND d.slot = 'HOLD'
                OFFSET 0
            ) AS declined
        ) AS holds
    ),
    placed AS (
        INSERT INTO holds (
            organization_id, operation_id, hold_id, project_id, account_id, currency_code, amount, ttl_ms, state,
            description, metadata, create_time, expire_time, actor, user_id, model
        )
        SELECT v.organization_id, CASE WHEN assumed.holds THEN v.operation_id END, v.hold_id, v.project_id,
            v.account_id, v.currency_code, v.amount::numeric, v.ttl_ms, 'OPEN', v.description, v.metadata::jsonb,
            $29::timestamptz, v.expire_time, v.actor, v.user_id, v.model
        FROM assumed
        CROSS JOIN unnest(
            $30::uuid[], $31::text[], $32::uuid[], $33::uuid[], $34::uuid[], $35::text[], $36::text[], $37::bigint[],
            $38::text[], $39::text[], $40::timestamptz[], $41::text[], $42::uuid[], $43::text[]
        ) AS v (
            organization_id, operation_id, hold_id, project_id, account_id, currency_code, amount, ttl_ms, description,
            metadata, expire_time, actor, user_id, model
        )
    )
    {_insert_movements(held_amount="v.held::numeric", more_columns=", $44::text[]", more_names=", held")}
"""  # noqa: S608 -- made of the constants above alone.

_Common: TypeAlias = tuple[object, ...]
_NOTHING_COMMON: Final = ((),) * 11
_NO_HOLDS: Final = ((),) * 14


async def post(connection: RawConnection, books: Books, now: datetime) -> None:
    """Write the debits, captures and new holds of a batch, and its accounts as they are after them.

    Raises:
        ConstraintViolation: an account, a hold or an operation is not as assumed; nothing was written.
    """
    accounts = sorted(
        books.changed_accounts.values(), key=lambda account: (account.organization_id, account.account_id)
    )
    movements = (*_account_columns(accounts), *_movement_columns(books.new_movements))
    # A capture ends its hold, so these are debits alone.
    if not books.new_holds and not books.changed_holds:
        await connection.execute(_POST_DEBITS, *movements)
        return
    await connection.execute(
        _POST,
        *movements,
        [str(a.held) for a in accounts],
        [a.hold_expiry_from for a in accounts],
        [organization_id for organization_id, _ in books.changed_holds],
        [operation_id for _, operation_id in books.changed_holds],
        now,
        *(zip(*map(_hold_row, books.new_holds), strict=True) if books.new_holds else _NO_HOLDS),
        [None if m.held_amount is None else str(m.held_amount) for m in books.new_movements],
    )


def _account_columns(accounts: Sequence[Account]) -> tuple[Sequence[object], ...]:
    return (
        [a.organization_id for a in accounts],
        [a.account_id for a in accounts],
        [a.revision for a in accounts],
        [str(a.posted) for a in accounts],
        [a.sequence for a in accounts],
        [a.last_movement_time for a in accounts],
    )


def _movement_columns(movements: Sequence[Movement]) -> tuple[Sequence[object], ...]:
    numbers: dict[_Common, int] = {}
    common = [numbers.setdefault(_common_of(movement), len(numbers) + 1) for movement in movements]
    return (
        [m.organization_id for m in movements],
        array_text([m.operation_id for m in movements]),
        [m.transaction_id for m in movements],
        [m.sequence for m in movements],
        array_text([str(m.amount) for m in movements]),
        array_text([str(m.balance_after) for m in movements]),
        common,
        *(zip(*numbers, strict=True) if numbers else _NOTHING_COMMON),
    )


def _common_of(m: Movement) -> _Common:
    """Return what a movement is likely to share with others of its account."""
    return (
        m.kind,
        m.project_id,
        m.account_id,
        m.currency_code,
        None if m.requested_amount == m.amount else str(m.requested_amount),
        m.mode,
        m.overdrawn,
        m.description or None,
        _json(m.metadata),
        m.create_time,
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
        h.description or None,
        _json(h.metadata),
        h.expire_time,
        h.actor,
        h.user_id,
        h.model,
    )


def _json(metadata: Metadata | None) -> str | None:
    return json.dumps(metadata) if metadata else None
