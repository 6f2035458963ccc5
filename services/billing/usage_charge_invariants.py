"""The invariants of what plans charge for the usage of periods, and the walk that checks them; see `invariants`."""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk

_MOVED: Final = Invariant(
    "usage_periods_have_their_movements",
    "What was charged for the usage of a period is not what its movements add up to, or not what the ledger moved.",
)
_PRICED: Final = Invariant(
    "usage_periods_cost_what_was_used",
    "What was charged for the usage of a period is not what its quantity comes to by the plan's steps.",
)
_APART: Final = Invariant(
    "usage_periods_are_apart", "Two times of a subscription overlap, so that usage is charged in both."
)
_FOLLOW: Final = Invariant(
    "usage_periods_follow_each_other",
    "Usage is charged for two times of a subscription to the same plan, and not for the time between them.",
)
_CHARGED: Final = Invariant(
    "usage_periods_are_charged",
    "A period's usage was not charged for a day after its end, or a movement is planned for more than an hour.",
)

# Movements of a time are a range of their primary key, and each is found in the ledger by its operation id. A movement
# that is planned may be made already. The steps are added up to the last digit: what was charged is rounded, and
# differs from them by half of the ledger's smallest amount at most. What follows a time begins where it ends, unless
# the subscription had another plan between.
_PERIODS: Final = """
    WITH p AS MATERIALIZED (
        SELECT *, 'subscriptions/' || subscription_id AS resource,
            usage_charge_code || ' from ' || start_time || ' to ' || end_time AS told
        FROM usage_periods WHERE {range}
            AND (CAST(:since_time AS timestamptz) IS NULL OR end_time >= CAST(:since_time AS timestamptz)
                OR looked_time >= CAST(:since_time AS timestamptz) OR looked_time IS NULL)
    )
    SELECT 'usage_periods_have_their_movements', p.organization_id, p.resource,
        p.told || ' was charged ' || p.amount || ' in ' || p.sequence || ' movements, but there are ' || m.count
            || ' of together ' || m.amount
    FROM p
    CROSS JOIN LATERAL (
        SELECT count(*) AS count, coalesce(sum(o.change), 0) AS amount FROM usage_period_movements AS o
        WHERE o.organization_id = p.organization_id AND o.subscription_id = p.subscription_id
            AND o.start_time = p.start_time AND o.usage_charge_code = p.usage_charge_code
    ) AS m
    WHERE m.count <> p.sequence OR m.amount <> p.amount
    UNION ALL
    SELECT 'usage_periods_have_their_movements', p.organization_id, p.resource,
        p.told || ': movement ' || o.sequence || ' is ' || o.change || ' ' || p.currency_code || ', but '
            || coalesce(t.direction || ' ' || t.amount || ' ' || t.currency_code, 'nothing') || ' was moved'
    FROM p
    JOIN usage_period_movements AS o
        ON o.organization_id = p.organization_id AND o.subscription_id = p.subscription_id
            AND o.start_time = p.start_time AND o.usage_charge_code = p.usage_charge_code
    LEFT JOIN transactions AS t ON t.organization_id = o.organization_id AND t.operation_id = o.operation_id
    WHERE NOT (o.planned AND t.operation_id IS NULL) AND (t.operation_id IS NULL
        OR t.currency_code <> p.currency_code
        OR CASE t.direction WHEN 'DEBIT' THEN t.amount ELSE -t.amount END <> o.change)
    UNION ALL
    SELECT 'usage_periods_cost_what_was_used', p.organization_id, p.resource,
        p.told || ' was charged ' || p.amount || ' for ' || p.quantity || ', which comes to ' || c.amount
    FROM p
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(CASE
            WHEN p.charge ->> 'mode' = 'GRADUATED' AND p.quantity > s.lower
                THEN (least(p.quantity, s.upper) - s.lower) * s.price + s.flat
            WHEN p.charge ->> 'mode' = 'VOLUME' AND p.quantity > s.lower AND p.quantity <= s.upper
                THEN p.quantity * s.price + s.flat
            ELSE 0 END), 0)
            + CASE WHEN p.quantity > 0 OR CAST(p.charge ->> 'flat_fee_without_usage' AS boolean)
                THEN p.base ELSE 0 END AS amount
        FROM (
            SELECT coalesce(CAST(lag(e.step ->> 'up_to') OVER w AS numeric), 0) AS lower,
                coalesce(CAST(e.step ->> 'up_to' AS numeric), 'infinity') AS upper,
                CAST(e.step ->> 'price' AS numeric) AS price, CAST(e.step ->> 'flat' AS numeric) AS flat
            FROM jsonb_array_elements(p.charge -> 'steps') WITH ORDINALITY AS e (step, number)
            WINDOW w AS (ORDER BY e.number)
        ) AS s
    ) AS c
    WHERE p.charge IS NOT NULL AND p.looked_time IS NOT NULL AND abs(c.amount - p.amount) > 0.0000000005
    UNION ALL
    SELECT 'usage_periods_cost_what_was_used', p.organization_id, p.resource,
        p.told || ' was charged ' || p.amount || ' as the rest of a minimum, of which ' || p.base
            || ' was short before usage charges of ' || c.amount
    FROM p
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(o.amount), 0) AS amount FROM usage_periods AS o
        WHERE o.organization_id = p.organization_id AND o.subscription_id = p.subscription_id
            AND o.start_time >= p.start_time AND o.start_time < p.end_time AND o.usage_charge_code <> ''
    ) AS c
    WHERE p.charge IS NULL AND p.looked_time IS NOT NULL AND p.due_time IS NULL
        AND p.amount <> greatest(p.base - c.amount, 0)
    UNION ALL
    SELECT 'usage_periods_are_apart', p.organization_id, p.resource,
        p.told || ' overlaps with the time from ' || o.start_time || ' to ' || o.end_time
    FROM p
    JOIN usage_periods AS o
        ON o.organization_id = p.organization_id AND o.subscription_id = p.subscription_id
            AND o.usage_charge_code = p.usage_charge_code
    WHERE o.start_time > p.start_time AND o.start_time < p.end_time
    UNION ALL
    SELECT 'usage_periods_follow_each_other', p.organization_id, p.resource,
        p.told || ' is followed by the time from ' || f.start_time
    FROM p
    LEFT JOIN LATERAL (
        SELECT o.start_time, o.plan_code, o.plan_version FROM usage_periods AS o
        WHERE o.organization_id = p.organization_id AND o.subscription_id = p.subscription_id
            AND o.start_time > p.start_time AND o.usage_charge_code = p.usage_charge_code
        ORDER BY o.start_time LIMIT 1
    ) AS o ON true
    JOIN subscriptions AS s ON s.organization_id = p.organization_id AND s.subscription_id = p.subscription_id
    CROSS JOIN LATERAL (
        SELECT coalesce(o.start_time, s.usage_since_time) AS start_time,
            CASE WHEN o.start_time IS NULL THEN s.plan_code ELSE o.plan_code END AS plan_code,
            coalesce(o.plan_version, s.plan_version) AS plan_version
    ) AS f
    WHERE p.charge IS NOT NULL AND f.start_time > p.end_time
        AND f.plan_code = p.plan_code AND f.plan_version = p.plan_version
        AND NOT EXISTS (
            SELECT FROM subscription_events AS e
            WHERE e.organization_id = p.organization_id AND e.subscription_id = p.subscription_id
                AND e.kind = 'PLAN_CHANGED' AND e.effective_time > p.end_time AND e.effective_time <= f.start_time
        )
    UNION ALL
    SELECT 'usage_periods_are_charged', p.organization_id, p.resource,
        p.told || ' was not charged' || coalesce(': ' || nullif(p.error, ''), '')
    FROM p
    WHERE p.looked_time IS NULL AND p.create_time < CAST(:now AS timestamptz) - interval '1 day'
    UNION ALL
    SELECT 'usage_periods_are_charged', p.organization_id, p.resource,
        p.told || ': movement ' || o.sequence || ' is planned since ' || o.create_time
            || coalesce(': ' || nullif(p.error, ''), '')
    FROM p
    JOIN usage_period_movements AS o
        ON o.organization_id = p.organization_id AND o.subscription_id = p.subscription_id
            AND o.start_time = p.start_time AND o.usage_charge_code = p.usage_charge_code
    WHERE o.planned AND o.create_time < CAST(:now AS timestamptz) - interval '1 hour'
"""

USAGE_CHARGE_CHECKS: Final[Sequence[Check]] = (
    Walk(
        "usage_periods",
        (
            ORGANIZATION,
            Column("subscription_id", "uuid"),
            Column("start_time", "timestamptz"),
            Column("usage_charge_code", "text"),
        ),
        (_MOVED, _PRICED, _APART, _FOLLOW, _CHARGED),
        _PERIODS,
    ),
)
