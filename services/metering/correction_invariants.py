# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The invariants of corrections of usage, and the walks that check them.

A correction is written with its lines and its movements of money in one transaction, so a statement sees all of it or
nothing. None of these rows changes.
"""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk
from services.metering.cost_checks import COST_DETAIL, EXACT, IS_OFF
from services.metering.tables import GIVEN_UP_TIME, TOKEN_CLASSES

_FOLLOW: Final = Invariant(
    "corrections_follow_usage",
    "A correction has no usage or no correction before it, takes out of the sums what the usage was not, or has other"
    " lines than its kind.",
)
_MONEY: Final = Invariant(
    "corrections_move_what_they_change",
    "What the movements of a usage's corrections add up to differs from what the corrections change of its cost, or a"
    " movement has no correction.",
)
_REVERSALS: Final = Invariant(
    "corrections_give_back_charges",
    "A correction gives back a charge that the usage does not have, or more than all of it.",
)
_COSTS: Final = Invariant(
    "corrected_costs_derive_from_prices",
    "The cost of corrected usage differs from its quantities times the rates of its price version.",
)
_WAITING: Final = Invariant(
    "corrected_usage_waits", "Corrected usage without a cost is not waiting for a price, or waits all the same."
)
_RERATES: Final = Invariant(
    "rerates_change_prices_alone",
    "A correction of a job that re-rates usage has no such job, or changes something else than what the usage costs.",
)

_COMPARED: Final = (
    "occur_time",
    "operation_id",
    "model",
    *TOKEN_CLASSES,
    "latency_ms",
    "status_code",
    "dimension_id",
    "quantities",
    "items",
    "stated",
)
_PRICED: Final = (
    "cost",
    "currency_code",
    "price_version_id",
    "provider_cost",
    "provider_currency_code",
)
_REMOVED: Final = ", ".join(f"m.{name}" for name in (*_COMPARED, *_PRICED))
_BEFORE: Final = ", ".join(
    (
        *(f"CASE WHEN b.number IS NULL THEN r.{name} ELSE b.{name} END" for name in _COMPARED),
        *(f"CASE WHEN b.number IS NULL THEN coalesce(r.{name}, p.{name}) ELSE b.{name} END" for name in _PRICED),
    )
)

_KEPT_BEFORE: Final = ", ".join(f"m.{name}" for name in (*_COMPARED, "currency_code"))
_KEPT_AFTER: Final = ", ".join(f"a.{name}" for name in (*_COMPARED, "currency_code"))

# What is charged for the usage of an operation `o` by itself, without its parts and corrections; null while it has no
# price. Of dropped usage that is kept.
_CHARGED: Final = """JOIN LATERAL (
        SELECT coalesce(r.currency_code, p.currency_code) AS currency_code,
            CASE WHEN d.environment = 'TEST' THEN 0
                ELSE coalesce(r.cost, p.cost) - coalesce(r.captured_before, 0) END AS amount,
            r.captured_before IS NOT NULL AS in_parts, coalesce(d.environment = 'TEST', false) AS is_test
        FROM usage_records AS r
        LEFT JOIN usage_pricings AS p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
        LEFT JOIN usage_dimensions AS d ON d.organization_id = r.organization_id AND d.dimension_id = r.dimension_id
        WHERE r.organization_id = o.organization_id AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
        UNION ALL
        SELECT g.currency_code,
            CASE WHEN d.environment = 'TEST' THEN 0 ELSE g.cost - coalesce(g.captured_before, 0) END,
            g.captured_before IS NOT NULL, coalesce(d.environment = 'TEST', false)
        FROM dropped_usages AS g
        LEFT JOIN usage_correction_lines AS l
            ON l.organization_id = g.organization_id AND l.usage_id = g.usage_id AND l.number = 1 AND NOT l.added
        LEFT JOIN usage_dimensions AS d ON d.organization_id = l.organization_id AND d.dimension_id = l.dimension_id
        WHERE g.organization_id = o.organization_id AND g.occur_time = o.occur_time AND g.usage_id = o.usage_id
            AND NOT EXISTS (
                SELECT FROM usage_records AS r WHERE r.organization_id = g.organization_id
                    AND r.occur_time = g.occur_time AND r.usage_id = g.usage_id)
    ) AS r ON true"""

# Each correction is compared with the one before it, or with the usage; everything by a primary or a unique key.
_CORRECTIONS: Final = f"""
    SELECT 'corrections_follow_usage', c.organization_id, 'corrections/' || c.operation_id,
        CASE WHEN coalesce(r.usage_id, g.usage_id) IS NULL THEN 'its usage does not exist'
            WHEN c.number > 1 AND e.number IS NULL THEN 'the correction before it is missing'
            WHEN (c.kind <> 'RESTORE') <> (m.number IS NOT NULL) OR (c.kind <> 'VOID') <> (a.number IS NOT NULL)
                THEN 'it has other lines than its kind'
            ELSE 'it takes out what the usage was not' END
    FROM (SELECT * FROM usage_corrections WHERE {{range}}) AS c
    LEFT JOIN usage_operations AS o
        ON o.organization_id = c.organization_id AND o.operation_id = c.usage_operation_id AND o.usage_id = c.usage_id
    LEFT JOIN usage_records AS r
        ON r.organization_id = o.organization_id AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
    LEFT JOIN dropped_usages AS g
        ON g.organization_id = o.organization_id AND g.occur_time = o.occur_time AND g.usage_id = o.usage_id
    LEFT JOIN usage_pricings AS p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
    LEFT JOIN usage_corrections AS e
        ON e.organization_id = c.organization_id AND e.usage_id = c.usage_id AND e.number = c.number - 1
    LEFT JOIN usage_correction_lines AS b
        ON b.organization_id = c.organization_id AND b.usage_id = c.usage_id AND b.number = c.number - 1 AND b.added
    LEFT JOIN usage_correction_lines AS m
        ON m.organization_id = c.organization_id AND m.usage_id = c.usage_id AND m.number = c.number AND NOT m.added
    LEFT JOIN usage_correction_lines AS a
        ON a.organization_id = c.organization_id AND a.usage_id = c.usage_id AND a.number = c.number AND a.added
    WHERE coalesce(r.usage_id, g.usage_id) IS NULL OR (c.number > 1) <> (e.number IS NOT NULL)
        OR (c.kind <> 'RESTORE') <> (m.number IS NOT NULL) OR (c.kind <> 'VOID') <> (a.number IS NOT NULL)
        OR m.number IS NOT NULL AND (b.number IS NOT NULL OR r.usage_id IS NOT NULL)
            AND ({_REMOVED}) IS DISTINCT FROM ({_BEFORE})
    UNION ALL
    SELECT 'corrections_move_what_they_change', c.organization_id, 'corrections/' || c.operation_id,
        format('the usage costs %s %s then, but %s is charged for it', coalesce(a.cost, 0), t.currency_code, t.amount)
    FROM (SELECT * FROM usage_corrections WHERE {{range}}) AS c
    JOIN usage_operations AS o ON o.organization_id = c.organization_id AND o.operation_id = c.usage_operation_id
    {_CHARGED}
    LEFT JOIN usage_correction_lines AS a
        ON a.organization_id = c.organization_id AND a.usage_id = c.usage_id AND a.number = c.number AND a.added
    CROSS JOIN LATERAL (
        SELECT currency_code, sum(amount) AS amount FROM (
            SELECT r.currency_code, r.amount WHERE r.amount IS NOT NULL
            UNION ALL
            SELECT s.currency_code, s.amount FROM settlement_parts AS s
            WHERE r.in_parts AND s.organization_id = c.organization_id
                AND s.operation_id = c.usage_operation_id AND s.part_id IS NOT NULL
            UNION ALL
            SELECT v.currency_code, CASE WHEN v.reverses_operation_id IS NULL THEN v.amount ELSE -v.amount END
            FROM usage_correction_charges AS v
            WHERE v.organization_id = c.organization_id AND v.usage_id = c.usage_id AND v.number <= c.number
            UNION ALL
            SELECT a.currency_code, 0 WHERE a.cost IS NOT NULL
        ) AS moved GROUP BY currency_code
    ) AS t
    WHERE (a.number IS NULL OR a.cost IS NOT NULL) AND t.amount <> CASE
        WHEN a.cost IS NULL OR r.is_test OR t.currency_code <> a.currency_code THEN 0 ELSE a.cost END
    UNION ALL
    SELECT 'corrected_usage_waits', c.organization_id, 'corrections/' || c.operation_id,
        CASE WHEN w.usage_id IS NULL THEN 'the usage has no cost, but does not wait for a price'
            ELSE 'the usage waits for a price, but has a cost or is voided' END
    FROM (SELECT * FROM usage_corrections WHERE {{range}}) AS c
    LEFT JOIN usage_correction_lines AS a
        ON a.organization_id = c.organization_id AND a.usage_id = c.usage_id AND a.number = c.number AND a.added
    LEFT JOIN unpriced_usages AS w ON w.organization_id = c.organization_id AND w.usage_id = c.usage_id
    WHERE (a.number IS NOT NULL AND a.cost IS NULL) <> (w.usage_id IS NOT NULL) AND NOT EXISTS (
        SELECT FROM usage_corrections AS n
        WHERE n.organization_id = c.organization_id AND n.usage_id = c.usage_id AND n.number = c.number + 1)
    UNION ALL
    SELECT 'rerates_change_prices_alone', c.organization_id, 'corrections/' || c.operation_id,
        CASE WHEN j.job_id IS NULL THEN 'its job does not exist'
            ELSE 'it changes something else than what the usage costs' END
    FROM (SELECT * FROM usage_corrections WHERE {{range}} AND kind = 'RERATE') AS c
    LEFT JOIN rerate_jobs AS j
        ON CAST(j.job_id AS text) = split_part(c.operation_id, ':', 2)
        AND c.operation_id = 'rerate:' || j.job_id || ':' || c.usage_id
    LEFT JOIN usage_correction_lines AS m
        ON m.organization_id = c.organization_id AND m.usage_id = c.usage_id AND m.number = c.number AND NOT m.added
    LEFT JOIN usage_correction_lines AS a
        ON a.organization_id = c.organization_id AND a.usage_id = c.usage_id AND a.number = c.number AND a.added
    WHERE j.job_id IS NULL OR ({_KEPT_BEFORE}) IS DISTINCT FROM ({_KEPT_AFTER})
