"""The statements of usage, on the driver's own connection; the text of the long ones is in `statements`."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import asyncpg

from libs.common.amount import format_amount
from libs.common.array_text import array_text
from libs.common.database import Database, RawConnection
from libs.common.errors import Kind, Refusal
from libs.common.ids import AFTER_TEXT, MAX, NIL
from libs.common.jumps import jumps
from services.metering.clients.billing import Charge
from services.metering.model.units import CLASS_OF_UNIT, Quantities, thousandths_of
from services.metering.quota import counter_store, quick_store
from services.metering.quota.counter_store import Counted
from services.metering.quota.domain import Reservations
from services.metering.quota.quick_store import QuickChange
from services.metering.tables import DIMENSIONS, GIVEN_UP_TIME
from services.metering.usage import statements
from services.metering.usage.dimensions import PLAIN, Dimensions, KnownDimensions
from services.metering.usage.domain import (
    NO_QUANTITIES,
    PENDING_PRICE,
    REFUSED,
    SETTLED,
    Authorization,
    Captured,
    Cost,
    Recorded,
    Stated,
    Work,
)
from services.metering.usage.rows import Rows, rows_of
from services.metering.usage.rows import columns_of as columns_of
from services.metering.usage.rows import counts_text as counts_text
from services.metering.usage.rows import quantities_text as quantities_text

Key = tuple[str, str]
"""The organization and the operation id, which together name a usage and its charge."""

SCAN_MAX: Final = 5_000
DIMENSIONS_MAX: Final = 10_000


class Filters(NamedTuple):
    """What lets usage into a list; None lets everything through."""

    plain: tuple[str | None, str | None, str | None, str | None] = (None, None, None, None)
    """Project, user, API key and model."""
    dimensions: tuple[str | None, ...] = (None,) * len(DIMENSIONS)
    unit: str | None = None


class TooManyDimensions(Refusal):
    """An organization has used so many values of labels or endpoints that a list cannot be filtered by them."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_DIMENSIONS"
    template = "The filters let through more than 10,000 combinations of labels, endpoints and the like: narrow them."


class DueCharge(NamedTuple):
    """A charge to be sent, with the number of this attempt."""

    charge: Charge
    attempt_count: int


async def record(
    connection: RawConnection,
    rows: Rows,
    *,
    now: datetime,
    due_time: datetime,
    done: Collection[Key],
) -> set[str]:
    """Write usages, their summaries and their charges in one statement; return the ids of the usages that were new."""
    done_keys = list(done)
    new = await connection.fetchval(
        statements.RECORD_UNITS if rows.has_units else statements.RECORD,
        *rows.columns,
        now,
        due_time,
        [organization_id for organization_id, _ in done_keys],
        array_text([operation_id for _, operation_id in done_keys]),
    )
    return {one.usage_id for one in rows.recorded} if new is None else set(new)


async def record_counted(
    connection: RawConnection,
    rows: Rows,
    changes: Sequence[tuple[Key, QuickChange]],
    *,
    now: datetime,
    due_time: datetime,
    done: Collection[Key],
) -> list[Counted]:
    """Write usages as `record` does and change the counters of limits, which come in the order of their keys.

    Return what each counter has afterwards.

    Raises:
        ConstraintViolation: a usage was recorded before, a reservation is not as the usage says, or a counter is gone
            or was changed meanwhile. Nothing was written.
    """
    reserves = [None if one.counts is None else bool(one.counts.reservations) for one in rows.recorded]
    return await quick_store.run(
        connection,
        statements.RECORD_COUNTED_UNITS if rows.has_units else statements.RECORD_COUNTED,
        *rows.columns,
        now,
        due_time,
        [organization_id for organization_id, _ in done],
        array_text([operation_id for _, operation_id in done]),
        reserves,
        True in reserves,
        False in reserves,
        *quick_store.columns(changes),
    )


class LastSettlement(NamedTuple):
    """The usage of a call that was settled in parts, and its dedupe row's usage id as it was seen."""

    recorded: Recorded
    seen_usage_id: str


