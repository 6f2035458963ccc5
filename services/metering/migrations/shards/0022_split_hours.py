# ruff: noqa: S608 -- the statements are put together from names of columns; there are no values.
"""Hourly sums are split where a day begins within an hour in some time zone, so that the days of all zones are exact.

A sum of the version before counts all usage of its hour. The procedure moves what belongs to a later part of the hour
into a sum of its own, computed from the usage and its corrections, some hours in a transaction. It adds what is missing
there and takes as much out of the sum of the full hour, so it can be interrupted, repeated, and run while usage is
recorded.

A process of the version before adds to the sum of the full hour what it records after this, until it is stopped. Its
queries stay right, and so do all of UTC and of zones that are off by full hours. When all processes run this version,
`CALL split_usage_hours(since)` in each shard's schema moves what they have added since then.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NIL = "'00000000-0000-0000-0000-000000000000'::uuid"
_KEY = (
    "organization_id, hour, model, project_id, user_id, api_key_id, dimension_id, currency_code, provider_currency_code"
)
_TOKENS = ("input", "output", "cache_read", "cache_write", "reasoning", "audio_input", "audio_output", "image")
_BOUNDS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)
_BUCKETS = (*(f"latency_le_{bound}_ms" for bound in _BOUNDS), "latency_over_60000_ms")
_SUMS = ("requests", "errors", *_TOKENS, "cost", "provider_cost", "latency_count", "latency_sum_ms", *_BUCKETS)
_TIMES = sorted(
    {f"{hour:02}:00" for hour in range(24)}
    | {"02:30", "03:30", "09:30", "10:15", "11:15", "13:30", "14:30"}
    | {"15:15", "15:30", "17:30", "18:15", "18:30", "19:30", "20:30"}
)
_LIST = f"'{{{','.join(_TIMES)}}}'::interval[]"
_DAY = "date_bin('1 day', occur_time, '2000-01-01 00:00:00+00')"
_BEGINNING = f"{_DAY} + ({_LIST})[width_bucket(occur_time - {_DAY}, {_LIST})]"
_HAS_PARTS = "extract(hour FROM hour AT TIME ZONE 'UTC') IN (2, 3, 9, 10, 11, 13, 14, 15, 17, 18, 19, 20)"
_OF_USAGE = ", ".join(
    f"r.{name}"
    for name in (
        *("organization_id", "occur_time", "model", "project_id", "user_id", "api_key_id", "dimension_id"),
        *(*_TOKENS, "latency_ms", "status_code", "error_message", "quantities"),
    )
)
_OF_LINE = (
    f"{_OF_USAGE}, r.cost, coalesce(r.currency_code, '') AS currency_code, r.provider_cost,"
    " coalesce(r.provider_currency_code, '') AS provider_currency_code"
)
_WITHIN = (
    "r.organization_id = p.organization_id AND r.occur_time >= p.hour AND r.occur_time < p.hour + interval '1 hour'"
)

# The usage of the hours, with its later price, and what corrections take out of them and put into them.
_USED = f"""
    WITH piece AS (SELECT * FROM unnest(organizations, hours) AS p(organization_id, hour)), used AS MATERIALIZED (
        SELECT organization_id, {_BEGINNING} AS hour, model, coalesce(project_id, {_NIL}) AS project_id,
            coalesce(user_id, {_NIL}) AS user_id, coalesce(api_key_id, {_NIL}) AS api_key_id, dimension_id,
            currency_code, provider_currency_code, {", ".join(_TOKENS)}, coalesce(cost, 0) AS cost,
            coalesce(provider_cost, 0) AS provider_cost, latency_ms, quantities, sign,
            coalesce(status_code, 0) >= 400 OR error_message IS NOT NULL AS is_error,
            width_bucket(latency_ms - 1, ARRAY[{", ".join(map(str, _BOUNDS))}]::bigint[]) AS bucket
        FROM (
            SELECT {_OF_USAGE}, coalesce(r.cost, l.cost) AS cost,
                coalesce(r.currency_code, l.currency_code, '') AS currency_code,
                coalesce(r.provider_cost, l.provider_cost) AS provider_cost,
                coalesce(r.provider_currency_code, l.provider_currency_code, '') AS provider_currency_code, 1 AS sign
            FROM piece p JOIN usage_records r ON {_WITHIN}
            LEFT JOIN usage_pricings l
                ON l.organization_id = r.organization_id AND l.usage_id = r.usage_id AND r.cost IS NULL
            UNION ALL
            SELECT {_OF_LINE}, CASE WHEN r.added THEN 1 ELSE -1 END
            FROM piece p JOIN usage_correction_lines r ON {_WITHIN}
        ) AS r
        WHERE {_BEGINNING} <> date_trunc('hour', occur_time, 'UTC')
    )"""
_COUNTED = ", ".join(
    f"sum({expression}) AS {name}"
    for name, expression in (
        ("requests", "sign"),
        ("errors", "CASE WHEN is_error THEN sign ELSE 0 END"),
        *((name, f"sign * {name}") for name in (*_TOKENS, "cost", "provider_cost")),
        ("latency_count", "CASE WHEN latency_ms IS NULL THEN 0 ELSE sign END"),
        ("latency_sum_ms", "sign * coalesce(latency_ms, 0)"),
        *((name, f"CASE WHEN bucket = {number} THEN sign ELSE 0 END") for number, name in enumerate(_BUCKETS)),
    )
)


def _split(table: str, more: str, sums: Sequence[str], wanted: str) -> str:
    """Return the statement that adds to a table what is missing in later parts of hours and takes it from the first."""
    key = f"{_KEY}{more}"
    missing = ", ".join(f"w.{name} - coalesce(k.{name}, 0) AS {name}" for name in sums)
    differs = " OR ".join(f"w.{name} <> coalesce(k.{name}, 0)" for name in sums)
    first_key = key.replace(" hour,", " date_trunc('hour', hour, 'UTC'),")
    return f"""{_USED}, wanted AS ({wanted}), missing AS MATERIALIZED (
        SELECT {", ".join(f"w.{name}" for name in key.split(", "))}, {missing}
        FROM wanted w LEFT JOIN {table} k ON {" AND ".join(f"k.{name} = w.{name}" for name in key.split(", "))}
        WHERE {differs}
    )
    INSERT INTO {table} AS h ({key}, {", ".join(sums)})
    SELECT * FROM (
        SELECT {key}, {", ".join(sums)} FROM missing
        UNION ALL
        SELECT {first_key}, {", ".join(f"-sum({name})" for name in sums)} FROM missing GROUP BY {first_key}
    ) AS moved
    ORDER BY {", ".join(map(str, range(1, key.count(", ") + 2)))}
    ON CONFLICT ({key}) DO UPDATE SET {", ".join(f"{name} = h.{name} + excluded.{name}" for name in sums)}"""


_SPLIT_HOURS = _split("usage_hours", "", _SUMS, f"SELECT {_KEY}, {_COUNTED} FROM used GROUP BY {_KEY}")
_SPLIT_UNITS = _split(
    "usage_hour_units",
    ", unit_id",
    ("quantity",),
    f"""SELECT {_KEY}, unit.key AS unit_id, sum(sign * unit.value::numeric) AS quantity
        FROM used CROSS JOIN LATERAL jsonb_each_text(quantities) AS unit GROUP BY {_KEY}, unit.key""",
)

# Goes along the primary key, 5,000 sums at a time.
_PROCEDURE = f"""
CREATE OR REPLACE PROCEDURE split_usage_hours(since timestamptz) LANGUAGE plpgsql AS $procedure$
#variable_conflict use_column
DECLARE
    last_organization uuid := {_NIL};
    last_hour timestamptz := '-infinity';
    organizations uuid[];
    hours timestamptz[];
    found_rows bigint;