"""

# Charges of which something is given back are those of the usage, of a part of its call, or of a correction of it.
_CHARGES: Final = f"""
    SELECT 'corrections_move_what_they_change', v.organization_id, 'charges/' || v.operation_id,
        'the movement has no correction'
    FROM (SELECT * FROM usage_correction_charges WHERE {{range}}) AS v
    WHERE NOT EXISTS (
        SELECT FROM usage_corrections AS c
        WHERE c.organization_id = v.organization_id AND c.usage_id = v.usage_id AND c.number = v.number)
    UNION ALL
    SELECT 'corrections_give_back_charges', v.organization_id, 'charges/' || v.operation_id,
        format('%s are given back of %s, which has %s', g.amount, v.reverses_operation_id,
            coalesce(CAST(coalesce(q.amount, s.amount, u.amount) AS text), 'not charged for the usage'))
    FROM (SELECT * FROM usage_correction_charges WHERE {{range}} AND reverses_operation_id IS NOT NULL) AS v
    JOIN usage_corrections AS c
        ON c.organization_id = v.organization_id AND c.usage_id = v.usage_id AND c.number = v.number
    CROSS JOIN LATERAL (
        SELECT sum(x.amount) AS amount FROM usage_correction_charges AS x
        WHERE x.organization_id = v.organization_id AND x.usage_id = v.usage_id
            AND x.reverses_operation_id = v.reverses_operation_id
    ) AS g
    LEFT JOIN LATERAL (
        SELECT y.amount FROM usage_correction_charges AS y
        WHERE y.organization_id = v.organization_id AND y.operation_id = v.reverses_operation_id
            AND y.usage_id = v.usage_id AND y.number < v.number AND y.reverses_operation_id IS NULL
            AND y.currency_code = v.currency_code
    ) AS q ON true
    LEFT JOIN LATERAL (
        SELECT s.amount FROM settlement_parts AS s
        WHERE s.organization_id = v.organization_id AND s.part_id = v.reverses_operation_id
            AND s.operation_id = c.usage_operation_id AND s.currency_code = v.currency_code
    ) AS s ON true
    LEFT JOIN LATERAL (
        SELECT r.amount FROM usage_operations AS o {_CHARGED}
        WHERE o.organization_id = v.organization_id AND o.operation_id = v.reverses_operation_id
            AND o.usage_id = v.usage_id AND r.currency_code = v.currency_code
    ) AS u ON true
    WHERE coalesce(g.amount > coalesce(q.amount, s.amount, u.amount), true)
