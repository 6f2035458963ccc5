"""Running the statements of a walk."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.ids import highest_id_at, lowest_id_at, time_ms_of
from libs.common.integrity.domain import Column, Digests, Finding, Key, Pages, Range, Scope, Sweep, Walk, Window
from libs.common.jumps import jumps
from libs.common.timestamps import micros_of, moment_of
from libs.common.windows import Span

Part = Range | Pages | Window
"""What one statement of a check reads."""
_PARAMETER: Final = re.compile(r"(?<![:\w]):(\w+)")

# Every range is found by an index, and every other row by its key. Without statistics, or with those of an organization
# that has nearly all rows, the planner would think that reading a whole table is cheaper.
_SETTINGS: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_custom_plan",
    "work_mem": "64MB",
}


_SET: Final = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())

# What the statistics say, of a table or of all its partitions.
_ESTIMATE: Final = """
SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class
WHERE oid = to_regclass(:name) OR oid IN (SELECT relid FROM pg_partition_tree(to_regclass(:name)) WHERE isleaf)
"""


_PAGES: Final = "SELECT pg_relation_size(to_regclass(:name)) / CAST(current_setting('block_size') AS integer)"


async def prepare(tx: AsyncConnection) -> None:
    """Set the transaction up for the statements of checks."""
    await tx.execute(text(_SET))


async def estimate_rows(tx: AsyncConnection, table: str) -> int:
    """Return roughly how many rows the table has; 0 if nobody knows."""
    return int((await tx.execute(text(_ESTIMATE), {"name": table})).scalar_one())


async def count_pages(tx: AsyncConnection, table: str) -> int:
    """Return how many pages a table has here; 0 if its rows are elsewhere, as in a cluster."""
    return int((await tx.execute(text(_PAGES), {"name": table})).scalar_one())


async def find_filled(tx: AsyncConnection, tables: Sequence[str]) -> frozenset[str]:
    """Return which of the tables have any row."""
    probes = " UNION ALL ".join(f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in tables)  # noqa: S608
    return frozenset((await tx.execute(text(probes))).scalars())


async def find_bound(tx: AsyncConnection, walk: Walk, scope: Scope, after: Key | None, count: int) -> Key | None:
    """Return where a range of so many rows ends; None if there are fewer. Reads the index alone."""
    statement = f"{_keys(walk, scope, Range(after, None))} OFFSET {count - 1} LIMIT 1"
    row = (await tx.execute(text(statement), _values(statement, scope, Range(after, None)))).first()
    return None if row is None else tuple(row)


async def count_rows(tx: AsyncConnection, walk: Walk, scope: Scope, range_: Range) -> int:
    """Return how many rows a range has. Reads the index alone."""
    statement = f"SELECT count(*) FROM ({_keys(walk, scope, range_)} OFFSET 0) AS key"  # noqa: S608 -- constants of ours.
    return int((await tx.execute(text(statement), _values(statement, scope, range_))).scalar_one())


async def count_in_pages(tx: AsyncConnection, walk: Walk, scope: Scope, pages: Pages) -> int:
    """Return how many rows some pages of a table have."""
    statement = _limited(walk, f"SELECT count(*) FROM {walk.table} WHERE {{range}}", scope, pages)  # noqa: S608
    return int((await tx.execute(text(statement), _values(statement, scope, pages))).scalar_one())


async def find_violations(
    tx: AsyncConnection, check: Walk | Sweep, scope: Scope, part: Part, limit: int
) -> list[Finding]:
    """Return the violations in a range or window, at most `limit` of each invariant."""
    statement = f"""
        SELECT invariant, organization_id, resource, detail FROM (
            SELECT *, row_number() OVER (PARTITION BY invariant) AS number
            FROM ({_limited(check, check.violations, scope, part)})
                AS violation (invariant, organization_id, resource, detail)
        ) AS numbered WHERE number <= {limit}
    """  # noqa: S608 -- constants of ours; values are bound.
    found = await tx.execute(text(statement), _values(statement, scope, part))
    return [Finding(row[0], str(row[1] or ""), row[2], row[3]) for row in found]


async def find_suspects(tx: AsyncConnection, sweep: Sweep, scope: Scope, window: Window) -> list[str]:
    """Return the organizations that may have violations in a window."""
    statement = _limited(sweep, sweep.suspects, scope, window)
    return [str(one) for one in (await tx.execute(text(statement), _values(statement, scope, window))).scalars()]


async def read_digests(tx: AsyncConnection, check: Walk | Sweep, scope: Scope, part: Part) -> tuple[Digests, int]:
    """Return each organization in a range or window with the number and digest of its rows, and how many are new."""
    statement = _limited(check, check.digests, scope, part)
    found = (await tx.execute(text(statement), _values(statement, scope, part))).all()
    return [(str(row[0]), int(row[1]), int(row[2])) for row in found], sum(int(row[3]) for row in found)


async def organizations_after(tx: AsyncConnection, tables: Sequence[str], after: str, limit: int) -> list[str]:
    """Return the next organizations, by id, that have rows. Jumps along the indexes from one to the next."""
    found = jumps(*tables, after="CAST(:after AS uuid)", limit=str(limit))
    statement = f"{found} SELECT organization_id FROM looked"  # noqa: S608 -- the tables are constants.
    return [str(one) for one in (await tx.execute(text(statement), {"after": after})).scalars()]


async def find_span(tx: AsyncConnection, sweep: Sweep, organization_ids: Sequence[str]) -> Span | None:
    """Return the time, in microseconds, of which these organizations have rows. Two probes of an index for each."""
    ends = " UNION ALL ".join(
        f"(SELECT {time.name} AS at FROM {table} AS t WHERE t.organization_id = o.organization_id"  # noqa: S608
        f" ORDER BY {time.name} {direction} LIMIT 1)"
        for table, time in ((sweep.table, sweep.time), *sweep.beside)
        for direction in ("ASC", "DESC")
    )
    statement = f"""
        SELECT (array_agg(at ORDER BY at))[1], (array_agg(at ORDER BY at DESC))[1]
        FROM unnest(CAST(:organization_ids AS uuid[])) AS o(organization_id) CROSS JOIN LATERAL ({ends}) AS ends
    """  # noqa: S608 -- constants of ours; values are bound.
    first, last = (await tx.execute(text(statement), {"organization_ids": list(organization_ids)})).one()
    return None if first is None else Span(_micros(first), _micros(last) + 1)


async def count_window(tx: AsyncConnection, sweep: Sweep, scope: Scope, window: Window, limit: int) -> int:
    """Return how many rows a window has, counted up to a limit. Reads the index alone."""
    condition = _in_window(sweep.time)
    statement = f"SELECT count(*) FROM (SELECT FROM {sweep.table} WHERE {condition} LIMIT {limit}) AS counted"  # noqa: S608
    return int((await tx.execute(text(statement), _values(statement, scope, window))).scalar_one())


def _limited(check: Walk | Sweep, statement: str, scope: Scope, part: Part) -> str:
    """Limit a statement of a check to a range or window."""
    if isinstance(part, Pages):
        pages = "ctid >= CAST(:first_row AS tid) AND ctid < CAST(:end_row AS tid)"
        return statement.replace("{range}", pages)
    if isinstance(check, Walk):
        assert isinstance(part, Range)
        return statement.replace("{range}", _condition(check, scope, part))
    statement = statement.replace("{window}", _in_window(check.time))
    for table, time in check.beside:
        statement = statement.replace(f"{{window of {table}}}", _in_window(time))
    return statement


def _in_window(time: Column) -> str:
    kind = time.kind
    return (
        f"organization_id = ANY(CAST(:organization_ids AS uuid[]))"
        f" AND {time.name} BETWEEN CAST(:first_{kind} AS {kind}) AND CAST(:last_{kind} AS {kind})"
    )


def _keys(walk: Walk, scope: Scope, range_: Range) -> str:
    """Return the query for the ends of ranges at each row of a range, in the order of the key, from the index alone."""
    names = ", ".join(column.name for column in walk.key)
    conditions = [_condition(walk, scope, Range(None, None))]
    for end, operator, key in (("after", ">", range_.after), ("until", "<=", range_.until)):
        if key is not None:
            values = ", ".join(_value(walk, end, number) for number in range(len(walk.key)))
            conditions.append(f"({names}) {operator} ({values})")
    return (
        f"SELECT {names} FROM {walk.table} "  # noqa: S608 -- constants of ours.
        f"WHERE {' AND '.join(conditions)} ORDER BY {names}"
    )


def _condition(walk: Walk, scope: Scope, range_: Range) -> str:
    """Return the condition for a range of the table."""
    parts = [_between(walk, range_)]
    if scope.organization_id is not None and walk.organization_column:
        parts.append(f"{walk.organization_column} = CAST(:organization_id AS uuid)")
    return " AND ".join(part for part in parts if part) or "true"


def _between(walk: Walk, range_: Range) -> str:
    """Return the condition for keys between two: of the first one's organization, of those between, of the last one's.

    A single comparison of rows would say the same. But the planner takes any index led by the organization for it, and
    then reads all rows of an organization for each range of it.
    """
    after, until = range_.after, range_.until
    if after is None and until is None:
        return ""
    first, *rest = (column.name for column in walk.key)
    low, high = _value(walk, "after", 0), _value(walk, "until", 0)
    if not rest:
        return " AND ".join([f"{first} > {low}"] * bool(after) + [f"{first} <= {high}"] * bool(until))
    beyond_low = f"{first} = {low} AND ({', '.join(rest)}) > ({_values_of_rest(walk, 'after')})"
    up_to_high = f"{first} = {high} AND ({', '.join(rest)}) <= ({_values_of_rest(walk, 'until')})"
    if after and until and after[0] == until[0]:
        return f"{beyond_low} AND {up_to_high}"
    between = " AND ".join([f"{first} > {low}"] * bool(after) + [f"{first} < {high}"] * bool(until))
    pieces = [*([beyond_low] * bool(after)), between, *([up_to_high] * bool(until))]
    return f"({' OR '.join(pieces)})"


def _values_of_rest(walk: Walk, end: str) -> str:
    return ", ".join(_value(walk, end, number) for number in range(1, len(walk.key)))


def _value(walk: Walk, end: str, number: int) -> str:
    return f"CAST(:{end}_{number} AS {walk.key[number].kind})"


def _values(statement: str, scope: Scope, part: Part) -> dict[str, object]:
    """Return the values of the parameters that a statement has."""
    named = set(_PARAMETER.findall(statement))
    values: dict[str, object] = {
        "organization_id": scope.organization_id,
        "now": scope.now,
        "since_time": scope.since_time,
        "settled_id": scope.settled_id,
    }
    if isinstance(part, Range):
        for end, key in (("after", part.after), ("until", part.until)):
            values |= {f"{end}_{number}": value for number, value in enumerate(key or ())}
    elif isinstance(part, Pages):
        values |= {"first_row": (part.first, 0), "end_row": (part.end, 0)}
    else:
        first, last = part.span.start, part.span.end - 1
        values |= {
            "organization_ids": list(part.organization_ids),
            "first_uuid": lowest_id_at(first // 1000),
            "last_uuid": highest_id_at(last // 1000),
        }
        if "first_timestamptz" in named:
            values |= {"first_timestamptz": moment_of(first), "last_timestamptz": moment_of(last)}
    return {name: value for name, value in values.items() if name in named}


def _micros(end: datetime | UUID) -> int:
    """Return the time of a row in microseconds; an id has it in milliseconds."""
    return micros_of(end) if isinstance(end, datetime) else time_ms_of(str(end)) * 1000
