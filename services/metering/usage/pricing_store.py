"""The statements of usage that waits for a price."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from services.metering.model.units import Quantities
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage import statements
from services.metering.usage.dimensions import PLAIN
from services.metering.usage.domain import Captured, Cost
from services.metering.usage.store import Key, counts_text, read_quantities


class Waiting(NamedTuple):
    """Usage that waits for a price."""

    organization_id: str
    usage_id: str
    occur_time: datetime
    model: str
    tokens: tuple[int, ...]
    authorized: bool
    quantities: Quantities
    service_tier: str
    environment: str
    captured_before: Captured | None = None
    counters: Sequence[str] = ()
    """The counters of limits that it is counted in."""
    leased_currency_code: str = ""
    """The unit of money that the lease holds which it was settled with; empty where there is none."""


class Pricing(NamedTuple):
    """What usage that had no price turns out to cost."""

    organization_id: str
    usage_id: str
    cost: Cost
    counters: Sequence[str] = ()
    """The counters of spend limits that the cost is added to."""


# Along the primary key of what waits; everything else by primary keys.
_NEXT_UNPRICED: Final = f"""
SELECT u.organization_id::text, u.usage_id::text, u.occur_time, u.model, {", ".join(f"r.{c}" for c in TOKEN_CLASSES)},
    coalesce(a.amount > 0, false) AS authorized, r.quantities::text, d.service_tier, d.environment,
    r.captured_before, l.currency_code, r.counters::text[], q.currency_code
FROM (
    SELECT * FROM unpriced_usages WHERE (organization_id, usage_id) > ($1::uuid, $2::uuid) AND NOT corrected
    ORDER BY organization_id, usage_id LIMIT $3
) u
JOIN usage_records r
    ON r.organization_id = ANY (ARRAY[u.organization_id]) AND r.occur_time = u.occur_time AND r.usage_id = u.usage_id
LEFT JOIN authorizations a
    ON a.organization_id = ANY (ARRAY[r.organization_id]) AND a.operation_id = r.operation_id
LEFT JOIN quota_allocations q
    ON q.organization_id = ANY (ARRAY[r.organization_id]) AND q.operation_id = r.lease_id AND NOT q.declined
LEFT JOIN usage_dimensions d
    ON d.organization_id = ANY (ARRAY[r.organization_id]) AND d.dimension_id = r.dimension_id
LEFT JOIN LATERAL (
    SELECT currency_code FROM settlement_parts p
    WHERE r.captured_before > 0 AND p.organization_id = r.organization_id AND p.operation_id = r.operation_id
    ORDER BY p.part DESC LIMIT 1
) l ON true
ORDER BY u.organization_id, u.usage_id
"""  # noqa: S608 -- put together from the names of columns.


async def next_unpriced(connection: RawConnection, *, after: Key, limit: int) -> list[Waiting]:
    """Return usages that wait for a price, in the order of their primary key."""
    rows = await connection.fetch(_NEXT_UNPRICED, *after, limit)
    return [
        Waiting._make(
            (
                *row[:4],
                tuple(row[4:12]),
                row[12],
                read_quantities(row[13]),
                row[14] or PLAIN.service_tier,
                row[15] or PLAIN.environment,
                None if row[16] is None else Captured(format_amount(row[16]), row[17] or ""),
                row[18] or (),
                row[19] or "",
            )
        )
        for row in rows
    ]


async def price(connection: RawConnection, pricings: Sequence[Pricing], now: datetime) -> set[str]:
    """Charge usages that waited for a price, and return their ids. If two processes try, only one charges."""
    counts = [counts_text(dict.fromkeys(one.counters, Decimal(one.cost.amount))) for one in pricings]
    rows = await connection.fetch(
        statements.PRICE,
        [pricing.organization_id for pricing in pricings],
        [pricing.usage_id for pricing in pricings],
        [pricing.cost.amount for pricing in pricings],
        [pricing.cost.currency_code for pricing in pricings],
        [pricing.cost.price_version_id for pricing in pricings],
        [pricing.cost.charge_kind for pricing in pricings],
        [pricing.cost.provider_cost for pricing in pricings],
        [pricing.cost.provider_currency_code for pricing in pricings],
        [pricing.cost.rate_hours for pricing in pricings],
        now,
        [counters for counters, _ in counts],
        [counted for _, counted in counts],
    )
    return {row[0] for row in rows}
