# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""Walks along recorded usage, slice by slice, and reads what re-rating looks at."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.ids import NIL
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.correction.domain import Counted, Source
from services.metering.usage.dimensions import PLAIN
from services.metering.usage.domain import Cost, Work
from services.metering.usage.rerate.domain import ChargedUsage, Scope, Seen
from services.metering.usage.store import read_quantities

_NOTHING_COUNTED: Final[Counted] = {}
_SKIPPED_MAX: Final = 100
"""How many organizations without usage in the range are passed over at once."""


class Place(NamedTuple):
    """A usage up to which an organization's usage was walked along. No usage is at the first place of a scope."""

    organization_id: str
    occur_time: datetime
    usage_id: str


class Slice(NamedTuple):
    """The usage of one organization after a place and up to another."""

    after: Place
    until: Place


def first_place(scope: Scope) -> Place:
    """Return the place before all usage of a shard."""
    return Place(NIL, scope.start_time, NIL)


# Along the primary key of each month's partition.
_LAST: Final = """
SELECT occur_time, usage_id::text FROM (
    SELECT occur_time, usage_id FROM usage_records
    WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz AND occur_time < $4::timestamptz
        AND (occur_time, usage_id) > ($2::timestamptz, $3::uuid)
    ORDER BY occur_time, usage_id LIMIT $5
) AS slice
ORDER BY occur_time DESC, usage_id DESC LIMIT 1
"""

# Jumps along the primary key of the hourly sums to the next organization that ever had usage.
_NEXT_ORGANIZATION: Final = """
SELECT organization_id::text FROM usage_hours WHERE organization_id > $1::uuid ORDER BY organization_id LIMIT 1
"""


def _as_is(name: str) -> str:
    return f"CASE WHEN l.number IS NULL THEN r.{name} ELSE l.{name} END AS {name}"


def _priced(name: str) -> str:
    return f"CASE WHEN l.number IS NULL THEN coalesce(r.{name}, p.{name}) ELSE l.{name} END AS {name}"


_PRICED: Final = ("cost", "currency_code", "provider_cost", "provider_currency_code", "rate_hours")
_OF_SLICE: Final = """
    FROM usage_records
    WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz AND occur_time <= $4::timestamptz
        AND (occur_time, usage_id) > ($2::timestamptz, $3::uuid)
        AND (occur_time, usage_id) <= ($4::timestamptz, $5::uuid)
        AND ($6::text[] IS NULL OR model = ANY ($6)) AND ($7::uuid IS NULL OR project_id = $7)
        AND ($8::uuid IS NULL OR user_id = $8) AND ($9::uuid IS NULL OR api_key_id = $9)
        AND ($10::uuid IS NULL OR subscription_id = $10)
    ORDER BY occur_time, usage_id
"""
_NAMED: Final = f"SELECT usage_id::text, operation_id, occur_time {_OF_SLICE}"


def _seen_with(further: str) -> str:
    return f"""
SELECT r.organization_id::text, r.operation_id, r.usage_id::text AS usage_id, r.model, {_as_is("occur_time")},
    r.occur_time AS recorded_time,
    {", ".join(map(_as_is, TOKEN_CLASSES))}, {", ".join(map(_priced, _PRICED))},
    (CASE WHEN l.number IS NULL THEN coalesce(r.price_version_id, p.price_version_id)
        ELSE l.price_version_id END)::text AS price_version_id,
    (CASE WHEN l.number IS NULL THEN r.quantities ELSE l.quantities END)::text AS quantities,
    {_as_is("stated")}, NOT coalesce(l.added, true) AS voided, coalesce(l.number, 0) AS corrections,
    d.service_tier, d.environment{further}
FROM (SELECT * {_OF_SLICE} LIMIT $11) AS r
LEFT JOIN usage_pricings p
    ON p.organization_id = ANY (ARRAY[r.organization_id]) AND p.usage_id = r.usage_id AND r.cost IS NULL
LEFT JOIN LATERAL (
    SELECT * FROM usage_correction_lines
    WHERE organization_id = r.organization_id AND usage_id = r.usage_id
    ORDER BY number DESC, added DESC LIMIT 1
) AS l ON true
LEFT JOIN usage_dimensions d
    ON d.organization_id = ANY (ARRAY[r.organization_id])
    AND d.dimension_id = coalesce(l.dimension_id, r.dimension_id)
ORDER BY r.occur_time, r.usage_id
"""


# A range of the primary key of each month's partition; everything else by primary and unique keys. The last line of the
# corrections says what usage is, or was before it was voided.
_SEEN: Final = _seen_with("")
# The same with what their money and their limits follow from.
_CHARGED: Final = _seen_with(
    """,
    r.project_id::text AS project_id, r.user_id::text AS user_id, r.captured_before IS NOT NULL AS in_parts,
    r.lease_id IS NOT NULL AS in_lease, coalesce(r.charge_kind, p.charge_kind) AS charge_kind,
    coalesce(r.cost, p.cost) - coalesce(r.captured_before, 0) AS charged_amount,
    coalesce(r.currency_code, p.currency_code) AS charged_currency_code,
    (CASE WHEN l.number IS NULL THEN r.counters ELSE l.counters END)::text[] AS counters,
    CASE WHEN l.number IS NULL THEN r.counted ELSE l.counted END AS counted,
    CASE WHEN l.number IS NULL THEN p.counters::text[] END AS priced_counters,
    CASE WHEN l.number IS NULL THEN p.counted END AS priced_counted"""
)


