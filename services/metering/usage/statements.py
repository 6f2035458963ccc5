# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The SQL of the hot path, built once at import from the names of the columns."""

from typing import Final

from libs.common import ids
from libs.common.by_key import by_key
from services.metering.quota import quick_store
from services.metering.tables import DIMENSIONS, HOUR_KEY, LATENCY_BOUNDS_MS, LATENCY_BUCKETS, TOKEN_CLASSES
from services.metering.usage.beginnings import beginning
from services.metering.usage.dimensions import PLAIN
from services.metering.usage.sent import RECORDED_ROW, ROW, Sent, arrays_of

_COLUMNS: Final = ", ".join(column.name for column in RECORDED_ROW)
_ARRAYS: Final = arrays_of(RECORDED_ROW)
_SENT: Final = len(RECORDED_ROW) + 1
_COUNTERS: Final = f"${_SENT}::uuid[]"
_NOW: Final = f"${_SENT + 1}::timestamptz"
_DUE: Final = f"${_SENT + 2}::timestamptz"
_DONE_ORGANIZATIONS: Final = f"${_SENT + 3}::uuid[]"
_DONE_OPERATIONS: Final = f"${_SENT + 4}::text::text[]"


_ARRAY_KINDS: Final = {"counters": "uuid[]", "counted": "numeric[]"}


def received(column: Sent) -> str:
    if column.name in ("cost", "provider_cost"):
        return f"{column.name}::numeric AS {column.name}"
    if column.name in ("labels", "quantities"):
        return f"{column.name}::jsonb AS {column.name}"
    if column.name in _ARRAY_KINDS:
        return f"{column.name}::{_ARRAY_KINDS[column.name]} AS {column.name}"
    if column.absent is None or column.absent is ...:
        return column.name
    return f"coalesce({column.name}, {str(column.absent).lower()}) AS {column.name}"


_RECEIVED: Final = ", ".join(
    f"({_COUNTERS})[first_counter:last_counter] AS counters" if column.name == "counters" else received(column)
    for column in ROW
)
_STORED: Final = ", ".join(column.name for column in ROW if column.name != "fingerprint")
# What a later pricing gives to usage that had no price.
_PRICED: Final = (
    "cost",
    "currency_code",
    "price_version_id",
    "charge_kind",
    "provider_cost",
    "provider_currency_code",
    "rate_hours",
)
_PLAIN: Final = tuple(column for column in ROW if column.name not in ("fingerprint", *_PRICED, *_ARRAY_KINDS))

NIL: Final = f"'{ids.NIL}'::uuid"
HOUR_SUMS: Final = (
    "requests",
    "errors",
    *TOKEN_CLASSES,
    "cost",
    "provider_cost",
    "latency_count",
    "latency_sum_ms",
    *LATENCY_BUCKETS,
)
_BY_HOUR_KEY: Final = ", ".join(str(number + 1) for number in range(len(HOUR_KEY)))

IS_ERROR: Final = "(coalesce(status_code, 0) >= 400 OR error_message IS NOT NULL)"
# Computed once per usage; the sums below read it once per bucket.
LATENCY_BUCKET: Final = (
    f"width_bucket(latency_ms - 1, ARRAY[{', '.join(str(bound) for bound in LATENCY_BOUNDS_MS)}]::bigint[])"
    " AS latency_bucket"
)


def hour_key(currency_code: str, provider_currency_code: str, prefix: str = "", hour: str = "") -> str:
    """Return the expressions of a usage's key among the hours, or among other windows that begin at `hour`."""
    return (
        f"{prefix}organization_id, {hour or beginning(f'{prefix}occur_time')} AS hour, {prefix}model,"
        f" coalesce({prefix}project_id, {NIL}) AS project_id, coalesce({prefix}user_id, {NIL}) AS user_id,"
        f" coalesce({prefix}api_key_id, {NIL}) AS api_key_id, {prefix}dimension_id, {currency_code} AS currency_code,"
        f" {provider_currency_code} AS provider_currency_code"
    )


def hour_sums(cost: str, provider_cost: str, sign: str = "") -> str:
    """Return the sums over a group of usages with their LATENCY_BUCKET, in the order of HOUR_SUMS."""
    counted = [
        "count(*)",
        f"count(*) FILTER (WHERE {IS_ERROR})",
        *(f"sum({token_class})" for token_class in TOKEN_CLASSES),
        f"coalesce(sum({cost}), 0)",
        f"coalesce(sum({provider_cost}), 0)",
        "count(latency_ms)",
        "coalesce(sum(latency_ms), 0)",
        *(f"count(*) FILTER (WHERE latency_bucket = {number})" for number in range(len(LATENCY_BUCKETS))),
    ]
    return ", ".join(f"{sign}{expression} AS {name}" for expression, name in zip(counted, HOUR_SUMS, strict=True))


