# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The invariants of metering, and the walks over its tables that check them.

Usage is never changed or deleted. It is written with its dedupe row, its charge and its hourly sums in one transaction,
and a later price with the new sums in one; so a statement sees all of it or nothing.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from libs.common.audit.invariants import AUDIT_CHECKS
from libs.common.events.invariants import EVENT_CHECKS
from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Pairing, Sweep, Walk
from services.metering.conversation_invariants import CONVERSATIONS
from services.metering.correction_invariants import CORRECTIONS, GIVEN_UP
from services.metering.cost_checks import COST_DETAIL, EXACT, IS_OFF
from services.metering.dropped_invariants import DROPPED, dropped_operations, operations_digests
from services.metering.limit_invariants import COUNTERS
from services.metering.tables import GIVEN_UP_TIME, HOUR_KEY
from services.metering.usage.dropped_store import COUNTS
from services.metering.usage.statements import HOUR_SUMS, LATENCY_BUCKET, NIL, hour_key, hour_sums
from services.metering.usage_suspects import usage_suspects

LAG_MAX_S: Final = 60

_OPERATIONS: Final = Invariant(
    "operations_are_usage",
    "An operation has no usage record and is not settled in parts, or a usage record has no operation.",
)
_CHARGES: Final = Invariant(
    "charges_come_from_usage",
    "A charge in the outbox differs from the cost of its usage or the amount of its part, has none of them, has another"
    " hold than its call or lease, was refused by billing, or was given up without a correction of its usage.",
)
_PARTS: Final = Invariant(
    "parts_add_up", "What a call captured in parts differs from the sum of its parts, or from what its usage says."
)
_WAITING: Final = Invariant(
    "charges_do_not_wait", f"A charge has been waiting for billing for more than {LAG_MAX_S} seconds."
)
_SUMMARIES: Final = Invariant("summaries_equal_usage", "An hourly summary differs from the sum of its usage records.")
_MONTHS: Final = Invariant(
    "months_are_ready",
    "A usage record is in the default partition, or a partition of this or the next three months is missing.",
)
_COSTS: Final = Invariant(
    "costs_derive_from_prices",
    "The cost of a usage record differs from its quantities times the rates of its price version.",
)
_DIMENSIONS: Final = Invariant(
    "dimensions_are_known", "A usage record has dimensions, such as a service tier, that are not stored."
)
_WALKS: Final = Invariant(
    "lapses_are_looked_for",
    "An organization charges for lapsed authorizations and nobody looks for them, or the other way round.",
)
_UNPRICED: Final = Invariant(
    "unpriced_usage_waits", "A usage record without a cost is not waiting for a price, or one with a cost is."
)


def _found(invariant: str, resource: str, detail: str, condition: str, name: str) -> str:
    values = f"ARRAY['{invariant}', 'usages/' || {resource}, {detail}]"
    return f"array_agg({values}) FILTER (WHERE {condition}) AS {name}"


def _reported(name: str) -> str:
    values = ", ".join(f"c.{name}[n][{number}]" for number in (1, 2, 3))
    return f"SELECT {values} FROM generate_subscripts(c.{name}, 1) AS n"


_SAME_OPERATION: Final = """o.organization_id = r.organization_id AND o.operation_id = r.operation_id
                AND o.usage_id = r.usage_id AND o.occur_time = r.occur_time"""
_IS_SETTLED: Final = "usage_id < CAST(:settled_id AS uuid)"
# The operation of a call that is settled in parts has no usage yet, so it is looked at by itself, whatever its age.
_IS_WHOLE: Final = f"({_IS_SETTLED} AND fingerprint <> '')"


_RECENT: Final = """(CAST(:since_time AS timestamptz) IS NULL
        OR occur_time >= date_trunc('hour', CAST(:since_time AS timestamptz), 'UTC'))"""

_KEY: Final = ", ".join(HOUR_KEY)
_OF_LINE: Final = hour_key("coalesce(currency_code, '')", "coalesce(provider_currency_code, '')")


def _is_dropped(prefix: str) -> str:
    """Return the condition for hours whose usage is not there any more; `_SUMS` of dropped_invariants checks these."""
    return f"""EXISTS (
            SELECT FROM dropped_usage_months AS g WHERE g.organization_id = {prefix}organization_id
                AND g.month = date_trunc('month', {prefix}hour, 'UTC') AND g.{COUNTS})"""


