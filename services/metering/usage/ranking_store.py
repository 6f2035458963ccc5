"""The largest groups of a query."""

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from typing import Final

from sqlalchemy import ColumnElement, FromClause, Numeric, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.metering.usage.query import Measure, Measured, Part, Query
from services.metering.usage.sum_store import Rows, sources
from services.metering.usage.summaries import joins_dimensions

TOP_ROWS_MAX: Final = 5_000
"""The most rows of an answer with a top, which is one page."""
_BY_UNITS: Final = (Measure.TOTAL_TOKENS, Measure.QUANTITY)


async def ranked(connection: AsyncConnection, query: Query, part: Part, token_units: Collection[str]) -> Query:
    """Return the query with its largest groups, which are those of the whole part.

    `token_units` are the units that tokens are counted in. Reads what the query reads, but for the windows.
    """
    top = query.top
    assert top is not None
    hours, _, all_units = sources(query, part)
    source = all_units if top.by.measure in _BY_UNITS else hours
    rows = Rows(query, part, source, with_dimensions=await joins_dimensions(connection, query, part))
    columns = [rows.column(name) for name in query.further_groups]
    value = _value(top.by, source)
    counted = source.c.quantity if source is all_units else source.c.requests
    statement = (
        rows.only_wanted(select(*columns))
        .group_by(*columns)
        .having(func.sum(counted) > 0)
        .order_by(value.desc(), *columns)
        .limit(top.count)
    )
    if source is all_units:
        units = [top.by.unit_id] if top.by.measure is Measure.QUANTITY else sorted(token_units)
        statement = statement.where(source.c.unit_id.in_(units))
    found = [tuple(str(value) for value in row) for row in await connection.execute(statement)]
    return replace(query, ranked=tuple(found))


def _value(by: Measured, source: FromClause) -> ColumnElement[Decimal]:
    c = source.c
    if by.measure in _BY_UNITS:
        return func.sum(c.quantity)
    if by.measure is Measure.REQUESTS:
        return func.sum(c.requests)
    if by.measure is Measure.ERRORS:
        return func.sum(c.errors)
    zero = literal(0, Numeric)
    cost = case((c.currency_code == by.currency_code, c.cost), else_=zero)
    provider_cost = case((c.provider_currency_code == by.currency_code, c.provider_cost), else_=zero)
    if by.measure is Measure.COST:
        return func.sum(cost)
    if by.measure is Measure.PROVIDER_COST:
        return func.sum(provider_cost)
    both = (c.currency_code == by.currency_code) & (c.provider_currency_code == by.currency_code)
    return func.sum(case((both, c.cost - c.provider_cost), else_=zero))
