"""The invariants of billing, and the walks over its tables that check them.

Movements are never changed or deleted, and an account changes in the transaction that adds its movement. So what a
statement sees of them is consistent, and stays true of the rows it has read.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from libs.common.audit.invariants import AUDIT_CHECKS
from libs.common.events.invariants import EVENT_CHECKS
from libs.common.integrity.domain import CLOCKS_DIFFER_BY, ORGANIZATION, Check, Column, Invariant, Sweep, Walk
from services.billing.grant_invariants import GRANT_CHECKS
from services.billing.invoice_invariants import INVOICE_CHECKS, INVOICE_PLATFORM_CHECKS
from services.billing.payment_invariants import PAYMENT_CHECKS
from services.billing.recurring_invariants import RECURRING_CHECKS
from services.billing.subscription_invariants import SUBSCRIPTION_CHECKS
from services.billing.usage_charge_invariants import USAGE_CHARGE_CHECKS

_TWO_SIDES: Final = Invariant(
    "transactions_have_two_sides",
    "A transaction lacks one of its two accounts, or debits or credits the wrong one for its kind.",
)
_ACCOUNTS_EQUAL: Final = Invariant(
    "accounts_equal_their_movements",
    "An account's posted balance, sequence or currency differs from what its movements add up to.",
)
_FOLLOW: Final = Invariant(
    "movements_follow_each_other",
    "A movement's sequence, balance, currency or time does not follow from the movement before it in the account.",
)
_HELD: Final = Invariant(
    "accounts_held_equals_open_holds",
    "An account's held amount differs from the sum of its open holds.",
)
_HOLDS_END: Final = Invariant(
    "holds_end_once",
    "A hold's state contradicts its capture, or a hold is still open more than an hour after it expired.",
)
_CAPTURES: Final = Invariant("captures_have_holds", "A capture, or a part of a hold's work, has no hold.")
_PARTS: Final = Invariant(
    "holds_count_their_parts",
    "A hold's captured amount differs from the sum of its parts, or a capture used more of the hold than was left.",
)
_DECLINES: Final = Invariant("declines_moved_nothing", "A declined operation has a transaction or a hold.")
_GUARDED: Final = Invariant(
    "guarded_movements_keep_the_limit",
    "A movement that must not overdraw did so, or a movement is of another amount than was requested.",
)
_REVERSALS: Final = Invariant(
    "reversals_undo_their_transactions",
    "The reversals of a transaction exceed it, or move money between other accounts.",
)
_PLAN_VERSIONS: Final = Invariant(
    "plan_versions_follow_each_other",
    "A plan's versions have a gap, its draft is not the next one, or not exactly the last one published is in force.",
)

_OPERATION: Final = (ORGANIZATION, Column("operation_id", "text"))

_LACKS_A_SIDE: Final = """
        num_nulls(counter_account_id, counter_sequence, counter_balance_after) NOT IN (0, 3)
        OR (system_account IS NULL) = (counter_account_id IS NULL)
        OR kind IN ('DEBIT', 'CAPTURE') AND (system_account IS DISTINCT FROM 'REVENUE' OR direction <> 'DEBIT')
        OR kind = 'CREDIT' AND (system_account IS NULL OR direction <> 'CREDIT')
        OR kind = 'GRANT' AND (system_account IS DISTINCT FROM 'GRANTS' OR direction <> 'CREDIT')
        OR kind = 'EXPIRY' AND (system_account IS DISTINCT FROM 'EXPIRED' OR direction <> 'DEBIT')
        OR kind = 'VOID' AND (system_account IS DISTINCT FROM 'GRANTS' OR direction <> 'DEBIT')
        OR kind = 'TRANSFER' AND (counter_account_id IS NULL OR direction <> 'DEBIT')"""
_BREAKS_THE_LIMIT: Final = """
        overdrawn AND (mode IN ('GUARDED', 'BEST_EFFORT') OR kind IN ('CREDIT', 'TRANSFER'))
        OR amount <> requested_amount AND (mode IS DISTINCT FROM 'BEST_EFFORT' OR amount > requested_amount)"""

# Entries are both sides of the movements, each as its account sees it. An entry that follows from the one before it in
# the range is done with. The others are the first of each account in the range, and what is wrong: for them the entry
# before is looked up. So every entry is compared with the one before it, back to the account's first, and what an
# account's movements add up to is the balance after its last.
_TRANSACTIONS: Final = f"""
    WITH moved AS MATERIALIZED (
        SELECT organization_id, operation_id, kind, account_id, sequence, direction, currency_code, amount,
            balance_after, requested_amount, mode, overdrawn, system_account, counter_account_id, counter_sequence,
            counter_balance_after, reverses_transaction_id, held_amount, create_time, hold_operation_id
        FROM transactions
        WHERE {{window}}
            AND (CAST(:since_time AS timestamptz) IS NULL OR create_time >= CAST(:since_time AS timestamptz))
    ), entries AS (
        SELECT organization_id, account_id, sequence, currency_code, create_time, balance_after,
            CASE direction WHEN 'DEBIT' THEN -amount ELSE amount END AS amount, false AS of_counter_account
        FROM moved
        UNION ALL
        SELECT organization_id, counter_account_id, counter_sequence, currency_code, create_time, counter_balance_after,
            CASE direction WHEN 'DEBIT' THEN amount ELSE -amount END, true
        FROM moved WHERE counter_account_id IS NOT NULL
    ), links AS MATERIALIZED (
        SELECT * FROM (
            SELECT *, lag(sequence) OVER w AS before, lag(balance_after) OVER w AS balance_before,
                lag(create_time) OVER w AS time_before, lag(currency_code) OVER w AS currency_before
            FROM entries WINDOW w AS (PARTITION BY organization_id, account_id ORDER BY sequence)
        ) AS chained
        WHERE of_counter_account OR (before = sequence - 1 AND balance_after = balance_before + amount
            AND create_time >= time_before AND currency_code = currency_before) IS NOT TRUE
    )
    SELECT 'transactions_have_two_sides', organization_id, 'operations/' || operation_id,
        'the other side of the ' || kind || ' is incomplete'
    FROM moved
    WHERE {_LACKS_A_SIDE}
    UNION ALL
    SELECT 'guarded_movements_keep_the_limit', organization_id, 'operations/' || operation_id,
        'it moved ' || amount || ' of ' || coalesce(requested_amount, amount)
            || CASE WHEN overdrawn THEN ' and overdrew' ELSE '' END
    FROM moved
    WHERE {_BREAKS_THE_LIMIT}
    UNION ALL
    SELECT 'captures_have_holds', m.organization_id, 'operations/' || m.operation_id, 'it has no hold'
    FROM moved AS m
    LEFT JOIN holds AS h ON h.organization_id = m.organization_id
        AND h.operation_id = coalesce(m.hold_operation_id, m.operation_id)
    WHERE m.kind = 'CAPTURE' AND (m.held_amount IS NULL OR h.operation_id IS NULL)
        OR m.hold_operation_id IS NOT NULL AND (m.kind <> 'CAPTURE' OR m.hold_operation_id = m.operation_id)
    UNION ALL
    SELECT 'holds_count_their_parts', m.organization_id, 'holds/' || m.hold_operation_id,
        'its captured amount is ' || h.captured_amount || ', and one part is ' || m.amount
    FROM moved AS m
    JOIN holds AS h ON h.organization_id = m.organization_id AND h.operation_id = m.hold_operation_id
    WHERE m.hold_operation_id IS NOT NULL AND h.captured_amount < m.amount
    UNION ALL
    SELECT 'reversals_undo_their_transactions', r.organization_id,
        'transactions/' || coalesce(CAST(r.reverses_transaction_id AS text), 'none'),
        'reversed by ' || coalesce(CAST(s.total AS text), 'a movement that names no transaction')
            || ' of ' || coalesce(CAST(t.amount AS text), 'nothing')
    FROM (SELECT DISTINCT organization_id, reverses_transaction_id FROM moved WHERE kind = 'REVERSAL') AS r
    LEFT JOIN transactions AS t
        ON t.organization_id = r.organization_id AND t.transaction_id = r.reverses_transaction_id
    CROSS JOIN LATERAL (
        SELECT sum(o.amount) AS total,
            bool_or(o.direction = t.direction OR o.account_id <> t.account_id OR t.kind = 'REVERSAL'
                OR o.counter_account_id IS DISTINCT FROM t.counter_account_id
                OR o.system_account IS DISTINCT FROM t.system_account) AS elsewhere
        FROM transactions AS o
        WHERE o.organization_id = r.organization_id AND o.reverses_transaction_id = r.reverses_transaction_id
            AND o.kind = 'REVERSAL'
    ) AS s
    WHERE t.transaction_id IS NULL OR s.total > t.amount OR s.elsewhere
    UNION ALL
    SELECT 'movements_follow_each_other', e.organization_id, 'accounts/' || e.account_id,
        'movement ' || e.sequence || CASE WHEN b.sequence IS NULL AND e.sequence <> 1
            THEN ' has no movement ' || e.sequence - 1 || ' before it'
            ELSE ' does not follow from movement ' || e.sequence - 1 END
    FROM links AS e
    CROSS JOIN LATERAL (
        SELECT max(b.sequence) AS sequence, bool_or(e.balance_after = b.balance_after + e.amount
            AND e.create_time >= b.create_time AND e.currency_code = b.currency_code) AS fits
        FROM (
            SELECT t.sequence, t.balance_after, t.create_time, t.currency_code FROM transactions AS t
            WHERE t.organization_id = e.organization_id AND t.account_id = e.account_id
                AND t.sequence = e.sequence - 1
            UNION ALL
            SELECT t.counter_sequence, t.counter_balance_after, t.create_time, t.currency_code FROM transactions AS t
            WHERE t.organization_id = e.organization_id AND t.counter_account_id = e.account_id
                AND t.counter_sequence = e.sequence - 1
        ) AS b
    ) AS b
    WHERE NOT coalesce(b.fits, e.sequence = 1 AND e.balance_after = e.amount)
    UNION ALL
    SELECT 'movements_follow_each_other', e.organization_id, 'accounts/' || e.account_id,
        'two movements have the number ' || e.sequence
    FROM links AS e
    JOIN transactions AS t
        ON t.organization_id = e.organization_id AND t.account_id = e.account_id AND t.sequence = e.sequence
    WHERE e.of_counter_account
    UNION ALL
    SELECT 'accounts_equal_their_movements', e.organization_id, 'accounts/' || e.account_id,
        CASE WHEN a.account_id IS NULL THEN 'it has movements, but does not exist'
            ELSE 'it is in ' || a.currency_code || ', but has movements in ' || e.currency_code END
    FROM (
        SELECT DISTINCT organization_id, account_id, currency_code FROM links
        WHERE before IS NULL OR currency_code <> currency_before
    ) AS e
    LEFT JOIN accounts AS a ON a.organization_id = e.organization_id AND a.account_id = e.account_id
    WHERE a.account_id IS NULL OR a.currency_code <> e.currency_code
