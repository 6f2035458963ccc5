"""Running the checks' statements, and reading charges along the primary key."""

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import RawConnection
from services.billing.integrity.invariants import Invariant
from services.billing.integrity.model import Charge, Finding
from services.billing.ledger.model import Kind

# A range of the primary key: of one organization where one is given.
_CHARGES: Final = """
    SELECT organization_id::text, operation_id, transaction_id::text, kind, currency_code, amount, create_time
    FROM transactions
    WHERE (organization_id, operation_id) > ($1::uuid, $2::text) AND ($3::uuid IS NULL OR organization_id = $3)
        AND kind IN ('DEBIT', 'CAPTURE')
    ORDER BY organization_id, operation_id LIMIT $4
"""


async def find_violations(
    tx: AsyncConnection, invariant: Invariant, organization_id: str | None, now: datetime, limit: int
) -> list[Finding]:
    """What breaks an invariant, at most `limit` findings."""
    statement = f"SELECT * FROM ({invariant.violations}) v LIMIT :limit"  # noqa: S608 -- a constant of ours.
    parameters: dict[str, object] = {"organization_id": organization_id, "now": now, "limit": limit}
    found = await tx.execute(text(statement), {name: v for name, v in parameters.items() if f":{name}" in statement})
    return [Finding(invariant.name, str(row.organization_id), row.resource, row.detail) for row in found]


async def count_examined(tx: AsyncConnection, invariant: Invariant, organization_id: str | None) -> int:
    """Over how many rows an invariant is checked."""
    statement = (
        f"SELECT count(*) FROM {invariant.table} "  # noqa: S608 -- a constant of ours.
        "WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = :organization_id)"
    )
    return int((await tx.execute(text(statement), {"organization_id": organization_id})).scalar_one())


async def charges_after(
    connection: RawConnection, after: tuple[str, str], organization_id: str | None, limit: int
) -> list[Charge]:
    rows = await connection.fetch(_CHARGES, *after, organization_id, limit)
    return [Charge(row[0], row[1], row[2], Kind(row[3]), *row[4:]) for row in rows]
