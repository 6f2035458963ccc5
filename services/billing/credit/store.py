"""The statements that read credits. They see one moment throughout: see `one_moment`."""

import json
from collections.abc import Collection
from decimal import Decimal
from typing import Final

from libs.common.database import RawConnection
from services.billing.credit.domain import LastEvent, Totals
from services.billing.ledger.grant_store import GRANT_COLUMNS, funding_sql, grant_of
from services.billing.ledger.grants import Grant, GrantKind

_ONE_MOMENT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# A range of the primary key, which sorts by time, backwards.
_PAGE: Final = f"""
    SELECT {GRANT_COLUMNS} FROM credit_grants
    WHERE organization_id = $1::uuid AND ($2::uuid IS NULL OR grant_id < $2)
    ORDER BY credit_grants.grant_id DESC LIMIT $3
"""  # noqa: S608 -- made of constants of ours alone.

# One probe of the primary key for each.
_GRANTS: Final = f"""
    SELECT {GRANT_COLUMNS} FROM credit_grants WHERE organization_id = $1::uuid AND grant_id = ANY($2::uuid[])
"""  # noqa: S608

# The grants of one account that have begun, by the index of accounts. One that was voided before never did.
_TOTALS: Final = """
    SELECT kind, sum(amount), sum(expired) FROM credit_grants
    WHERE organization_id = $1::uuid AND account_id = $2::uuid
        AND state <> 'SCHEDULED' AND (void_time < effective_time) IS NOT TRUE
    GROUP BY kind
"""

# The last event before a movement, by the primary key, and what came to the account between the two.
_BEFORE: Final = f"""
    SELECT s.funded, s.used, s.used_beside, s.rests::text, {funding_sql("k.account_id", "s.sequence", "$3")}
    FROM (SELECT $1::uuid AS organization_id, $2::uuid AS account_id) AS k
    CROSS JOIN LATERAL (
        SELECT sequence, funded, used, used_beside, rests FROM grant_standings
        WHERE organization_id = k.organization_id AND account_id = k.account_id AND sequence < $3
        ORDER BY sequence DESC LIMIT 1
    ) AS s
"""  # noqa: S608


async def see_one_moment(connection: RawConnection) -> None:
    """Let all statements of the transaction that just began see the same moment."""
    await connection.execute(_ONE_MOMENT)


async def grants_before(connection: RawConnection, organization_id: str, before: str | None, limit: int) -> list[Grant]:
    """Return an organization's grants before one, the latest first, as of the last event of their accounts."""
    return [grant_of(row) for row in await connection.fetch(_PAGE, organization_id, before, limit)]


async def find_grants(connection: RawConnection, organization_id: str, grant_ids: Collection[str]) -> list[Grant]:
    """Return grants by their ids, as of the last event of their accounts."""
    return [grant_of(row) for row in await connection.fetch(_GRANTS, organization_id, list(grant_ids))]


async def totals(connection: RawConnection, organization_id: str, account_id: str) -> list[Totals]:
    """Return what became of an account's grants that have begun, by kind."""
    rows = await connection.fetch(_TOTALS, organization_id, account_id)
    return [Totals(GrantKind(row[0]), row[1], row[2]) for row in rows]


async def event_before(
    connection: RawConnection, organization_id: str, account_id: str, sequence: int
) -> LastEvent | None:
    """Return the last event before a movement of an account; None where the account had no grant yet."""
    row = await connection.fetchrow(_BEFORE, organization_id, account_id, sequence)
    if row is None:
        return None
    rests = {name: (Decimal(rest), Decimal(expired)) for name, (rest, expired) in json.loads(row[3]).items()}
    return LastEvent(row[1], row[2], rests, row[0] + row[4])