BEGIN
    LOOP
        WITH next AS MATERIALIZED (
            SELECT organization_id, hour FROM usage_hours
            WHERE (organization_id, hour) > (last_organization, last_hour) AND hour > since - interval '1 hour'
            ORDER BY organization_id, hour LIMIT 5000
        ), full_hours AS (
            SELECT DISTINCT organization_id, date_trunc('hour', hour, 'UTC') AS hour FROM next WHERE {_HAS_PARTS}
        )
        SELECT (SELECT count(*) FROM next), (SELECT array_agg(organization_id ORDER BY organization_id, hour)
                FROM full_hours), (SELECT array_agg(hour ORDER BY organization_id, hour) FROM full_hours),
            (SELECT organization_id FROM next ORDER BY organization_id DESC, hour DESC LIMIT 1),
            (SELECT hour FROM next ORDER BY organization_id DESC, hour DESC LIMIT 1)
        INTO found_rows, organizations, hours, last_organization, last_hour;
        EXIT WHEN found_rows = 0;
        {_SPLIT_HOURS};
        {_SPLIT_UNITS};
        COMMIT;
    END LOOP;
END
$procedure$
"""


def upgrade() -> None:
    op.execute(_PROCEDURE)
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute("CALL split_usage_hours('-infinity')")
        op.execute("SET statement_timeout = '10min'")