async def record_last(
    connection: RawConnection, last: Sequence[LastSettlement], *, now: datetime, due_time: datetime
) -> set[str]:
    """Write the usages of calls that were settled in parts, as `record` does.

    Return the ids of those whose dedupe row was as it was seen. Of the others nothing is written.
    """
    rows = await connection.fetch(
        statements.RECORD_LAST,
        *rows_of([one.recorded for one in last]).columns,
        now,
        due_time,
        [one.seen_usage_id for one in last],
        [one.recorded.captured_before.amount if one.recorded.captured_before else "0" for one in last],
    )
    return {row[0] for row in rows}


# Combinations of dimensions that this process has not seen of an organization yet.
_ADD_DIMENSIONS: Final = f"""
INSERT INTO usage_dimensions (organization_id, dimension_id, {", ".join(DIMENSIONS)})
SELECT * FROM unnest($1::uuid[], $2::uuid[], {", ".join(f"${n}::text[]" for n in range(3, 3 + len(DIMENSIONS)))})
ORDER BY 1, 2 ON CONFLICT DO NOTHING
"""  # noqa: S608 -- names of columns.


async def know_dimensions(database: Database, known: KnownDimensions, recorded: Iterable[Recorded]) -> None:
    """Store the combinations of dimensions of usages that are not known to be stored; by the primary key."""
    unknown = known.unknown((one.work.organization_id, one.dimensions) for one in recorded)
    if not unknown:
        return
    organization_ids, ids = zip(*unknown, strict=True)
    async with database.raw_connection() as connection:
        values = map(list, zip(*unknown.values(), strict=True))
        await connection.execute(_ADD_DIMENSIONS, organization_ids, ids, *values)
    for key in unknown:
        known.add(key)


async def find(connection: RawConnection, keys: Sequence[Key]) -> dict[Key, tuple[Recorded, bytes]]:
    """Return the stored usages of some operations, each with its fingerprint."""
    rows = await connection.fetch(statements.FIND, [key[0] for key in keys], [key[1] for key in keys])
    found = ((recorded_of(row), row["fingerprint"]) for row in rows)
    return {(recorded.work.organization_id, recorded.work.operation_id): (recorded, mark) for recorded, mark in found}


# By primary keys.
_AUTHORIZATIONS: Final = """
SELECT a.organization_id::text, a.operation_id, project_id::text, user_id::text, api_key_id::text, model, endpoint,
    price_version_id::text, currency_code, amount, service_account_id::text, service_tier, environment,
    a.subscription_id::text, a.counters::text[], a.reserved
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN authorizations a
    ON a.organization_id = ANY (ARRAY[wanted.organization_id]) AND a.operation_id = wanted.operation_id
"""


async def find_authorizations(connection: RawConnection, keys: Sequence[Key]) -> list[Authorization]:
    """Return the authorizations of some operations, of those that have one.

    What is reserved in a counter that is gone is left out.
    """
    rows = await connection.fetch(_AUTHORIZATIONS, [key[0] for key in keys], [key[1] for key in keys])
    counters = {(row[0], counter_id) for row in rows for counter_id in row["counters"] or ()}
    metrics = await counter_store.metrics(connection, counters) if counters else {}
    return [Authorization._make((*row[:-2], _reservations(row, metrics))) for row in rows]


def _reservations(row: asyncpg.Record, metrics: Mapping[Key, tuple[str, str]]) -> Reservations:
    """Return what an authorization has reserved in counters whose metrics are known."""
    known = [
        (counter_id, metrics[row[0], counter_id], amount)
        for counter_id, amount in zip(row["counters"] or (), row["reserved"] or (), strict=True)
        if (row[0], counter_id) in metrics
    ]
    return Reservations(*map(tuple, zip(*known, strict=True)))


# The last row that one filtered page looks at, so that a filter with few matches does not read a whole year.
_LIST_BOUND: Final = """
SELECT occur_time, usage_id::text FROM usage_records
WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz
    AND (occur_time, usage_id) < ($3::timestamptz, $4::uuid)
ORDER BY occur_time DESC, usage_id DESC OFFSET $5 LIMIT 1
"""


