"""Questions about how much was used, answered from the hourly summaries alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import ColumnElement, DateTime, Text, cast, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.tables import LATENCY_BUCKETS, TOKEN_CLASSES, usage_hours
from services.metering.usage.domain import NIL

HOUR: Final = "hour"
DAY: Final = "day"
MONTH: Final = "month"
DIMENSIONS: Final = ("model", "project_id", "user_id", "api_key_id")
RANGE_MAX: Final = timedelta(days=3660)
_SUMS: Final = ("requests", "errors", *TOKEN_CLASSES, "cost", "latency_count", "latency_sum_ms", *LATENCY_BUCKETS)
_AN_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Query:
    """What is to be summed, and how far apart."""

    organization_id: str
    start_time: datetime
    end_time: datetime
    window: str | None
    group_by: tuple[str, ...]
    filters: dict[str, Sequence[str]]
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Summary:
    """The sums of one window and one combination of dimensions."""

    key: tuple[str, ...]
    """Where the row stands among the others, as text."""
    start_time: datetime
    end_time: datetime
    dimensions: dict[str, str]
    currency_code: str
    requests: int
    errors: int
    tokens: tuple[int, ...]
    cost: Decimal
    latency_count: int
    latency_sum_ms: int
    latency_buckets: tuple[int, ...]


def zone_named(name: str) -> ZoneInfo:
    """Return a time zone; raises InvalidArgument for an unknown one."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument([FieldViolation("time_zone", "is no IANA time zone")]) from None


def keeps_whole_hours(zone: ZoneInfo, start_time: datetime, end_time: datetime) -> bool:
    """Tell whether the zone is off UTC by whole hours throughout, so that its days are made of whole hours."""
    moment = start_time
    while moment < end_time + timedelta(days=28):
        offset = moment.astimezone(zone).utcoffset() or timedelta(0)
        if offset % _AN_HOUR:
            return False
        moment += timedelta(days=28)
    return True


async def summarize(
    connection: AsyncConnection, query: Query, *, after: Sequence[str] | None, limit: int
) -> list[Summary]:
    """Return sums in the order of window and dimensions; reads a range of the primary key of the hours."""
    c = usage_hours.c
    start = _window_start(query)
    groups: list[ColumnElement[datetime] | ColumnElement[str]] = [
        start,
        *(c[name] for name in query.group_by),
        c.currency_code,
    ]
    statement = (
        select(*groups, *(func.sum(c[name]).label(name) for name in _SUMS))
        .where(c.organization_id == query.organization_id, c.hour >= query.start_time, c.hour < query.end_time)
        .group_by(*groups)
        .having(func.sum(c.requests) > 0)
        .order_by(*groups)
        .limit(limit)
    )
    for name, values in query.filters.items():
        if values:
            statement = statement.where(c[name].in_(list(values)))
    if after is not None:
        last = [datetime.fromisoformat(after[0]), *after[1:]]
        bounds = [literal(value, group.type) for value, group in zip(last, groups, strict=True)]
        statement = statement.where(tuple_(*groups) > tuple_(*bounds))
    return [_summary(query, tuple(row)) for row in await connection.execute(statement)]


def _window_start(query: Query) -> ColumnElement[datetime]:
    time = DateTime(timezone=True)
    if query.window is None:
        return cast(literal(query.start_time, time), time).label("start_time")
    if query.window == HOUR:
        return usage_hours.c.hour.label("start_time")
    zone = literal(query.zone.key, Text)
    return func.date_trunc(query.window, usage_hours.c.hour, zone, type_=time).label("start_time")


def _summary(query: Query, row: tuple[object, ...]) -> Summary:
    dimensions = dict(zip(query.group_by, map(str, row[1:]), strict=False))
    start_time, currency_code = row[0], row[1 + len(query.group_by)]
    assert isinstance(start_time, datetime)
    sums = dict(zip(_SUMS, row[2 + len(query.group_by) :], strict=True))
    counts = {name: int(Decimal(str(value))) for name, value in sums.items() if name != "cost"}
    start_time = start_time.astimezone(UTC)
    return Summary(
        key=(start_time.isoformat(), *dimensions.values(), str(currency_code)),
        start_time=start_time,
        end_time=_window_end(query, start_time),
        dimensions={name: "" if value == NIL else value for name, value in dimensions.items()},
        currency_code=str(currency_code),
        requests=counts["requests"],
        errors=counts["errors"],
        tokens=tuple(counts[name] for name in TOKEN_CLASSES),
        cost=Decimal(str(sums["cost"])),
        latency_count=counts["latency_count"],
        latency_sum_ms=counts["latency_sum_ms"],
        latency_buckets=tuple(counts[name] for name in LATENCY_BUCKETS),
    )


def _window_end(query: Query, start_time: datetime) -> datetime:
    if query.window is None:
        return query.end_time
    if query.window == HOUR:
        return start_time + _AN_HOUR
    local = start_time.astimezone(query.zone).replace(tzinfo=None)
    if query.window == DAY:
        following = local + timedelta(days=1)
    else:
        following = (local.replace(day=1) + timedelta(days=32)).replace(day=1)
    return following.replace(tzinfo=query.zone).astimezone(UTC)
