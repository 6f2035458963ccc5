# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The invariants of dropped usage, and the checks of what is kept of it.

Of a dropped month stay what is kept of each usage, the hourly sums, and a row with digests of both as they were when
the usage was there. So what is kept is compared with that row, and with operations and corrections as usage is. A
change of what is kept, of a sum, or of the row is found.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Pairing, Sweep, Walk
from services.metering.usage.dropped_store import COUNTS, HOURS_DIGEST, UNITS_DIGEST, kept_digest

_KEPT: Final = Invariant(
    "dropped_usage_is_kept",
    "What is kept of a dropped month's usage differs from what was recorded in it.",
)
_SUMS: Final = Invariant(
    "sums_of_dropped_months_stay",
    "The hourly sums of a dropped month differ from what they were while its usage was there.",
)
_OCCURRED: Final = Column("occur_time", "timestamptz")
_HOUR: Final = Column("hour", "timestamptz")
_BY_MONTH: Final = (ORGANIZATION, Column("month", "timestamptz"))
_UNIT: Final = timedelta(hours=1)
_END: Final = "{month} + interval '1 month'"
# All rows count as settled: a month is old when it is dropped.
_MONTH_OF_USAGE: Final = "date_trunc('month', u.occur_time, 'UTC')"
_IS_DROPPED: Final = f"""EXISTS (
        SELECT FROM dropped_usage_months AS m
        WHERE m.organization_id = u.organization_id AND m.month = {_MONTH_OF_USAGE} AND m.{{state}})"""
_SUMMED: Final = f"m.{COUNTS}"


def operations_digests(is_settled: str) -> str:
    """Return the digests by which usage is compared with its operations, for those rows that are settled."""
    return f"""count(*) FILTER (WHERE {is_settled}), coalesce(bit_xor(
            hash_record_extended(ROW(operation_id, usage_id, occur_time), 0)) FILTER (WHERE {is_settled}), 0),
        count(*) FILTER (WHERE NOT {is_settled})"""


def dropped_operations(operations: Invariant) -> Sweep:
    """Return the sweep over what is kept of dropped usage, which stands for usage that an operation has."""
    return Sweep(
        "dropped_usages",
        _OCCURRED,
        (operations,),
        """SELECT 'operations_are_usage', u.organization_id, 'usages/' || u.operation_id,
            'the dropped usage has no operation'
        FROM (SELECT * FROM dropped_usages WHERE {window}) AS u
        WHERE NOT EXISTS (
            SELECT FROM usage_operations AS o WHERE o.organization_id = u.organization_id
                AND o.operation_id = u.operation_id AND o.usage_id = u.usage_id AND o.occur_time = u.occur_time)""",
        unit=_UNIT,
        digests=f"""SELECT organization_id, {operations_digests("usage_id < CAST(:settled_id AS uuid)")}
        FROM (SELECT * FROM dropped_usages WHERE {{window}}) AS u
        WHERE {_IS_DROPPED.format(state=COUNTS)} GROUP BY 1""",
    )


_KEPT_ROWS: Final = Sweep(
    "dropped_usages",
    _OCCURRED,
    (_KEPT,),
    f"""SELECT 'dropped_usage_is_kept', u.organization_id, 'usages/' || u.operation_id,
        'it is kept of a month that is not dropped'
    FROM (SELECT * FROM dropped_usages WHERE {{window}}) AS u
    WHERE NOT {_IS_DROPPED.format(state="state <> 'COUNTED'")}""",
    unit=_UNIT,
    digests=f"""SELECT organization_id, count(*), {kept_digest()}, 0
    FROM (SELECT * FROM dropped_usages WHERE {{window}}) AS u
    WHERE {_IS_DROPPED.format(state="state = 'DROPPED'")} GROUP BY 1""",
)
# The second side is read row by row only for organizations that differ.
_KEPT_MONTHS: Final = Walk(
    "dropped_usage_months",
    _BY_MONTH,
    (_KEPT,),
    f"""SELECT 'dropped_usage_is_kept', m.organization_id, 'months/' || to_char(m.month AT TIME ZONE 'UTC', 'YYYY-MM'),
        format('%s usages were recorded, %s are kept; digest %s, of those kept %s', m.usage_count, k.usages,
            m.kept_digest, k.digest)
    FROM (SELECT * FROM dropped_usage_months WHERE {{range}} AND state = 'DROPPED') AS m
    CROSS JOIN LATERAL (
        SELECT count(*) AS usages, {kept_digest()} AS digest FROM dropped_usages AS u
        WHERE u.organization_id = m.organization_id AND u.occur_time >= m.month
            AND u.occur_time < {_END.format(month="m.month")}
    ) AS k
    WHERE (m.usage_count, m.kept_digest) <> (k.usages, k.digest)""",
    digests="""SELECT organization_id, CAST(sum(usage_count) AS bigint), bit_xor(kept_digest), 0
    FROM dropped_usage_months WHERE {range} AND state = 'DROPPED' GROUP BY 1""",
    rows_min=1,
)


def _sums(table: str, digest: str) -> Sweep:
    return Sweep(
        table,
        _HOUR,
        (_SUMS,),
        # Which sum differs cannot be said: the months are named by the other side.
        f"SELECT '', h.organization_id, '', '' FROM {table} AS h WHERE {{window}} AND false",
        unit=_UNIT,
        digests=f"""SELECT h.organization_id, count(*), bit_xor({digest}), 0
        FROM (SELECT * FROM {table} WHERE {{window}}) AS h
        WHERE EXISTS (
            SELECT FROM dropped_usage_months AS m WHERE m.organization_id = h.organization_id
                AND m.month = date_trunc('month', h.hour, 'UTC') AND {_SUMMED}) GROUP BY 1""",
    )


_SUMMED_MONTHS: Final = Walk(
    "dropped_usage_months",
    _BY_MONTH,
    (_SUMS,),
    f"""SELECT 'sums_of_dropped_months_stay', m.organization_id,
        'months/' || to_char(m.month AT TIME ZONE 'UTC', 'YYYY-MM'),
        format('there were %s sums, now %s; digest %s, now %s', m.sum_count, k.sums, m.sum_digest, k.digest)
    FROM (SELECT * FROM dropped_usage_months AS m WHERE {{range}} AND {_SUMMED}) AS m
    CROSS JOIN LATERAL (
        SELECT count(*) AS sums, coalesce(bit_xor(digest), 0) AS digest FROM (
            SELECT {HOURS_DIGEST} AS digest FROM usage_hours AS h
            WHERE h.organization_id = m.organization_id AND h.hour >= m.month
                AND h.hour < {_END.format(month="m.month")}
            UNION ALL SELECT {UNITS_DIGEST} FROM usage_hour_units AS h
            WHERE h.organization_id = m.organization_id AND h.hour >= m.month
                AND h.hour < {_END.format(month="m.month")}
        ) AS summed
    ) AS k
    WHERE (m.sum_count, m.sum_digest) <> (k.sums, k.digest)""",
    digests=f"""SELECT organization_id, CAST(sum(sum_count) AS bigint), bit_xor(sum_digest), 0
    FROM dropped_usage_months AS m WHERE {{range}} AND {_SUMMED} GROUP BY 1""",
    rows_min=1,
)

DROPPED: Final[Sequence[Check]] = (
    Pairing((_KEPT_ROWS, _KEPT_MONTHS)),
    Pairing(
        (_sums("usage_hours", HOURS_DIGEST), _SUMMED_MONTHS),
        beside_first=(_sums("usage_hour_units", UNITS_DIGEST),),
    ),
)
