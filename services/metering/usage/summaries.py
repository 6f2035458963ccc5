"""Queries for sums of usage, answered from the hourly sums alone.

Every statement names the organizations whose rows it reads, so that it reads one range of the primary key for each.
Sums of more organizations than one statement may read are merged in `reports`; so texts are sorted by their bytes, as
Python sorts them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import add
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
    Uuid,
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
from libs.common.ids import NIL, is_id
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
ORGANIZATION: Final = "organization_id"
"""The dimension of organizations, which comes before the windows in the order of rows."""
_SUMS: Final = HOUR_SUMS
_ID: Final = Uuid(as_uuid=False)


@dataclass(frozen=True, slots=True)
class Query:
    """Which usage to sum, and by which windows and dimensions."""

    organization_id: str
    """Empty where the usage of several organizations is summed."""
    organization_ids: tuple[str, ...]
    """Which those are, where they are not all."""
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
    def by_organization(self) -> bool:
        return ORGANIZATION in self.group_by

    @property
    def further_groups(self) -> tuple[str, ...]:
        """The dimensions of a row that come after its window."""
        return tuple(name for name in self.group_by if name != ORGANIZATION)

    @property
    def leaves_out_test(self) -> bool:
        return not (self.include_test or "environment" in self.group_by or self.filters.get("environment"))


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a query that one statement reads."""

    organization_ids: Sequence[str]
    start_time: datetime
    end_time: datetime

    @property
    def halves(self) -> "tuple[Part, Part] | None":
        """Two parts that make up this one; None for one hour of one organization."""
        if len(self.organization_ids) > 1:
            middle = len(self.organization_ids) // 2
            first, second = self.organization_ids[:middle], self.organization_ids[middle:]
            return replace(self, organization_ids=first), replace(self, organization_ids=second)
        hours = (self.end_time - self.start_time) // timedelta(hours=1)
        if hours < 2:
            return None
        between = self.start_time + timedelta(hours=hours // 2)
        return replace(self, end_time=between), replace(self, start_time=between)


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


async def summarize(
    connection: AsyncConnection, query: Query, part: Part, *, after: Sequence[str] | None, limit: int
) -> list[Summary]:
    """Return sums over a part in the order of their keys; reads a range of the primary key of `usage_hours` for each
    organization.

    Quantities of other units are in `usage_hour_units`, of which the same ranges are read.

    Raises:
        InvalidArgument: `after`, the key of the last row of the page before, is not a key of this query.
    """
    with_dimensions = bool({*query.group_by, *(name for name, values in query.filters.items() if values)} & _FURTHER)
    if query.leaves_out_test and not with_dimensions:
        with_dimensions = (await connection.execute(_HAS_TEST, {"ids": list(part.organization_ids)})).scalar_one()
    source = _UNIT_ROWS if query.by_unit else usage_hours
    sums = ["quantity"] if query.by_unit else list(_SUMS)
    rows = _Rows(query, part, source, with_dimensions)
    if after is not None:
        rows.begin_after(after)
    statement = rows.statement(sums).having(func.sum(source.c[sums[0]]) > 0).limit(limit)
    found = [tuple(row) for row in await connection.execute(statement)]
    if query.by_unit:
        return [_unit_summary(query, rows, row) for row in found]
    if not found:
        return []
    units = _Rows(query, part, usage_hour_units, with_dimensions)
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
    "SELECT EXISTS (SELECT FROM usage_dimensions"
    " WHERE organization_id = ANY(CAST(:ids AS uuid[])) AND environment = 'TEST')"
)


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

    def __init__(self, query: Query, part: Part, source: FromClause, with_dimensions: bool) -> None:
        self._query = query
        self._part = part
        self._source = source
        self._from = source
        self._start_time = part.start_time
        self._ends: list[ColumnElement[bool]] = []
        c, d = source.c, usage_dimensions.c
        if with_dimensions:
            same = and_(d.organization_id == c.organization_id, d.dimension_id == c.dimension_id)
            self._from = source.outerjoin(usage_dimensions, same)
        self._with_dimensions = with_dimensions
        self.windows = _Windows(query, c.hour)
        self.groups: list[ColumnElement[datetime] | ColumnElement[int] | ColumnElement[str]] = [
            *([self._column(ORGANIZATION)] if query.by_organization else []),
            self.windows.column,
            *(self._column(name) for name in query.further_groups),
            c.currency_code,
            c.provider_currency_code,
        ]

    def begin_after(self, key: Sequence[str]) -> None:
        """Leave out everything up to the key of a summary; raises InvalidArgument if it is no key of this query."""
        if len(key) != len(self.groups):
            raise _foreign_page_token()
        place = 1 if self._query.by_organization else 0
        last_start = self.windows.start_in_token(key[place])
        if len(self._part.organization_ids) == 1 or not place:
            # The windows before this one were on earlier pages, so their hours are not read again.
            self._start_time = max(self._start_time, last_start)
        last = [*key[:place], self.windows.value_of(last_start), *key[place + 1 :]]
        if not all(is_id(str(value)) for value, group in zip(last, self.groups, strict=True) if _is_uuid(group)):
            raise _foreign_page_token()
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
            .where(c.organization_id == func.any(literal(list(self._part.organization_ids), ARRAY(_ID))))
            .where(c.hour >= self._start_time, c.hour < self._part.end_time)
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
            return func.coalesce(usage_dimensions.c[name], literal(plain, Text)).collate("C").label(name)
        found: ColumnElement[str] = self._source.c[name]
        return found

    def _bounds(self, values_of_groups: Sequence[object]) -> Tuple:
        return tuple_(*(literal(value, group.type) for value, group in zip(values_of_groups, self.groups, strict=True)))


def _is_uuid(group: ColumnElement[datetime] | ColumnElement[int] | ColumnElement[str]) -> bool:
    return isinstance(group.type, Uuid)


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
    organization, (window, *values) = ([str(group[0])], group[1:]) if query.by_organization else ([], group)
    values_of_group = [str(value) for value in values]
    dimensions = dict(zip(query.further_groups, values_of_group, strict=False))
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
    )


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


_UNIT_ROWS: Final = _unit_rows()
