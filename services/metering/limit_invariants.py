"""The invariants of limits, and the walk over counters that checks them.

Usage is written with what it counts in one transaction, authorizations with what they reserve, and what is given back
with a note of it: so a statement sees all of each or nothing.

A counter's usage is found by organization and time. It is counted in the window of its own time, or in the window of
an authorization that came before its settlement, which may be 35 days late: so it has a time of at most 35 days before
the window. Only history that operators load may be older; it counts in windows without an end alone. Authorizations
have the time of their window. Of each organization the latest million usages and the latest million authorizations are
looked at, and what corrections have changed since the window began: where that is more, what is used is not compared.
Where these reach back before a counter's window, the counter has just what they add up to; else it has at least that.
"""

from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Column, Invariant, Walk

_LOOKED_AT_MAX: Final = 1_000_000
_USAGE_LATE: Final = "interval '36 days'"
"""How much earlier than its window usage may be, with a day for clocks that differ."""
_AUTHORIZED_EARLY: Final = "interval '10 minutes'"
"""How much earlier than its window an authorization that reserves in it may be created: it waited to be written."""

USED: Final = Invariant(
    "limits_used_matches_usage",
    "What a limit counts as used differs from the sum over the usage and allocations that it counts.",
)
RESERVED: Final = Invariant(
    "limits_reserved_matches_authorizations",
    "What a limit counts as reserved differs from the sum over the authorizations and leases that are neither settled"
    " nor given back.",
)
SOUGHT: Final = Invariant(
    "reservations_are_looked_for", "A call or a lease has reserved something of limits, and nobody looks for its end."
)

