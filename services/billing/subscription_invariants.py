"""The invariants of subscriptions, and the walks that check them; see `invariants`."""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk

_TILE: Final = Invariant(
    "subscription_periods_tile",
    "A period of a subscription does not begin where the one before ended, and no change of plan has cut that one.",
)
_MOVED: Final = Invariant(
    "subscription_events_have_their_movements",
    "What a subscription was charged, given back or refilled is not what was moved under its operation id.",
)
_PLANNED: Final = Invariant(
    "subscription_events_are_completed",
    "An event of a subscription is planned for more than an hour, though the subscription was not set aside, and no "
    "provider has said that its charge is pending.",
)
_MINIMUMS: Final = Invariant(
    "subscription_minimums_follow_each_other",
    "What was short of a minimum was charged for a time that an earlier charge of the subscription's minimum covers.",
)
_FOLLOW: Final = Invariant(
    "subscriptions_follow_from_their_events",
    "A subscription's state, plan or sequence differs from its last event.",
)
_DUE: Final = Invariant(
    "subscriptions_know_what_is_due",
    "The time at which the next thing is due for a subscription is not what follows from it.",
)
_PLANS: Final = Invariant(
    "live_subscriptions_have_their_plans",
    "A live subscription is to a version of a plan that was never published, or will change to one.",
)
_ONCE: Final = Invariant("subjects_are_subscribed_once", "A subject has several live subscriptions.")
_DELETED: Final = Invariant(
    "deleted_organizations_have_no_subscriptions",
    "A subscription is live more than an hour after its organization was deleted.",
)

_SUBSCRIPTION: Final = (ORGANIZATION, Column("subscription_id", "uuid"))
_FINAL: Final = "('CANCELLED', 'EXPIRED')"