def _both(name: str) -> str:
    return f"(coalesce(s.{name}, 0) + coalesce(c.{name}, 0))"


def _lines(sign: str, added: str) -> str:
    sums = hour_sums("cost", "provider_cost", sign)
    return f"SELECT {_OF_LINE}, {sums} FROM line WHERE {added} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"


# What corrections take out of the sums and put into them.
_CORRECTED: Final = f"""line AS MATERIALIZED (
        SELECT *, {LATENCY_BUCKET} FROM usage_correction_lines WHERE {{window of usage_correction_lines}}
    ), corrected AS (
        SELECT {_KEY}, {", ".join(f"sum({name}) AS {name}" for name in HOUR_SUMS)}
        FROM ({_lines("", "added")} UNION ALL {_lines("-", "NOT added")}) AS signed GROUP BY {_KEY}
    )"""

# One pass over the usage of whole hours. Usage is summed by hour, and what is wrong with single rows is collected on
# the way. No join repeats a row: each finds at most one row by a primary key.
_USAGE: Final = f"""
    WITH judged AS (
        SELECT r.*, {LATENCY_BUCKET}, coalesce(r.cost, p.cost) AS final_cost,
            coalesce(r.currency_code, p.currency_code, '') AS final_currency_code,
            CASE WHEN {IS_OFF} THEN {COST_DETAIL} END AS cost_detail,
            CASE WHEN r.{_IS_SETTLED} THEN false ELSE NOT EXISTS (
                SELECT FROM usage_operations AS o WHERE {_SAME_OPERATION}
            ) END AS is_no_operation,
            CASE WHEN coalesce(r.cost, p.cost) IS NULL THEN NOT EXISTS (
                SELECT FROM unpriced_usages AS w
                WHERE w.organization_id = r.organization_id AND w.usage_id = r.usage_id
            ) AND NOT EXISTS (
                SELECT FROM usage_corrections AS n
                WHERE n.organization_id = r.organization_id AND n.usage_id = r.usage_id
            ) ELSE false END AS is_forgotten,
            coalesce(r.provider_cost, p.provider_cost) AS final_provider_cost,
            coalesce(r.provider_currency_code, p.provider_currency_code, '') AS final_provider_currency_code,
            r.dimension_id <> {NIL} AND d.dimension_id IS NULL AS is_lost,
            CASE WHEN r.captured_before IS NULL THEN false ELSE NOT EXISTS (
                SELECT FROM settlement_parts AS s
                WHERE s.organization_id = r.organization_id AND s.operation_id = r.operation_id
            ) END AS is_without_parts
        FROM (SELECT * FROM usage_records WHERE {{window}}) AS r
        LEFT JOIN usage_dimensions AS d
            ON d.organization_id = r.organization_id AND d.dimension_id = r.dimension_id
        LEFT JOIN LATERAL (
            SELECT * FROM usage_pricings AS p
            WHERE r.cost IS NULL AND p.organization_id = r.organization_id AND p.usage_id = r.usage_id LIMIT 1
        ) AS p ON true
        LEFT JOIN price_versions AS v ON v.price_version_id = coalesce(r.price_version_id, p.price_version_id)
        {EXACT}
        OFFSET 0
    ), summed AS (
        SELECT {hour_key("final_currency_code", "final_provider_currency_code")},
            {hour_sums("final_cost", "final_provider_cost")},
            {_found("parts_add_up", "operation_id", "'it has no parts'", "is_without_parts", "without_parts")},
            {_found("dimensions_are_known", "operation_id", "'its dimensions are not stored'", "is_lost", "lost")},
            {_found("costs_derive_from_prices", "operation_id", "cost_detail", "cost_detail IS NOT NULL", "off")},
            {
    _found(
        "operations_are_usage", "operation_id", "'the usage has no operation'", "is_no_operation", "without_operation"
    )
},
            {
    _found(
        "unpriced_usage_waits",
        "usage_id",
        "'it has no cost, but does not wait for a price'",
        "is_forgotten",
        "forgotten",
    )
}
        FROM judged GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    ), {_CORRECTED}, compared AS (
        SELECT organization_id, hour, model, k.requests AS kept_requests, k.cost AS kept_cost,
            {_both("requests")} AS requests, {_both("cost")} AS cost,
            s.off, s.without_operation, s.forgotten, s.lost, s.without_parts,
            {" OR ".join(f"coalesce(k.{name}, 0) <> {_both(name)}" for name in HOUR_SUMS)} AS differs
        FROM (SELECT * FROM usage_hours WHERE {{window of usage_hours}}) AS k
        FULL JOIN summed AS s USING ({", ".join(HOUR_KEY)})
        FULL JOIN corrected AS c USING ({", ".join(HOUR_KEY)})
    )
    SELECT f.invariant, c.organization_id, f.resource, f.detail
    FROM (
        SELECT * FROM compared
        WHERE (differs AND NOT {
    _is_dropped("compared.")
}) OR num_nulls(off, without_operation, forgotten, lost, without_parts) < 5
    ) AS c
    CROSS JOIN LATERAL (
        SELECT 'summaries_equal_usage' AS invariant, 'hours/' || c.hour || '/' || c.model AS resource,
            format('summary has %s requests and cost %s, usage has %s and %s', coalesce(c.kept_requests, 0),
                coalesce(c.kept_cost, 0), coalesce(c.requests, 0), coalesce(c.cost, 0)) AS detail
        WHERE c.differs AND NOT {_is_dropped("c.")}
        UNION ALL {_reported("off")}
        UNION ALL {_reported("without_operation")}
        UNION ALL {_reported("forgotten")}
        UNION ALL {_reported("lost")}
        UNION ALL {_reported("without_parts")}
    ) AS f
    UNION ALL
    SELECT 'summaries_equal_usage', organization_id, 'hours/' || hour || '/' || model || '/' || unit_id,
        format('summary has %s, usage has %s', coalesce(k.quantity, 0), coalesce(s.quantity, 0))
    FROM (SELECT * FROM usage_hour_units WHERE {{window of usage_hour_units}}) AS k
    FULL JOIN (
        SELECT {_KEY}, unit_id, sum(quantity) AS quantity FROM (
        SELECT {
    hour_key(
        "coalesce(r.currency_code, p.currency_code, '')",
        "coalesce(r.provider_currency_code, p.provider_currency_code, '')",
        "r.",
    )
}, unit.key AS unit_id, sum(CAST(unit.value AS numeric)) AS quantity
        FROM (SELECT * FROM usage_records WHERE {{window}} AND quantities IS NOT NULL) AS r
        LEFT JOIN LATERAL (
            SELECT * FROM usage_pricings AS p
            WHERE r.cost IS NULL AND p.organization_id = r.organization_id AND p.usage_id = r.usage_id LIMIT 1
        ) AS p ON true
        CROSS JOIN LATERAL jsonb_each_text(r.quantities) AS unit
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
            UNION ALL
            SELECT {_OF_LINE}, unit.key, sum(CASE WHEN added THEN CAST(unit.value AS numeric)
                ELSE -CAST(unit.value AS numeric) END)
            FROM usage_correction_lines CROSS JOIN LATERAL jsonb_each_text(quantities) AS unit
            WHERE {{window of usage_correction_lines}} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
        ) AS signed GROUP BY {_KEY}, unit_id
    ) AS s USING ({", ".join(HOUR_KEY)}, unit_id)
    WHERE coalesce(k.quantity, 0) <> coalesce(s.quantity, 0) AND NOT {_is_dropped("")}
"""

