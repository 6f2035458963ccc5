"""The invariants of credit grants: of their movements, what is left of them, their uses, and what holds reserve."""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk

_GRANTS: Final = Invariant(
    "grants_equal_their_movements",
    "A credit grant's beginning, or what expired of it or was taken back, differs from what was moved for it.",
)
_STANDINGS: Final = Invariant(
    "grant_rests_follow_from_the_ledger",
    "What was left of an account's grants at an event does not follow from its movements, or from its grants.",
)
_GRANTS_END: Final = Invariant(
    "grants_begin_and_end_in_time",
    "A credit grant began or expired more than an hour late, or its account does not know when the next one does.",
)
_USES: Final = Invariant(
    "grant_uses_follow_each_other",
    "What was used of a credit grant differs from what was entered, or a charge used one that is not for it.",
)
_RESERVES: Final = Invariant(
    "holds_reserve_what_is_left",
    "Open holds reserve more of a credit grant than is left of it, or one of them more than it holds.",
)

# What was moved for the grants of a range is read from the accounts' movements other than use, by the partial index.
_CREDIT_GRANTS: Final = """
    WITH g AS MATERIALIZED (
        SELECT * FROM credit_grants WHERE {range}
    ), moved AS MATERIALIZED (
        SELECT t.organization_id, CAST(t.metadata ->> 'grant_id' AS uuid) AS grant_id,
            count(*) FILTER (WHERE t.kind = 'GRANT') AS beginnings,
            sum(t.amount) FILTER (WHERE t.kind = 'GRANT') AS granted,
            coalesce(sum(t.amount) FILTER (WHERE t.kind <> 'GRANT'), 0) AS expired
        FROM (SELECT DISTINCT organization_id, account_id FROM g) AS a
        JOIN transactions AS t ON t.organization_id = a.organization_id AND t.account_id = a.account_id
            AND t.system_account IS DISTINCT FROM 'REVENUE'
        WHERE t.kind IN ('GRANT', 'EXPIRY', 'VOID')
        GROUP BY 1, 2
    )
    SELECT 'grants_equal_their_movements', g.organization_id, 'grants/' || g.grant_id,
        'it is ' || g.state || ' with ' || g.amount || ' granted and ' || g.expired || ' expired, but '
            || coalesce(m.granted, 0) || ' was granted and ' || coalesce(m.expired, 0) || ' taken out'
    FROM g LEFT JOIN moved AS m ON m.organization_id = g.organization_id AND m.grant_id = g.grant_id
    CROSS JOIN LATERAL (SELECT g.state = 'SCHEDULED' OR g.void_time < g.effective_time AS never_began) AS n
    WHERE CASE WHEN n.never_began THEN m.grant_id IS NOT NULL
            OR g.expired <> CASE g.state WHEN 'SCHEDULED' THEN 0 ELSE g.amount END
        ELSE m.beginnings IS DISTINCT FROM 1 OR m.granted <> g.amount OR m.expired <> g.expired END
        OR g.state = 'ENDED' AND g.rest <> 0
    UNION ALL
    SELECT 'grants_begin_and_end_in_time', g.organization_id, 'grants/' || g.grant_id,
        'it is ' || g.state || ', and its account looks at its grants '
            || coalesce(CAST(a.grant_due_from AS text), 'never')
    FROM g JOIN accounts AS a ON a.organization_id = g.organization_id AND a.account_id = g.account_id
    CROSS JOIN LATERAL (
        SELECT CASE g.state WHEN 'SCHEDULED' THEN g.effective_time ELSE coalesce(g.void_time, g.expire_time) END AS time
    ) AS due
    WHERE g.state <> 'ENDED' AND due.time IS NOT NULL AND (
        a.grant_due_from IS NULL OR a.grant_due_from > due.time
        OR due.time < CAST(:now AS timestamptz) - interval '1 hour' AND a.held = 0)
"""

