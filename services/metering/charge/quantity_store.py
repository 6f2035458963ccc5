"""The statements that add up how much of a unit was used under a subscription."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.database import RawConnection
from libs.common.ids import NIL
from services.metering.tables import TOKEN_CLASSES


class Span(NamedTuple):
    """A time, in its parts: full hours, and what is before and after them."""

    start: datetime
    first_hour: datetime
    last_hour: datetime
    """Where the full hours end; the same as `first_hour` where there are none."""
    end: datetime


def _sums(hourly: str, hours: str, of_usage: str, of_unit: str = "") -> str:
    """Return the statement for one kind of unit.

    It reads ranges of the primary keys: the full hours from their sums, and at most an hour on both sides of them from
    the usage itself, with what corrections took out of it and put in. One statement sees them at one moment.
    """
    return f"""
    WITH known AS MATERIALIZED (
        SELECT d.dimension_id FROM usage_dimensions AS d
        WHERE d.organization_id = $1::uuid AND d.environment = 'LIVE' AND d.subscription_id = ANY ($2::text[])
        UNION ALL SELECT $3::uuid WHERE '' = ANY ($2::text[])
    ), used AS (
        SELECT h.model, h.dimension_id, {hourly} AS quantity
        FROM {hours} AS h
        WHERE h.organization_id = $1::uuid AND h.hour >= $5::timestamptz AND h.hour < $6::timestamptz {of_unit}
        UNION ALL
        SELECT r.model, r.dimension_id, {of_usage} FROM usage_records AS r
        WHERE r.organization_id = $1::uuid AND r.occur_time >= $4::timestamptz AND r.occur_time < $5::timestamptz
        UNION ALL
        SELECT r.model, r.dimension_id, {of_usage} FROM usage_records AS r
        WHERE r.organization_id = $1::uuid AND r.occur_time >= $6::timestamptz AND r.occur_time < $7::timestamptz
        UNION ALL
        SELECT r.model, r.dimension_id, CASE WHEN r.added THEN {of_usage} ELSE -({of_usage}) END
        FROM usage_correction_lines AS r
        WHERE r.organization_id = $1::uuid AND r.occur_time >= $4::timestamptz AND r.occur_time < $5::timestamptz
        UNION ALL
        SELECT r.model, r.dimension_id, CASE WHEN r.added THEN {of_usage} ELSE -({of_usage}) END
        FROM usage_correction_lines AS r
        WHERE r.organization_id = $1::uuid AND r.occur_time >= $6::timestamptz AND r.occur_time < $7::timestamptz
    )
    SELECT u.model, sum(u.quantity)::text FROM used AS u JOIN known AS k ON k.dimension_id = u.dimension_id
    WHERE $8::text IS NOT NULL AND (cardinality($9::text[]) = 0 OR u.model = ANY ($9::text[]))
    GROUP BY u.model HAVING sum(u.quantity) <> 0
    """  # noqa: S608 -- constants of ours alone.


_OF_TOKENS: Final = {name: _sums(f"h.{name}", "usage_hours", f"r.{name}") for name in TOKEN_CLASSES}
_OF_REQUESTS: Final = _sums("h.requests", "usage_hours", "1")
_OF_UNIT: Final = _sums(
    "h.quantity",
    "usage_hour_units",
    "coalesce(CAST(r.quantities ->> $8::text AS numeric), 0)",
    "AND h.unit_id = $8::text",
)


# A range of the primary key for each part of an hour.
_DROPPED: Final = """
    SELECT d.occur_time FROM (
        (SELECT occur_time FROM dropped_usages
        WHERE organization_id = $1::uuid AND occur_time >= $2::timestamptz AND occur_time < $3::timestamptz LIMIT 1)
        UNION ALL
        (SELECT occur_time FROM dropped_usages
        WHERE organization_id = $1::uuid AND occur_time >= $4::timestamptz AND occur_time < $5::timestamptz LIMIT 1)
    ) AS d ORDER BY d.occur_time
"""


async def used_by_model(
    connection: RawConnection,
    organization_id: str,
    subscription_ids: Sequence[str],
    span: Span,
    *,
    unit: str,
    token_class: str | None,
    is_requests: bool,
    models: Sequence[str],
) -> dict[str, Decimal]:
    """Return how much of a unit was used, by model; an empty subscription id stands for usage under none."""
    of_unit = _OF_REQUESTS if is_requests else _OF_UNIT
    statement = of_unit if token_class is None else _OF_TOKENS[token_class]
    rows = await connection.fetch(
        statement,
        *(organization_id, list(subscription_ids), NIL, *span, unit, list(models)),
    )
    return {row[0]: Decimal(row[1]) for row in rows}


async def dropped_at_the_ends(connection: RawConnection, organization_id: str, span: Span) -> list[datetime]:
    """Return when usage was that was dropped, of each part of an hour that has some.

    Ask for it after the usage was added up: what is moved away meanwhile is told then.
    """
    return [row[0] for row in await connection.fetch(_DROPPED, organization_id, *span)]