# An event before another is found by the primary key, a movement by its operation id, a grant by its own.
_EVENTS: Final = """
    WITH e AS MATERIALIZED (
        SELECT * FROM subscription_events
        WHERE {range}
            AND (CAST(:since_time AS timestamptz) IS NULL OR create_time >= CAST(:since_time AS timestamptz) OR planned)
    )
    SELECT 'subscription_periods_tile', e.organization_id, 'subscriptions/' || e.subscription_id,
        'the period of event ' || e.sequence || ' is from ' || e.period_start_time || ' to ' || e.period_end_time
            || coalesce(', after one from ' || b.period_start_time || ' to ' || b.period_end_time, '')
    FROM e
    LEFT JOIN LATERAL (
        SELECT o.period_start_time, o.period_end_time FROM subscription_events AS o
        WHERE o.organization_id = e.organization_id AND o.subscription_id = e.subscription_id
            AND o.sequence < e.sequence AND o.period_start_time IS NOT NULL
        ORDER BY o.sequence DESC LIMIT 1
    ) AS b ON true
    WHERE NOT e.planned AND e.period_start_time IS NOT NULL AND (e.period_end_time <= e.period_start_time
        OR NOT CASE WHEN b.period_start_time IS NULL THEN e.period_start_time = e.effective_time
            ELSE e.period_start_time = b.period_end_time
                OR e.period_start_time = b.period_start_time AND e.period_end_time = b.period_end_time
                OR e.kind = 'PLAN_CHANGED' AND e.period_start_time = e.effective_time
                    AND e.period_start_time BETWEEN b.period_start_time AND b.period_end_time
            END)
    UNION ALL
    SELECT 'subscription_events_have_their_movements', e.organization_id, 'subscriptions/' || e.subscription_id,
        'event ' || e.sequence || ' charged ' || e.charge_amount || ' ' || e.charge_currency_code || ', but '
            || coalesce(t.direction || ' ' || t.amount || ' ' || t.currency_code, 'nothing') || ' was moved'
    FROM e
    LEFT JOIN transactions AS t
        ON t.organization_id = e.organization_id AND t.operation_id = e.charge_operation_id
    WHERE NOT e.planned AND e.charge_operation_id IS NOT NULL AND (t.operation_id IS NULL
        OR t.currency_code <> e.charge_currency_code
        OR CASE t.direction WHEN 'DEBIT' THEN t.amount ELSE -t.amount END <> e.charge_amount)
    UNION ALL
    SELECT 'subscription_events_have_their_movements', e.organization_id, 'subscriptions/' || e.subscription_id,
        'event ' || e.sequence || ' brought ' || r.refill || ', but '
            || coalesce(g.amount || ' ' || g.currency_code, 'nothing') || ' was granted'
    FROM e
    CROSS JOIN LATERAL (
        SELECT d.refill ->> 'operation_id' AS operation_id, d.refill -> 'amount' AS refill
        FROM jsonb_array_elements(coalesce(e.details -> 'refills', '[]')) AS d (refill)
        UNION ALL
        SELECT n.operation_id, NULL FROM unnest(e.grant_operation_ids) AS n (operation_id)
        WHERE NOT e.details @> jsonb_build_object('refills',
            jsonb_build_array(jsonb_build_object('operation_id', n.operation_id)))
    ) AS r
    LEFT JOIN credit_grants AS g ON g.organization_id = e.organization_id AND g.operation_id = r.operation_id
    WHERE NOT e.planned AND (g.operation_id IS NULL OR r.refill IS NULL OR g.kind <> 'INCLUDED'
        OR g.currency_code <> r.refill ->> 'currency_code' OR g.amount <> CAST(r.refill ->> 'value' AS numeric)
        OR NOT r.operation_id = ANY (e.grant_operation_ids))
    UNION ALL
    SELECT 'subscription_minimums_follow_each_other', e.organization_id, 'subscriptions/' || e.subscription_id,
        'event ' || e.sequence || ' is for the time from ' || l.start_time || ', and event ' || b.sequence
            || ' for that until ' || b.effective_time
    FROM e
    CROSS JOIN LATERAL (
        SELECT CAST(e.details -> 'lines' -> 0 ->> 'start_time' AS timestamptz) AS start_time
    ) AS l
    CROSS JOIN LATERAL (
        SELECT o.sequence, o.effective_time FROM subscription_events AS o
        WHERE o.organization_id = e.organization_id AND o.subscription_id = e.subscription_id
            AND o.sequence < e.sequence AND o.kind = 'MINIMUM_CHARGED'
        ORDER BY o.sequence DESC LIMIT 1
    ) AS b
    WHERE e.kind = 'MINIMUM_CHARGED' AND l.start_time < b.effective_time
    UNION ALL
    SELECT 'subscription_events_are_completed', e.organization_id, 'subscriptions/' || e.subscription_id,
        'event ' || e.sequence || ' is planned since ' || e.create_time
    FROM e
    LEFT JOIN subscriptions AS s ON s.organization_id = e.organization_id AND s.subscription_id = e.subscription_id
    LEFT JOIN payments AS p ON p.organization_id = e.organization_id AND p.operation_id = e.charge_operation_id
    WHERE e.planned AND e.create_time < CAST(:now AS timestamptz) - interval '1 hour' AND s.set_aside_time IS NULL
        AND (p.status IS DISTINCT FROM 'PENDING' OR p.said -> 'status' IS NULL)
"""

