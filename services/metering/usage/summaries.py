"""Queries for sums of usage, answered from the hourly summaries alone."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Numeric,
    Select,
    Subquery,
    Text,
    Tuple,
    and_,
    cast,
    column,
    func,
    literal,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import NIL
from services.metering.model.units import TOKEN_CLASS_UNITS, Quantities, thousandths_of
from services.metering.tables import (
    DIMENSIONS,
    HOUR_KEY,
    LATENCY_BUCKETS,
    TOKEN_CLASSES,
    usage_dimensions,
    usage_hour_units,
    usage_hours,
)
from services.metering.usage.dimensions import PLAIN, TEST
from services.metering.usage.statements import HOUR_SUMS
from services.metering.usage.windows import HOUR, window_end, window_starts

RANGE_MAX: Final = timedelta(days=3660)
UNIT: Final = "unit_id"
"""The dimension of units: a query that groups by it sums quantities and nothing else."""
_SUMS: Final = HOUR_SUMS


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
    include_test: bool = False

    @property
    def by_unit(self) -> bool:
        return UNIT in self.group_by

    @property
    def leaves_out_test(self) -> bool:
        return not (self.include_test or "environment" in self.group_by or self.filters.get("environment"))


@dataclass(frozen=True, slots=True)
class Summary:
    """The sums of one window and one combination of dimensions."""

    key: tuple[str, ...]
    """The row's sort key as text; a page token carries the key of its page's last row."""
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


async def summarize(
    connection: AsyncConnection, query: Query, *, after: Sequence[str] | None, limit: int
) -> list[Summary]:
    """Return sums in the order of window and dimensions; reads one range of the primary key of `usage_hours`.

    Quantities of other units are in `usage_hour_units`, of which the same range is read.

    Raises:
        InvalidArgument: `after`, the key of the last row of the page before, is not a key of this query.
    """
    with_dimensions = bool({*query.group_by, *(name for name, values in query.filters.items() if values)} & _FURTHER)
    if query.leaves_out_test and not with_dimensions:
        with_dimensions = (await connection.execute(_HAS_TEST, {"id": query.organization_id})).scalar_one()
    source = _UNIT_ROWS if query.by_unit else usage_hours
    sums = ["quantity"] if query.by_unit else list(_SUMS)
    rows = _Rows(query, source, with_dimensions)
    if after is not None:
        rows.begin_after(after)
    statement = rows.statement(sums).having(func.sum(source.c[sums[0]]) > 0).limit(limit)
    found = [tuple(row) for row in await connection.execute(statement)]
    if query.by_unit:
        return [_unit_summary(query, rows, row) for row in found]
    if not found:
        return []
    units = _Rows(query, usage_hour_units, with_dimensions)
    if after is not None:
        units.begin_after(after)
    units.end_with(found[-1][: len(units.groups)])
    quantities: dict[tuple[object, ...], dict[str, int]] = {}
    for row in await connection.execute(units.statement(["quantity"], usage_hour_units.c.unit_id)):
        *group, unit_id, quantity = tuple(row)
        if quantity:
            quantities.setdefault(tuple(group), {})[str(unit_id)] = thousandths_of(Decimal(str(quantity)))
    return [_summary(query, rows, row, quantities.get(row[: len(rows.groups)], {})) for row in found]


_FURTHER: Final = set(DIMENSIONS)
_HAS_TEST: Final = text(
    "SELECT EXISTS (SELECT FROM usage_dimensions WHERE organization_id = CAST(:id AS uuid) AND environment = 'TEST')"
)


def _unit_rows() -> Subquery:
    """Return the quantities of all units, with the keys of their hours."""
    c = usage_hours.c
    listed = (
        func.unnest(
            cast(array([literal(unit, Text) for unit in TOKEN_CLASS_UNITS.values()]), ARRAY(Text)),
            array([cast(c[name], Numeric) for name in TOKEN_CLASS_UNITS]),
        )
        .table_valued(column("unit_id", Text), column("quantity", Numeric), name="listed")
        .render_derived()
    )
    classes = select(*(c[name] for name in HOUR_KEY), listed.c.unit_id, listed.c.quantity).select_from(
        usage_hours.join(listed, true())
    )
    others = select(
        *(usage_hour_units.c[name] for name in HOUR_KEY), usage_hour_units.c.unit_id, usage_hour_units.c.quantity
    )
    return union_all(classes, others).subquery("unit_rows")


class _Rows:
    """The rows of a table of sums that a query reads, and how they are grouped."""

    def __init__(self, query: Query, source: FromClause, with_dimensions: bool) -> None:
        self._query = query
        self._source = source
        self._from = source
        self._start_time = query.start_time
        self._ends: list[ColumnElement[bool]] = []
        c, d = source.c, usage_dimensions.c
        if with_dimensions:
            same = and_(d.organization_id == c.organization_id, d.dimension_id == c.dimension_id)
            self._from = source.outerjoin(usage_dimensions, same)
        self._with_dimensions = with_dimensions
        self.windows = _Windows(query, c.hour)
        self.groups: list[ColumnElement[datetime] | ColumnElement[int] | ColumnElement[str]] = [
            self.windows.column,
            *(self._column(name) for name in query.group_by),
            c.currency_code,
            c.provider_currency_code,
        ]

    def begin_after(self, key: Sequence[str]) -> None:
        """Leave out everything up to the key of a summary; raises InvalidArgument if it is no key of this query."""
        if len(key) != len(self.groups):
            raise _foreign_page_token()
        last_start = self.windows.start_in_token(key[0])
        # The windows before this one were on earlier pages, so their hours are not read again.
        self._start_time = max(self._start_time, last_start)
        last = [self.windows.value_of(last_start), *key[1:]]
        self._ends.append(tuple_(*self.groups) > self._bounds(last))

    def end_with(self, group: Sequence[object]) -> None:
        """Leave out everything after the group of a row."""
        self._ends.append(tuple_(*self.groups) <= self._bounds(group))

    def statement(self, sums: Sequence[str], *more: ColumnElement[str]) -> Select[*tuple[object, ...]]:
        """Return the statement that sums by the groups, and by `more` columns."""
        c, query = self._source.c, self._query
        statement = (
            select(*self.groups, *more, *(func.sum(c[name]).label(name) for name in sums))
            .select_from(self._from)
            .where(c.organization_id == query.organization_id, c.hour >= self._start_time, c.hour < query.end_time)
            .where(*self._ends)
            .group_by(*self.groups, *more)
            .order_by(*self.groups, *more)
        )
        for name, wanted in query.filters.items():
            if wanted:
                statement = statement.where(self._column(name).in_(list(wanted)))
        if query.leaves_out_test and self._with_dimensions:
            statement = statement.where(self._column("environment") != TEST)
        return statement

    def _column(self, name: str) -> ColumnElement[str]:
        if name in _FURTHER:
            plain: str = getattr(PLAIN, name)
            return func.coalesce(usage_dimensions.c[name], literal(plain, Text)).label(name)
        found: ColumnElement[str] = self._source.c[name]
        return found

    def _bounds(self, values_of_groups: Sequence[object]) -> Tuple:
        return tuple_(*(literal(value, group.type) for value, group in zip(values_of_groups, self.groups, strict=True)))


class _Windows:
    """How the windows of a query are expressed in its SQL statement.

    For hours, the value is the start of the hour. Days and months are numbered from 1, by a binary search in the array
    of their starts. A query without windows has a single one.
    """

    def __init__(self, query: Query, hour: ColumnElement[datetime]) -> None:
        self._starts: list[datetime] | None = None
        self.column: ColumnElement[datetime] | ColumnElement[int]
        if query.window == HOUR:
            self.column = hour.label("start_time")
        elif query.window is None:
            self._starts = [query.start_time]
            self.column = cast(literal(1, Integer), Integer).label("window")
        else:
            self._starts = window_starts(query.window, query.zone, query.start_time, query.end_time)
            starts = literal(self._starts, ARRAY(DateTime(timezone=True)))
            self.column = func.width_bucket(hour, starts, type_=Integer).label("window")

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


def _summary(query: Query, rows: _Rows, row: tuple[object, ...], quantities: Quantities) -> Summary:
    group, values_of_sums = row[: len(rows.groups)], row[len(rows.groups) :]
    sums = dict(zip(_SUMS, values_of_sums, strict=True))
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


def _unit_summary(query: Query, rows: _Rows, row: tuple[object, ...]) -> Summary:
    summary = _empty_summary(query, rows, row[: len(rows.groups)])
    quantity = thousandths_of(Decimal(str(row[-1])))
    return replace(summary, quantities={summary.dimensions[UNIT]: quantity})


def _empty_summary(query: Query, rows: _Rows, group: Sequence[object]) -> Summary:
    values_of_group = [str(value) for value in group[1:]]
    dimensions = dict(zip(query.group_by, values_of_group, strict=False))
    start_time = rows.windows.start_of(group[0])
    return Summary(
        key=(start_time.isoformat(), *values_of_group),
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
    )


_UNIT_ROWS: Final = _unit_rows()