async def list_usages(
    connection: RawConnection,
    *,
    organization_id: str,
    start_time: datetime,
    before: tuple[datetime, str],
    filters: Filters,
    limit: int,
) -> tuple[list[Recorded], tuple[datetime, str] | None]:
    """Return a page of usages, the latest first, and where the next begins; None when there is no more."""
    bound = None
    dimension_ids = None
    if any(filters.dimensions):
        values = (organization_id, *filters.dimensions, DIMENSIONS_MAX + 1)
        dimension_ids = [row[0] for row in await connection.fetch(statements.MATCHING_DIMENSIONS, *values)]
        if len(dimension_ids) > DIMENSIONS_MAX:
            raise TooManyDimensions
    if any((*filters.plain, *filters.dimensions, filters.unit)):
        row = await connection.fetchrow(_LIST_BOUND, organization_id, start_time, *before, max(SCAN_MAX, limit) - 1)
        bound = None if row is None else (row[0], row[1])
    token_class = CLASS_OF_UNIT.get(filters.unit or "")
    rows = await connection.fetch(
        statements.LIST,
        organization_id,
        start_time,
        *before,
        *(bound or (None, None)),
        *filters.plain,
        dimension_ids,
        None if token_class else filters.unit,
        token_class,
        limit,
    )
    usages = [recorded_of(row) for row in rows]
    if len(usages) == limit:
        return usages, (usages[-1].work.occur_time, usages[-1].usage_id)
    return usages, bound


# Jumps along the primary key of the hourly sums, and looks into the range of each organization.
_ORGANIZATIONS: Final = f"""{jumps("usage_hours", limit="$4")}
SELECT organization_id::text, EXISTS (
    SELECT FROM usage_hours u
    WHERE u.organization_id = ANY (ARRAY[looked.organization_id])
        AND u.hour >= $2::timestamptz AND u.hour < $3::timestamptz
)
FROM looked
"""  # noqa: S608 -- the table is a constant.


async def organizations_after(
    connection: RawConnection, after: str, start_time: datetime, end_time: datetime, limit: int
) -> list[tuple[str, bool]]:
    """Return the next organizations, by id, that ever had usage, and whether each has any between two full hours."""
    rows = await connection.fetch(_ORGANIZATIONS, after, start_time, end_time, limit)
    return [(row[0], row[1]) for row in rows]


_WINDOW_END: Final = """
SELECT organization_id::text, operation_id FROM outbox WHERE (organization_id, operation_id) > ($1::uuid, $2::text)
ORDER BY organization_id, operation_id OFFSET $3 LIMIT 1
"""

# Skips rows that another process has locked, so that two relays share the work. What is being sent is PENDING: nobody
# is sending a charge that is REFUSED, so a correction may give it up.
_TAKE_DUE: Final = """
WITH due AS (
    SELECT organization_id, operation_id FROM outbox
    WHERE (organization_id, operation_id) > ($1::uuid, $2::text)
        AND (organization_id, operation_id) <= ($3::uuid, $4::text)
        AND next_attempt_time <= $5::timestamptz
    ORDER BY organization_id, operation_id LIMIT $6 FOR UPDATE SKIP LOCKED
)
UPDATE outbox o SET state = 'PENDING', next_attempt_time = $7::timestamptz, attempt_count = o.attempt_count + 1
FROM due WHERE o.organization_id = ANY (ARRAY[due.organization_id]) AND o.operation_id = due.operation_id
RETURNING o.organization_id::text, o.operation_id, o.kind, o.amount, o.currency_code, o.project_id::text, o.description,
    o.hold_operation_id, o.user_id::text, o.reverses_operation_id, o.corrects, o.attempt_count
"""


async def window_end(connection: RawConnection, after: Key) -> Key | None:
    """Return the last key of the next window of the outbox; None when the rest fits into one window."""
    row = await connection.fetchrow(_WINDOW_END, *after, SCAN_MAX - 1)
    return None if row is None else (row[0], row[1])


async def take_due(
    connection: RawConnection, *, after: Key, until: Key | None, now: datetime, lease_time: datetime, limit: int
) -> list[DueCharge]:
    """Take the due charges of a window until the lease ends. After a crash another process takes them then."""
    rows = await connection.fetch(_TAKE_DUE, *after, *(until or LAST_KEY), now, limit, lease_time)
    return [DueCharge(Charge._make((*row[:3], format_amount(row[3]), *row[4:11])), row[11]) for row in rows]