ADD_TO_HOURS: Final = (
    "ON CONFLICT ("
    + ", ".join(HOUR_KEY)
    + ") DO UPDATE SET "
    + ", ".join(f"{name} = h.{name} + excluded.{name}" for name in HOUR_SUMS)
)
INTO_HOURS: Final = f"INSERT INTO usage_hours AS h ({', '.join((*HOUR_KEY, *HOUR_SUMS))})"
INTO_UNITS: Final = f"INSERT INTO usage_hour_units AS h ({', '.join(HOUR_KEY)}, unit_id, quantity)"
_UNIT: Final = "unit.key AS unit_id, {sign}sum(unit.value::numeric) AS quantity"
ADD_TO_UNITS: Final = (
    f"ON CONFLICT ({', '.join(HOUR_KEY)}, unit_id) DO UPDATE SET quantity = h.quantity + excluded.quantity"
)
_GROUP: Final = f"GROUP BY {_BY_HOUR_KEY}"
_ORDER: Final = f"ORDER BY {_BY_HOUR_KEY}"
_GROUP_UNITS: Final = f"{_GROUP}, unit_id"
_ORDER_UNITS: Final = f"{_ORDER}, unit_id"


# One transaction. It first claims the dedupe rows, in the order of their keys. All other rows are made from those that
# were claimed, so a duplicate writes nothing. The hourly summaries are updated in the order of their keys, so that two
# processes cannot deadlock. IS TRUE keeps the test for claimed rows from becoming a join: it uses a hash table.
def _record(
    *, item: str, claimed: str, stored: str, amount: str, units: str, further: str, result: str, recorded: str = ""
) -> str:
    return f"""
WITH item AS (
    {item}
), {claimed}, fresh AS MATERIALIZED (
    SELECT item.*, {LATENCY_BUCKET} FROM item WHERE (usage_id IN (SELECT usage_id FROM claimed)) IS TRUE
), summed AS (
    {INTO_HOURS}
    SELECT {hour_key("coalesce(currency_code, '')", "coalesce(provider_currency_code, '')")},
        {hour_sums("cost", "provider_cost")} FROM fresh
    {_GROUP} {_ORDER} {ADD_TO_HOURS} RETURNING 1
),{units} queued AS (
    INSERT INTO outbox (organization_id, operation_id, kind, state, amount, currency_code, project_id, description,
        attempt_count, next_attempt_time, create_time, user_id, hold_operation_id)
    SELECT organization_id, operation_id, charge_kind, 'PENDING', {amount}, currency_code, project_id, model,
        0, {_DUE}, {_NOW}, user_id, CASE WHEN charge_kind = 'CAPTURE' THEN lease_id END
    FROM fresh WHERE charge_kind IS NOT NULL
), parked AS (
    INSERT INTO unpriced_usages (organization_id, usage_id, occur_time, model)
    SELECT organization_id, usage_id, occur_time, model FROM fresh WHERE cost IS NULL
), {further}recorded AS (
    INSERT INTO usage_records (create_time, {stored}) SELECT {_NOW}, {recorded or f"{stored} FROM fresh"}
)
{result}
"""


_UNITS_SUMMED: Final = f"""
units_summed AS (
    {INTO_UNITS}
    SELECT {hour_key("coalesce(currency_code, '')", "coalesce(provider_currency_code, '')")}, {_UNIT.format(sign="")}
    FROM fresh CROSS JOIN LATERAL jsonb_each_text(quantities) AS unit
    {_GROUP_UNITS} {_ORDER_UNITS} {ADD_TO_UNITS} RETURNING 1
),"""


def _record_new(units: str) -> str:
    """Return the statement for new usage, which also deletes charges that billing has confirmed.

    The result is null if every usage was new, which is the usual case.
    """
    return _record(
        item=f"SELECT {_RECEIVED} FROM unnest({_ARRAYS}) AS t({_COLUMNS})",
        claimed=_CLAIMED,
        stored=_STORED,
        amount="cost",
        units=units,
        further=f"{_FINISHED}, ",
        result="SELECT CASE WHEN count(*) < cardinality($1) THEN coalesce(array_agg(usage_id::text), '{}') END"
        " FROM claimed",
    )


