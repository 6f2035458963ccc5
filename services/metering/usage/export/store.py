# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The statements that read usage for exports, a page of an organization at a time."""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple, cast

from libs.common.database import RawConnection
from services.metering.usage import statements
from services.metering.usage.export.columns import COUNTED, all_columns, counted_columns
from services.metering.usage.export.lines import csv_line, json_line
from services.metering.usage.store import DIMENSIONS_MAX, Filters, TooManyDimensions

Row = Sequence[Any]
"""A row of the file; see `Written`."""
Key = tuple[datetime, str]
"""An occur_time and a usage id."""


class Page(NamedTuple):
    """A range of one organization's keys: after one, up to another."""

    organization_id: str
    after: Key
    until: Key
    as_of_time: datetime


# The last key of the next rows, of usage and of corrections together. Ranges of both primary keys.
_PAGE_END: Final = """
SELECT occur_time, usage_id::text FROM (
    (
        SELECT occur_time, usage_id FROM usage_records
        WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz AND occur_time < $4::timestamptz
            AND (occur_time, usage_id) > ($2::timestamptz, $3::uuid)
        ORDER BY occur_time, usage_id LIMIT $5
    )
    UNION ALL
    (
        SELECT occur_time, usage_id FROM usage_correction_lines
        WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz AND occur_time < $4::timestamptz
            AND (occur_time, usage_id) > ($2::timestamptz, $3::uuid)
        ORDER BY occur_time, usage_id LIMIT $5
    )
) AS keys
ORDER BY occur_time, usage_id OFFSET $5 - 1 LIMIT 1
"""
_HAS_LINES: Final = """
SELECT EXISTS (
    SELECT FROM usage_correction_lines
    WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz AND occur_time <= $4::timestamptz
        AND (occur_time, usage_id) > ($2::timestamptz, $3::uuid)
        AND (occur_time, usage_id) <= ($4::timestamptz, $5::uuid)
)
"""
_OF_PAGE: Final = """
        WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz AND occur_time <= $4::timestamptz
            AND (occur_time, usage_id) > ($2::timestamptz, $3::uuid)
            AND (occur_time, usage_id) <= ($4::timestamptz, $5::uuid) AND create_time <= $6::timestamptz
            AND ($7::uuid IS NULL OR project_id = $7) AND ($8::uuid IS NULL OR user_id = $8)
            AND ($9::uuid IS NULL OR api_key_id = $9) AND ($10::text IS NULL OR model = $10)
            AND ($11::uuid[] IS NULL OR dimension_id = ANY($11))"""
_DIMENSIONS: Final = """
    LEFT JOIN usage_dimensions d
        ON d.organization_id = ANY (ARRAY[r.organization_id]) AND d.dimension_id = r.dimension_id"""


class Written(Enum):
    """As what a row is read: its columns that are added up, in the order of COUNTED, and after these what it says."""

    COLUMNS = "columns"
    """All other columns, in the order of PLACES."""
    GUARDED_COLUMNS = "guarded columns"
    """The same, with text made harmless for spreadsheets."""
    CSV = "csv"
    """Its line, at the place LINE."""
    GUARDED_CSV = "guarded csv"
    """The same, with text made harmless for spreadsheets."""
    JSON = "json"
    """Its line, at the place LINE."""


LINE: Final = len(COUNTED)


def _columns(written: Written, *, of_lines: bool) -> str:
    guarded = written in (Written.GUARDED_COLUMNS, Written.GUARDED_CSV)
    if written in (Written.COLUMNS, Written.GUARDED_COLUMNS):
        return all_columns(of_lines=of_lines, guarded=guarded)
    line = json_line(of_lines=of_lines) if written is Written.JSON else csv_line(of_lines=of_lines, guarded=guarded)
    return f"{counted_columns(of_lines=of_lines)}, {line}"


def _usage(columns: str) -> str:
    """The key is compared with null where usage has a price of its own, so that no other pricing is looked for."""
    return f"""
    SELECT {columns}
    FROM (
        SELECT * FROM usage_records {_OF_PAGE}
        ORDER BY occur_time, usage_id
    ) AS r
    LEFT JOIN usage_pricings p ON p.organization_id = ANY (ARRAY[r.organization_id])
        AND p.usage_id = CASE WHEN r.cost IS NULL THEN r.usage_id END AND p.create_time <= $6::timestamptz
    {_DIMENSIONS}"""