_USAGE_OPERATIONS: Final = f"""
    SELECT 'operations_are_usage', o.organization_id, 'usages/' || o.operation_id,
        CASE WHEN o.fingerprint <> '' THEN 'the operation has no usage'
            ELSE 'the operation is settled in parts, but has none' END
    FROM usage_operations AS o
    WHERE {{range}} AND NOT {_IS_WHOLE} AND {_RECENT}
        AND CASE WHEN o.fingerprint <> '' THEN NOT EXISTS (SELECT FROM usage_records AS r WHERE {_SAME_OPERATION})
                AND NOT EXISTS (SELECT FROM dropped_usages AS r WHERE {_SAME_OPERATION})
            ELSE NOT EXISTS (
                SELECT FROM settlement_parts AS s
                WHERE s.organization_id = o.organization_id AND s.operation_id = o.operation_id) END
"""

_IS_SENT: Final = f"next_attempt_time < {GIVEN_UP_TIME}"
_OUTBOX: Final = f"""
    SELECT 'charges_come_from_usage', x.organization_id, 'charges/' || x.operation_id,
        CASE WHEN r.usage_id IS NULL THEN 'the charge has no usage'
            WHEN coalesce(r.charge_kind, p.charge_kind) IS NULL THEN 'the usage must not be charged'
            WHEN x.state IN ('REFUSED', 'DEAD') THEN 'refused: ' || coalesce(x.last_error_reason, 'unknown')
            ELSE 'the charge differs from the cost of the usage' END
    FROM (
        SELECT * FROM outbox WHERE {{range}} AND {_IS_SENT} AND hold_operation_id IS NULL AND corrects IS NULL
    ) AS x
    LEFT JOIN usage_operations AS o ON o.organization_id = x.organization_id AND o.operation_id = x.operation_id
    LEFT JOIN usage_records AS r
        ON r.organization_id = o.organization_id AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
    LEFT JOIN usage_pricings AS p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
    WHERE r.usage_id IS NULL OR coalesce(r.charge_kind, p.charge_kind) IS NULL OR x.state IN ('REFUSED', 'DEAD')
        OR (x.amount, x.currency_code)
            IS DISTINCT FROM (coalesce(r.cost, p.cost) - coalesce(r.captured_before, 0),
                coalesce(r.currency_code, p.currency_code))
    UNION ALL
    SELECT 'charges_come_from_usage', x.organization_id, 'charges/' || x.operation_id,
        CASE WHEN s.part IS NULL AND r.usage_id IS NULL THEN 'the charge has no part, and no usage of a lease'
            WHEN x.state IN ('REFUSED', 'DEAD') THEN 'refused: ' || coalesce(x.last_error_reason, 'unknown')
            WHEN s.part IS NULL THEN 'the charge differs from the cost of the usage, or has another hold than its lease'
            ELSE 'the charge differs from the amount of the part' END
    FROM (SELECT * FROM outbox WHERE {{range}} AND {_IS_SENT} AND hold_operation_id IS NOT NULL) AS x
    LEFT JOIN settlement_parts AS s ON s.organization_id = x.organization_id AND s.part_id = x.operation_id
    LEFT JOIN usage_operations AS o
        ON s.part IS NULL AND o.organization_id = x.organization_id AND o.operation_id = x.operation_id
    LEFT JOIN usage_records AS r ON r.organization_id = o.organization_id AND r.occur_time = o.occur_time
        AND r.usage_id = o.usage_id AND r.lease_id IS NOT NULL
    LEFT JOIN usage_pricings AS p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
    WHERE (s.part IS NULL AND r.usage_id IS NULL) OR x.state IN ('REFUSED', 'DEAD')
        OR (x.hold_operation_id, x.kind, x.amount, x.currency_code)
            IS DISTINCT FROM (coalesce(s.operation_id, r.lease_id), 'CAPTURE', coalesce(s.amount, r.cost, p.cost),
                coalesce(s.currency_code, r.currency_code, p.currency_code))
    UNION ALL
    SELECT 'charges_come_from_usage', x.organization_id, 'charges/' || x.operation_id,
        CASE WHEN c.operation_id IS NULL THEN 'the charge has no correction'
            WHEN x.state IN ('REFUSED', 'DEAD') THEN 'refused: ' || coalesce(x.last_error_reason, 'unknown')
            ELSE 'the charge differs from the movement of its correction' END
    FROM (SELECT * FROM outbox WHERE {{range}} AND {_IS_SENT} AND corrects IS NOT NULL) AS x
    LEFT JOIN usage_correction_charges AS c
        ON c.organization_id = x.organization_id AND c.operation_id = x.operation_id
    LEFT JOIN usage_corrections AS n
        ON n.organization_id = c.organization_id AND n.usage_id = c.usage_id AND n.number = c.number
    WHERE c.operation_id IS NULL OR x.state IN ('REFUSED', 'DEAD')
        OR (x.amount, x.currency_code, x.reverses_operation_id, x.corrects, x.kind)
            IS DISTINCT FROM (c.amount, c.currency_code, c.reverses_operation_id, n.usage_operation_id,
                CASE WHEN c.reverses_operation_id IS NULL THEN 'DEBIT' ELSE 'REVERSAL' END)
    UNION ALL {GIVEN_UP}
    UNION ALL
    SELECT 'charges_do_not_wait', organization_id, 'charges/' || operation_id,
        'waiting since ' || create_time || ', last reason ' || coalesce(last_error_reason, 'none')
    FROM outbox
    WHERE {{range}} AND state = 'PENDING' AND create_time < CAST(:now AS timestamptz) - interval '{LAG_MAX_S} s'
"""