"""

# Charges that were given up: corrections give all of each back, by movements that were given up too. Of usage that was
# dropped the operation is there.
GIVEN_UP: Final = f"""
    SELECT 'charges_come_from_usage', x.organization_id, 'charges/' || x.operation_id,
        CASE WHEN x.kind = 'REVERSAL' THEN 'it was given up, but not what it gives back'
            ELSE 'it was given up, but corrections do not give all of it back, or by movements that are sent' END
    FROM (SELECT * FROM outbox WHERE {{range}} AND next_attempt_time = {GIVEN_UP_TIME}) AS x
    LEFT JOIN settlement_parts AS s ON s.organization_id = x.organization_id AND s.part_id = x.operation_id
    LEFT JOIN usage_correction_charges AS c
        ON c.organization_id = x.organization_id AND c.operation_id = x.operation_id
    LEFT JOIN usage_operations AS o ON o.organization_id = x.organization_id
        AND o.operation_id = coalesce(x.corrects, s.operation_id, x.operation_id)
    LEFT JOIN outbox AS y ON y.organization_id = x.organization_id AND y.operation_id = x.reverses_operation_id
    WHERE CASE WHEN x.kind = 'REVERSAL' THEN y.next_attempt_time IS DISTINCT FROM {GIVEN_UP_TIME}
        ELSE x.amount IS DISTINCT FROM (
        SELECT sum(v.amount) FROM usage_correction_charges AS v
        JOIN outbox AS z ON z.organization_id = v.organization_id AND z.operation_id = v.operation_id
            AND z.next_attempt_time = {GIVEN_UP_TIME}
        WHERE v.organization_id = x.organization_id AND v.usage_id = coalesce(c.usage_id, o.usage_id)
            AND v.reverses_operation_id = x.operation_id) END