"""  # noqa: S608 -- made of constants of ours alone.

# Finds the accounts in which a movement does not follow from the one before, and movements that lack something, as
# `_TRANSACTIONS` does, but says only in which organizations. What has a second account of a customer, or is about other
# movements, is left to that. Postgres takes 3.0 to 3.8 µs of CPU a movement, and 3.8 to 4.5 there. Subqueries that
# return a value, unlike EXISTS, are looked up row by row with any plan.
_SUSPECTS: Final = f"""
    SELECT DISTINCT organization_id
    FROM (
        SELECT *, lag(sequence) OVER w AS before, lag(balance_after) OVER w AS balance_before,
            lag(create_time) OVER w AS time_before, lag(currency_code) OVER w AS currency_before
        FROM (
            SELECT organization_id, account_id, sequence, currency_code, create_time, balance_after,
                CASE direction WHEN 'DEBIT' THEN -amount ELSE amount END AS change,
                counter_account_id IS NOT NULL OR kind = 'REVERSAL' OR hold_operation_id IS NOT NULL
                    OR {_LACKS_A_SIDE} OR {_BREAKS_THE_LIMIT}
                    OR CASE WHEN kind = 'CAPTURE' THEN held_amount IS NULL OR (
                        SELECT true FROM holds AS h
                        WHERE h.organization_id = t.organization_id AND h.operation_id = t.operation_id
                    ) IS NULL END AS is_suspect
            FROM transactions AS t
            WHERE {{window}}
                AND (CAST(:since_time AS timestamptz) IS NULL OR create_time >= CAST(:since_time AS timestamptz))
            OFFSET 0
        ) AS moved WINDOW w AS (PARTITION BY organization_id, account_id ORDER BY sequence)
    ) AS e
    WHERE is_suspect OR CASE
        WHEN before IS NOT NULL THEN (before = sequence - 1 AND balance_after = balance_before + change
            AND create_time >= time_before AND currency_code = currency_before) IS NOT TRUE
        ELSE (
            SELECT bool_and(e.balance_after = b.balance_after + e.change AND e.create_time >= b.create_time
                AND e.currency_code = b.currency_code)
            FROM transactions AS b
            WHERE b.organization_id = e.organization_id AND b.account_id = e.account_id AND b.sequence = e.sequence - 1
        ) IS NOT TRUE OR (
            SELECT bool_and(a.currency_code = e.currency_code) FROM accounts AS a
            WHERE a.organization_id = e.organization_id AND a.account_id = e.account_id
        ) IS NOT TRUE END
