# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""Walks along recorded usage, slice by slice, and reads what re-rating looks at."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.ids import NIL
from libs.common.timestamps import EPOCH
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.dimensions import PLAIN
from services.metering.usage.domain import Cost, Work
from services.metering.usage.rerate.domain import Scope, Seen
from services.metering.usage.store import read_quantities

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

# A range of the primary key of each month's partition; everything else by primary and unique keys. The last line of the
# corrections says what usage is, or was before it was voided.
_SEEN: Final = f"""
SELECT r.organization_id::text, r.operation_id, r.usage_id::text, r.model, {_as_is("occur_time")},
    r.occur_time AS recorded_time,
    {", ".join(map(_as_is, TOKEN_CLASSES))}, {", ".join(map(_priced, _PRICED))},
    (CASE WHEN l.number IS NULL THEN coalesce(r.price_version_id, p.price_version_id)
        ELSE l.price_version_id END)::text AS price_version_id,
    (CASE WHEN l.number IS NULL THEN r.quantities ELSE l.quantities END)::text AS quantities,
    {_as_is("stated")}, NOT coalesce(l.added, true) AS voided, coalesce(l.number, 0) AS corrections,
    d.service_tier, d.environment
FROM (SELECT * {_OF_SLICE}) AS r
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


async def find_seen(connection: RawConnection, scope: Scope, wanted: Slice) -> list[Seen]:
    """Return the usage of a slice that the filters let through, in the order of its times."""
    rows = await connection.fetch(_SEEN, *wanted.after, *wanted.until[1:], list(scope.models) or None, *scope.owners)
    found = map(_seen, rows)
    current = scope.current_price_version_id
    if current is None:
        return list(found)
    return [one for one in found if one.cost is not None and one.cost.price_version_id == current]


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
    quantities = row["quantities"]
    work = _BLANK._replace(
        organization_id=row[0],
        operation_id=row[1],
        occur_time=row[4],
        model=row[3],
        tokens=tuple(row[6:14]),
        quantities=read_quantities(quantities),
        service_tier=row["service_tier"] or PLAIN.service_tier,
        environment=row["environment"] or PLAIN.environment,
    )
    return Seen(row[2], row[5], work, cost, row["stated"], row["voided"], row["corrections"])


_BLANK: Final = Work(
    organization_id="",
    operation_id="",
    fingerprint=b"",
    occur_time=EPOCH,
    project_id=None,
    user_id=None,
    api_key_id=None,
    subscription_id=None,
    model="",
    tokens=(0,) * len(TOKEN_CLASSES),
    latency_ms=None,
    status_code=None,
    error_message=None,
    endpoint=None,
    conversation_id=None,
    labels=None,
    partial=False,
    settles=False,
    adjusted=(),
)
