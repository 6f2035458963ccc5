"""The invariants of subscriptions that providers collect, and the walks that check them; see `invariants`."""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk

_DONE: Final = Invariant(
    "next_steps_are_done",
    "What follows from a payment of a plan, or from what a provider said of a subscription, is not done for an hour.",
)
_PAID: Final = Invariant(
    "period_payments_pay_their_subscription",
    "A payment pays a charge that is not of its subscription, or has not brought its money, or brought another unit.",
)
_ENDED: Final = Invariant(
    "providers_renew_no_ended_subscription",
    "A provider renews a subscription that ended here more than a day ago, so that the payer is charged for nothing.",
)

_STEPS: Final = """
    SELECT 'next_steps_are_done', n.organization_id, lower(n.kind) || '/' || n.key,
        'it could be done since ' || n.since_time || coalesce('; ' || nullif(n.failure, ''), '')
    FROM next_steps AS n
    WHERE {range} AND n.since_time < CAST(:now AS timestamptz) - interval '1 hour'
"""
# Payments by primary key, movements by their operation.
_PERIODS: Final = """
    SELECT 'period_payments_pay_their_subscription', u.organization_id, 'payments/' || u.payment_id,
        'it pays ' || u.operation_id || ', and ' || coalesce('has ' || CASE WHEN p.awarded THEN '' ELSE 'not ' END
            || 'brought ' || p.credits_currency_code || ' for ' || coalesce(CAST(p.subscription_id AS text), 'nothing'),
            'is missing')
    FROM (
        SELECT * FROM period_payments
        WHERE {range} AND (CAST(:since_time AS timestamptz) IS NULL OR create_time >= CAST(:since_time AS timestamptz))
    ) AS u
    LEFT JOIN payments AS p ON p.organization_id = u.organization_id AND p.payment_id = u.payment_id
    LEFT JOIN transactions AS t ON t.organization_id = u.organization_id AND t.operation_id = u.operation_id
    WHERE p.payment_id IS NULL OR NOT p.awarded OR p.subscription_id IS DISTINCT FROM u.subscription_id
        OR NOT starts_with(u.operation_id, 'subscription/' || u.subscription_id || '/')
        OR t.direction <> 'DEBIT' OR t.currency_code <> p.credits_currency_code
"""
# Subscriptions by primary key.
_EXTERNALS: Final = """
    SELECT 'providers_renew_no_ended_subscription', e.organization_id,
        'external-subscriptions/' || e.provider || '/' || e.external_id,
        'it is ' || e.status || ' there, and ' || s.subscription_id || ' is ' || s.state || ' since ' || s.state_time
    FROM (
        SELECT * FROM external_subscriptions
        WHERE {range} AND status IN ('ACTIVE', 'PAST_DUE', 'PAUSED')
    ) AS e
    JOIN subscriptions AS s ON s.organization_id = e.organization_id AND s.subscription_id = e.subscription_id
    WHERE s.state IN ('CANCELLED', 'EXPIRED') AND s.state_time < CAST(:now AS timestamptz) - interval '1 day'
"""

RECURRING_CHECKS: Final[Sequence[Check]] = (
    Walk("next_steps", (ORGANIZATION, Column("kind", "text"), Column("key", "text")), (_DONE,), _STEPS),
    Walk("period_payments", (ORGANIZATION, Column("payment_id", "uuid")), (_PAID,), _PERIODS),
    Walk(
        "external_subscriptions",
        (ORGANIZATION, Column("provider", "text"), Column("external_id", "text")),
        (_ENDED,),
        _EXTERNALS,
    ),
)
