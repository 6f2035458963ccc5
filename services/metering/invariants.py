# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The invariants of metering."""

from collections.abc import Sequence
from typing import Final

from libs.common.audit.invariants import AUDIT_INVARIANT
from libs.common.integrity.domain import Invariant
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.statements import HOUR_KEY, HOUR_SUMS, LATENCY_BUCKET, hour_key, hour_sums

LAG_MAX_S: Final = 60

_MINE: Final = "(CAST(:organization_id AS uuid) IS NULL OR organization_id = CAST(:organization_id AS uuid))"


def _prices() -> str:
    fallbacks = {
        "input": "v.input",
        "output": "v.output",
        "cache_read": "coalesce(v.cache_read, v.input)",
        "cache_write": "coalesce(v.cache_write, v.input)",
        "reasoning": "coalesce(v.reasoning, v.output)",
        "audio_input": "coalesce(v.audio_input, v.input)",
        "audio_output": "coalesce(v.audio_output, v.output)",
        "image": "coalesce(v.image, v.input)",
    }
    return " + ".join(f"r.{token_class} * {fallbacks[token_class]}" for token_class in TOKEN_CLASSES)


# Half-even at nine digits, as an integer rule: Postgres itself rounds half away from zero.
_EXACT: Final = f"(({_prices()}) * 1000)"
_ROUNDED: Final = (
    f"(CASE WHEN {_EXACT} - floor({_EXACT}) = 0.5 THEN 2 * round(floor({_EXACT} + 1) / 2 - 0.25)"
    f" ELSE round({_EXACT}) END / 1000000000 + coalesce(v.per_request, 0))"
)

_USAGE_WITH_COST: Final = f"""
    SELECT r.*, {LATENCY_BUCKET}, coalesce(r.cost, p.cost) AS final_cost,
        coalesce(r.currency_code, p.currency_code, '') AS final_currency_code,
        coalesce(r.price_version_id, p.price_version_id) AS final_version_id,
        coalesce(r.charge_kind, p.charge_kind) AS final_kind
    FROM (SELECT * FROM usage_records WHERE {_MINE}) r
    LEFT JOIN usage_pricings p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
"""

_COUNT_USAGE: Final = f"SELECT count(*) FROM usage_records WHERE {_MINE}"
_COUNT_OUTBOX: Final = f"SELECT count(*) FROM outbox WHERE {_MINE}"