# Each part is compared with the one before it, and the last with the usage of its call. A call has its parts, its
# operation and its usage from one transaction each, so a snapshot sees all of them or none.
_SETTLEMENT_PARTS: Final = """
    SELECT 'parts_add_up', s.organization_id, 'usages/' || s.operation_id || '/parts/' || s.part,
        CASE WHEN s.part > 1 AND b.part IS NULL THEN 'the part before it is missing'
            WHEN s.captured_amount <> s.amount + coalesce(b.captured_amount, 0) THEN
                format('it captured %s after %s, but says %s together', s.amount, coalesce(b.captured_amount, 0),
                    s.captured_amount)
            WHEN b.currency_code <> s.currency_code THEN 'it has another currency than the part before it'
            WHEN o.operation_id IS NULL THEN 'its call has no operation'
            ELSE format('the parts captured %s, but the usage says %s', s.captured_amount,
                coalesce(CAST(coalesce(r.captured_before, g.captured_before) AS text), 'nothing')) END
    FROM (SELECT * FROM settlement_parts WHERE {range}) AS s
    LEFT JOIN settlement_parts AS b
        ON b.organization_id = s.organization_id AND b.operation_id = s.operation_id AND b.part = s.part - 1
    LEFT JOIN settlement_parts AS n
        ON n.organization_id = s.organization_id AND n.operation_id = s.operation_id AND n.part = s.part + 1
    LEFT JOIN usage_operations AS o ON o.organization_id = s.organization_id AND o.operation_id = s.operation_id
    LEFT JOIN usage_records AS r
        ON r.organization_id = o.organization_id AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
    LEFT JOIN dropped_usages AS g
        ON g.organization_id = o.organization_id AND g.occur_time = o.occur_time AND g.usage_id = o.usage_id
    WHERE (s.part > 1) <> (b.part IS NOT NULL) OR s.captured_amount <> s.amount + coalesce(b.captured_amount, 0)
        OR b.currency_code <> s.currency_code OR o.operation_id IS NULL
        OR (n.part IS NULL AND o.fingerprint <> ''
            AND coalesce(r.captured_before, g.captured_before) IS DISTINCT FROM s.captured_amount)
        OR (o.fingerprint = '' AND r.usage_id IS NOT NULL)
"""