# Grants of accounts with uses. What one had used before the first that is entered of it is in the standing of the
# movement from which on they are. Of a grant that was over by then nothing is entered.
_USED_BEFORE: Final = """
    (SELECT g.amount - CAST(s.rests -> CAST(g.grant_id AS text) ->> 0 AS numeric)
        - CAST(s.rests -> CAST(g.grant_id AS text) ->> 1 AS numeric)
    FROM grant_standings AS s
    WHERE s.organization_id = g.organization_id AND s.account_id = g.account_id AND s.sequence = a.itemized_from)
"""
_ITEMIZED_GRANTS: Final = f"""
    WITH g AS MATERIALIZED (
        SELECT * FROM credit_grants WHERE {{range}}
    ), a AS MATERIALIZED (
        SELECT a.organization_id, a.account_id, a.itemized_from
        FROM (SELECT DISTINCT organization_id, account_id FROM g) AS named
        JOIN accounts AS a ON a.organization_id = named.organization_id AND a.account_id = named.account_id
        WHERE a.itemized_from IS NOT NULL
    ), reserved AS MATERIALIZED (
        SELECT h.organization_id, CAST(one.key AS uuid) AS grant_id, sum(CAST(one.value AS numeric)) AS amount
        FROM a JOIN holds AS h ON h.organization_id = a.organization_id AND h.account_id = a.account_id
            AND h.state = 'OPEN'
        CROSS JOIN LATERAL jsonb_each_text(h.reserves) AS one
        GROUP BY 1, 2
    )
    SELECT 'grant_uses_follow_each_other', g.organization_id, 'grants/' || g.grant_id,
        'it has used ' || g.amount - g.rest - g.expired || ', but movements have entered ' || coalesce(entered.used, 0)
    FROM g JOIN a ON a.organization_id = g.organization_id AND a.account_id = g.account_id
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT u.used FROM grant_uses AS u
            WHERE u.organization_id = g.organization_id AND u.grant_id = g.grant_id ORDER BY u.sequence DESC LIMIT 1
        ), {_USED_BEFORE}, (
            SELECT 0 FROM transactions AS t
            WHERE t.organization_id = g.organization_id AND t.operation_id = CAST(g.grant_id AS text)
                AND t.sequence > a.itemized_from
        )) AS used
    ) AS entered
    WHERE entered.used <> g.amount - g.rest - g.expired
    UNION ALL
    SELECT 'grants_equal_their_movements', g.organization_id, 'grants/' || g.grant_id,
        'it is for a user or a model, but charges of its account are not entered grant by grant'
    FROM g LEFT JOIN a ON a.organization_id = g.organization_id AND a.account_id = g.account_id
    WHERE num_nonnulls(g.user_id, g.model) > 0 AND a.account_id IS NULL
    UNION ALL
    SELECT 'holds_reserve_what_is_left', g.organization_id, 'grants/' || g.grant_id,
        'open holds reserve ' || r.amount || ' of it, and ' || g.rest || ' is left'
    FROM g JOIN reserved AS r ON r.organization_id = g.organization_id AND r.grant_id = g.grant_id
    WHERE r.amount > CASE g.state WHEN 'ACTIVE' THEN g.rest ELSE 0 END
    UNION ALL
    SELECT 'grants_begin_and_end_in_time', g.organization_id, 'grants/' || g.grant_id,
        'it has ended, and ' || g.rest || ' is left of it, of which holds reserve ' || coalesce(r.amount, 0)
    FROM g JOIN a ON a.organization_id = g.organization_id AND a.account_id = g.account_id
    LEFT JOIN reserved AS r ON r.organization_id = g.organization_id AND r.grant_id = g.grant_id
    WHERE g.state = 'ACTIVE' AND g.rest > coalesce(r.amount, 0)
        AND coalesce(g.void_time, g.expire_time) < CAST(:now AS timestamptz) - interval '1 hour'
"""  # noqa: S608 -- made of constants of ours alone.

# Each use is compared with the one before it of its grant, so that all follow from the grant's first.
_GRANT_USES: Final = f"""
    SELECT 'grant_uses_follow_each_other', u.organization_id, 'grants/' || u.grant_id,
        'at movement ' || u.sequence || ' ' || u.amount || ' was used of it, ' || u.used || ' altogether, with '
            || u.rest || ' left, which does not follow from the use before or does not fit the movement'
    FROM (SELECT * FROM grant_uses WHERE {{range}}) AS u
    LEFT JOIN credit_grants AS g ON g.organization_id = u.organization_id AND g.grant_id = u.grant_id
    LEFT JOIN accounts AS a ON a.organization_id = u.organization_id AND a.account_id = u.account_id
    LEFT JOIN transactions AS t ON t.organization_id = u.organization_id AND t.account_id = u.account_id
        AND t.sequence = u.sequence
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT b.used FROM grant_uses AS b
            WHERE b.organization_id = u.organization_id AND b.grant_id = u.grant_id AND b.sequence < u.sequence
            ORDER BY b.sequence DESC LIMIT 1
        ), {_USED_BEFORE}, 0) AS used
    ) AS before
    CROSS JOIN LATERAL (
        SELECT sum(abs(o.amount)) AS amount FROM grant_uses AS o
        WHERE o.organization_id = u.organization_id AND o.account_id = u.account_id AND o.sequence = u.sequence
    ) AS of_movement
    WHERE (g.account_id = u.account_id AND u.sequence > a.itemized_from AND t.system_account = 'REVENUE'
        AND t.direction = CASE WHEN u.amount > 0 THEN 'DEBIT' ELSE 'CREDIT' END
        AND u.used = before.used + u.amount AND u.rest >= 0 AND u.used + u.rest <= g.amount
        AND of_movement.amount <= t.amount
        AND (u.amount < 0 OR (g.user_id IS NULL OR g.user_id = u.user_id IS TRUE)
            AND (g.model IS NULL OR g.model = u.model IS TRUE))) IS NOT TRUE
"""  # noqa: S608 -- made of constants of ours alone.