def _record_counted(units: str, summed: str) -> str:
    """Return the same for usage that is counted in limits, which also changes their counters.

    It returns what the counters have afterwards (see `services.metering.quota.quick_store`). It fails where a usage was
    recorded before, where what its authorization has reserved was given back or is not known, and where a counter is
    gone or was changed meanwhile. Counters are changed after all that other transactions may wait for, as in the
    careful way. Whether a settled call lapses need not be looked at any more.
    """
    locked = " + ".join(f"(SELECT count(*) FROM {part})" for part in ("summed", "finished", *summed.split()))
    only_if = f"""(SELECT count(*) FROM claimed) = cardinality($1) AND {locked} >= 0 AND NOT EXISTS (
        SELECT FROM item CROSS JOIN LATERAL (
            SELECT counters IS NOT NULL AS reserved, limits_released FROM authorizations
            WHERE {by_key("item.organization_id", "operation_id", "item.operation_id")}
        ) AS a WHERE a.reserved AND a.limits_released = item.reserves
    )"""
    # What is settled here concerns usage of the same batch alone: each kind looks for its own.
    counters_changed = quick_store.counters_changed(
        _SENT + 8,
        only_if=only_if,
        unchanged=f"(c.revision = seen.revision OR NOT {_SOME_RESERVE})"
        f" AND (c.authorized = seen.authorized OR NOT {_SOME_DO_NOT})",
        numbered=f"revision = c.revision + {_SOME_DO_NOT}::integer",
    )
    return _record(
        item=f"SELECT {_RECEIVED}, reserves FROM unnest({_ARRAYS}, {_RESERVES}) AS t({_COLUMNS}, reserves)",
        claimed=_CLAIMED_OR_FAILED,
        stored=_STORED,
        amount="cost",
        units=units,
        further=f"""{_FINISHED}, {counters_changed}, looked_at AS (
    DELETE FROM lapse_checks l USING (
        SELECT organization_id, operation_id FROM item WHERE reserves ORDER BY organization_id, operation_id
    ) AS s WHERE l.organization_id = ANY (ARRAY[s.organization_id]) AND l.operation_id = s.operation_id
), """,
        result=quick_store.AFTERWARDS,
        recorded=f"{_STORED_IF_COUNTED} FROM fresh CROSS JOIN changed",
    )


_RESERVES: Final = f"${_SENT + 5}::bool[]"
_SOME_RESERVE: Final = f"${_SENT + 6}::bool"
_SOME_DO_NOT: Final = f"${_SENT + 7}::bool"
_STORED_IF_COUNTED: Final = ", ".join(
    "CASE WHEN changed.holds THEN usage_id END" if name == "usage_id" else name for name in _STORED.split(", ")
)
_FINISHED: Final = f"""finished AS (
    DELETE FROM outbox USING unnest({_DONE_ORGANIZATIONS}, {_DONE_OPERATIONS}) AS done(organization_id, operation_id)
    WHERE outbox.organization_id = ANY (ARRAY[done.organization_id]) AND outbox.operation_id = done.operation_id
    RETURNING 1
)"""
_CLAIM: Final = """claimed AS (
    INSERT INTO usage_operations (organization_id, operation_id, fingerprint, usage_id, occur_time)
    SELECT organization_id, operation_id, fingerprint, usage_id, occur_time FROM item ORDER BY 1, 2
    {on_conflict}RETURNING usage_id
)"""
_CLAIMED: Final = _CLAIM.format(on_conflict="ON CONFLICT DO NOTHING ")
# Without ON CONFLICT a row is 6.1 µs of CPU in Postgres instead of 8.4: it looks into the key once instead of twice.
_CLAIMED_OR_FAILED: Final = _CLAIM.format(on_conflict="")

RECORD: Final = _record_new("")
# The same for usage of which some has quantities of other units than the token classes.
RECORD_UNITS: Final = _record_new(_UNITS_SUMMED)
RECORD_COUNTED: Final = _record_counted("", "")
RECORD_COUNTED_UNITS: Final = _record_counted(_UNITS_SUMMED, "units_summed")

