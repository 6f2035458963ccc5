"""The statements that list holds and transactions: bounded keyset pages along a unique key."""

from collections.abc import Collection
from typing import Final

from libs.common.database import RawConnection
from services.billing.ledger.domain import Hold, Movement
from services.billing.ledger.store import HOLD_COLUMNS, MOVEMENT_COLUMNS, hold_of, movement_of

# A range of the primary key.
_HOLDS_AFTER: Final = f"""
    SELECT {HOLD_COLUMNS} FROM holds
    WHERE organization_id = $1::uuid AND ($2::text IS NULL OR operation_id > $2)
    ORDER BY operation_id LIMIT $3
"""  # noqa: S608 -- made of constants of ours alone.

# A range of the unique transaction id, which sorts by time.
_MOVEMENTS_BEFORE: Final = f"""
    SELECT {MOVEMENT_COLUMNS} FROM transactions
    WHERE organization_id = $1::uuid AND ($2::uuid IS NULL OR transaction_id < $2)
    ORDER BY transactions.transaction_id DESC LIMIT $3
"""  # noqa: S608 -- made of constants of ours alone.

# A range of the partial index on the parts of holds.
_PARTS_BEFORE: Final = f"""
    SELECT {MOVEMENT_COLUMNS} FROM transactions
    WHERE organization_id = $1::uuid AND ($2::uuid IS NULL OR transaction_id < $2) AND hold_operation_id = $4
    ORDER BY transactions.transaction_id DESC LIMIT $3
"""  # noqa: S608 -- made of constants of ours alone.

# One probe of the primary key per operation.
_IDS: Final = """
    SELECT k.organization_id::text, k.operation_id, t.transaction_id::text
    FROM unnest($1::uuid[], $2::text[]) AS k (organization_id, operation_id)
    CROSS JOIN LATERAL (
        SELECT transaction_id FROM transactions
        WHERE organization_id = k.organization_id AND operation_id = k.operation_id
        OFFSET 0
    ) AS t
"""


async def transaction_ids(connection: RawConnection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the ids of the transactions of operations, by organization and operation id."""
    rows = await connection.fetch(_IDS, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): row[2] for row in rows}


async def holds_after(
    connection: RawConnection, organization_id: str, operation_id: str | None, limit: int
) -> list[Hold]:
    return [hold_of(row) for row in await connection.fetch(_HOLDS_AFTER, organization_id, operation_id, limit)]


async def movements_before(
    connection: RawConnection, organization_id: str, transaction_id: str | None, limit: int
) -> list[Movement]:
    rows = await connection.fetch(_MOVEMENTS_BEFORE, organization_id, transaction_id, limit)
    return [movement_of(row) for row in rows]


async def parts_before(
    connection: RawConnection, organization_id: str, hold_operation_id: str, transaction_id: str | None, limit: int
) -> list[Movement]:
    rows = await connection.fetch(_PARTS_BEFORE, organization_id, transaction_id, limit, hold_operation_id)
    return [movement_of(row) for row in rows]
