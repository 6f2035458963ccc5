# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The SQL of corrections, built once at import from the names of the columns."""

from typing import Final

from services.metering.tables import GIVEN_UP_TIME, HOUR_KEY
from services.metering.usage import statements
from services.metering.usage.sent import ROW, arrays_of
from services.metering.usage.statements import HOUR_SUMS, hour_key, hour_sums

_COUNT: Final = len(ROW)
_COLUMNS: Final = ", ".join(column.name for column in ROW)
_ARRAYS: Final = arrays_of(ROW)
_RECEIVED: Final = ", ".join(map(statements.received, ROW))
_STORED: Final = ", ".join(column.name for column in ROW if column.name != "fingerprint")
_KEY: Final = ", ".join(HOUR_KEY)
_BY_KEY: Final = ", ".join(str(number + 1) for number in range(len(HOUR_KEY)))
_OF_LINE: Final = hour_key("coalesce(currency_code, '')", "coalesce(provider_currency_code, '')")


def _sums(sign: str, added: str) -> str:
    return f"SELECT {_OF_LINE}, {hour_sums('cost', 'provider_cost', sign)} FROM line WHERE {added} GROUP BY {_BY_KEY}"


def _units(sign: str, added: str) -> str:
    return f"""SELECT {_OF_LINE}, unit.key AS unit_id, {sign}sum(unit.value::numeric) AS quantity
        FROM line CROSS JOIN LATERAL jsonb_each_text(quantities) AS unit WHERE {added} GROUP BY {_BY_KEY}, unit_id"""


# Stores what corrections take out of the hourly sums and put into them, and changes the sums by it. A line is often
# taken out of the same hour that its successor is put into, so both are added up first. The sums are updated in the
# order of their keys, as by new usage, so that two processes cannot deadlock.
ADD_LINES: Final = f"""
WITH line AS MATERIALIZED (
    SELECT {_RECEIVED}, number, added, {statements.LATENCY_BUCKET}
    FROM unnest({_ARRAYS}, ${_COUNT + 1}::int[], ${_COUNT + 2}::bool[]) AS t({_COLUMNS}, number, added)
), stored AS (
    INSERT INTO usage_correction_lines (create_time, number, added, {_STORED})
    SELECT ${_COUNT + 3}::timestamptz, number, added, {_STORED} FROM line
), summed AS (
    {statements.INTO_HOURS}
    SELECT {_KEY}, {", ".join(f"sum({name})" for name in HOUR_SUMS)}
    FROM ({_sums("-", "NOT added")} UNION ALL {_sums("", "added")}) AS signed
    GROUP BY {_BY_KEY} ORDER BY {_BY_KEY} {statements.ADD_TO_HOURS} RETURNING 1
), units_summed AS (
    {statements.INTO_UNITS}
    SELECT {_KEY}, unit_id, sum(quantity)
    FROM ({_units("-", "NOT added")} UNION ALL {_units("", "added")}) AS signed
    GROUP BY {_BY_KEY}, unit_id ORDER BY {_BY_KEY}, unit_id {statements.ADD_TO_UNITS} RETURNING 1
)
SELECT (SELECT count(*) FROM summed) + (SELECT count(*) FROM units_summed)
"""

# By primary keys. Whoever corrects a usage holds its dedupe row, so its corrections come one after another. That of a
# call which is still settled in parts is no usage. Locks are taken in the order of the keys, which are sorted before.
LOCK: Final = """
SELECT o.organization_id::text, o.operation_id
FROM (
    SELECT organization_id, operation_id FROM unnest($1::uuid[], $2::text[]) AS t(organization_id, operation_id)
    ORDER BY organization_id, operation_id
) AS wanted
CROSS JOIN LATERAL (
    SELECT organization_id, operation_id FROM usage_operations
    WHERE organization_id = wanted.organization_id AND operation_id = wanted.operation_id AND fingerprint <> ''
    FOR UPDATE
) AS o
"""

# The next statement of the transaction, which sees what was committed while locks were waited for. By unique keys.
NUMBERS: Final = """
SELECT wanted.organization_id::text, wanted.usage_id::text, coalesce(c.number, 0)
FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, usage_id)
LEFT JOIN LATERAL (
    SELECT number FROM usage_corrections
    WHERE organization_id = wanted.organization_id AND usage_id = wanted.usage_id
    ORDER BY number DESC LIMIT 1
) AS c ON true
"""

# Who prices usage deletes its row, so it waits for this lock, or this for it.
LOCK_UNPRICED: Final = """
SELECT u.organization_id::text, u.usage_id::text
FROM (
    SELECT organization_id, usage_id FROM unnest($1::uuid[], $2::uuid[]) AS t(organization_id, usage_id)
    ORDER BY organization_id, usage_id
) AS wanted
CROSS JOIN LATERAL (
    SELECT organization_id, usage_id FROM unpriced_usages
    WHERE organization_id = wanted.organization_id AND usage_id = wanted.usage_id FOR UPDATE
) AS u
"""

