# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The SQL by which a job corrects usage, built once at import from the names of the columns.

A re-rate changes what usage costs, and nothing else. So Postgres copies the lines of corrections itself, from the usage
or from its last correction, and only what changes is sent. Of the hourly sums only the costs change.
"""

from typing import Final

from services.metering.tables import HOUR_KEY
from services.metering.usage.sent import ROW
from services.metering.usage.statements import HOUR_SUMS, INTO_HOURS, hour_key

_COSTS: Final = ("cost", "currency_code", "price_version_id", "charge_kind")
_PRICED: Final = (*_COSTS, "provider_cost", "provider_currency_code", "rate_hours")
_COUNTS: Final = ("counters", "counted")
_KEPT: Final = tuple(one.name for one in ROW if one.name not in ("fingerprint", *_PRICED, *_COUNTS))
_LINE: Final = ", ".join((*_KEPT, *_PRICED, *_COUNTS))

_BY_KEY: Final = ", ".join(str(number + 1) for number in range(len(HOUR_KEY)))
_OF_LINE: Final = hour_key("coalesce(currency_code, '')", "coalesce(provider_currency_code, '')")
_CHANGED: Final = {
    "cost": "sum(new_cost - cost)",
    "provider_cost": "sum(coalesce(new_provider_cost, 0) - coalesce(provider_cost, 0))",
}
_CHANGES: Final = ", ".join(_CHANGED.get(name, "0") for name in HOUR_SUMS)
_ADD_CHANGES: Final = ", ".join(f"{name} = h.{name} + excluded.{name}" for name in _CHANGED)


def _was(found: str, priced: str, further: str) -> str:
    return f"""SELECT {", ".join(f"u.{name}" for name in _KEPT)}, {priced}, item.*
    FROM item CROSS JOIN LATERAL ({found}) AS u {further}"""


# OFFSET 0 and LIMIT 1 keep the look-up of each row by itself: joined, Postgres may read all lines of the organization.
# Their order is that of the unique key: without one, a plan over empty tables may take any index that begins with the
# organization.
_RECORDED: Final = _was(
    """
        SELECT * FROM usage_records
        WHERE organization_id = $1::uuid AND occur_time = recorded_time AND usage_id = changed_id OFFSET 0""",
    ", ".join(f"coalesce(u.{name}, p.{name}) AS {name}" for name in _PRICED),
    """
    LEFT JOIN LATERAL (
        SELECT * FROM usage_pricings WHERE organization_id = $1::uuid AND usage_id = changed_id AND u.cost IS NULL
        OFFSET 0
    ) AS p ON true WHERE changed_number = 1""",
)
_CORRECTED: Final = _was(
    """
        SELECT * FROM usage_correction_lines WHERE organization_id = $1::uuid AND usage_id = changed_id
        ORDER BY number DESC, added DESC LIMIT 1""",
    ", ".join(f"u.{name}" for name in _PRICED),
    "WHERE changed_number > 1 AND u.number = changed_number - 1 AND u.added",
)

# Corrects usages of one organization ($1), each of which had so many corrections as it is said to have. If it has more,
# the number of the correction is taken, which violates a unique key, or its last line is another, and it is left out. A
# usage has one row of values for each movement of money, or one without a movement; only the first (`place` 0) writes
# the correction. By primary and unique keys. The hourly sums are changed in the order of their keys, after everything
# else is written, because other transactions wait for them. The result is how many usages were corrected.
CORRECT: Final = f"""
WITH item AS MATERIALIZED (
    SELECT changed_id, recorded_time, changed_number, coalesce(place, 0) AS place, new_cost::numeric AS new_cost,
        new_version_id, new_kind, new_provider_cost::numeric AS new_provider_cost, new_rate_hours,
        old_counters::uuid[] AS old_counters, old_counted::numeric[] AS old_counted,
        new_counters::uuid[] AS new_counters, new_counted::numeric[] AS new_counted,
        charge_id, charge_amount::numeric AS charge_amount, charge_currency_code, reverses_operation_id
    FROM unnest($2::uuid[], $3::timestamptz[], $4::int[], $5::int[], $6::text[], $7::uuid[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
            $18::text[])
        AS t(changed_id, recorded_time, changed_number, place, new_cost, new_version_id, new_kind, new_provider_cost,
            new_rate_hours, old_counters, old_counted, new_counters, new_counted, charge_id, charge_amount,
            charge_currency_code, reverses_operation_id)
), was AS MATERIALIZED (
    {_RECORDED}
    UNION ALL
    {_CORRECTED}
), corrected AS (
    INSERT INTO usage_corrections (organization_id, operation_id, fingerprint, kind, usage_operation_id, usage_id,
        number, reason, actor, create_time)
    SELECT organization_id, $19::text || usage_id, $20::bytea, $21::text, operation_id, usage_id, changed_number,
        $22::text, $23::text, $24::timestamptz
    FROM was WHERE place = 0 RETURNING 1
), stored AS (
    INSERT INTO usage_correction_lines (create_time, number, added, {_LINE})
    SELECT $24::timestamptz, changed_number, false, {", ".join((*_KEPT, *_PRICED))}, old_counters, old_counted
    FROM was WHERE place = 0
    UNION ALL
    SELECT $24::timestamptz, changed_number, true, {
    ", ".join(_KEPT)
}, new_cost, currency_code, new_version_id, new_kind,
        new_provider_cost, provider_currency_code, new_rate_hours, new_counters, new_counted
    FROM was WHERE place = 0
    RETURNING 1
), moved AS (
    INSERT INTO usage_correction_charges (organization_id, operation_id, usage_id, number, position, amount,
        currency_code, reverses_operation_id, occur_time, create_time)
    SELECT organization_id, charge_id, usage_id, changed_number, place, charge_amount, charge_currency_code,
        reverses_operation_id, occur_time, $24::timestamptz
    FROM was WHERE charge_id IS NOT NULL RETURNING 1
), queued AS (
    INSERT INTO outbox (organization_id, operation_id, kind, state, amount, currency_code, project_id, description,
        attempt_count, next_attempt_time, create_time, user_id, reverses_operation_id, corrects)
    SELECT organization_id, charge_id, CASE WHEN reverses_operation_id IS NULL THEN 'DEBIT' ELSE 'REVERSAL' END,
        'PENDING', charge_amount, charge_currency_code, project_id, model, 0, $25::timestamptz, $24::timestamptz,
        user_id, reverses_operation_id, operation_id
    FROM was WHERE charge_id IS NOT NULL RETURNING 1
), summed AS (
    {INTO_HOURS}
    SELECT {_OF_LINE}, {_CHANGES} FROM was
    WHERE place = 0 AND (SELECT count(*) FROM corrected) + (SELECT count(*) FROM stored)
        + (SELECT count(*) FROM moved) + (SELECT count(*) FROM queued) > 0
    GROUP BY {_BY_KEY} ORDER BY {_BY_KEY}
    ON CONFLICT ({", ".join(HOUR_KEY)}) DO UPDATE SET {_ADD_CHANGES} RETURNING 1
)
SELECT count(*) FILTER (WHERE place = 0) FROM was WHERE (SELECT count(*) FROM summed) > 0
"""