"""  # noqa: S608 -- made of constants of ours alone.

_ACCOUNTS: Final = """
    SELECT 'accounts_equal_their_movements', a.organization_id, 'accounts/' || a.account_id,
        'posted ' || a.posted || ' at ' || a.sequence || ', but its ' || coalesce(m.sequence, 0)
            || ' movements sum to ' || coalesce(m.balance_after, 0)
    FROM (SELECT * FROM accounts WHERE {range}) AS a
    LEFT JOIN LATERAL (
        SELECT sequence, balance_after FROM (
            (SELECT t.sequence, t.balance_after FROM transactions AS t
            WHERE t.organization_id = a.organization_id AND t.account_id = a.account_id
            ORDER BY t.sequence DESC LIMIT 1)
            UNION ALL
            (SELECT t.counter_sequence, t.counter_balance_after FROM transactions AS t
            WHERE t.organization_id = a.organization_id AND t.counter_account_id = a.account_id
            ORDER BY t.counter_sequence DESC LIMIT 1)
        ) AS sides ORDER BY sequence DESC LIMIT 1
    ) AS m ON true
    WHERE a.posted <> coalesce(m.balance_after, 0) OR a.sequence <> coalesce(m.sequence, 0)
    UNION ALL
    SELECT 'accounts_held_equals_open_holds', a.organization_id, 'accounts/' || a.account_id,
        'held ' || a.held || ', but its open holds sum to ' || coalesce(h.total, 0)
    FROM (SELECT * FROM accounts WHERE {range}) AS a
    CROSS JOIN LATERAL (
        SELECT sum(greatest(o.amount - o.captured_amount, 0)) AS total,
            bool_or(o.currency_code <> a.currency_code) AS in_other_currency, min(o.expire_time) AS first_expire_time
        FROM holds AS o
        WHERE o.organization_id = a.organization_id AND o.account_id = a.account_id AND o.state = 'OPEN'
    ) AS h
    WHERE a.held <> coalesce(h.total, 0) OR a.held < 0 OR h.in_other_currency
        OR h.first_expire_time < a.hold_expiry_from OR h.total IS NOT NULL AND a.hold_expiry_from IS NULL