STOP_WAITING: Final = """
DELETE FROM unpriced_usages u USING unnest($1::uuid[], $2::uuid[]) AS t(organization_id, usage_id)
WHERE u.organization_id = ANY (ARRAY[t.organization_id]) AND u.usage_id = t.usage_id
"""

WAIT: Final = """
INSERT INTO unpriced_usages (organization_id, usage_id, occur_time, model, corrected)
SELECT *, true FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[])
ON CONFLICT (organization_id, usage_id) DO UPDATE SET corrected = true
"""

ADD_CORRECTIONS: Final = """
INSERT INTO usage_corrections (organization_id, operation_id, fingerprint, kind, usage_operation_id, usage_id, number,
    reason, actor, create_time)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::uuid[], $7::int[], $8::text[],
    $9::text[], $10::timestamptz[])
"""

# The movements of corrections, in the outbox too.
ADD_CHARGES: Final = """
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::int[], $5::int[], $6::text[], $7::text[], $8::text[],
            $9::timestamptz[], $10::text[], $11::text[], $12::uuid[], $13::uuid[])
        AS t(organization_id, operation_id, usage_id, number, position, amount, currency_code, reverses_operation_id,
            occur_time, corrects, model, project_id, user_id)
), stored AS (
    INSERT INTO usage_correction_charges (organization_id, operation_id, usage_id, number, position, amount,
        currency_code, reverses_operation_id, occur_time, create_time)
    SELECT organization_id, operation_id, usage_id, number, position, amount::numeric, currency_code,
        reverses_operation_id, occur_time, $14::timestamptz FROM item
)
INSERT INTO outbox (organization_id, operation_id, kind, state, amount, currency_code, project_id, description,
    attempt_count, next_attempt_time, create_time, user_id, reverses_operation_id, corrects)
SELECT organization_id, operation_id, CASE WHEN reverses_operation_id IS NULL THEN 'DEBIT' ELSE 'REVERSAL' END,
    'PENDING', amount::numeric, currency_code, project_id, model, 0, $15::timestamptz, $14::timestamptz, user_id,
    reverses_operation_id, corrects
FROM item
"""

# Usage as it was recorded, with what it counts in limits; by primary keys.
ORIGINALS: Final = f"""
{statements.USAGE}, r.counters::text[], r.counted, p.counters::text[] AS priced_counters, p.counted AS priced_counted
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN usage_operations o
    ON o.organization_id = ANY (ARRAY[wanted.organization_id]) AND o.operation_id = wanted.operation_id
    AND o.fingerprint <> ''
JOIN usage_records r
    ON r.organization_id = ANY (ARRAY[o.organization_id]) AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
LEFT JOIN usage_pricings p
    ON p.organization_id = ANY (ARRAY[r.organization_id]) AND p.usage_id = r.usage_id AND r.cost IS NULL
LEFT JOIN usage_dimensions d
    ON d.organization_id = ANY (ARRAY[r.organization_id]) AND d.dimension_id = r.dimension_id
LEFT JOIN outbox x ON x.organization_id = ANY (ARRAY[r.organization_id]) AND x.operation_id = r.operation_id
"""


def _lines(chosen: str) -> str:
    """Return the statement for lines of usages, each as a usage."""
    return f"""
{statements.USAGE}, r.number, r.added, r.counters::text[], r.counted
FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, usage_id)
CROSS JOIN LATERAL (
    SELECT l.*, NULL::numeric AS captured_before FROM usage_correction_lines l
    WHERE l.organization_id = ANY (ARRAY[wanted.organization_id]) AND l.usage_id = wanted.usage_id {chosen}
) AS r
LEFT JOIN usage_dimensions d
    ON d.organization_id = ANY (ARRAY[r.organization_id]) AND d.dimension_id = r.dimension_id
LEFT JOIN LATERAL (
    SELECT NULL::numeric AS cost, NULL::text AS currency_code, NULL::uuid AS price_version_id,
        NULL::text AS charge_kind, NULL::numeric AS provider_cost, NULL::text AS provider_currency_code,
        NULL::text AS rate_hours
) AS p ON true
LEFT JOIN LATERAL (SELECT NULL::text AS state, NULL::text AS last_error_reason) AS x ON true
"""


# The last line says what usage is, or was before it was voided. By the unique key.
LAST_LINES: Final = _lines("ORDER BY l.number DESC, l.added DESC LIMIT 1")
LINES: Final = _lines("")

