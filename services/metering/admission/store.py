"""The statements on authorizations, by primary key where they say nothing else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import asyncpg

from libs.common.amount import format_amount
from libs.common.by_key import by_key
from libs.common.database import RawConnection
from services.metering.admission.domain import Allowance, Ask, Pinned, State, Stored
from services.metering.model.units import thousandths_of
from services.metering.quota import quick_store
from services.metering.quota.counter_store import Counted
from services.metering.quota.counter_store import Key as CounterKey
from services.metering.quota.quick_store import QuickChange
from services.metering.usage.domain import LAPSED, Captured
from services.metering.usage.sent import Sent, arrays_of, sent_columns
from services.metering.usage.store import label_text, quantities_text, read_quantities

Key = tuple[str, str]
Place = tuple[datetime, str]
"""A place in the order of the list: create_time and operation id."""

SCAN_MAX: Final = 5_000
PRIMARY_KEY: Final = "authorizations_pkey"


class Filters(NamedTuple):
    """What lets authorizations into a list; None lets everything through."""

    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    model: str | None = None
    state: State | None = None


# The columns of an authorization, in the order in which they are sent.
_ROW: Final = (
    Sent("organization_id", "uuid", ...),
    Sent("operation_id", "text", ...),
    Sent("project_id", "uuid"),
    Sent("user_id", "uuid"),
    Sent("service_account_id", "uuid"),
    Sent("api_key_id", "uuid"),
    Sent("model", "text", ...),
    Sent("endpoint", "text"),
    Sent("input_tokens", "bigint", ...),
    Sent("max_output_tokens", "bigint", ...),
    Sent("hold_ttl_ms", "bigint", ...),
    Sent("quantities", "text"),
    Sent("service_tier", "text", ...),
    Sent("environment", "text", ...),
    Sent("items", "bigint"),
    Sent("labels", "text"),
    Sent("subscription_id", "uuid"),
    Sent("fingerprint", "bytea", ...),
    Sent("price_version_id", "uuid", ...),
    Sent("currency_code", "text", ...),
    Sent("amount", "text", ...),
    Sent("create_time", "timestamptz", ...),
    Sent("counters", "text"),
    Sent("reserved", "text"),
)
_ITEM: Final = f"""item AS (
    SELECT * FROM unnest({arrays_of(_ROW)}) AS t({", ".join(column.name for column in _ROW)})
)"""  # noqa: S608 -- names and kinds of columns.
_HAS_LEASE: Final = """EXISTS (
    SELECT FROM quota_allocations q
    WHERE q.organization_id = ANY (ARRAY[{0}.organization_id]) AND q.operation_id = {0}.operation_id
        AND q.spent IS NOT NULL
)"""
_ITEMS_KEY: Final = by_key("item.organization_id", "operation_id", "item.operation_id")
_IS_NEW: Final = f"""NOT EXISTS (
        SELECT FROM item CROSS JOIN LATERAL (
            SELECT FROM usage_operations WHERE {_ITEMS_KEY}
        ) AS recorded WHERE item.counters IS NOT NULL
    ) AND NOT EXISTS (
        SELECT FROM item CROSS JOIN LATERAL (
            SELECT spent FROM quota_allocations WHERE {_ITEMS_KEY}
        ) AS allocated WHERE allocated.spent IS NOT NULL
    )"""  # noqa: S608 -- made of constants of ours alone.
_CHANGED: Final = quick_store.counters_changed(
    len(_ROW) + 1, only_if=_IS_NEW, unchanged="c.revision = seen.revision", numbered="authorized = c.authorized + 1"
)
_NOT_LEASED: Final = f"item WHERE {_HAS_LEASE.format('item')} IS NOT TRUE"
_IF_CHANGED: Final = "CASE WHEN changed.holds THEN operation_id END"
_FITTING: Final = "item CROSS JOIN changed WHERE changed.begun"
_INTO: Final = """
    INSERT INTO authorizations (organization_id, operation_id, project_id, user_id, service_account_id, api_key_id,
        model, endpoint, input_tokens, max_output_tokens, hold_ttl_ms, quantities, service_tier, environment, items,
        labels, subscription_id, fingerprint, price_version_id, currency_code, amount, create_time, counters, reserved)
    SELECT organization_id, {operation_id}, project_id, user_id, service_account_id, api_key_id,
        model, endpoint, input_tokens, max_output_tokens, hold_ttl_ms, quantities::jsonb, service_tier, environment,
        items, labels::jsonb, subscription_id, fingerprint, price_version_id, currency_code, amount::numeric,
        create_time, counters::uuid[], reserved::numeric[]
    FROM {source} ORDER BY organization_id, operation_id"""
_NOTED: Final = """
    RETURNING organization_id, operation_id, create_time + hold_ttl_ms * interval '1 millisecond' AS end_time, counters
), noted AS (
    INSERT INTO lapse_checks (organization_id, operation_id, check_time)
    SELECT organization_id, operation_id, end_time FROM added WHERE counters IS NOT NULL
)"""
# Inserts in the order of the keys, so that two processes with the same operations cannot deadlock. What has reserved
# something of limits is looked at when its hold ends, should its settlement not come. Returns the keys that existed
# before, which is nearly always none, and those of leases. IS NOT TRUE keeps the planner from turning the look for a
# lease into a join, so that it is one by the primary key.
_ADD: Final = f"""
WITH {_ITEM}, added AS ({_INTO.format(source=_NOT_LEASED, operation_id="operation_id")}
    ON CONFLICT DO NOTHING{_NOTED}
SELECT organization_id::text, operation_id FROM item
WHERE ((organization_id, operation_id) IN (SELECT organization_id, operation_id FROM added)) IS NOT TRUE
"""  # noqa: S608 -- made of constants of ours alone.
# The same where limits are in force and all calls fit into them: also changes the counters, of which it returns what
# they have then (see `quota.quick_store`). Nothing is returned or written where a call does not fit, its usage is
# recorded, or it is a lease. It fails, for want of an operation id, where a counter was changed meanwhile so that the
# calls do not fit or their usage may be recorded, and by the primary key where an operation was authorized before.
_ADD_WITHIN_LIMITS: Final = f"""
WITH {_ITEM}, {_CHANGED}, added AS (
    {_INTO.format(source=_FITTING, operation_id=_IF_CHANGED)}{_NOTED}
{quick_store.AFTERWARDS}
"""

# What was authorized or recorded before, or is a lease.
_TAKEN: Final = f"""
SELECT w.organization_id::text, w.operation_id
FROM unnest($1::uuid[], $2::text[]) AS w(organization_id, operation_id)
WHERE EXISTS (
    SELECT FROM authorizations a
    WHERE a.organization_id = ANY (ARRAY[w.organization_id]) AND a.operation_id = w.operation_id
) OR EXISTS (
    SELECT FROM usage_operations o
    WHERE o.organization_id = ANY (ARRAY[w.organization_id]) AND o.operation_id = w.operation_id
) OR {_HAS_LEASE.format("w")}
"""  # noqa: S608 -- made of constants of ours alone.

_COLUMNS: Final = """a.organization_id::text, a.operation_id, a.project_id::text, a.user_id::text,
    a.service_account_id::text, a.api_key_id::text, a.model, a.endpoint, a.input_tokens, a.max_output_tokens,
    a.hold_ttl_ms, a.quantities::text, a.service_tier, a.environment, a.items, a.labels::text,
    a.subscription_id::text, a.fingerprint,
    a.price_version_id::text, a.currency_code, a.amount, a.create_time, a.cancelled,
    coalesce(o.fingerprint <> '', false) AS settled,"""
EXPIRE_TIME: Final = "coalesce(a.expire_time, a.create_time + a.hold_ttl_ms * interval '1 millisecond')"
"""When the hold of an authorization `a` ends."""
_LAPSED: Final = f"coalesce(o.fingerprint = '{LAPSED.decode()}', false)"
_ENDED: Final = f"""{EXPIRE_TIME}, a.declined, {_LAPSED}, a.enlarged::text,
    l.captured_amount, l.currency_code AS captured_currency_code,
    a.counters IS NOT NULL AND NOT a.limits_released AS reserves, a.limits_released"""
# While a call is settled in parts, its operation has an empty fingerprint. Its last part says what is captured.
_WITH_USAGE: Final = """LEFT JOIN usage_operations o
    ON o.organization_id = ANY (ARRAY[a.organization_id]) AND o.operation_id = a.operation_id
LEFT JOIN LATERAL (
    SELECT captured_amount, currency_code FROM settlement_parts s
    WHERE s.organization_id = a.organization_id AND s.operation_id = a.operation_id ORDER BY s.part DESC LIMIT 1
) l ON true"""

_FIND: Final = f"""
SELECT {_COLUMNS} {_ENDED}
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN authorizations a
    ON a.organization_id = ANY (ARRAY[wanted.organization_id]) AND a.operation_id = wanted.operation_id
{_WITH_USAGE}
"""  # noqa: S608 -- made of constants of ours alone.

# A page, the latest first, by the index `authorizations_by_time` within its bound; usage by its primary key.
_LIST: Final = f"""
SELECT {_COLUMNS} {_ENDED}
FROM authorizations a {_WITH_USAGE}
WHERE a.organization_id = $1::uuid AND a.create_time >= $2::timestamptz
    AND (a.create_time, a.operation_id) < ($3::timestamptz, $4::text)
    AND (a.create_time, a.operation_id) >= (coalesce($5::timestamptz, $2::timestamptz), coalesce($6::text, ''))
    AND ($7::uuid IS NULL OR a.project_id = $7) AND ($8::uuid IS NULL OR a.user_id = $8)
    AND ($9::uuid IS NULL OR a.api_key_id = $9) AND ($10::text IS NULL OR a.model = $10)
    AND ($11::text IS NULL OR $11 = CASE WHEN {_LAPSED} THEN 'LAPSED' WHEN o.fingerprint <> '' THEN 'SETTLED'
        WHEN a.cancelled THEN 'CANCELLED' WHEN a.declined THEN 'DECLINED'
        WHEN {EXPIRE_TIME} > $12::timestamptz THEN 'OPEN' ELSE 'LAPSED' END)
ORDER BY a.create_time DESC, a.operation_id DESC LIMIT $13
"""  # noqa: S608 -- made of constants of ours alone.

# The last row that one filtered page looks at, so that a filter with few matches does not read a whole year; by the
# same index.
_LIST_BOUND: Final = """
SELECT create_time, operation_id FROM authorizations
WHERE organization_id = $1::uuid AND create_time >= $2::timestamptz
    AND (create_time, operation_id) < ($3::timestamptz, $4::text)
ORDER BY create_time DESC, operation_id DESC OFFSET $5 LIMIT 1
"""

# An authorization that ends later is looked at then, should its settlement not come: whoever looks for such may have
# walked past it. In the order of the keys, so that no two processes can deadlock. Returns those whose reservations
# were given back before.
_EXTEND: Final = """
WITH extended AS (
    UPDATE authorizations a SET expire_time = greatest(a.expire_time, later.expire_time)
    FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS later(organization_id, operation_id, expire_time)
    WHERE a.organization_id = ANY (ARRAY[later.organization_id]) AND a.operation_id = later.operation_id
    RETURNING a.organization_id, a.operation_id, a.expire_time, a.environment, a.counters, a.limits_released
), noted AS (
    INSERT INTO lapse_checks (organization_id, operation_id, check_time)
    SELECT organization_id, operation_id, expire_time FROM extended
    WHERE environment = 'LIVE' OR (counters IS NOT NULL AND NOT limits_released)
    ORDER BY organization_id, operation_id
    ON CONFLICT (organization_id, operation_id) DO UPDATE SET check_time = excluded.check_time
)
SELECT organization_id::text, operation_id FROM extended WHERE limits_released
"""

# Only where it is more than what is noted, so that of two enlargements the larger stays.
_ENLARGE: Final = """
UPDATE authorizations SET enlarged = $3::jsonb
WHERE organization_id = $1::uuid AND operation_id = $2::text
    AND coalesce((enlarged->>'amount')::numeric, amount) < ($3::jsonb->>'amount')::numeric
"""

_DECLINE: Final = """
UPDATE authorizations a SET declined = true
FROM unnest($1::uuid[], $2::text[]) AS refused(organization_id, operation_id)
WHERE a.organization_id = ANY (ARRAY[refused.organization_id]) AND a.operation_id = refused.operation_id
    AND NOT a.declined
"""

_CANCEL: Final = """
UPDATE authorizations SET cancelled = true WHERE organization_id = $1::uuid AND operation_id = $2::text
"""


async def add(connection: RawConnection, pinned: Sequence[Pinned]) -> list[Key]:
    """Insert authorizations; return the keys of those that existed before."""
    before = await connection.fetch(_ADD, *_columns(pinned))
    return [(row[0], row[1]) for row in before]


async def add_within_limits(
    connection: RawConnection, pinned: Sequence[Pinned], changes: Sequence[tuple[CounterKey, QuickChange]]
) -> list[Counted]:
    """Insert authorizations and change counters, which come in the order of their keys, or do nothing.

    Return what each counter has afterwards; nothing where not all calls fit, or the usage of one is recorded already.

    Raises:
        ConstraintViolation: an operation was authorized before (`PRIMARY_KEY`), or a counter was changed meanwhile.
            Nothing was written.
    """
    parameters = (*_columns(pinned), *quick_store.columns(changes))
    return await quick_store.run(connection, _ADD_WITHIN_LIMITS, *parameters)


def _columns(pinned: Sequence[Pinned]) -> Iterator[Sequence[object]]:
    rows = [(*one.ask, *one[1:4], format_amount(one.amount), one.create_time, *_reserved(one)) for one in pinned]
    return sent_columns(_ROW, rows)


def _reserved(pinned: Pinned) -> tuple[str | None, str | None]:
    """Return the counters in which an authorization reserves something, and how much in each, as arrays in text."""
    if not pinned.reservations:
        return None, None
    counters, amounts = ",".join(pinned.reservations.counter_ids), ",".join(map(str, pinned.reservations.amounts))
    return f"{{{counters}}}", f"{{{amounts}}}"


async def find(connection: RawConnection, keys: Sequence[Key]) -> dict[Key, Stored]:
    rows = await connection.fetch(_FIND, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): _stored(row) for row in rows}


async def taken(connection: RawConnection, keys: Sequence[Key]) -> set[Key]:
    """Return those of the operations that were authorized or recorded before."""
    rows = await connection.fetch(_TAKEN, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]) for row in rows}


async def cancel(connection: RawConnection, key: Key) -> None:
    await connection.execute(_CANCEL, *key)


async def extend(connection: RawConnection, expire_times: Mapping[Key, datetime]) -> set[Key]:
    """Note when holds end, where that is later than what is noted.

    Return the operations whose reservations were given back before, because their holds had ended.
    """
    rows = await connection.fetch(
        _EXTEND, [key[0] for key in expire_times], [key[1] for key in expire_times], list(expire_times.values())
    )
    return {(row[0], row[1]) for row in rows}


async def enlarge(connection: RawConnection, key: Key, allowance: Allowance) -> None:
    """Note what a call may use and what is held for it, where that is more than what is noted."""
    await connection.execute(_ENLARGE, *key, _allowance_text(allowance))


async def decline(connection: RawConnection, keys: Sequence[Key]) -> None:
    """Note that billing declined the holds."""
    await connection.execute(_DECLINE, [key[0] for key in keys], [key[1] for key in keys])


async def list_authorizations(
    connection: RawConnection,
    *,
    organization_id: str,
    start_time: datetime,
    before: Place,
    filters: Filters,
    now: datetime,
    limit: int,
) -> tuple[list[Stored], Place | None]:
    """Return a page of authorizations, the latest first, and where the next begins; None when there is no more."""
    bound: Place | None = None
    if any(filters):
        row = await connection.fetchrow(_LIST_BOUND, organization_id, start_time, *before, max(SCAN_MAX, limit) - 1)
        bound = None if row is None else (row[0], row[1])
    rows = await connection.fetch(
        _LIST, organization_id, start_time, *before, *(bound or (None, None)), *filters, now, limit
    )
    found = [_stored(row) for row in rows]
    if len(found) == limit:
        return found, (found[-1].pinned.create_time, found[-1].pinned.ask.operation_id)
    return found, bound


def _stored(row: asyncpg.Record) -> Stored:
    values = tuple(row)
    asked = len(Ask._fields)
    ask = Ask(*values[:asked])
    if ask.quantities is not None:
        # Postgres writes JSON in its own way.
        ask = ask._replace(quantities=quantities_text(read_quantities(ask.quantities)))
    if ask.labels is not None:
        ask = ask._replace(labels=label_text(json.loads(ask.labels)))
    pinned = Pinned(ask, *values[asked : asked + 5])
    cancelled, settled, expire_time, declined, is_lapsed, enlarged, amount, currency_code, *limits = values[asked + 5 :]
    allowance = Allowance(ask.input_tokens, ask.max_output_tokens, read_quantities(ask.quantities), pinned.amount)
    if enlarged is not None:
        allowance = _read_allowance(enlarged)
    captured = None if amount is None else Captured(format_amount(amount), currency_code or "")
    return Stored(pinned, cancelled, settled, expire_time, declined, is_lapsed, allowance, captured, *limits)


def _allowance_text(allowance: Allowance) -> str:
    counts = f'"input_tokens":{allowance.input_tokens},"max_output_tokens":{allowance.max_output_tokens}'
    amount, quantities = format_amount(allowance.amount), quantities_text(allowance.quantities)
    return f'{{{counts},"amount":"{amount}","quantities":{quantities}}}'


def _read_allowance(text: str) -> Allowance:
    stored = json.loads(text, parse_float=Decimal)
    quantities = {unit: thousandths_of(Decimal(value)) for unit, value in stored["quantities"].items()}
    return Allowance(stored["input_tokens"], stored["max_output_tokens"], quantities, Decimal(stored["amount"]))
