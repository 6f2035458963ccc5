"""The one statement that posts a batch of debits that was decided over cached accounts.

It is a transaction of its own: one round trip and one commit. It checks every assumption of the batch under the locks
it takes, and fails as a whole if one is wrong.
"""

import json
from collections.abc import Collection, Sequence
from typing import Final, TypeAlias

from libs.common.database import RawConnection
from services.billing.ledger.domain import Account, Movement

# Updating the accounts locks them. An account that was changed meanwhile has another revision and is not updated.
# After that, one probe of the primary key per operation looks for declines. If one of these assumptions is wrong, the
# operation id to insert is null, which the column refuses. An operation that has moved money before is refused by the
# primary key. What debits have in common, such as their account and actor, is sent once, and each debit takes it by its
# number: a join would need a hash table, which these connections do not plan.
_POST_DEBITS: Final = """
    WITH moved AS (
        UPDATE accounts a SET posted = v.posted::numeric, sequence = v.sequence,
            last_movement_time = v.last_movement_time, revision = v.revision + 1
        FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::timestamptz[])
            AS v (organization_id, account_id, revision, posted, sequence, last_movement_time)
        WHERE a.organization_id = v.organization_id AND a.account_id = v.account_id AND a.revision = v.revision
        RETURNING 1
    ),
    assumed AS MATERIALIZED (
        SELECT (SELECT count(*) FROM moved) = cardinality($1::uuid[]) AND NOT EXISTS (
            SELECT FROM unnest($7::uuid[], $8::text[]) AS k (organization_id, operation_id)
            CROSS JOIN LATERAL (
                SELECT FROM declines d
                WHERE d.organization_id = k.organization_id AND d.operation_id = k.operation_id
                    AND d.slot = 'MOVEMENT'
                OFFSET 0
            ) AS declined
        ) AS holds
    )
    INSERT INTO transactions (
        organization_id, operation_id, transaction_id, kind, project_id, account_id, sequence, direction,
        currency_code, amount, balance_after, requested_amount, mode, overdrawn, system_account, description, metadata,
        create_time, actor
    )
    SELECT v.organization_id, CASE WHEN assumed.holds THEN v.operation_id END, v.transaction_id, 'DEBIT',
        ($15::uuid[])[v.common], ($14::uuid[])[v.common], v.sequence, 'DEBIT', ($16::text[])[v.common],
        v.amount::numeric, v.balance_after::numeric, coalesce(($17::text[])[v.common], v.amount)::numeric,
        ($18::text[])[v.common], ($19::boolean[])[v.common], 'REVENUE', ($20::text[])[v.common],
        ($21::text[])[v.common]::jsonb, ($22::timestamptz[])[v.common], ($23::text[])[v.common]
    FROM assumed
    CROSS JOIN unnest($7::uuid[], $8::text[], $9::uuid[], $10::bigint[], $11::text[], $12::text[], $13::integer[])
        AS v (organization_id, operation_id, transaction_id, sequence, amount, balance_after, common)
"""

_Common: TypeAlias = tuple[object, ...]


async def post_debits(connection: RawConnection, accounts: Collection[Account], debits: Sequence[Movement]) -> None:
    """Post debits, and write their accounts as they are after them.

    Raises:
        ConstraintViolation: an account or an operation is not as assumed; nothing was written.
    """
    ordered = sorted(accounts, key=lambda account: (account.organization_id, account.account_id))
    numbers: dict[_Common, int] = {}
    common = [numbers.setdefault(_common_of(debit), len(numbers) + 1) for debit in debits]
    await connection.execute(
        _POST_DEBITS,
        [a.organization_id for a in ordered],
        [a.account_id for a in ordered],
        [a.revision for a in ordered],
        [str(a.posted) for a in ordered],
        [a.sequence for a in ordered],
        [a.last_movement_time for a in ordered],
        [m.organization_id for m in debits],
        [m.operation_id for m in debits],
        [m.transaction_id for m in debits],
        [m.sequence for m in debits],
        [str(m.amount) for m in debits],
        [str(m.balance_after) for m in debits],
        common,
        *zip(*numbers, strict=True),
    )


def _common_of(m: Movement) -> _Common:
    """Return what a debit is likely to share with others of its account."""
    return (
        m.account_id,
        m.project_id,
        m.currency_code,
        None if m.requested_amount == m.amount else str(m.requested_amount),
        m.mode,
        m.overdrawn,
        m.description or None,
        json.dumps(m.metadata) if m.metadata else None,
        m.create_time,
        m.actor,
    )