_HOLD_RESERVES: Final = """
    SELECT 'holds_reserve_what_is_left', h.organization_id, 'holds/' || h.operation_id,
        'it reserves ' || one.total || ' of grants, and holds ' || greatest(h.amount - h.captured_amount, 0)
    FROM (SELECT * FROM holds WHERE {range} AND state = 'OPEN' AND reserves IS NOT NULL) AS h
    CROSS JOIN LATERAL (
        SELECT sum(CAST(value AS numeric)) AS total FROM jsonb_each_text(h.reserves)
    ) AS one
    WHERE one.total > greatest(h.amount - h.captured_amount, 0)
"""

# Each event is compared with the one before it in its account, so that all follow from the account's first movement.
_GRANT_STANDINGS: Final = """
    SELECT 'grant_rests_follow_from_the_ledger', s.organization_id, 'accounts/' || s.account_id,
        'at movement ' || s.sequence || ' it was funded with ' || s.funded || ' and had used ' || s.used
            || ', but its movements say ' || m.funded || ' and ' || m.funded - m.posted
    FROM (SELECT * FROM grant_standings WHERE {range}) AS s
    LEFT JOIN LATERAL (
        SELECT sequence, funded FROM grant_standings AS b
        WHERE b.organization_id = s.organization_id AND b.account_id = s.account_id AND b.sequence < s.sequence
        ORDER BY b.sequence DESC LIMIT 1
    ) AS b ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(b.funded, 0) + coalesce((
            SELECT sum(CASE t.direction WHEN 'DEBIT' THEN -t.amount ELSE t.amount END) FROM transactions AS t
            WHERE t.organization_id = s.organization_id AND t.account_id = s.account_id
                AND t.sequence > coalesce(b.sequence, 0) AND t.sequence <= s.sequence
                AND t.system_account IS DISTINCT FROM 'REVENUE'
        ), 0) + coalesce((
            SELECT sum(CASE t.direction WHEN 'DEBIT' THEN t.amount ELSE -t.amount END) FROM transactions AS t
            WHERE t.organization_id = s.organization_id AND t.counter_account_id = s.account_id
                AND t.counter_sequence > coalesce(b.sequence, 0) AND t.counter_sequence <= s.sequence
        ), 0) AS funded, coalesce((
            SELECT t.balance_after FROM transactions AS t
            WHERE t.organization_id = s.organization_id AND t.account_id = s.account_id AND t.sequence = s.sequence
        ), (
            SELECT t.counter_balance_after FROM transactions AS t
            WHERE t.organization_id = s.organization_id AND t.counter_account_id = s.account_id
                AND t.counter_sequence = s.sequence
        )) AS posted
    ) AS m
    WHERE s.funded <> m.funded OR s.used IS DISTINCT FROM m.funded - m.posted
    UNION ALL
    SELECT 'grant_rests_follow_from_the_ledger', s.organization_id, 'accounts/' || s.account_id,
        'the rests of its grants are not those of its last event'
    FROM (SELECT * FROM grant_standings WHERE {range}) AS s
    CROSS JOIN LATERAL (
        SELECT bool_or(g.rest > 0 AND NOT s.rests ? CAST(g.grant_id AS text)) AS unknown,
            bool_or(s.rests ? CAST(g.grant_id AS text)
                AND (CAST(s.rests -> CAST(g.grant_id AS text) ->> 0 AS numeric) <> g.rest
                    OR CAST(s.rests -> CAST(g.grant_id AS text) ->> 1 AS numeric) <> g.expired)) AS others
        FROM credit_grants AS g
        WHERE g.organization_id = s.organization_id AND g.account_id = s.account_id AND g.state = 'ACTIVE'
    ) AS g
    WHERE (g.unknown OR g.others) AND NOT EXISTS (
        SELECT FROM accounts AS a
        WHERE a.organization_id = s.organization_id AND a.account_id = s.account_id AND a.itemized_from IS NOT NULL
    ) AND NOT EXISTS (
        SELECT FROM grant_standings AS l
        WHERE l.organization_id = s.organization_id AND l.account_id = s.account_id AND l.sequence > s.sequence
    )
"""

_BY_GRANT: Final = (ORGANIZATION, Column("grant_id", "uuid"))

GRANT_CHECKS: Final[Sequence[Check]] = (
    Walk("credit_grants", _BY_GRANT, (_GRANTS, _GRANTS_END), _CREDIT_GRANTS),
    Walk("credit_grants", _BY_GRANT, (_USES, _RESERVES, _GRANTS, _GRANTS_END), _ITEMIZED_GRANTS),
    Walk("grant_uses", (*_BY_GRANT, Column("sequence", "bigint")), (_USES,), _GRANT_USES),
    Walk("holds", (ORGANIZATION, Column("operation_id", "text")), (_RESERVES,), _HOLD_RESERVES),
    Walk(
        "grant_standings",
        (ORGANIZATION, Column("account_id", "uuid"), Column("sequence", "bigint")),
        (_STANDINGS,),
        _GRANT_STANDINGS,
    ),
)