"""

_LINES: Final = f"""
    SELECT 'corrected_costs_derive_from_prices', r.organization_id, 'usages/' || r.operation_id, {COST_DETAIL}
    FROM (SELECT * FROM usage_correction_lines WHERE {{range}} AND added) AS r
    LEFT JOIN LATERAL (
        SELECT CAST(NULL AS numeric) AS cost, CAST(NULL AS text) AS currency_code, CAST(NULL AS text) AS rate_hours
    ) AS p ON true
    LEFT JOIN usage_dimensions AS d ON d.organization_id = r.organization_id AND d.dimension_id = r.dimension_id
    LEFT JOIN price_versions AS v ON v.price_version_id = r.price_version_id
    {EXACT}
    WHERE {IS_OFF}
"""

_BY_OPERATION: Final = (ORGANIZATION, Column("operation_id", "text"))

CORRECTIONS: Final[Sequence[Check]] = (
    Walk("usage_corrections", _BY_OPERATION, (_FOLLOW, _MONEY, _WAITING, _RERATES), _CORRECTIONS),
    Walk("usage_correction_charges", _BY_OPERATION, (_MONEY, _REVERSALS), _CHARGES),
    Walk(
        "usage_correction_lines",
        (ORGANIZATION, Column("usage_id", "uuid"), Column("number", "int"), Column("added", "boolean")),
        (_COSTS,),
        _LINES,
    ),
)