INVARIANTS: Final[Sequence[Invariant]] = (
    Invariant(
        "operations_are_usage",
        "An operation has no usage record, or a usage record has no operation.",
        f"""
        SELECT coalesce(o.organization_id, r.organization_id)::text,
            'usages/' || coalesce(o.operation_id, r.operation_id),
            CASE WHEN o.usage_id IS NULL THEN 'the usage has no operation' ELSE 'the operation has no usage' END
        FROM (SELECT * FROM usage_operations WHERE {_MINE}) o
        FULL JOIN (SELECT * FROM usage_records WHERE {_MINE}) r
            ON r.organization_id = o.organization_id AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
            AND r.operation_id = o.operation_id
        WHERE o.usage_id IS NULL OR r.usage_id IS NULL
        """,
        f"SELECT count(*) FROM usage_operations WHERE {_MINE}",
    ),
    Invariant(
        "charges_come_from_usage",
        "A charge in the outbox differs from the cost of its usage, has no usage, or was refused by billing.",
        f"""
        SELECT x.organization_id::text, 'charges/' || x.operation_id,
            CASE WHEN u.usage_id IS NULL THEN 'the charge has no usage'
                WHEN u.final_kind IS NULL THEN 'the usage must not be charged'
                WHEN x.state = 'REFUSED' THEN 'refused: ' || coalesce(x.last_error_reason, 'unknown')
                ELSE 'the charge differs from the cost of the usage' END
        FROM (SELECT * FROM outbox WHERE {_MINE}) x
        LEFT JOIN usage_operations o ON o.organization_id = x.organization_id AND o.operation_id = x.operation_id
        LEFT JOIN ({_USAGE_WITH_COST}) u
            ON u.organization_id = o.organization_id AND u.occur_time = o.occur_time AND u.usage_id = o.usage_id
        WHERE u.usage_id IS NULL OR u.final_kind IS NULL OR x.state = 'REFUSED'
            OR (x.amount, x.currency_code) IS DISTINCT FROM (u.final_cost, u.final_currency_code)
        """,
        _COUNT_OUTBOX,
    ),
    Invariant(
        "charges_do_not_wait",
        f"A charge has been waiting for billing for more than {LAG_MAX_S} seconds.",
        f"""
        SELECT organization_id::text, 'charges/' || operation_id,
            'waiting since ' || create_time || ', last reason ' || coalesce(last_error_reason, 'none')
        FROM outbox
        WHERE {_MINE} AND state = 'PENDING'
            AND create_time < CAST(:now AS timestamptz) - interval '{LAG_MAX_S} s'
        """,
        _COUNT_OUTBOX,
    ),
    Invariant(
        "summaries_equal_usage",
        "An hourly summary differs from the sum of its usage records.",
        f"""
        WITH usage AS ({_USAGE_WITH_COST}), summed AS (
            SELECT {hour_key("final_currency_code")}, {hour_sums("final_cost")} FROM usage GROUP BY 1, 2, 3, 4, 5, 6, 7
        ), kept AS (SELECT * FROM usage_hours WHERE {_MINE})
        SELECT coalesce(k.organization_id, s.organization_id)::text,
            'hours/' || coalesce(k.hour, s.hour) || '/' || coalesce(k.model, s.model),
            format('summary has %s requests and cost %s, usage has %s and %s', k.requests, k.cost, s.requests, s.cost)
        FROM kept k FULL JOIN summed s USING ({", ".join(HOUR_KEY)})
        WHERE {" OR ".join(f"coalesce(k.{name}, 0) <> coalesce(s.{name}, 0)" for name in HOUR_SUMS)}
        """,
        f"SELECT count(*) FROM usage_hours WHERE {_MINE}",
    ),
    Invariant(
        "months_are_ready",
        "A usage record is in the default partition, or a partition of this or the next three months is missing.",
        f"""
        SELECT organization_id::text, 'usages/' || operation_id, 'in the default partition at ' || occur_time
        FROM usage_records_default WHERE {_MINE}
        UNION ALL
        SELECT '', 'partitions/' || to_char(month, 'YYYY_MM'), 'is missing'
        FROM generate_series(date_trunc('month', CAST(:now AS timestamptz), 'UTC'),
            date_trunc('month', CAST(:now AS timestamptz), 'UTC') + interval '3 months', interval '1 month') AS month
        WHERE to_regclass('usage_records_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM')) IS NULL
        """,
        f"SELECT count(*) FROM usage_records_default WHERE {_MINE}",
    ),
    Invariant(
        "costs_derive_from_prices",
        "The cost of a usage record differs from its tokens times the prices of its price version.",
        f"""
        SELECT r.organization_id::text, 'usages/' || r.operation_id,
            format('its cost is %s, but its price version gives %s', r.final_cost, {_ROUNDED})
        FROM ({_USAGE_WITH_COST}) r LEFT JOIN price_versions v ON v.price_version_id = r.final_version_id
        WHERE r.final_cost IS NOT NULL AND (v.price_version_id IS NULL OR r.final_cost IS DISTINCT FROM {_ROUNDED}
            OR r.final_currency_code <> v.currency_code)
        """,
        _COUNT_USAGE,
    ),
    Invariant(
        "unpriced_usage_waits",
        "A usage record without a cost is not waiting for a price, or one with a cost is.",
        f"""
        SELECT coalesce(u.organization_id, w.organization_id)::text, 'usages/' || coalesce(u.usage_id, w.usage_id),
            CASE WHEN w.usage_id IS NULL THEN 'it has no cost, but does not wait for a price'
                ELSE 'it waits for a price, but has a cost' END
        FROM (SELECT * FROM ({_USAGE_WITH_COST}) c WHERE final_cost IS NULL) u
        FULL JOIN (SELECT * FROM unpriced_usages WHERE {_MINE}) w
            ON w.organization_id = u.organization_id AND w.usage_id = u.usage_id
        WHERE u.usage_id IS NULL OR w.usage_id IS NULL
        """,
        f"SELECT count(*) FROM unpriced_usages WHERE {_MINE}",
    ),
    AUDIT_INVARIANT,
)
