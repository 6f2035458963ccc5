"""The SQL of queries for sums of usage: which rows are read, and how they are grouped.

Every statement names the organizations whose rows it reads, so that it reads one range of the primary key for each.
Sums of more organizations than one statement may read are merged in `reports`; so texts are sorted by their bytes, as
Python sorts them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

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
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import array

from libs.common.ids import is_id
from libs.common.pages import foreign_token
from services.metering.model.units import TOKEN_CLASS_UNITS
from services.metering.tables import DIMENSIONS, HOUR_KEY, usage_dimensions, usage_hour_units, usage_hours
from services.metering.usage.dimensions import PLAIN, TEST
from services.metering.usage.minute_store import minute_sums, minute_units
from services.metering.usage.query import ORGANIZATION, Part, Query
from services.metering.usage.windows import HOUR, MINUTE, window_starts

_ID: Final = Uuid(as_uuid=False)
_FURTHER: Final = set(DIMENSIONS)


def unit_rows(hours: FromClause, units: FromClause) -> Subquery:
    """Return the quantities of all units, with the keys of their hours, from sums of both kinds."""
    c = hours.c
    listed = (
        func.unnest(
            cast(array([literal(unit, Text) for unit in TOKEN_CLASS_UNITS.values()]), ARRAY(Text)),
            array([cast(c[name], Numeric) for name in TOKEN_CLASS_UNITS]),
        )
        .table_valued(column("unit_id", Text), column("quantity", Numeric), name="listed")
        .render_derived()
    )
    classes = select(*(c[name] for name in HOUR_KEY), listed.c.unit_id, listed.c.quantity).select_from(
        hours.join(listed, true())
    )
    others = select(*(units.c[name] for name in HOUR_KEY), units.c.unit_id, units.c.quantity)
    return union_all(classes, others).subquery("unit_rows")


class Rows:
    """The rows of a table of sums that a query reads, and how they are grouped."""

    def __init__(self, query: Query, part: Part, source: FromClause, *, with_dimensions: bool) -> None:
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
        self.windows = Windows(query, c.hour)
        self.groups: list[ColumnElement[datetime] | ColumnElement[int] | ColumnElement[str]] = [
            *([self.column(ORGANIZATION)] if query.by_organization else []),
            self.windows.column,
            *(self._ranks(query.ranked) if query.ranked is not None else map(self.column, query.further_groups)),
            c.currency_code,
            c.provider_currency_code,
        ]

    def begin_after(self, key: Sequence[str]) -> None:
        """Leave out everything up to the key of a summary; raises InvalidArgument if it is no key of this query."""
        if len(key) != len(self.groups):
            raise foreign_token()
        place = 1 if self._query.by_organization else 0
        last_start = self.windows.start_in_token(key[place])
        if len(self._part.organization_ids) == 1 or not place:
            # The windows before this one were on earlier pages, so their hours are not read again.
            self._start_time = max(self._start_time, last_start)
        last = [*key[:place], self.windows.value_of(last_start), *key[place + 1 :]]
        if not all(is_id(str(value)) for value, group in zip(last, self.groups, strict=True) if _is_uuid(group)):
            raise foreign_token()
        self._ends.append(tuple_(*self.groups) > self._bounds(last))

    def end_with(self, group: Sequence[object]) -> None:
        """Leave out everything after the group of a row."""
        self._ends.append(tuple_(*self.groups) <= self._bounds(group))

    def statement(self, sums: Sequence[str], *more: ColumnElement[str]) -> Select[*tuple[object, ...]]:
        """Return the statement that sums by the groups, and by `more` columns."""
        c = self._source.c
        statement = self.only_wanted(select(*self.groups, *more, *(func.sum(c[name]).label(name) for name in sums)))
        return statement.where(*self._ends).group_by(*self.groups, *more).order_by(*self.groups, *more)

    def only_wanted(self, statement: Select[*tuple[object, ...]]) -> Select[*tuple[object, ...]]:
        """Return a statement that reads the rows which the query is about, and no others."""
        c, query = self._source.c, self._query
        statement = (
            statement.select_from(self._from)
            .where(c.organization_id == func.any(literal(list(self._part.organization_ids), ARRAY(_ID))))
            .where(c.hour >= self._start_time, c.hour < self._part.end_time)
        )
        for name, wanted in query.filters.items():
            if wanted:
                statement = statement.where(self.column(name).in_(list(wanted)))
        if query.leaves_out_test and self._with_dimensions:
            statement = statement.where(self.column("environment") != TEST)
        return statement

    def _ranks(self, ranked: Sequence[tuple[str, ...]]) -> list[ColumnElement[int]]:
        """Return the column of a group's place among those that are ranked, from 1; all others have the next number."""
        names = self._query.further_groups
        columns = [self.column(name) for name in names]
        arrays = (literal([group[place] for group in ranked], ARRAY(one.type)) for place, one in enumerate(columns))
        typed = [column(name, one.type) for name, one in zip(names, columns, strict=True)]
        listed = func.unnest(*arrays).table_valued(*typed, with_ordinality="place", name="ranked").render_derived()
        same = and_(*(listed.c[name] == one for name, one in zip(names, columns, strict=True)))
        self._from = self._from.outerjoin(listed, same)
        return [func.coalesce(cast(listed.c.place, Integer), literal(len(ranked) + 1, Integer)).label("rank")]

    def column(self, name: str) -> ColumnElement[str]:
        if name in _FURTHER:
            plain: str = getattr(PLAIN, name)
            return func.coalesce(usage_dimensions.c[name], literal(plain, Text)).collate("C").label(name)
        found: ColumnElement[str] = self._source.c[name]
        return found

    def _bounds(self, values_of_groups: Sequence[object]) -> Tuple:
        return tuple_(*(literal(value, group.type) for value, group in zip(values_of_groups, self.groups, strict=True)))


