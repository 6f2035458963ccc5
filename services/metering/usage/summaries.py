"""Queries for sums of usage: their rows, read from the hourly sums, or by minutes from the usage itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from operator import add
from typing import Final

from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.ids import NIL
from services.metering.model.units import Quantities, thousandths_of
from services.metering.tables import LATENCY_BUCKETS, TOKEN_CLASSES
from services.metering.usage.minute_store import MINUTE_USAGES_MAX, count_usages
from services.metering.usage.query import ORGANIZATION, UNIT, Part, Query
from services.metering.usage.statements import HOUR_SUMS
from services.metering.usage.sum_store import Rows, reads_dimensions, sources
from services.metering.usage.windows import window_end
from services.metering.usage_errors import TooManyCalls


@dataclass(frozen=True, slots=True)
class Summary:
    """The sums of one window and one combination of dimensions."""

    key: tuple[str, ...]
    """The row's sort key as text; a page token carries the key of its page's last row. It begins with the organization,
    where rows are grouped by it, and goes on with the beginning of the window."""
    start_time: datetime
    end_time: datetime
    dimensions: dict[str, str]
    currency_code: str
    provider_currency_code: str
    requests: int
    errors: int
    tokens: tuple[int, ...]
    cost: Decimal
    provider_cost: Decimal
    latency_count: int
    latency_sum_ms: int
    latency_buckets: tuple[int, ...]
    quantities: Quantities
    rank: int = 0
    """The place of the group among the largest, from 1, where only those are asked for."""
    is_others: bool = False
    """Whether this is the row of all groups that are not among the largest."""


async def summarize(
    connection: AsyncConnection, query: Query, part: Part, *, after: Sequence[str] | None, limit: int
) -> list[Summary]:
    """Return sums over a part in the order of their keys; reads a range of the primary key of `usage_hours` for each
    organization.

    Quantities of other units are in `usage_hour_units`, of which the same ranges are read.

    Raises:
        InvalidArgument: `after`, the key of the last row of the page before, is not a key of this query.
    """
    with_dimensions = await joins_dimensions(connection, query, part)
    hours, hour_units, all_units = sources(query, part)
    source = all_units if query.by_unit else hours
    sums = ["quantity"] if query.by_unit else list(HOUR_SUMS)
    rows = Rows(query, part, source, with_dimensions=with_dimensions)
    if after is not None:
        rows.begin_after(after)
    statement = rows.statement(sums).having(func.sum(source.c[sums[0]]) > 0).limit(limit)
    found = [tuple(row) for row in await connection.execute(statement)]
    if query.by_unit:
        return [_unit_summary(query, rows, row) for row in found]
    if not found:
        return []
    units = Rows(query, part, hour_units, with_dimensions=with_dimensions)
    if after is not None:
        units.begin_after(after)
    units.end_with(found[-1][: len(units.groups)])
    quantities: dict[tuple[object, ...], dict[str, int]] = {}
    for row in await connection.execute(units.statement(["quantity"], hour_units.c.unit_id)):
        *group, unit_id, quantity = tuple(row)
        if quantity:
            quantities.setdefault(tuple(group), {})[str(unit_id)] = thousandths_of(Decimal(str(quantity)))
    return [_summary(query, rows, row, quantities.get(row[: len(rows.groups)], {})) for row in found]


_HAS_TEST: Final = text(
    "SELECT EXISTS (SELECT FROM usage_dimensions"
    " WHERE organization_id = ANY(CAST(:ids AS uuid[])) AND environment = 'TEST')"
)


async def require_few_usages(connection: AsyncConnection, part: Part) -> None:
    """Raise TooManyCalls if a part has more calls than sums by minutes are made from."""
    (organization_id,) = part.organization_ids
    limit = MINUTE_USAGES_MAX + 1
    if await count_usages(connection, organization_id, part.start_time, part.end_time, limit) > MINUTE_USAGES_MAX:
        raise TooManyCalls(calls=MINUTE_USAGES_MAX)


async def joins_dimensions(connection: AsyncConnection, query: Query, part: Part) -> bool:
    """Tell whether a query needs the dimensions that are kept apart: to group or filter by, or to leave out tests."""
    if reads_dimensions(query) or not query.leaves_out_test:
        return reads_dimensions(query)
    return bool((await connection.execute(_HAS_TEST, {"ids": list(part.organization_ids)})).scalar_one())


# From the primary key's index alone, where the pages are old enough.
_COUNT: Final = text("""
SELECT count(*) FROM (
    SELECT FROM usage_hours
    WHERE organization_id = ANY(CAST(:ids AS uuid[])) AND hour >= :start_time AND hour < :end_time LIMIT :limit
) AS counted
""")


async def count_rows(connection: AsyncConnection, part: Part, limit: int) -> int:
    """Return how many hourly sums a part has, counted up to a limit."""
    values = {"ids": list(part.organization_ids), "start_time": part.start_time, "end_time": part.end_time}
    return int((await connection.execute(_COUNT, {**values, "limit": limit})).scalar_one())


def _summary(query: Query, rows: Rows, row: tuple[object, ...], quantities: Quantities) -> Summary:
    group, values_of_sums = row[: len(rows.groups)], row[len(rows.groups) :]
    sums = dict(zip(HOUR_SUMS, values_of_sums, strict=True))
    counts = {name: int(Decimal(str(value))) for name, value in sums.items() if name not in ("cost", "provider_cost")}
    return replace(
        _empty_summary(query, rows, group),
        requests=counts["requests"],
        errors=counts["errors"],
        tokens=tuple(counts[name] for name in TOKEN_CLASSES),
        cost=Decimal(str(sums["cost"])),
        provider_cost=Decimal(str(sums["provider_cost"])),
        latency_count=counts["latency_count"],
        latency_sum_ms=counts["latency_sum_ms"],
        latency_buckets=tuple(counts[name] for name in LATENCY_BUCKETS),
        quantities=quantities,
    )


def _unit_summary(query: Query, rows: Rows, row: tuple[object, ...]) -> Summary:
    summary = _empty_summary(query, rows, row[: len(rows.groups)])
    quantity = thousandths_of(Decimal(str(row[-1])))
    return replace(summary, quantities={summary.dimensions[UNIT]: quantity})


def _empty_summary(query: Query, rows: Rows, group: Sequence[object]) -> Summary:
    organization, (window, *values) = ([str(group[0])], group[1:]) if query.by_organization else ([], group)
    values_of_group = [str(value) for value in values]
    dimensions, rank = _dimensions(query, values_of_group)
    if organization:
        dimensions[ORGANIZATION] = organization[0]
    start_time = rows.windows.start_of(window)
    return Summary(
        key=(*organization, start_time.isoformat(), *values_of_group),
        start_time=start_time,
        end_time=window_end(query.window, query.zone, start_time) if query.window else query.end_time,
        dimensions={name: "" if value == NIL else value for name, value in dimensions.items()},
        currency_code=values_of_group[-2],
        provider_currency_code=values_of_group[-1],
        requests=0,
        errors=0,
        tokens=(0,) * len(TOKEN_CLASSES),
        cost=Decimal(0),
        provider_cost=Decimal(0),
        latency_count=0,
        latency_sum_ms=0,
        latency_buckets=(0,) * len(LATENCY_BUCKETS),
        quantities={},
        rank=rank,
        is_others=query.ranked is not None and rank > len(query.ranked),
    )


def _dimensions(query: Query, values: Sequence[str]) -> tuple[dict[str, str], int]:
    """Return the dimensions of a row, and the place of its group among those that are ranked; 0 without any."""
    if query.ranked is None:
        return dict(zip(query.further_groups, values, strict=False)), 0
    rank = int(values[0])
    group = query.ranked[rank - 1] if rank <= len(query.ranked) else [""] * len(query.further_groups)
    return dict(zip(query.further_groups, group, strict=True)), rank


def merged(one: Summary, other: Summary) -> Summary:
    """Return the sums of two parts of the same row."""
    quantities = dict(one.quantities)
    for unit_id, thousandths in other.quantities.items():
        quantities[unit_id] = quantities.get(unit_id, 0) + thousandths
    return replace(
        one,
        requests=one.requests + other.requests,
        errors=one.errors + other.errors,
        tokens=tuple(map(add, one.tokens, other.tokens)),
        cost=one.cost + other.cost,
        provider_cost=one.provider_cost + other.provider_cost,
        latency_count=one.latency_count + other.latency_count,
        latency_sum_ms=one.latency_sum_ms + other.latency_sum_ms,
        latency_buckets=tuple(map(add, one.latency_buckets, other.latency_buckets)),
        quantities=quantities,
    )
