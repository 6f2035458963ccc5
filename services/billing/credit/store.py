"""The statements that read credits. They are to see one moment throughout: see `see_one_moment`."""

import json
from collections.abc import Collection
from decimal import Decimal
from typing import Final

from libs.common.database import RawConnection
from services.billing.credit.domain import Beneficiary, LastEvent, Refill, RefillSource, Totals, Use
from services.billing.ledger.grant_store import GRANT_COLUMNS, funding_sql, grant_of
from services.billing.ledger.grants import Grant, GrantKind

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
        AND ($3::uuid IS NULL OR user_id = $3) AND ($4::text IS NULL OR model = $4)
    GROUP BY kind
"""

# The last INCLUDED grant of an account that has begun, by the same index; the number of the movement with which it
# began, and the subscription that brought it while it has a period, by primary keys.
_LAST_REFILL: Final = """
    SELECT g.effective_time, t.sequence, s.subscription_id::text, s.period_start_time, s.period_end_time, s.renews
    FROM (
        SELECT organization_id, grant_id, effective_time, source_reference FROM credit_grants
        WHERE organization_id = $1::uuid AND account_id = $2::uuid AND kind = 'INCLUDED'
            AND state <> 'SCHEDULED' AND (void_time < effective_time) IS NOT TRUE
            AND ($3::uuid IS NULL OR user_id = $3) AND ($4::text IS NULL OR model = $4)
        ORDER BY effective_time DESC, grant_id DESC LIMIT 1
    ) AS g
    JOIN transactions t ON t.organization_id = ANY (ARRAY[g.organization_id]) AND t.operation_id = g.grant_id::text
    LEFT JOIN LATERAL (
        SELECT subscription_id, period_start_time, period_end_time,
            state IN ('TRIALING', 'ACTIVE') AND NOT cancel_at_period_end
                AND (expire_time IS NULL OR expire_time > period_end_time) AS renews
        FROM subscriptions
        WHERE organization_id = g.organization_id AND period_start_time IS NOT NULL
            AND subscription_id = CASE
                WHEN g.source_reference ~ '^subscription/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                THEN substr(g.source_reference, 14)::uuid
            END
        OFFSET 0
    ) AS s ON true
"""

# Every beginning has a standing, at its own movement or at a later one of the same moment; by primary key.
_USED_AT: Final = """
    SELECT used FROM grant_standings
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND sequence >= $3
    ORDER BY sequence LIMIT 1
"""

# What was used of grants of a user or a model up to a movement: the last use of each, by primary key.
_USED_OF_GRANTS_AT: Final = """
    SELECT coalesce(sum(u.used), 0)
    FROM credit_grants g
    CROSS JOIN LATERAL (
        SELECT used FROM grant_uses
        WHERE organization_id = g.organization_id AND grant_id = g.grant_id AND sequence <= $3
        ORDER BY sequence DESC LIMIT 1
    ) AS u
    WHERE g.organization_id = $1::uuid AND g.account_id = $2::uuid AND g.state <> 'SCHEDULED'
        AND ($4::uuid IS NULL OR g.user_id = $4) AND ($5::text IS NULL OR g.model = $5)
"""

# What a movement used of grants, or gave back; by the unique place among the movement's.
_USES_OF_MOVEMENT: Final = """
    SELECT grant_id::text, abs(amount), rest FROM grant_uses
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND sequence = $3
    ORDER BY place
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


async def grants_before(connection: RawConnection, organization_id: str, before: str | None, limit: int) -> list[Grant]:
    """Return an organization's grants before one, the latest first, as of the last event of their accounts."""
    return [grant_of(row) for row in await connection.fetch(_PAGE, organization_id, before, limit)]


async def find_grants(connection: RawConnection, organization_id: str, grant_ids: Collection[str]) -> list[Grant]:
    """Return grants by their ids, as of the last event of their accounts."""
    return [grant_of(row) for row in await connection.fetch(_GRANTS, organization_id, list(grant_ids))]


async def totals(connection: RawConnection, organization_id: str, account_id: str, whose: Beneficiary) -> list[Totals]:
    """Return what became of an account's grants that have begun, by kind."""
    rows = await connection.fetch(_TOTALS, organization_id, account_id, whose.user_id, whose.model)
    return [Totals(GrantKind(row[0]), row[1], row[2]) for row in rows]


async def last_refill(
    connection: RawConnection, organization_id: str, account_id: str, whose: Beneficiary
) -> Refill | None:
    """Return the last INCLUDED grant that has begun; None where there is none."""
    row = await connection.fetchrow(_LAST_REFILL, organization_id, account_id, whose.user_id, whose.model)
    if row is None:
        return None
    if whose.is_anybody:
        used = await connection.fetchval(_USED_AT, organization_id, account_id, row[1])
    else:
        used = await connection.fetchval(
            _USED_OF_GRANTS_AT, organization_id, account_id, row[1], whose.user_id, whose.model
        )
    return Refill(row[0], used, None if row[2] is None else RefillSource(*row[2:]))


async def uses_of_movement(
    connection: RawConnection, organization_id: str, account_id: str, sequence: int
) -> list[Use]:
    """Return what a movement used of grants, or gave back, where that is entered."""
    rows = await connection.fetch(_USES_OF_MOVEMENT, organization_id, account_id, sequence)
    return [Use(*row) for row in rows]


async def event_before(
    connection: RawConnection, organization_id: str, account_id: str, sequence: int
) -> LastEvent | None:
    """Return the last event before a movement of an account; None where the account had no grant yet."""
    row = await connection.fetchrow(_BEFORE, organization_id, account_id, sequence)
    if row is None:
        return None
    rests = {name: (Decimal(rest), Decimal(expired)) for name, (rest, expired) in json.loads(row[3]).items()}
    return LastEvent(row[1], row[2], rests, row[0] + row[4])
