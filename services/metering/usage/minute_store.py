# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""Sums of usage by minute, made from the usage itself when they are asked for; nothing keeps them.

They have the columns of the hourly sums, where `hour` is when the minute begins. Usage counts as it was recorded, and
what corrections take out and put in is added, as in the hourly sums.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import Column, DateTime, FromClause, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.metering.tables import HOUR_KEY, usage_hour_units, usage_hours
from services.metering.usage.statements import HOUR_SUMS, LATENCY_BUCKET, hour_key, hour_sums

MINUTE_USAGES_MAX: Final = 200_000
"""The most usages and lines of corrections that a query by minutes reads."""

_BY_KEY: Final = ", ".join(str(number + 1) for number in range(len(HOUR_KEY)))
_OF_LINE: Final = hour_key(
    "coalesce(currency_code, '')",
    "coalesce(provider_currency_code, '')",
    hour="date_trunc('minute', occur_time, 'UTC')",
)
_RANGE: Final = "organization_id = :organization_id AND occur_time >= :start_time AND occur_time < :end_time"
_LINES: Final = f"SELECT * FROM usage_correction_lines WHERE {_RANGE}"
# By the primary key of usage, and that of the later prices.
_USAGES: Final = f"""
    SELECT r.*, p.cost AS later_cost, p.currency_code AS later_currency_code, p.provider_cost AS later_provider_cost,
        p.provider_currency_code AS later_provider_currency_code
    FROM (SELECT * FROM usage_records WHERE {_RANGE}) AS r
    LEFT JOIN usage_pricings AS p
        ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id AND r.cost IS NULL"""
_OF_USAGE: Final = hour_key(
    "coalesce(currency_code, later_currency_code, '')",
    "coalesce(provider_currency_code, later_provider_currency_code, '')",
    hour="date_trunc('minute', occur_time, 'UTC')",
)


def _sums(sign: str, added: str) -> str:
    return f"""SELECT {_OF_LINE}, {hour_sums("cost", "provider_cost", sign)}
        FROM (SELECT *, {LATENCY_BUCKET} FROM ({_LINES}) AS line WHERE {added}) AS line GROUP BY {_BY_KEY}"""


def _units(sign: str, key: str, source: str) -> str:
    return f"""SELECT {key}, unit.key AS unit_id, {sign}sum(CAST(unit.value AS numeric)) AS quantity
        FROM ({source}) AS line CROSS JOIN LATERAL jsonb_each_text(quantities) AS unit GROUP BY {_BY_KEY}, unit_id"""


_SUMS: Final = f"""
    SELECT {_OF_USAGE}, {hour_sums("coalesce(cost, later_cost)", "coalesce(provider_cost, later_provider_cost)")}
    FROM (SELECT *, {LATENCY_BUCKET} FROM ({_USAGES}) AS usage) AS usage GROUP BY {_BY_KEY}
    UNION ALL {_sums("", "added")}
    UNION ALL {_sums("-", "NOT added")}
"""
_UNITS: Final = f"""
    {_units("", _OF_USAGE, _USAGES)}
    UNION ALL {_units("", _OF_LINE, f"{_LINES} AND added")}
    UNION ALL {_units("-", _OF_LINE, f"{_LINES} AND NOT added")}
"""
_COUNT: Final = text(f"""
SELECT (SELECT count(*) FROM (SELECT FROM usage_records WHERE {_RANGE} LIMIT :limit) AS usage)
    + (SELECT count(*) FROM (SELECT FROM usage_correction_lines WHERE {_RANGE} LIMIT :limit) AS line)
""")


def minute_sums(organization_id: str, start_time: datetime, end_time: datetime) -> FromClause:
    """Return the sums of an organization's usage by minute, with the columns of `usage_hours`."""
    return _source(_SUMS, (*HOUR_KEY, *HOUR_SUMS), usage_hours, organization_id, start_time, end_time)


def minute_units(organization_id: str, start_time: datetime, end_time: datetime) -> FromClause:
    """Return the sums of quantities by minute, with the columns of `usage_hour_units`."""
    names = (*HOUR_KEY, "unit_id", "quantity")
    return _source(_UNITS, names, usage_hour_units, organization_id, start_time, end_time)


def _source(
    sql: str, names: tuple[str, ...], like: FromClause, organization_id: str, start_time: datetime, end_time: datetime
) -> FromClause:
    columns: list[Column[object]] = [Column(name, like.c[name].type) for name in names]
    bound = (
        bindparam("organization_id", organization_id, Uuid(as_uuid=False)),
        bindparam("start_time", start_time, DateTime(timezone=True)),
        bindparam("end_time", end_time, DateTime(timezone=True)),
    )
    return text(sql).bindparams(*bound).columns(*columns).subquery("minutes")


async def count_usages(
    connection: AsyncConnection, organization_id: str, start_time: datetime, end_time: datetime, limit: int
) -> int:
    """Return how many usages and lines of corrections there are in a range, each counted up to a limit."""
    values = {"organization_id": organization_id, "start_time": start_time, "end_time": end_time, "limit": limit}
    return int((await connection.execute(_COUNT, values)).scalar_one())
