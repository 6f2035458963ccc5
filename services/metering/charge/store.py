"""The statements on charges."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class Charge(NamedTuple):
    """One charge metering has asked for; its state is SETTLED once billing has confirmed it."""

    organization_id: str
    operation_id: str
    amount: Decimal
    currency_code: str
    state: str
    occur_time: datetime


class PendingCharge(NamedTuple):
    """One charge billing has not confirmed."""

    organization_id: str
    operation_id: str
    amount: Decimal
    currency_code: str
    state: str
    attempt_count: int
    last_error_reason: str | None
    next_attempt_time: datetime
    create_time: datetime


# The page is cut from the operations, by primary key; usage without a charge falls out of it afterwards.
_CHARGES: Final = text("""
WITH page AS MATERIALIZED (
    SELECT organization_id, operation_id, occur_time, usage_id FROM usage_operations
    WHERE (organization_id, operation_id) > (CAST(:after_organization_id AS uuid), :after_operation_id)
        AND (CAST(:organization_id AS uuid) IS NULL OR organization_id = CAST(:organization_id AS uuid))
    ORDER BY organization_id, operation_id LIMIT :limit
)
SELECT page.organization_id::text, page.operation_id, coalesce(r.cost, p.cost),
    coalesce(r.currency_code, p.currency_code), coalesce(replace(x.state, 'DEAD', 'REFUSED'), 'SETTLED'),
    page.occur_time, coalesce(r.charge_kind, p.charge_kind)
FROM page
JOIN usage_records r USING (organization_id, occur_time, usage_id)
LEFT JOIN usage_pricings p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id AND r.cost IS NULL
LEFT JOIN outbox x ON x.organization_id = r.organization_id AND x.operation_id = r.operation_id
ORDER BY page.organization_id, page.operation_id
""")


async def list_charges(
    connection: AsyncConnection, *, organization_id: str | None, after: tuple[str, str], limit: int
) -> tuple[list[Charge], tuple[str, str] | None]:
    """Return a page of charges in the order of their keys, and where the next begins; None when there is no more."""
    values = {
        "organization_id": organization_id,
        "after_organization_id": after[0],
        "after_operation_id": after[1],
        "limit": limit,
    }
    rows = (await connection.execute(_CHARGES, values)).all()
    # A capture of nothing only gives the hold back; like usage that waits for its price it is no charge.
    charges = [Charge(*row[:6]) for row in rows if row[6] is not None and row[2]]
    return charges, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


# Jumps along the primary key from one organization to the next, instead of reading all rows of each.
_ORGANIZATIONS: Final = text("""
WITH RECURSIVE found AS (
    (
        SELECT organization_id FROM usage_operations WHERE organization_id > CAST(:after AS uuid)
        ORDER BY organization_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT organization_id FROM usage_operations WHERE organization_id > found.organization_id
        ORDER BY organization_id LIMIT 1
    )
    FROM found WHERE organization_id IS NOT NULL
)
SELECT organization_id::text FROM found WHERE organization_id IS NOT NULL LIMIT :limit
""")


async def list_organizations(connection: AsyncConnection, *, after: str, limit: int) -> list[str]:
    """Return the next organizations, by id, that have usage."""
    return list((await connection.execute(_ORGANIZATIONS, {"after": after, "limit": limit})).scalars())


_PENDING: Final = text("""
SELECT organization_id::text, operation_id, amount, currency_code, replace(state, 'DEAD', 'REFUSED'), attempt_count,
    last_error_reason, next_attempt_time, create_time
FROM outbox
WHERE (create_time, organization_id, operation_id)
        > (CAST(:after_time AS timestamptz), CAST(:after_organization_id AS uuid), :after_operation_id)
    AND (NOT :refused_only OR state IN ('REFUSED', 'DEAD'))
ORDER BY create_time, organization_id, operation_id LIMIT :limit
""")


async def list_pending(
    connection: AsyncConnection, *, refused_only: bool, after: tuple[datetime, str, str], limit: int
) -> Sequence[PendingCharge]:
    """Return unconfirmed charges, the oldest first. Sorts the backlog, which is empty on good days."""
    values = {
        "after_time": after[0],
        "after_organization_id": after[1],
        "after_operation_id": after[2],
        "refused_only": refused_only,
        "limit": limit,
    }
    return [PendingCharge(*row) for row in await connection.execute(_PENDING, values)]


_RETRY: Final = text("""
UPDATE outbox o SET state = 'PENDING', next_attempt_time = :now
FROM (
    SELECT organization_id, operation_id FROM outbox
    WHERE organization_id = CAST(:organization_id AS uuid)
        AND CASE WHEN cardinality(CAST(:operation_ids AS text[])) = 0 THEN state IN ('REFUSED', 'DEAD')
            ELSE operation_id = ANY(CAST(:operation_ids AS text[])) END
    ORDER BY organization_id, operation_id LIMIT 1000 FOR UPDATE
) chosen
WHERE o.organization_id = chosen.organization_id AND o.operation_id = chosen.operation_id
""")


async def retry(
    connection: AsyncConnection, *, organization_id: str, operation_ids: Sequence[str], now: datetime
) -> int:
    """Make charges of an organization due; return how many."""
    values = {"organization_id": organization_id, "operation_ids": list(operation_ids), "now": now}
    return (await connection.execute(_RETRY, values)).rowcount
