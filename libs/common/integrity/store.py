"""Running the statements of an invariant."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.integrity.domain import Invariant


async def find_violations(
    tx: AsyncConnection, invariant: Invariant, organization_id: str | None, now: datetime, limit: int
) -> list[tuple[str, str, str]]:
    """Return the violations of an invariant as (organization, resource, detail), at most `limit`."""
    statement = f"SELECT * FROM ({invariant.violations}) v LIMIT :limit"  # noqa: S608 -- a constant of ours.
    found = await tx.execute(text(statement), _values(statement, organization_id, now, limit))
    return [(str(row[0] or ""), row[1], row[2]) for row in found]


async def count_examined(tx: AsyncConnection, invariant: Invariant, organization_id: str | None, now: datetime) -> int:
    """Return how many rows an invariant is checked over."""
    values = _values(invariant.examined, organization_id, now, 0)
    return int((await tx.execute(text(invariant.examined), values)).scalar_one())


def _values(statement: str, organization_id: str | None, now: datetime, limit: int) -> dict[str, object]:
    values = {"organization_id": organization_id, "now": now, "limit": limit}
    return {name: value for name, value in values.items() if f":{name}" in statement}