def _lines(columns: str) -> str:
    return f"""
    SELECT {columns}, r.occur_time, r.usage_id, r.number, r.added
    FROM (
        SELECT * FROM usage_correction_lines {_OF_PAGE}
    ) AS r
    JOIN usage_corrections c
        ON c.organization_id = ANY (ARRAY[r.organization_id]) AND c.usage_id = r.usage_id AND c.number = r.number
    {_DIMENSIONS}"""


_KEYS: Final = ", r.occur_time AS by_time, r.usage_id AS by_usage, 0 AS by_number, true AS by_added"


def _statements(written: Written) -> tuple[str, str]:
    """Return the statements for a page without lines of corrections, and for one that has them.

    The rows of the second have the values by which they are sorted at their end.
    """
    usage, lines = _columns(written, of_lines=False), _columns(written, of_lines=True)
    return (
        f"{_usage(usage)}\nORDER BY r.occur_time, r.usage_id",
        f"{_usage(usage + _KEYS)}\nUNION ALL\n{_lines(lines)}\nORDER BY by_time, by_usage, by_number, by_added",
    )


_COLUMNS, _COLUMNS_CORRECTED = _statements(Written.COLUMNS)
_GUARDED_COLUMNS, _GUARDED_COLUMNS_CORRECTED = _statements(Written.GUARDED_COLUMNS)
_CSV, _CSV_CORRECTED = _statements(Written.CSV)
_GUARDED_CSV, _GUARDED_CSV_CORRECTED = _statements(Written.GUARDED_CSV)
_JSON, _JSON_CORRECTED = _statements(Written.JSON)
_STATEMENTS: Final = {
    Written.COLUMNS: (_COLUMNS, _COLUMNS_CORRECTED),
    Written.GUARDED_COLUMNS: (_GUARDED_COLUMNS, _GUARDED_COLUMNS_CORRECTED),
    Written.CSV: (_CSV, _CSV_CORRECTED),
    Written.GUARDED_CSV: (_GUARDED_CSV, _GUARDED_CSV_CORRECTED),
    Written.JSON: (_JSON, _JSON_CORRECTED),
}

# The pool for reports lets Postgres choose among all plans. Here each row is found by key, whatever it knows of the
# tables, and one plan serves all pages.
PLAN_BY_KEY: Final = """
SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL max_parallel_workers_per_gather = 0
"""


async def page_end(
    connection: RawConnection, organization_id: str, after: Key, end_time: datetime, rows: int
) -> Key | None:
    """Return the last key of the next `rows` rows; None if there are fewer."""
    row = await connection.fetchrow(_PAGE_END, organization_id, *after, end_time, rows)
    return None if row is None else (row[0], row[1])


async def dimensions_of(connection: RawConnection, organization_id: str, filters: Filters) -> list[str] | None:
    """Return the combinations of dimensions that a filter lets through; None where it asks for none.

    Raises:
        TooManyDimensions: they are too many.
    """
    if not any(filters.dimensions):
        return None
    values = (organization_id, *filters.dimensions, DIMENSIONS_MAX + 1)
    found = [row[0] for row in await connection.fetch(statements.MATCHING_DIMENSIONS, *values)]
    if len(found) > DIMENSIONS_MAX:
        raise TooManyDimensions
    return found


async def rows_of(
    connection: RawConnection, page: Page, filters: Filters, dimension_ids: Sequence[str] | None, written: Written
) -> Sequence[Row]:
    """Return the rows of a page that the filters let through: usage and lines of corrections in the order of keys."""
    has_lines = await connection.fetchval(_HAS_LINES, page.organization_id, *page.after, *page.until)
    plain, corrected = _STATEMENTS[written]
    records = await connection.fetch(
        corrected if has_lines else plain,
        page.organization_id,
        *page.after,
        *page.until,
        page.as_of_time,
        *filters.plain,
        dimension_ids,
    )
    return cast("Sequence[Row]", records)