async def next_slice(
    connection: RawConnection, scope: Scope, organization_ids: Sequence[str], place: Place, limit: int
) -> Slice | None:
    """Return the next slice of usage after a place of a shard, of at most so many usages; None at the end.

    `organization_ids` are those of the shard that the scope names, in the order of their ids; if it names none, every
    organization is walked along. A slice may be empty although others follow.
    """
    for _ in range(_SKIPPED_MAX):
        if place.organization_id != NIL:
            last = await connection.fetchrow(_LAST, *place, scope.end_time, limit)
            if last is not None:
                return Slice(place, Place(place.organization_id, last[0], last[1]))
        following = await _next_organization(connection, scope, organization_ids, place.organization_id)
        if following is None:
            return None
        place = Place(following, scope.start_time, NIL)
    return Slice(place, place)


async def _next_organization(
    connection: RawConnection, scope: Scope, organization_ids: Sequence[str], after: str
) -> str | None:
    if scope.organization_ids:
        return next((one for one in organization_ids if one > after), None)
    found: str | None = await connection.fetchval(_NEXT_ORGANIZATION, after)
    return found


async def find_named(connection: RawConnection, scope: Scope, wanted: Slice) -> list[tuple[str, str, datetime]]:
    """Return the usage id, operation id and recorded time of the usages of a slice, in the order of these times.

    Which price version they have is not looked at.
    """
    return [(row[0], row[1], row[2]) for row in await connection.fetch(_NAMED, *_values(scope, wanted))]


async def find_seen(connection: RawConnection, scope: Scope, wanted: Slice, limit: int) -> tuple[list[Seen], Slice]:
    """Return the first usages of a slice that the filters let through, in the order of the times at which they were
    recorded, and the part of the slice that they are in."""
    rows = await connection.fetch(_SEEN, *_values(scope, wanted), limit)
    return [one for one in map(_seen, rows) if _is_sought(scope, one)], _part_of(wanted, rows, limit)


async def find_charged(
    connection: RawConnection, scope: Scope, wanted: Slice, limit: int
) -> tuple[list[ChargedUsage], Slice]:
    """Return the same with what their money and their limits follow from."""
    rows = await connection.fetch(_CHARGED, *_values(scope, wanted), limit)
    return [one for one in map(_charged, rows) if _is_sought(scope, one.seen)], _part_of(wanted, rows, limit)


def _part_of(wanted: Slice, rows: Sequence[asyncpg.Record], limit: int) -> Slice:
    """Return the part of a slice that the first rows of it are in: all of it where there are fewer than the limit."""
    if len(rows) < limit:
        return wanted
    place = Place(wanted.until.organization_id, rows[-1]["recorded_time"], rows[-1]["usage_id"])
    return Slice(wanted.after, place)


def _is_sought(scope: Scope, seen: Seen) -> bool:
    current = scope.current_price_version_id
    return current is None or (seen.cost is not None and seen.cost.price_version_id == current)


def _values(scope: Scope, wanted: Slice) -> tuple[object, ...]:
    return (*wanted.after, *wanted.until[1:], list(scope.models) or None, *scope.owners)


def _seen(row: asyncpg.Record) -> Seen:
    cost = None
    if row["cost"] is not None:
        provider_cost = row["provider_cost"]
        cost = Cost(
            format_amount(row["cost"]),
            row["currency_code"],
            row["price_version_id"],
            None,
            None if provider_cost is None else format_amount(provider_cost),
            row["provider_currency_code"],
            row["rate_hours"],
        )
    tier, environment = row["service_tier"] or PLAIN.service_tier, row["environment"] or PLAIN.environment
    # By position, which is quick: the rest of it is not looked at.
    work = Work._make(
        (
            *(row[0], row[1], b"", row[4], None, None, None, None, row[3], tuple(row[6:14])),
            *(None, None, None, None, None, None, False, False, ()),
            *(read_quantities(row["quantities"]), tier, None, None, None, environment, None),
        )
    )
    return Seen(row[2], row[5], work, cost, row["stated"], row["voided"], row["corrections"])


def _charged(row: asyncpg.Record) -> ChargedUsage:
    seen, own, counted = _seen(row), None, _NOTHING_COUNTED
    if row["charge_kind"] is not None and row["charged_amount"]:
        own = Source(seen.work.operation_id, row["charged_amount"], row["charged_currency_code"])
    if row["counters"] or row["priced_counters"]:
        counted = dict(zip(row["counters"] or (), row["counted"] or (), strict=True))
        counted |= zip(row["priced_counters"] or (), row["priced_counted"] or (), strict=True)
    return ChargedUsage(seen, row["project_id"], row["user_id"], own, row["in_parts"], row["in_lease"], counted)