_FINISH: Final = """
DELETE FROM outbox USING unnest($1::uuid[], $2::text[]) AS done(organization_id, operation_id)
WHERE outbox.organization_id = ANY (ARRAY[done.organization_id]) AND outbox.operation_id = done.operation_id
"""

# Only what nobody has taken meanwhile: who took it notes what becomes of it.
_PUT_BACK: Final = f"""
UPDATE outbox o
SET state = failed.state, last_error_reason = failed.reason, next_attempt_time = failed.next_attempt_time
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::int[])
    AS failed(organization_id, operation_id, state, reason, next_attempt_time, attempt_count)
WHERE o.organization_id = ANY (ARRAY[failed.organization_id]) AND o.operation_id = failed.operation_id
    AND o.attempt_count = failed.attempt_count AND o.next_attempt_time < {GIVEN_UP_TIME}
"""  # noqa: S608 -- made of constants of ours alone.


async def finish(connection: RawConnection, keys: Collection[Key]) -> None:
    """Delete charges that billing has confirmed; by primary key."""
    await connection.execute(_FINISH, [key[0] for key in keys], [key[1] for key in keys])


async def put_back(connection: RawConnection, failed: Mapping[Key, tuple[str, str, datetime, int]]) -> None:
    """Note the state, the reason and the next attempt of charges that failed, by primary key.

    The last value is the number of the attempt that failed: 0 for that of the process which wrote the charge.
    """
    values = list(failed.values())
    await connection.execute(
        _PUT_BACK,
        [key[0] for key in failed],
        [key[1] for key in failed],
        [value[0] for value in values],
        [value[1] for value in values],
        [value[2] for value in values],
        [value[3] for value in values],
    )


def recorded_of(row: asyncpg.Record) -> Recorded:
    (organization_id, operation_id, usage_id, occur_time), plain = row[:4], row[4:9]
    labels = row["labels"]
    dimensions = PLAIN
    if row["service_tier_dimension"] is not None:
        dimensions = Dimensions._make(row[f"{name}_dimension"] for name in DIMENSIONS)
    cost = None
    if row["cost"] is not None:
        cost = Cost(
            format_amount(row["cost"]),
            row["currency_code"],
            row["price_version_id"],
            row["charge_kind"],
            None if row["provider_cost"] is None else format_amount(row["provider_cost"]),
            row["provider_currency_code"],
            row["rate_hours"],
        )
    work = Work._make(
        (
            *(organization_id, operation_id, b"", occur_time, *plain, tuple(row[9:17]), *row[17:22]),
            None if labels is None else label_text(json.loads(labels)),
            row["partial"],
            False,
            (),
            read_quantities(row["quantities"]),
            dimensions.service_tier,
            dimensions.service_account_id or None,
            row["items"],
            Stated(cost.amount, cost.currency_code) if row["stated"] and cost is not None else None,
            dimensions.environment,
            None,
        )
    )
    # A charge is in the outbox while it is pending or refused, and is deleted from it once it is made.
    settlement = PENDING_PRICE if cost is None else row["charge_state"] or SETTLED
    reason = row["charge_refusal_reason"] if settlement == REFUSED else ""
    before = None
    if row["captured_before"] is not None:
        before = Captured(format_amount(row["captured_before"]), row.get("captured_currency_code") or "")
    return Recorded(
        work, usage_id, cost, row["create_time"], settlement, reason or "", dimensions, before, row["lease_id"]
    )


def read_quantities(text: str | None) -> Quantities:
    """Return quantities, in thousandths, of the text that is stored."""
    if text is None:
        return NO_QUANTITIES
    return {
        unit: thousandths_of(value) for unit, value in json.loads(text, parse_float=Decimal, parse_int=Decimal).items()
    }


def label_text(labels: Mapping[str, str]) -> str:
    """Return labels as JSON with sorted keys, so that equal labels give equal text."""
    return json.dumps(dict(labels), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


FIRST_KEY: Final = (NIL, "")
LAST_KEY: Final = (MAX, AFTER_TEXT)