"""

# A hold's last capture is under its operation id; its parts are under their own and may also come after that. All are
# in one account, along whose sequence they are compared. Parts are looked up where some are counted; those of a hold
# that counts none are found by the sweep over transactions.
_HOLDS: Final = """
    WITH held AS MATERIALIZED (
        SELECT h.organization_id, h.operation_id, h.account_id, h.currency_code, h.state, h.amount, h.captured_amount,
            h.expire_time, t.sequence, t.account_id AS charged_account_id, t.held_amount
        FROM (
            SELECT * FROM holds
            WHERE {range} AND (CAST(:since_time AS timestamptz) IS NULL OR state = 'OPEN'
                OR create_time >= CAST(:since_time AS timestamptz))
        ) AS h
        LEFT JOIN transactions AS t ON t.organization_id = h.organization_id AND t.operation_id = h.operation_id
            AND t.kind = 'CAPTURE' AND t.hold_operation_id IS NULL
    )
    SELECT 'holds_end_once', organization_id, 'holds/' || operation_id,
        'it is ' || state || CASE WHEN sequence IS NULL THEN ' without a capture'
            ELSE ', but a capture used ' || coalesce(held_amount, 0) || ' of it' END
    FROM held
    WHERE state = 'CAPTURED' AND (sequence IS NULL OR captured_amount = 0 AND held_amount <> amount)
        OR state <> 'CAPTURED' AND held_amount > 0
        OR state = 'OPEN' AND sequence IS NOT NULL
        OR account_id <> charged_account_id
        OR state = 'OPEN' AND expire_time < CAST(:now AS timestamptz) - interval '1 hour'
    UNION ALL
    SELECT 'holds_count_their_parts', organization_id, 'holds/' || operation_id,
        'its captured amount is ' || captured_amount || ', and its parts sum to ' || total
            || CASE WHEN is_wrong THEN '; one of them does not fit it' ELSE '' END
    FROM held AS h
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0) AS total,
            coalesce(sum(amount) FILTER (WHERE sequence < h.sequence), 0) AS before_last,
            coalesce(bool_or(account_id <> h.account_id OR currency_code <> h.currency_code
                OR held_amount > CASE WHEN sequence > h.sequence THEN 0
                    ELSE greatest(h.amount - before, 0) END), false) AS is_wrong
        FROM (
            SELECT *, sum(amount) OVER (ORDER BY sequence) - amount AS before
            FROM transactions
            WHERE organization_id = h.organization_id AND hold_operation_id = h.operation_id
        ) AS part
    ) AS parts
    WHERE h.captured_amount <> 0 AND (h.captured_amount <> total OR is_wrong
        OR h.state = 'CAPTURED' AND h.held_amount <> greatest(h.amount - before_last, 0))
