"""The statement that reads the usage behind charges."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from services.metering.charge.domain import ChargedUsage
from services.metering.model.units import TOKEN_CLASS_UNITS
from services.metering.tables import TOKEN_CLASSES

_STANDARD_TIER: Final = "standard"

# One probe of each primary key for each operation.
_USAGE: Final = f"""
    SELECT o.operation_id, r.model, d.service_tier, coalesce(r.price_version_id, p.price_version_id)::text,
        r.quantities::text, {", ".join(f"r.{name}" for name in TOKEN_CLASSES)}
    FROM usage_operations o
    JOIN usage_records r
        ON r.organization_id = ANY (ARRAY[o.organization_id]) AND r.occur_time = o.occur_time
            AND r.usage_id = o.usage_id
    LEFT JOIN usage_pricings p
        ON p.organization_id = ANY (ARRAY[r.organization_id]) AND p.usage_id = r.usage_id AND r.cost IS NULL
    LEFT JOIN usage_dimensions d
        ON d.organization_id = ANY (ARRAY[r.organization_id]) AND d.dimension_id = r.dimension_id
    WHERE o.organization_id = $1::uuid AND o.operation_id = ANY($2::text[])
"""  # noqa: S608 -- put together from the names of columns.

# The model alone is kept of dropped usage.
_DROPPED: Final = """
    SELECT o.operation_id, g.model
    FROM usage_operations o
    JOIN dropped_usages g
        ON g.organization_id = ANY (ARRAY[o.organization_id]) AND g.occur_time = o.occur_time
            AND g.usage_id = o.usage_id
    WHERE o.organization_id = $1::uuid AND o.operation_id = ANY($2::text[])
"""


# One probe of each key for each movement: the line with what the usage was before the correction, and that with what it
# is after it. Only the first movement of a correction has the quantities.
_CORRECTED: Final = f"""
    SELECT c.operation_id, l.model, d.service_tier, l.price_version_id::text, l.quantities::text,
        {", ".join(f"l.{name}" for name in TOKEN_CLASSES)}, l.added, c.position
    FROM usage_correction_charges c
    JOIN usage_correction_lines l
        ON l.organization_id = ANY (ARRAY[c.organization_id]) AND l.usage_id = c.usage_id AND l.number = c.number
    LEFT JOIN usage_dimensions d
        ON d.organization_id = ANY (ARRAY[l.organization_id]) AND d.dimension_id = l.dimension_id
    WHERE c.organization_id = $1::uuid AND c.operation_id = ANY($2::text[])
    ORDER BY c.operation_id, l.added
"""  # noqa: S608 -- put together from the names of columns.


async def usage_of(
    connection: RawConnection, organization_id: str, operation_ids: Sequence[str]
) -> dict[str, ChargedUsage]:
    """Return the usage of operations, by operation; those without any are left out.

    That of a movement of a correction is what the usage is then, with what was corrected of its quantities.
    """
    rows = await connection.fetch(_USAGE, organization_id, list(operation_ids))
    found = {
        row[0]: ChargedUsage(row[1], row[2] or _STANDARD_TIER, row[3], _quantities(row[4], row[5:])) for row in rows
    }
    if missing := set(operation_ids) - found.keys():
        for operation_id, model in await connection.fetch(_DROPPED, organization_id, list(missing)):
            found[operation_id] = ChargedUsage(model, _STANDARD_TIER, None, {})
    for row in await connection.fetch(_CORRECTED, organization_id, list(operation_ids)):
        *line, added, position = row
        quantities = {} if position else _quantities(line[4], line[5:])
        signed = {unit: value if added else f"-{value}" for unit, value in quantities.items()}
        before = found.get(line[0])
        changed = signed if before is None else _sum(before.quantities, signed)
        found[line[0]] = ChargedUsage(line[1], line[2] or _STANDARD_TIER, line[3], changed)
    return found


def _sum(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    sums = {unit: Decimal(one.get(unit, 0)) + Decimal(other.get(unit, 0)) for unit in {**one, **other}}
    return {unit: format_amount(value) for unit, value in sums.items() if value}


def _quantities(others: str | None, tokens: Sequence[int]) -> dict[str, str]:
    classes = zip(TOKEN_CLASSES, tokens, strict=True)
    quantities = {TOKEN_CLASS_UNITS[name]: str(count) for name, count in classes if count}
    if others is not None:
        stored: dict[str, Decimal] = json.loads(others, parse_float=Decimal, parse_int=Decimal)
        quantities |= {unit: format_amount(value) for unit, value in stored.items() if value}
    return quantities