# What is charged for usages beside their own charge: parts of calls, and movements of corrections; by unique keys.
SOURCES: Final = """
SELECT wanted.organization_id::text, wanted.usage_id::text, found.*
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS wanted(organization_id, usage_id, operation_id)
CROSS JOIN LATERAL (
    SELECT s.part_id AS operation_id, s.amount, s.currency_code, NULL::text AS reverses_operation_id, 0 AS number,
        s.part AS position
    FROM settlement_parts s
    WHERE s.organization_id = wanted.organization_id AND s.operation_id = wanted.operation_id AND s.part_id IS NOT NULL
    UNION ALL
    SELECT c.operation_id, c.amount, c.currency_code, c.reverses_operation_id, c.number, c.position
    FROM usage_correction_charges c
    WHERE c.organization_id = wanted.organization_id AND c.usage_id = wanted.usage_id
) AS found
ORDER BY wanted.organization_id, wanted.usage_id, found.number, found.position
"""

_CORRECTION: Final = """
SELECT c.organization_id::text, c.operation_id, c.fingerprint, c.kind, c.usage_operation_id, c.usage_id::text, c.number,
    c.reason, c.actor, c.create_time
"""

# By the primary key.
CORRECTIONS: Final = f"""
{_CORRECTION}
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN usage_corrections c
    ON c.organization_id = ANY (ARRAY[wanted.organization_id]) AND c.operation_id = wanted.operation_id
"""

# By the unique key of numbers, which limits how many there are.
OF_USAGE: Final = f"""
{_CORRECTION}
FROM usage_corrections c
WHERE c.organization_id = $1::uuid AND c.usage_id = $2::uuid AND ($3::int IS NULL OR c.number < $3)
ORDER BY c.number DESC LIMIT $4
"""

# A range of the index by time.
OF_ORGANIZATION: Final = f"""
{_CORRECTION}
FROM usage_corrections c
WHERE c.organization_id = $1::uuid
    AND (c.create_time, c.operation_id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
ORDER BY c.create_time DESC, c.operation_id DESC LIMIT $4
"""

# The movements of corrections with the state of each; by unique keys. What would give back a refused charge is none.
CHARGES: Final = f"""
SELECT c.organization_id::text, c.usage_id::text, c.number, c.operation_id, c.amount, c.currency_code,
    c.reverses_operation_id, coalesce(replace(x.state, 'DEAD', 'REFUSED'), 'SETTLED'), coalesce(x.last_error_reason, '')
FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, usage_id)
JOIN usage_correction_charges c
    ON c.organization_id = ANY (ARRAY[wanted.organization_id]) AND c.usage_id = wanted.usage_id
LEFT JOIN outbox x ON x.organization_id = ANY (ARRAY[c.organization_id]) AND x.operation_id = c.operation_id
WHERE c.reverses_operation_id IS NULL OR x.next_attempt_time IS DISTINCT FROM {GIVEN_UP_TIME}
ORDER BY c.number, c.position
"""

# How many corrections usages had, and whether the last one was a void; by the unique key.
MARKS: Final = """
SELECT wanted.usage_id::text, c.number, c.kind = 'VOID'
FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, usage_id)
CROSS JOIN LATERAL (
    SELECT number, kind FROM usage_corrections
    WHERE organization_id = wanted.organization_id AND usage_id = wanted.usage_id
    ORDER BY number DESC LIMIT 1
) AS c
"""

# Usage that waits for a price, along the primary key up to the end of an organization. Usage of other models is in it,
# too, with a null in place of its operation: the last row says where the next part begins.
PENDING: Final = """
SELECT u.organization_id::text, u.usage_id::text, r.operation_id
FROM (
    SELECT * FROM unpriced_usages
    WHERE (organization_id, usage_id) > ($1::uuid, $2::uuid) AND organization_id <= $4::uuid
    ORDER BY organization_id, usage_id LIMIT $3
) AS u
LEFT JOIN usage_records r
    ON r.organization_id = ANY (ARRAY[u.organization_id]) AND r.occur_time = u.occur_time AND r.usage_id = u.usage_id
        AND ($5::text IS NULL OR u.model = $5)
ORDER BY u.organization_id, u.usage_id
"""

# Corrected usage that waits for a price, along an index of its own.
WAITING: Final = """
SELECT u.organization_id::text, u.usage_id::text, r.operation_id
FROM (
    SELECT * FROM unpriced_usages WHERE (organization_id, usage_id) > ($1::uuid, $2::uuid) AND corrected
    ORDER BY organization_id, usage_id LIMIT $3
) AS u
JOIN usage_records r
    ON r.organization_id = ANY (ARRAY[u.organization_id]) AND r.occur_time = u.occur_time AND r.usage_id = u.usage_id
ORDER BY u.organization_id, u.usage_id
"""
