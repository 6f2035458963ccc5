"""Running the statements of a walk."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.integrity.domain import Finding, Key, Range, Scope, Walk

_PARAMETER: Final = re.compile(r"(?<![:\w]):(\w+)")

# Every range is found by an index, and every other row by its key. Without statistics, or with those of an organization
# that has nearly all rows, the planner would think that reading a whole table is cheaper.
_SETTINGS: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_custom_plan",
    "work_mem": "64MB",
}


def _set(settings: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())


_SET: Final = _set(_SETTINGS)
# Organizations whose ids lie close together look like one row to the planner, and a nested loop would then compare each
# of their rows with every other. Rows that are looked up by their key are so in any case: LATERAL leaves no choice.
_SET_FOR_HASHES: Final = _set(_SETTINGS | {"enable_hashjoin": "on", "enable_nestloop": "off"})

# What the statistics say, of a table or of all its partitions.
_ESTIMATE: Final = """
SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class
WHERE oid = to_regclass(:name) OR oid IN (SELECT relid FROM pg_partition_tree(to_regclass(:name)) WHERE isleaf)
"""


async def prepare(tx: AsyncConnection, walk: Walk) -> None:
    """Set the transaction up for the statements of a walk."""
    await tx.execute(text(_SET_FOR_HASHES if walk.splits else _SET))


async def estimate_rows(tx: AsyncConnection, walk: Walk) -> int:
    """Return roughly how many rows the table has; 0 if nobody knows."""
    return int((await tx.execute(text(_ESTIMATE), {"name": walk.table})).scalar_one())


async def find_bound(tx: AsyncConnection, walk: Walk, scope: Scope, after: Key | None, count: int) -> Key | None:
    """Return where a range of so many rows ends; None if there are fewer. Reads the index alone."""
    statement = f"{_keys(walk, scope, Range(after, None))} OFFSET {count - 1} LIMIT 1"
    row = (await tx.execute(text(statement), _values(statement, scope, Range(after, None)))).first()
    return None if row is None else tuple(row)


async def count_rows(tx: AsyncConnection, walk: Walk, scope: Scope, range_: Range) -> int:
    """Return how many rows a range has. Reads the index alone."""
    statement = f"SELECT count(*) FROM ({_keys(walk, scope, range_)} OFFSET 0) AS key"  # noqa: S608 -- constants of ours.
    return int((await tx.execute(text(statement), _values(statement, scope, range_))).scalar_one())


async def find_violations(tx: AsyncConnection, walk: Walk, scope: Scope, range_: Range, limit: int) -> list[Finding]:
    """Return the violations in a range, at most `limit` of each invariant."""
    violations = walk.violations.replace("{range}", _condition(walk, scope, range_))
    if walk.splits:
        for placeholder, condition in _split(walk, scope, range_).items():
            violations = violations.replace(f"{{{placeholder}}}", condition)
    for other in walk.others:
        condition = _conditions(walk, scope, range_, other.columns, other.since)
        violations = violations.replace(f"{{{other.placeholder}}}", condition)
    statement = f"""
        SELECT invariant, organization_id, resource, detail FROM (
            SELECT *, row_number() OVER (PARTITION BY invariant) AS number
            FROM ({violations}) AS violation (invariant, organization_id, resource, detail)
        ) AS numbered WHERE number <= {limit}
    """  # noqa: S608 -- constants of ours; values are bound.
    found = await tx.execute(text(statement), _values(statement, scope, range_))
    return [Finding(row[0], str(row[1] or ""), row[2], row[3]) for row in found]


def _keys(walk: Walk, scope: Scope, range_: Range) -> str:
    """Return the query for the ends of ranges at each row of a range, in the order of the key, from the index alone."""
    names = ", ".join(column.name for column in walk.key)
    conditions = [_condition(walk, scope, Range(None, None))]
    for end, operator, key in (("after", ">", range_.after), ("until", "<=", range_.until)):
        if key is not None:
            values = ", ".join(_value(walk, end, number) for number in range(len(walk.key)))
            conditions.append(f"({names}) {operator} ({values})")
    return (
        f"SELECT {', '.join(walk.bound) or names} FROM {walk.table} "  # noqa: S608 -- constants of ours.
        f"WHERE {' AND '.join(conditions)} ORDER BY {names}"
    )


def _condition(walk: Walk, scope: Scope, range_: Range) -> str:
    return _conditions(walk, scope, range_, tuple(column.name for column in walk.key), walk.since)


def _conditions(walk: Walk, scope: Scope, range_: Range, columns: tuple[str, ...], since: str) -> str:
    """Return the condition for a range of one table."""
    return _all_of(walk, scope, since, _between(walk, range_, columns))


def _split(walk: Walk, scope: Scope, range_: Range) -> dict[str, str]:
    """Return the conditions for the organizations that are in the range as a whole, and for the others."""
    pieces = _pieces(walk, range_, tuple(column.name for column in walk.key))
    ends = " OR ".join(piece for piece in (pieces.first, pieces.last) if piece)
    return {
        "whole": _all_of(walk, scope, walk.since, pieces.between),
        "organizations": _all_of(walk, scope, "", pieces.between),
        "ends": _all_of(walk, scope, walk.since, f"({ends})") if ends else "false",
    }


def _all_of(walk: Walk, scope: Scope, since: str, condition: str) -> str:
    parts = [condition]
    if scope.organization_id is not None and walk.organization_column:
        parts.append(f"{walk.organization_column} = CAST(:organization_id AS uuid)")
    if scope.since_time is not None and since:
        parts.append(since)
    return " AND ".join(part for part in parts if part) or "true"


class _Pieces(NamedTuple):
    """The conditions for the three pieces of a range; empty where there is none, or nothing to limit."""

    first: str
    between: str
    last: str


def _between(walk: Walk, range_: Range, columns: tuple[str, ...]) -> str:
    """Return the condition for keys between two: of the first one's organization, of those between, of the last one's.

    A single comparison of rows would say the same. But the planner takes any index led by the organization for it, and
    then reads all rows of an organization for each range of it.
    """
    pieces = [piece for piece in _pieces(walk, range_, columns) if piece and piece != "false"]
    return f"({' OR '.join(pieces)})" if pieces else ""


def _pieces(walk: Walk, range_: Range, columns: tuple[str, ...]) -> _Pieces:
    after, until = range_.after, range_.until
    first, *rest = columns or ("",)
    low = _value(walk, "after", 0) if after else ""
    high = _value(walk, "until", 0) if until else ""
    if not rest:
        return _Pieces("", " AND ".join([f"{first} > {low}"] * bool(after) + [f"{first} <= {high}"] * bool(until)), "")
    beyond_low = f"({', '.join(rest)}) > ({_values_of_rest(walk, 'after')})"
    up_to_high = f"({', '.join(rest)}) <= ({_values_of_rest(walk, 'until')})"
    if after and until and after[0] == until[0]:
        return _Pieces(f"{first} = {low} AND {beyond_low} AND {up_to_high}", "false", "")
    return _Pieces(
        f"{first} = {low} AND {beyond_low}" if after else "",
        " AND ".join([f"{first} > {low}"] * bool(after) + [f"{first} < {high}"] * bool(until)),
        f"{first} = {high} AND {up_to_high}" if until else "",
    )


def _values_of_rest(walk: Walk, end: str) -> str:
    return ", ".join(_value(walk, end, number) for number in range(1, len(walk.key)))


def _value(walk: Walk, end: str, number: int) -> str:
    return f"CAST(:{end}_{number} AS {walk.key[number].kind})"


def _values(statement: str, scope: Scope, range_: Range) -> dict[str, object]:
    """Return the values of the parameters that a statement has."""
    values: dict[str, object] = {
        "organization_id": scope.organization_id,
        "now": scope.now,
        "since_time": scope.since_time,
        "since_id": scope.since_id,
    }
    for end, key in (("after", range_.after), ("until", range_.until)):
        values |= {f"{end}_{number}": value for number, value in enumerate(key or ())}
    named = set(_PARAMETER.findall(statement))
    return {name: value for name, value in values.items() if name in named}