_SEEN: Final = f"${_SENT + 3}::uuid[]"
_BEFORE: Final = f"${_SENT + 4}::text[]"
# The last settlements of calls that were settled in parts. Each takes over the dedupe row that the parts have made, if
# no further part was stored since it was seen. The result is the ids of the usages that did.
RECORD_LAST: Final = _record(
    item=f"""SELECT {_RECEIVED}, seen_usage_id, captured_before::numeric AS captured_before
    FROM unnest({_ARRAYS}, {_SEEN}, {_BEFORE}) AS t({_COLUMNS}, seen_usage_id, captured_before)""",
    claimed="""open AS MATERIALIZED (
    SELECT o.* FROM (
        SELECT organization_id, operation_id, seen_usage_id FROM item ORDER BY organization_id, operation_id
    ) AS seen
    CROSS JOIN LATERAL (
        SELECT organization_id, operation_id FROM usage_operations
        WHERE organization_id = seen.organization_id AND operation_id = seen.operation_id
            AND fingerprint = '' AND usage_id = seen.seen_usage_id
        FOR UPDATE
    ) AS o
), claimed AS (
    UPDATE usage_operations o SET fingerprint = item.fingerprint, usage_id = item.usage_id, occur_time = item.occur_time
    FROM open JOIN item USING (organization_id, operation_id)
    WHERE o.organization_id = ANY (ARRAY[open.organization_id]) AND o.operation_id = open.operation_id
        AND o.fingerprint = '' AND o.usage_id = item.seen_usage_id
    RETURNING o.usage_id
)""",
    stored=f"{_STORED}, captured_before",
    amount="cost - captured_before",
    units=_UNITS_SUMMED,
    further="",
    result="SELECT usage_id::text FROM claimed",
)

# Moves usage from the summary without a price to that of its currency. Only the process that deletes the waiting row
# does it, so it happens once. The result is the usages for which it did.
PRICE: Final = f"""
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[],
            $9::text[], $11::text[], $12::text[])
        AS t(organization_id, usage_id, cost, currency_code, price_version_id, charge_kind, provider_cost,
            provider_currency_code, rate_hours, counters, counted)
), freed AS (
    DELETE FROM unpriced_usages u USING item
    WHERE u.organization_id = ANY (ARRAY[item.organization_id]) AND u.usage_id = item.usage_id AND NOT u.corrected
    RETURNING item.*, u.occur_time
), priced AS (
    INSERT INTO usage_pricings (organization_id, usage_id, cost, currency_code, price_version_id, charge_kind,
        provider_cost, provider_currency_code, rate_hours, create_time, counters, counted)
    SELECT organization_id, usage_id, cost::numeric, currency_code, price_version_id, charge_kind,
        provider_cost::numeric, provider_currency_code, rate_hours, $10::timestamptz, counters::uuid[],
        counted::numeric[]
    FROM freed
), usage AS MATERIALIZED (
    SELECT r.*, {LATENCY_BUCKET}, f.cost::numeric AS new_cost, f.currency_code AS new_currency_code,
        f.charge_kind AS new_charge_kind, f.provider_cost::numeric AS new_provider_cost,
        coalesce(f.provider_currency_code, '') AS new_provider_currency_code
    FROM freed f JOIN usage_records r
        ON r.organization_id = ANY (ARRAY[f.organization_id]) AND r.occur_time = f.occur_time
        AND r.usage_id = f.usage_id
), queued AS (
    INSERT INTO outbox (organization_id, operation_id, kind, state, amount, currency_code, project_id, description,
        attempt_count, next_attempt_time, create_time, user_id, hold_operation_id)
    SELECT organization_id, operation_id, new_charge_kind, 'PENDING', new_cost - coalesce(captured_before, 0),
        new_currency_code, project_id, model, 0, $10::timestamptz, $10::timestamptz, user_id,
        CASE WHEN new_charge_kind = 'CAPTURE' THEN lease_id END
    FROM usage WHERE new_charge_kind IS NOT NULL
), summed AS (
    {INTO_HOURS}
    SELECT {hour_key("''", "''")}, {hour_sums("0", "0", "-")} FROM usage {_GROUP}
    UNION ALL
    SELECT {hour_key("new_currency_code", "new_provider_currency_code")}, {hour_sums("new_cost", "new_provider_cost")}
    FROM usage {_GROUP}
    {_ORDER} {ADD_TO_HOURS}
), units_summed AS (
    {INTO_UNITS}
    SELECT {hour_key("''", "''")}, {_UNIT.format(sign="-")}
    FROM usage CROSS JOIN LATERAL jsonb_each_text(quantities) AS unit {_GROUP_UNITS}
    UNION ALL
    SELECT {hour_key("new_currency_code", "new_provider_currency_code")}, {_UNIT.format(sign="")}
    FROM usage CROSS JOIN LATERAL jsonb_each_text(quantities) AS unit {_GROUP_UNITS}
    {_ORDER_UNITS} {ADD_TO_UNITS}
)
SELECT usage_id::text FROM freed
"""