# An event and the other subscriptions of a subject are found by primary key and by the index on users.
_SUBSCRIPTIONS: Final = f"""
    WITH s AS MATERIALIZED (
        SELECT * FROM subscriptions WHERE {{range}}
            AND (CAST(:since_time AS timestamptz) IS NULL OR update_time >= CAST(:since_time AS timestamptz))
    )
    SELECT 'subscriptions_follow_from_their_events', s.organization_id, 'subscriptions/' || s.subscription_id,
        'it is ' || s.state || ' at ' || s.last_sequence || ', but its last event led to '
            || coalesce(e.to_state || ' at ' || e.sequence, 'nothing')
    FROM s
    LEFT JOIN LATERAL (
        SELECT o.sequence, o.kind, o.to_state, o.plan_code, o.plan_version FROM subscription_events AS o
        WHERE o.organization_id = s.organization_id AND o.subscription_id = s.subscription_id AND NOT o.planned
        ORDER BY o.sequence DESC LIMIT 1
    ) AS e ON true
    WHERE e.sequence IS DISTINCT FROM s.last_sequence OR e.to_state <> s.state
        OR e.kind <> 'PLAN_CHANGE_SCHEDULED' AND (e.plan_code IS DISTINCT FROM s.plan_code
            OR e.plan_version IS DISTINCT FROM s.plan_version)
    UNION ALL
    SELECT 'subscriptions_know_what_is_due', s.organization_id, 'subscriptions/' || s.subscription_id,
        'it is ' || s.state || ' and due at ' || coalesce(CAST(s.due_time AS text), 'no time') || ', not at '
            || coalesce(CAST(d.due_time AS text), 'any')
    FROM s
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.state NOT IN {_FINAL} THEN least(s.expire_time, CASE
            WHEN s.waits_for = 'START' THEN s.start_time
            WHEN s.waits_for = 'PAYMENT' OR s.state = 'PAST_DUE'
                THEN least(s.next_payment_time, CASE WHEN s.cancel_at_period_end THEN s.period_end_time END)
            WHEN s.waits_for IS NULL THEN s.period_end_time + CASE
                WHEN s.collection = 'PROVIDER' AND s.state IN ('TRIALING', 'ACTIVE') AND NOT s.cancel_at_period_end
                THEN interval '48 hours' ELSE interval '0' END
        END) END AS due_time
    ) AS d
    WHERE s.due_time IS DISTINCT FROM d.due_time AND NOT EXISTS (
            SELECT FROM subscription_events AS e
            WHERE e.organization_id = s.organization_id AND e.subscription_id = s.subscription_id AND e.planned
        )
        OR s.state IN ('TRIALING', 'ACTIVE', 'PAST_DUE') AND s.due_time IS NULL
    UNION ALL
    SELECT 'live_subscriptions_have_their_plans', s.organization_id, 'subscriptions/' || s.subscription_id,
        'there is no version ' || p.version || ' of the plan ' || p.code
    FROM s
    CROSS JOIN LATERAL (VALUES
        (s.plan_id, s.plan_code, s.plan_version), (s.next_plan_id, s.next_plan_code, s.next_plan_version)
    ) AS p (plan_id, code, version)
    LEFT JOIN plan_versions AS v ON v.plan_id = p.plan_id AND v.version = p.version
    LEFT JOIN plans ON plans.plan_id = p.plan_id AND plans.plan_code = p.code
    WHERE s.state NOT IN {_FINAL} AND p.plan_id IS NOT NULL AND (v.plan_id IS NULL OR plans.plan_id IS NULL)
    UNION ALL
    SELECT 'subjects_are_subscribed_once', s.organization_id, 'subscriptions/' || s.subscription_id,
        'the subscription ' || o.subscription_id || ' of the same ' || lower(s.subject) || ' is live, too'
    FROM s
    CROSS JOIN LATERAL (
        SELECT * FROM subscriptions AS u WHERE u.organization_id = s.organization_id AND u.user_id = s.user_id
        UNION ALL
        SELECT * FROM subscriptions AS u
        WHERE s.user_id IS NULL AND u.organization_id = s.organization_id AND u.user_id IS NULL
    ) AS o
    WHERE o.subject = s.subject AND o.model IS NOT DISTINCT FROM s.model AND o.state NOT IN {_FINAL}
        AND o.subscription_id > s.subscription_id AND s.state NOT IN {_FINAL}
    UNION ALL
    SELECT 'deleted_organizations_have_no_subscriptions', s.organization_id, 'subscriptions/' || s.subscription_id,
        'the organization was deleted at ' || g.delete_time
    FROM s
    JOIN deleted_organizations AS g ON g.organization_id = ANY (ARRAY[s.organization_id])
    WHERE s.state NOT IN {_FINAL} AND g.delete_time < CAST(:now AS timestamptz) - interval '1 hour'
"""  # noqa: S608 -- a constant of ours.

SUBSCRIPTION_CHECKS: Final[Sequence[Check]] = (
    Walk("subscriptions", _SUBSCRIPTION, (_FOLLOW, _DUE, _PLANS, _ONCE, _DELETED), _SUBSCRIPTIONS),
    Walk(
        "subscription_events",
        (*_SUBSCRIPTION, Column("sequence", "bigint")),
        (_TILE, _MOVED, _MINIMUMS, _PLANNED),
        _EVENTS,
    ),
)