# Sums are made for all counters of the organizations in the range at once. The million is counted by index alone, for
# usage its primary key, for authorizations `authorizations_by_time`; what counts in no limit costs no more than that.
_COUNTERS: Final = f"""
    WITH counter AS MATERIALIZED (
        SELECT * FROM limit_counters WHERE {{range}}
    ), organization AS MATERIALIZED (
        SELECT w.organization_id, w.since_time, u.cut_time AS usage_cut, a.cut_time AS authorized_cut,
            n.cut_time AS corrected_cut
        FROM (SELECT organization_id, min(window_start) AS since_time FROM counter GROUP BY 1) AS w
        LEFT JOIN LATERAL (
            SELECT r.occur_time AS cut_time FROM usage_records AS r WHERE r.organization_id = w.organization_id
            ORDER BY r.occur_time DESC, r.usage_id DESC OFFSET {_LOOKED_AT_MAX} LIMIT 1
        ) AS u ON true
        LEFT JOIN LATERAL (
            SELECT z.create_time AS cut_time FROM authorizations AS z WHERE z.organization_id = w.organization_id
            ORDER BY z.create_time DESC, z.operation_id DESC OFFSET {_LOOKED_AT_MAX} LIMIT 1
        ) AS a ON true
        LEFT JOIN LATERAL (
            SELECT l.create_time AS cut_time FROM usage_correction_lines AS l
            WHERE l.organization_id = w.organization_id AND l.create_time >= w.since_time - {_AUTHORIZED_EARLY}
            ORDER BY l.create_time DESC OFFSET {_LOOKED_AT_MAX} LIMIT 1
        ) AS n ON true
    ), counted AS (
        SELECT o.organization_id, c.counter_id, c.amount
        FROM organization AS o JOIN usage_records AS r
            ON r.organization_id = o.organization_id AND r.occur_time >= o.since_time - {_USAGE_LATE}
            AND (o.usage_cut IS NULL OR r.occur_time > o.usage_cut)
        CROSS JOIN LATERAL unnest(r.counters, r.counted) AS c (counter_id, amount)
        WHERE r.counters IS NOT NULL
        UNION ALL
        SELECT o.organization_id, c.counter_id, c.amount
        FROM organization AS o JOIN usage_records AS r
            ON r.organization_id = o.organization_id AND r.occur_time >= o.since_time - {_USAGE_LATE}
            AND (o.usage_cut IS NULL OR r.occur_time > o.usage_cut)
        JOIN usage_pricings AS p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
        CROSS JOIN LATERAL unnest(p.counters, p.counted) AS c (counter_id, amount)
        WHERE r.counters IS NOT NULL AND r.cost IS NULL
        UNION ALL
        SELECT o.organization_id, c.counter_id, CASE WHEN l.added THEN c.amount ELSE -c.amount END
        FROM organization AS o JOIN usage_correction_lines AS l
            ON l.organization_id = o.organization_id AND l.create_time >= o.since_time - {_AUTHORIZED_EARLY}
            AND o.corrected_cut IS NULL
        CROSS JOIN LATERAL unnest(l.counters, l.counted) AS c (counter_id, amount)
        WHERE l.counters IS NOT NULL
        UNION ALL
        SELECT organization_id, counter_id, hits FROM counter WHERE hits <> 0
        UNION ALL
        SELECT q.organization_id, c.counter_id, c.amount
        FROM organization AS o JOIN quota_allocations AS q
            ON q.organization_id = o.organization_id AND q.create_time >= o.since_time - {_AUTHORIZED_EARLY}
        CROSS JOIN LATERAL unnest(q.counters, q.taken) AS c (counter_id, amount)
    ), used AS (
        SELECT organization_id, counter_id, sum(amount) AS amount FROM counted GROUP BY 1, 2
    ), held AS (
        SELECT o.organization_id, a.operation_id, c.counter_id, c.amount
        FROM organization AS o JOIN authorizations AS a
            ON a.organization_id = o.organization_id AND a.create_time >= o.since_time - {_AUTHORIZED_EARLY}
            AND (o.authorized_cut IS NULL OR a.create_time > o.authorized_cut)
        CROSS JOIN LATERAL unnest(a.counters, a.reserved) AS c (counter_id, amount)
        WHERE a.counters IS NOT NULL AND NOT a.limits_released AND NOT EXISTS (
            SELECT FROM usage_operations AS s
            WHERE s.organization_id = a.organization_id AND s.operation_id = a.operation_id AND s.fingerprint <> ''
        )
    ), leased AS (
        SELECT o.organization_id, q.operation_id, c.counter_id, c.amount
        FROM organization AS o JOIN quota_allocations AS q
            ON q.organization_id = o.organization_id AND q.create_time >= o.since_time - {_AUTHORIZED_EARLY}
        CROSS JOIN LATERAL unnest(q.counters, q.reserved) AS c (counter_id, amount)
        WHERE NOT q.released AND q.lease_end_time IS NOT NULL
    ), reserved AS (
        SELECT organization_id, counter_id, sum(amount) AS amount FROM (
            SELECT organization_id, counter_id, amount FROM held
            UNION ALL SELECT organization_id, counter_id, amount FROM leased
        ) AS r GROUP BY 1, 2
    ), compared AS (
        SELECT c.*, coalesce(u.amount, 0) AS usage_used, coalesce(r.amount, 0) AS authorized_reserved,
            o.usage_cut IS NULL OR o.usage_cut < c.window_start - {_USAGE_LATE} AS usage_is_whole,
            o.corrected_cut IS NULL AS corrections_are_whole,
            o.authorized_cut IS NULL OR o.authorized_cut < c.window_start - {_AUTHORIZED_EARLY} AS authorized_is_whole
        FROM counter AS c JOIN organization AS o ON o.organization_id = c.organization_id
        LEFT JOIN used AS u ON u.organization_id = c.organization_id AND u.counter_id = c.counter_id
        LEFT JOIN reserved AS r ON r.organization_id = c.organization_id AND r.counter_id = c.counter_id
    )
    SELECT 'limits_used_matches_usage', organization_id, 'limits/' || limit_id || '/counters/' || counter_id,
        format('it has used %s, but its usage adds up to %s', used, usage_used)
    FROM compared WHERE corrections_are_whole AND (used < usage_used OR (usage_is_whole AND used > usage_used))
    UNION ALL
    SELECT 'limits_reserved_matches_authorizations', organization_id,
        'limits/' || limit_id || '/counters/' || counter_id,
        format('it has reserved %s, but open authorizations add up to %s', reserved, authorized_reserved)
    FROM compared WHERE reserved < authorized_reserved OR (authorized_is_whole AND reserved > authorized_reserved)
    UNION ALL
    SELECT DISTINCT 'reservations_are_looked_for', h.organization_id, 'authorizations/' || h.operation_id,
        'it has reserved something, and nobody looks for its end'
    FROM held AS h
    WHERE NOT EXISTS (
        SELECT FROM lapse_checks AS l WHERE l.organization_id = h.organization_id AND l.operation_id = h.operation_id
    )
    UNION ALL
    SELECT DISTINCT 'reservations_are_looked_for', h.organization_id, 'leases/' || h.operation_id,
        'it has reserved something, and nobody looks for its end'
    FROM leased AS h
    WHERE NOT EXISTS (
        SELECT FROM quota_leases AS l WHERE l.organization_id = h.organization_id AND l.operation_id = h.operation_id
    )
"""  # noqa: S608 -- made of constants of ours alone.

COUNTERS: Final = Walk(
    "limit_counters",
    (ORGANIZATION, Column("counter_id", "uuid")),
    (USED, RESERVED, SOUGHT),
    _COUNTERS,
    rows_min=1,
)