_UNPRICED_USAGES: Final = """
    SELECT 'unpriced_usage_waits', w.organization_id, 'usages/' || w.usage_id,
        CASE WHEN r.usage_id IS NULL THEN 'it waits for a price, but does not exist'
            ELSE 'it waits for a price, but has a cost' END
    FROM (SELECT * FROM unpriced_usages WHERE {range}) AS w
    LEFT JOIN usage_records AS r
        ON r.organization_id = w.organization_id AND r.occur_time = w.occur_time AND r.usage_id = w.usage_id
    LEFT JOIN usage_pricings AS p ON p.organization_id = w.organization_id AND p.usage_id = w.usage_id
    LEFT JOIN LATERAL (
        SELECT l.cost, l.added FROM usage_correction_lines AS l
        WHERE l.organization_id = w.organization_id AND l.usage_id = w.usage_id
        ORDER BY l.number DESC, l.added DESC LIMIT 1
    ) AS c ON true
    WHERE r.usage_id IS NULL OR coalesce(r.cost, p.cost, c.cost) IS NOT NULL OR NOT c.added
        OR w.corrected <> (c.added IS NOT NULL)
"""

_POLICIES: Final = """
    SELECT 'lapses_are_looked_for', p.organization_id, 'policies/' || p.organization_id, 'nobody looks for its lapses'
    FROM (SELECT * FROM admission_policies WHERE {range}) AS p
    WHERE p.lapse_charge = 'INPUT' AND NOT EXISTS (
        SELECT FROM lapse_walks AS w WHERE w.organization_id = p.organization_id)
"""

