"""Reading charges along the primary key."""

from typing import Final

from libs.common.database import RawConnection
from services.billing.charge.domain import Charge
from services.billing.ledger.domain import Kind

# A range of the primary key: of one organization where one is given.
_CHARGES: Final = """
    SELECT organization_id::text, operation_id, transaction_id::text, kind, currency_code, amount, create_time
    FROM transactions
    WHERE (organization_id, operation_id) > ($1::uuid, $2::text) AND ($3::uuid IS NULL OR organization_id = $3)
        AND kind IN ('DEBIT', 'CAPTURE')
    ORDER BY organization_id, operation_id LIMIT $4
"""


async def charges_after(
    connection: RawConnection, after: tuple[str, str], organization_id: str | None, limit: int
) -> list[Charge]:
    rows = await connection.fetch(_CHARGES, *after, organization_id, limit)
    return [Charge(row[0], row[1], row[2], Kind(row[3]), *row[4:]) for row in rows]
