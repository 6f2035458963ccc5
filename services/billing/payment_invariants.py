"""The invariants of payments, and the walks that check them; see `invariants`."""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk

_MOVED: Final = Invariant(
    "payments_have_their_movements",
    "A completed payment lacks what it brings, another one has it, or something else was moved for it than is noted.",
)
_RETURNED: Final = Invariant(
    "payments_return_what_was_refunded",
    "What was taken back of a payment is not the part that was refunded or is disputed.",
)
_REFUNDS: Final = Invariant(
    "refunds_are_within_their_payments",
    "The refunds of a payment exceed it, or are more than it says was refunded.",
)
_SETTLED: Final = Invariant(
    "payments_are_settled",
    "For more than an hour, not all that follows from what was said of a payment is done, though its account is open.",
)
_ANSWERED: Final = Invariant(
    "refunds_have_an_outcome",
    "For more than a day, it is not known what became of a refund that the provider was asked for.",
)

# Disputes are with the taxes that the provider added; what is rounded without them may differ by one unit.
# What a payment has moved is a range of its primary key; each movement is found by its operation. What the ledger has
# under the payment's operation ids is a range of the primary key of transactions, and of the unique key of grants.
_PAYMENTS: Final = """
    WITH p AS MATERIALIZED (
        SELECT *, status NOT IN ('PENDING', 'FAILED') AND brings <> 'NOTHING' AS brought,
            'payment/' || payment_id || '/' AS first_operation, 'payment/' || payment_id || '0' AS end_operation
        FROM payments
        WHERE {range} AND (CAST(:since_time AS timestamptz) IS NULL OR update_time >= CAST(:since_time AS timestamptz))
    ), m AS MATERIALIZED (
        SELECT p.organization_id, p.payment_id,
            coalesce(sum(m.amount) FILTER (WHERE m.kind IN ('AWARDED_MONEY', 'AWARDED_CREDITS')), 0) AS awarded,
            coalesce(sum(CASE m.kind WHEN 'TAKEN_CREDITS' THEN m.amount WHEN 'GIVEN_CREDITS' THEN -m.amount END), 0)
                AS credits,
            coalesce(sum(CASE m.kind WHEN 'TAKEN_MONEY' THEN m.amount WHEN 'GIVEN_MONEY' THEN -m.amount END), 0)
                AS money,
            coalesce(sum(CASE m.kind WHEN 'WRITTEN_OFF' THEN m.amount WHEN 'REINSTATED' THEN -m.amount END), 0)
                AS written_off,
            count(*) FILTER (WHERE m.operation_id IS NOT NULL AND (t.operation_id IS NULL OR t.amount <> m.amount
                OR t.currency_code <> p.credits_currency_code OR t.direction <> CASE
                    WHEN m.kind IN ('TAKEN_MONEY', 'TAKEN_CREDITS') THEN 'DEBIT' ELSE 'CREDIT' END)) AS wrong
        FROM p
        LEFT JOIN payment_movements AS m ON m.organization_id = p.organization_id AND m.payment_id = p.payment_id
        LEFT JOIN transactions AS t ON t.organization_id = m.organization_id AND t.operation_id = m.operation_id
        GROUP BY 1, 2
    )
    SELECT 'payments_have_their_movements', p.organization_id, 'payments/' || p.payment_id,
        'it is ' || p.status || ' and has brought ' || m.awarded || ' of ' || coalesce(p.credits_amount, 0)
            || CASE WHEN m.wrong > 0 THEN '; ' || m.wrong || ' of its movements are not in the ledger' ELSE '' END
    FROM p JOIN m ON m.organization_id = p.organization_id AND m.payment_id = p.payment_id
    WHERE m.wrong > 0 OR p.awarded <> p.brought
        OR m.awarded <> CASE WHEN p.brought THEN p.credits_amount ELSE 0 END
    UNION ALL
    SELECT 'payments_have_their_movements', p.organization_id, 'payments/' || p.payment_id,
        'the ledger has ' || o.operation_id || ', which is not noted as its movement'
    FROM p
    CROSS JOIN LATERAL (
        SELECT t.operation_id, t.operation_id AS moved FROM transactions AS t
        WHERE t.organization_id = p.organization_id AND t.operation_id > p.first_operation
            AND t.operation_id < p.end_operation
        UNION ALL
        SELECT g.operation_id, CAST(g.grant_id AS text) FROM credit_grants AS g
        WHERE g.organization_id = p.organization_id AND g.operation_id > p.first_operation
            AND g.operation_id < p.end_operation
    ) AS o
    LEFT JOIN payment_movements AS m ON m.organization_id = p.organization_id AND m.operation_id = o.moved
        AND m.payment_id = p.payment_id
    WHERE m.operation_id IS NULL
    UNION ALL
    SELECT 'payments_return_what_was_refunded', p.organization_id, 'payments/' || p.payment_id,
        'it is ' || p.status || ' with ' || p.refunded_amount || ' refunded and ' || disputed.amount
            || ' disputed of ' || p.amount || ', and '
            || m.credits + m.money + m.written_off || ' was taken back of ' || coalesce(p.credits_amount, 0)
    FROM p JOIN m ON m.organization_id = p.organization_id AND m.payment_id = p.payment_id
    CROSS JOIN LATERAL (
        SELECT split_part(p.said -> 'gross_amount' ->> 2, ' ', 1) AS total,
            split_part(p.said -> 'gross_amount' ->> 2, ' ', 2) AS unit
    ) AS said_gross
    CROSS JOIN LATERAL (
        SELECT coalesce(CAST(said_gross.total AS numeric), p.amount) AS total,
            coalesce(CAST(said_gross.unit AS numeric), 0) AS unit
    ) AS gross
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(CASE split_part(said.value ->> 2, ' ', 2)
            WHEN p.currency_code THEN CAST(split_part(said.value ->> 2, ' ', 1) AS numeric) ELSE gross.total END), 0)
            AS amount
        FROM jsonb_each(p.said) AS said
        WHERE (said.key = 'disputed' OR starts_with(said.key, 'disputed/')) AND said.value ->> 2 <> 'false'
    ) AS disputed
    CROSS JOIN LATERAL (
        SELECT CASE WHEN NOT p.brought THEN 0 ELSE p.credits_amount
            * least(p.refunded_amount * gross.total + disputed.amount * p.amount, p.amount * gross.total)
            / (p.amount * gross.total) END AS amount,
            0.000000001 + coalesce(p.credits_amount, 0) * gross.unit / p.amount AS rounded
    ) AS due
    WHERE (p.taken_credits, p.taken_money, p.written_off) <> (m.credits, m.money, m.written_off)
        OR p.settled AND abs(due.amount - m.credits - m.money - m.written_off) > due.rounded
    UNION ALL
    SELECT 'refunds_are_within_their_payments', p.organization_id, 'payments/' || p.payment_id,
        r.completed || ' was refunded and ' || r.requested || ' is asked for, of ' || p.amount || ', and it says '
            || p.refunded_amount
    FROM p
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount) FILTER (WHERE state = 'COMPLETED'), 0) AS completed,
            coalesce(sum(amount) FILTER (WHERE state = 'REQUESTED'), 0) AS requested
        FROM payment_refunds AS r WHERE r.organization_id = p.organization_id AND r.payment_id = p.payment_id
    ) AS r
    WHERE r.completed > p.refunded_amount OR r.completed + r.requested > p.amount
    UNION ALL
    SELECT 'payments_are_settled', p.organization_id, 'payments/' || p.payment_id,
        'it is ' || p.status || ' and not settled since ' || p.update_time
    FROM p
    WHERE NOT p.settled AND p.update_time < CAST(:now AS timestamptz) - interval '1 hour'
        AND NOT EXISTS (
            SELECT FROM accounts AS a
            WHERE a.organization_id = ANY (ARRAY[p.organization_id]) AND a.owner_id = p.organization_id
                AND a.currency_code = p.credits_currency_code AND a.state = 'CLOSED'
        )
"""

# Nobody but who asked for a refund asks the provider again, so this is left until the request is repeated.
_ANSWERS: Final = """
    SELECT 'refunds_have_an_outcome', organization_id, 'payments/' || payment_id,
        'refund ' || refund_id || ' of ' || amount || ', request ' || request_id || ', is asked for since '
            || create_time || '; repeat the request'
    FROM payment_refunds
    WHERE {range} AND state = 'REQUESTED' AND create_time < CAST(:now AS timestamptz) - interval '1 day'
"""

PAYMENT_CHECKS: Final[Sequence[Check]] = (
    Walk(
        "payments",
        (ORGANIZATION, Column("payment_id", "uuid")),
        (_MOVED, _RETURNED, _REFUNDS, _SETTLED),
        _PAYMENTS,
    ),
    Walk(
        "payment_refunds",
        (ORGANIZATION, Column("payment_id", "uuid"), Column("refund_id", "uuid")),
        (_ANSWERED,),
        _ANSWERS,
    ),
)
