"""The invariants of billing. Each is one statement that returns the violations.

The statements read whole tables. All run in one snapshot, on a connection with a longer statement timeout. A statement
is limited to one organization if `:organization_id` is not null; `:now` is the time of the check.
"""

from collections.abc import Sequence
from typing import Final

from libs.common.audit.invariants import AUDIT_INVARIANT
from libs.common.integrity.domain import Invariant


def _count(table: str) -> str:
    return (
        f"SELECT count(*) FROM {table} "  # noqa: S608 -- the name of a table of ours.
        "WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = :organization_id)"
    )


# Both sides of every movement, each as its account sees it.
_ENTRIES: Final = """
    SELECT organization_id, account_id, sequence, currency_code, create_time, balance_after,
        CASE direction WHEN 'DEBIT' THEN -amount ELSE amount END AS amount
    FROM transactions WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = :organization_id)
    UNION ALL
    SELECT organization_id, counter_account_id, counter_sequence, currency_code, create_time, counter_balance_after,
        CASE direction WHEN 'DEBIT' THEN amount ELSE -amount END
    FROM transactions
    WHERE counter_account_id IS NOT NULL
        AND (CAST(:organization_id AS uuid) IS NULL OR organization_id = :organization_id)
"""

INVARIANTS: Final[Sequence[Invariant]] = (
    Invariant(
        "transactions_have_two_sides",
        "A transaction lacks one of its two accounts, or debits or credits the wrong one for its kind.",
        """
        SELECT t.organization_id, 'operations/' || t.operation_id AS resource,
            'the other side of the ' || t.kind || ' is incomplete' AS detail
        FROM transactions t
        WHERE (CAST(:organization_id AS uuid) IS NULL OR t.organization_id = :organization_id) AND (
            num_nulls(t.counter_account_id, t.counter_sequence, t.counter_balance_after) NOT IN (0, 3)
            OR (t.system_account IS NULL) = (t.counter_account_id IS NULL)
            OR t.kind IN ('DEBIT', 'CAPTURE')
                AND (t.system_account IS DISTINCT FROM 'REVENUE' OR t.direction <> 'DEBIT')
            OR t.kind = 'CREDIT' AND (t.system_account IS NULL OR t.direction <> 'CREDIT')
            OR t.kind = 'TRANSFER' AND (t.counter_account_id IS NULL OR t.direction <> 'DEBIT'))
        """,
        _count("transactions"),
    ),
    Invariant(
        "accounts_equal_their_movements",
        "An account's posted balance, sequence or currency differs from what its movements add up to.",
        f"""
        SELECT coalesce(a.organization_id, e.organization_id) AS organization_id,
            'accounts/' || coalesce(a.account_id, e.account_id) AS resource,
            CASE WHEN a.account_id IS NULL THEN 'it has movements, but does not exist'
                ELSE 'posted ' || a.posted || ' at ' || a.sequence || ', but its ' || coalesce(e.movements, 0)
                    || ' movements sum to ' || coalesce(e.total, 0) END AS detail
        FROM (
            SELECT * FROM accounts
            WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = :organization_id)
        ) a
        FULL JOIN (
            SELECT organization_id, account_id, sum(amount) AS total, count(*) AS movements,
                min(currency_code) AS currency_from, max(currency_code) AS currency_to
            FROM ({_ENTRIES}) AS entries GROUP BY organization_id, account_id
        ) e USING (organization_id, account_id)
        WHERE a.account_id IS NULL OR a.posted <> coalesce(e.total, 0) OR a.sequence <> coalesce(e.movements, 0)
            OR e.currency_from <> a.currency_code OR e.currency_to <> a.currency_code
        """,  # noqa: S608 -- made of constants of ours alone.
        _count("accounts"),
    ),
    Invariant(
        "movements_follow_each_other",
        "A movement's sequence, balance or time does not follow from the movement before it in the account.",
        f"""
        SELECT organization_id, 'accounts/' || account_id AS resource,
            'movement ' || sequence || ' does not follow from movement ' || before AS detail
        FROM (
            SELECT organization_id, account_id, sequence, amount, balance_after, create_time,
                lag(sequence, 1, CAST(0 AS bigint)) OVER w AS before,
                lag(balance_after, 1, CAST(0 AS numeric)) OVER w AS balance_before,
                lag(create_time) OVER w AS time_before
            FROM ({_ENTRIES}) AS entries
            WINDOW w AS (PARTITION BY organization_id, account_id ORDER BY sequence)
        ) AS chained
        WHERE sequence <> before + 1 OR balance_after <> balance_before + amount OR create_time < time_before
        """,  # noqa: S608 -- made of constants of ours alone.
        _count("transactions"),
    ),
    Invariant(
        "accounts_held_equals_open_holds",
        "An account's held amount differs from the sum of its open holds.",
        """
        SELECT a.organization_id, 'accounts/' || a.account_id AS resource,
            'held ' || a.held || ', but its open holds sum to ' || coalesce(sum(h.amount), 0) AS detail
        FROM accounts a
        LEFT JOIN holds h ON h.organization_id = a.organization_id AND h.account_id = a.account_id AND h.state = 'OPEN'
        WHERE (CAST(:organization_id AS uuid) IS NULL OR a.organization_id = :organization_id)
        GROUP BY a.organization_id, a.account_id
        HAVING a.held <> coalesce(sum(h.amount), 0) OR a.held < 0 OR bool_or(h.currency_code <> a.currency_code)
            OR min(h.expire_time) < a.hold_expiry_from OR count(h.hold_id) > 0 AND a.hold_expiry_from IS NULL
        """,
        _count("accounts"),
    ),
    Invariant(
        "holds_end_once",
        "A hold's state contradicts its capture, or a hold is still open more than an hour after it expired.",
        """
        SELECT h.organization_id, 'holds/' || h.operation_id AS resource,
            'it is ' || h.state || CASE WHEN t.operation_id IS NULL THEN ' without a capture'
                ELSE ', but a capture used ' || coalesce(t.held_amount, 0) || ' of it' END AS detail
        FROM holds h
        LEFT JOIN transactions t
            ON t.organization_id = h.organization_id AND t.operation_id = h.operation_id AND t.kind = 'CAPTURE'
        WHERE (CAST(:organization_id AS uuid) IS NULL OR h.organization_id = :organization_id) AND (
            (h.state = 'CAPTURED') <> (t.held_amount IS NOT NULL AND t.held_amount > 0)
            OR h.state = 'CAPTURED' AND t.held_amount <> h.amount
            OR h.state = 'OPEN' AND t.operation_id IS NOT NULL
            OR h.account_id <> t.account_id
            OR h.state = 'OPEN' AND h.expire_time < CAST(:now AS timestamptz) - interval '1 hour')
        """,
        _count("holds"),
    ),
    Invariant(
        "captures_have_holds",
        "A capture has no hold.",
        """
        SELECT t.organization_id, 'operations/' || t.operation_id AS resource, 'it has no hold' AS detail
        FROM transactions t
        WHERE (CAST(:organization_id AS uuid) IS NULL OR t.organization_id = :organization_id) AND t.kind = 'CAPTURE'
            AND (t.held_amount IS NULL OR NOT EXISTS (
                SELECT FROM holds h WHERE h.organization_id = t.organization_id AND h.operation_id = t.operation_id))
        """,
        _count("transactions"),
    ),
    Invariant(
        "declines_moved_nothing",
        "A declined operation has a transaction or a hold.",
        """
        SELECT d.organization_id, 'operations/' || d.operation_id AS resource,
            'its ' || lower(d.slot) || ' was declined, but exists' AS detail
        FROM declines d
        WHERE (CAST(:organization_id AS uuid) IS NULL OR d.organization_id = :organization_id) AND (
            d.slot = 'MOVEMENT' AND EXISTS (
                SELECT FROM transactions t
                WHERE t.organization_id = d.organization_id AND t.operation_id = d.operation_id)
            OR d.slot = 'HOLD' AND EXISTS (
                SELECT FROM holds h WHERE h.organization_id = d.organization_id AND h.operation_id = d.operation_id))
        """,
        _count("declines"),
    ),
    Invariant(
        "guarded_movements_keep_the_limit",
        "A movement that must not overdraw did so, or a movement is of another amount than was requested.",
        """
        SELECT t.organization_id, 'operations/' || t.operation_id AS resource,
            'it moved ' || t.amount || ' of ' || coalesce(t.requested_amount, t.amount)
                || CASE WHEN t.overdrawn THEN ' and overdrew' ELSE '' END AS detail
        FROM transactions t
        WHERE (CAST(:organization_id AS uuid) IS NULL OR t.organization_id = :organization_id) AND (
            t.overdrawn AND (t.mode IN ('GUARDED', 'BEST_EFFORT') OR t.kind IN ('CREDIT', 'TRANSFER'))
            OR t.amount <> t.requested_amount AND t.mode IS DISTINCT FROM 'BEST_EFFORT'
            OR t.amount > t.requested_amount)
        """,
        _count("transactions"),
    ),
    Invariant(
        "reversals_undo_their_transactions",
        "The reversals of a transaction exceed it, or move money between other accounts.",
        """
        SELECT r.organization_id, 'transactions/' || r.reverses_transaction_id AS resource,
            'reversed by ' || sum(r.amount) || ' of ' || coalesce(CAST(min(t.amount) AS text), 'nothing') AS detail
        FROM transactions r
        LEFT JOIN transactions t
            ON t.organization_id = r.organization_id AND t.transaction_id = r.reverses_transaction_id
        WHERE (CAST(:organization_id AS uuid) IS NULL OR r.organization_id = :organization_id) AND r.kind = 'REVERSAL'
        GROUP BY r.organization_id, r.reverses_transaction_id
        HAVING count(t.transaction_id) < count(*) OR sum(r.amount) > min(t.amount)
            OR bool_or(r.direction = t.direction OR r.account_id <> t.account_id OR t.kind = 'REVERSAL'
                OR r.counter_account_id IS DISTINCT FROM t.counter_account_id
                OR r.system_account IS DISTINCT FROM t.system_account)
        """,
        _count("transactions"),
    ),
    AUDIT_INVARIANT,
)