_LAPSE_WALKS: Final = """
    SELECT 'lapses_are_looked_for', w.organization_id, 'policies/' || w.organization_id, 'it charges for no lapses'
    FROM (SELECT * FROM lapse_walks WHERE {range}) AS w
    WHERE NOT EXISTS (
        SELECT FROM admission_policies AS p
        WHERE p.organization_id = w.organization_id AND p.lapse_charge = 'INPUT')
"""

# Looks for partitions in the schema where usage is, which is the first on the search path.
_MISSING_MONTHS: Final = """
    SELECT 'months_are_ready', NULL, 'partitions/' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM'), 'is missing'
    FROM generate_series(date_trunc('month', CAST(:now AS timestamptz), 'UTC'),
        date_trunc('month', CAST(:now AS timestamptz), 'UTC') + interval '3 months', interval '1 month') AS month
    WHERE NOT EXISTS (
        SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = current_schema()
            AND c.relname = 'usage_records_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM'))
"""

_IN_DEFAULT: Final = """
    SELECT 'months_are_ready', organization_id, 'usages/' || operation_id, 'in the default partition at ' || occur_time
    FROM usage_records_default WHERE {range}
"""

_OCCURRED: Final = (ORGANIZATION, Column("occur_time", "timestamptz"))
_BY_OPERATION: Final = (ORGANIZATION, Column("operation_id", "text"))

_HOURS_OF_USAGE: Final = Sweep(
    "usage_records",
    Column("occur_time", "timestamptz"),
    (_OPERATIONS, _SUMMARIES, _COSTS, _UNPRICED, _DIMENSIONS, _PARTS),
    _USAGE,
    unit=timedelta(hours=1),
    beside=(
        ("usage_hours", Column("hour", "timestamptz")),
        ("usage_hour_units", Column("hour", "timestamptz")),
        ("usage_correction_lines", Column("occur_time", "timestamptz")),
    ),
    suspects=usage_suspects(_IS_SETTLED),
    digests=f"SELECT organization_id, {operations_digests(_IS_SETTLED)} FROM usage_records WHERE {{window}} GROUP BY 1",
)
_ALL_OPERATIONS: Final = Walk(
    "usage_operations",
    _BY_OPERATION,
    (_OPERATIONS,),
    _USAGE_OPERATIONS,
    digests=f"""SELECT organization_id, {operations_digests(_IS_WHOLE)}
        FROM usage_operations WHERE {{range}} AND {_RECENT} GROUP BY 1""",
    by_pages=True,
)

CHECKS: Final[Sequence[Check]] = (
    Pairing((_HOURS_OF_USAGE, _ALL_OPERATIONS), beside_first=(dropped_operations(_OPERATIONS),)),
    *DROPPED,
    Walk("outbox", _BY_OPERATION, (_CHARGES, _WAITING), _OUTBOX),
    Walk("settlement_parts", (*_BY_OPERATION, Column("part", "int")), (_PARTS,), _SETTLEMENT_PARTS),
    Walk("unpriced_usages", (ORGANIZATION, Column("usage_id", "uuid")), (_UNPRICED,), _UNPRICED_USAGES),
    Walk("admission_policies", (ORGANIZATION,), (_WALKS,), _POLICIES),
    Walk("lapse_walks", (ORGANIZATION,), (_WALKS,), _LAPSE_WALKS),
    COUNTERS,
    *CORRECTIONS,
    *CONVERSATIONS,
    Walk("usage_records_default", (*_OCCURRED, Column("usage_id", "uuid")), (_MONTHS,), _IN_DEFAULT),
    Walk("partitions", (), (_MONTHS,), _MISSING_MONTHS, organization_column=""),
    *AUDIT_CHECKS,
    *EVENT_CHECKS,
)