def _is_uuid(group: ColumnElement[datetime] | ColumnElement[int] | ColumnElement[str]) -> bool:
    return isinstance(group.type, Uuid)


class Windows:
    """How the windows of a query are expressed in its SQL statement.

    For minutes and hours, the value is their start. Days, weeks and months are numbered from 1, by a binary search in
    the array of their starts. A query without windows has a single one.
    """

    def __init__(self, query: Query, hour: ColumnElement[datetime]) -> None:
        self._starts: list[datetime] | None = None
        self.column: ColumnElement[datetime] | ColumnElement[int]
        if query.window == HOUR:
            self.column = func.date_trunc("hour", hour, "UTC", type_=DateTime(timezone=True)).label("start_time")
        elif query.window == MINUTE:
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
            raise foreign_token()
        return number + 1

    def start_in_token(self, text: str) -> datetime:
        """Return the start that a page token names; raises InvalidArgument if it names none."""
        try:
            start = datetime.fromisoformat(text)
        except ValueError:
            raise foreign_token() from None
        if start.utcoffset() != timedelta(0):
            raise foreign_token()
        return start


_HOUR_UNIT_ROWS: Final = unit_rows(usage_hours, usage_hour_units)


def sources(query: Query, part: Part) -> tuple[FromClause, FromClause, FromClause]:
    """Return what a query's sums are read from: sums, quantities of units that are no token class, and of all units."""
    if query.window != MINUTE:
        return usage_hours, usage_hour_units, _HOUR_UNIT_ROWS
    (organization_id,) = part.organization_ids
    hours = minute_sums(organization_id, part.start_time, part.end_time)
    units = minute_units(organization_id, part.start_time, part.end_time)
    return hours, units, unit_rows(hours, units)


def reads_dimensions(query: Query) -> bool:
    """Tell whether a query groups or filters by a dimension that is kept apart from the sums."""
    return bool({*query.group_by, *(name for name, values in query.filters.items() if values)} & _FURTHER)
