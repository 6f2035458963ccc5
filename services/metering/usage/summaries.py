"""Queries for sums of usage, answered from the hourly summaries alone."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from sqlalchemy import ARRAY, BindParameter, ColumnElement, DateTime, Integer, cast, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.tables import LATENCY_BUCKETS, TOKEN_CLASSES, usage_hours
from services.metering.usage.domain import NIL
from services.metering.usage.windows import HOUR, window_end, window_starts

RANGE_MAX: Final = timedelta(days=3660)
_SUMS: Final = ("requests", "errors", *TOKEN_CLASSES, "cost", "latency_count", "latency_sum_ms", *LATENCY_BUCKETS)


@dataclass(frozen=True, slots=True)
class Query:
    """Which usage to sum, and by which windows and dimensions."""

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
    """The row's sort key as text; a page token carries the key of its page's last row."""
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


async def summarize(
    connection: AsyncConnection, query: Query, *, after: Sequence[str] | None, limit: int
) -> list[Summary]:
    """Return sums in the order of window and dimensions; reads one range of the primary key of `usage_hours`.

    Raises:
        InvalidArgument: `after`, the key of the last row of the page before, is not a key of this query.
    """
    c = usage_hours.c
    start_time = query.start_time
    windows = _Windows(query)
    groups: list[ColumnElement[datetime] | ColumnElement[int] | ColumnElement[str]] = [
        windows.column,
        *(c[name] for name in query.group_by),
        c.currency_code,
    ]
    bounds: list[BindParameter[object]] = []
    if after is not None:
        if len(after) != len(groups):
            raise _foreign_page_token()
        last_start = windows.start_in_token(after[0])
        # The windows before this one were on earlier pages, so their hours are not read again.
        start_time = max(start_time, last_start)
        last = [windows.value_of(last_start), *after[1:]]
        bounds = [literal(value, group.type) for value, group in zip(last, groups, strict=True)]
    statement = (
        select(*groups, *(func.sum(c[name]).label(name) for name in _SUMS))
        .where(c.organization_id == query.organization_id, c.hour >= start_time, c.hour < query.end_time)
        .group_by(*groups)
        .having(func.sum(c.requests) > 0)
        .order_by(*groups)
        .limit(limit)
    )
    for name, values in query.filters.items():
        if values:
            statement = statement.where(c[name].in_(list(values)))
    if bounds:
        statement = statement.where(tuple_(*groups) > tuple_(*bounds))
    return [_summary(query, windows, tuple(row)) for row in await connection.execute(statement)]


class _Windows:
    """How the windows of a query are expressed in its SQL statement.

    For hours, the value is the start of the hour. Days and months are numbered from 1, by a binary search in the array
    of their starts. A query without windows has a single one.
    """

    def __init__(self, query: Query) -> None:
        self._starts: list[datetime] | None = None
        self.column: ColumnElement[datetime] | ColumnElement[int]
        if query.window == HOUR:
            self.column = usage_hours.c.hour.label("start_time")
        elif query.window is None:
            self._starts = [query.start_time]
            self.column = cast(literal(1, Integer), Integer).label("window")
        else:
            self._starts = window_starts(query.window, query.zone, query.start_time, query.end_time)
            starts = literal(self._starts, ARRAY(DateTime(timezone=True)))
            self.column = func.width_bucket(usage_hours.c.hour, starts, type_=Integer).label("window")

    def start_of(self, value: object) -> datetime:
        """Return the start of the window with this value of the column."""
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        assert isinstance(value, int)
        assert self._starts is not None
        return self._starts[value - 1]

    def value_of(self, start: datetime) -> datetime | int:
        """Return the column's value for the window that begins at `start`; raises InvalidArgument if none does."""
        if self._starts is None:
            return start
        number = bisect_left(self._starts, start)
        if number == len(self._starts) or self._starts[number] != start:
            raise _foreign_page_token()
        return number + 1

    def start_in_token(self, text: str) -> datetime:
        """Return the start that a page token names; raises InvalidArgument if it names none."""
        try:
            start = datetime.fromisoformat(text)
        except ValueError:
            raise _foreign_page_token() from None
        if start.utcoffset() != timedelta(0):
            raise _foreign_page_token()
        return start


def _foreign_page_token() -> InvalidArgument:
    return InvalidArgument([FieldViolation("page_token", "is not a token of this list")])


def _summary(query: Query, windows: _Windows, row: tuple[object, ...]) -> Summary:
    dimensions = dict(zip(query.group_by, map(str, row[1:]), strict=False))
    start_time, currency_code = windows.start_of(row[0]), row[1 + len(query.group_by)]
    sums = dict(zip(_SUMS, row[2 + len(query.group_by) :], strict=True))
    counts = {name: int(Decimal(str(value))) for name, value in sums.items() if name != "cost"}
    return Summary(
        key=(start_time.isoformat(), *dimensions.values(), str(currency_code)),
        start_time=start_time,
        end_time=window_end(query.window, query.zone, start_time) if query.window else query.end_time,
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