"""

_DECLINED: Final = """
    SELECT 'declines_moved_nothing', d.organization_id, 'operations/' || d.operation_id,
        'its ' || lower(d.slot) || ' was declined, but exists'
    FROM (
        SELECT * FROM declines
        WHERE {range}
            AND (CAST(:since_time AS timestamptz) IS NULL OR create_time >= CAST(:since_time AS timestamptz))
    ) AS d
    LEFT JOIN transactions AS t ON t.organization_id = d.organization_id AND t.operation_id = d.operation_id
    LEFT JOIN holds AS h ON h.organization_id = d.organization_id AND h.operation_id = d.operation_id
    WHERE d.slot = 'MOVEMENT' AND t.operation_id IS NOT NULL OR d.slot = 'HOLD' AND h.operation_id IS NOT NULL
"""

_PLANS: Final = """
    SELECT 'plan_versions_follow_each_other', CAST(NULL AS uuid), 'plans/' || p.plan_code,
        'it has ' || v.count || ' versions up to ' || v.last || ', of which ' || coalesce(v.in_force, 'none')
            || ' in force, and as draft ' || coalesce(CAST(d.version AS text), 'none')
    FROM (SELECT * FROM plans WHERE {range}) AS p
    LEFT JOIN plan_drafts AS d ON d.plan_id = p.plan_id
    CROSS JOIN LATERAL (
        SELECT count(*) AS count, coalesce(max(version), 0) AS last,
            string_agg(CAST(version AS text), ', ' ORDER BY version) FILTER (WHERE archive_time IS NULL) AS in_force
        FROM plan_versions WHERE plan_id = p.plan_id
    ) AS v
    WHERE v.count <> v.last OR d.version <> v.last + 1 OR d.version IS NULL AND v.last = 0
        OR v.last > 0 AND v.in_force IS DISTINCT FROM CAST(v.last AS text)
"""

# Transaction ids were made in the order of time, so that those of a window lie side by side in the table.
CHECKS: Final[Sequence[Check]] = (
    Sweep(
        "transactions",
        Column("transaction_id", "uuid"),
        (_TWO_SIDES, _ACCOUNTS_EQUAL, _FOLLOW, _CAPTURES, _PARTS, _GUARDED, _REVERSALS),
        _TRANSACTIONS,
        unit=timedelta(milliseconds=1),
        early=CLOCKS_DIFFER_BY,
        suspects=_SUSPECTS,
    ),
    Walk("accounts", (ORGANIZATION, Column("account_id", "uuid")), (_ACCOUNTS_EQUAL, _HELD), _ACCOUNTS),
    Walk("holds", _OPERATION, (_HOLDS_END, _PARTS), _HOLDS, by_pages=True),
    Walk("declines", (*_OPERATION, Column("slot", "text")), (_DECLINES,), _DECLINED),
    *GRANT_CHECKS,
    *SUBSCRIPTION_CHECKS,
    *USAGE_CHARGE_CHECKS,
    *RECURRING_CHECKS,
    *PAYMENT_CHECKS,
    *INVOICE_CHECKS,
    *AUDIT_CHECKS,
    *EVENT_CHECKS,
)

# What billing's own schema has beside the shards.
PLATFORM_CHECKS: Final[Sequence[Check]] = (
    Walk("plans", (Column("plan_id", "uuid"),), (_PLAN_VERSIONS,), _PLANS, organization_column=""),
    *INVOICE_PLATFORM_CHECKS,
    *AUDIT_CHECKS,
    *EVENT_CHECKS,
)