def _read(column: Sent) -> str:
    is_text = column.kind == "uuid" or column.name in ("labels", "quantities")
    return f"r.{column.name}" + ("::text" if is_text else "")


USAGE: Final = f"""
SELECT {", ".join(map(_read, _PLAIN))},
    r.create_time, coalesce(r.cost, p.cost) AS cost, coalesce(r.currency_code, p.currency_code) AS currency_code,
    coalesce(r.price_version_id, p.price_version_id)::text AS price_version_id,
    coalesce(r.charge_kind, p.charge_kind) AS charge_kind,
    coalesce(r.provider_cost, p.provider_cost) AS provider_cost,
    coalesce(r.provider_currency_code, p.provider_currency_code) AS provider_currency_code,
    coalesce(r.rate_hours, p.rate_hours) AS rate_hours, r.captured_before,
    {", ".join(f"d.{name} AS {name}_dimension" for name in DIMENSIONS)},
    replace(x.state, 'DEAD', 'REFUSED') AS charge_state,
    x.last_error_reason AS charge_refusal_reason
"""
"""The columns of a stored usage `r`, with its later pricing `p`, its dimensions `d` and its charge `x`."""

_JOINS: Final = """
LEFT JOIN usage_pricings p
    ON p.organization_id = ANY (ARRAY[r.organization_id]) AND p.usage_id = r.usage_id AND r.cost IS NULL
LEFT JOIN usage_dimensions d
    ON d.organization_id = ANY (ARRAY[r.organization_id]) AND d.dimension_id = r.dimension_id
LEFT JOIN outbox x ON x.organization_id = ANY (ARRAY[r.organization_id]) AND x.operation_id = r.operation_id
"""

# Index: primary keys. The dedupe row holds the occur_time, which selects the partition.
FIND: Final = f"""
{USAGE}, o.fingerprint, (
    SELECT s.currency_code FROM settlement_parts s
    WHERE r.captured_before > 0 AND s.organization_id = r.organization_id AND s.operation_id = r.operation_id
    ORDER BY s.part DESC LIMIT 1
) AS captured_currency_code
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN usage_operations o
    ON o.organization_id = ANY (ARRAY[wanted.organization_id]) AND o.operation_id = wanted.operation_id
JOIN usage_records r
    ON r.organization_id = ANY (ARRAY[o.organization_id]) AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
{_JOINS}
"""

_HAS_CLASS: Final = (
    "CASE $13::text " + " ".join(f"WHEN '{name}' THEN {name}" for name in TOKEN_CLASSES) + " ELSE 0 END > 0"
)

# Index: the primary key of each month's partition, read backwards.
LIST: Final = f"""
{USAGE}
FROM (
    SELECT * FROM usage_records
    WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz
        AND (occur_time, usage_id) < ($3::timestamptz, $4::uuid)
        AND (occur_time, usage_id) >= (coalesce($5::timestamptz, $2::timestamptz), coalesce($6::uuid, {NIL}))
        AND ($7::uuid IS NULL OR project_id = $7) AND ($8::uuid IS NULL OR user_id = $8)
        AND ($9::uuid IS NULL OR api_key_id = $9) AND ($10::text IS NULL OR model = $10)
        AND ($11::uuid[] IS NULL OR dimension_id = ANY($11)) AND ($12::text IS NULL OR quantities ? $12)
        AND ($13::text IS NULL OR {_HAS_CLASS})
    ORDER BY occur_time DESC, usage_id DESC LIMIT $14
) r
{_JOINS}
ORDER BY r.occur_time DESC, r.usage_id DESC
"""

# The combinations of dimensions of an organization that a filter lets through; by the primary key. An organization has
# few, unless it gives each usage a label value of its own: there are at most as many as are asked for.
MATCHING_DIMENSIONS: Final = f"""
SELECT dimension_id::text FROM (
    SELECT * FROM usage_dimensions WHERE organization_id = $1
    UNION ALL SELECT $1, {NIL}, {", ".join(f"'{value}'" for value in PLAIN)}
) AS known
WHERE {" AND ".join(f"(${n}::text IS NULL OR {name} = ${n})" for n, name in enumerate(DIMENSIONS, 2))}
LIMIT ${len(DIMENSIONS) + 2}
"""
