"""The statements on accounts whose balance became low, and on credits that expire soon. Each touches one shard."""

from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.database import RawConnection

_CROSSED: Final = "(a.posted < a.low_balance_threshold) <> a.low_balance_told AND a.state = 'OPEN'"

# The partial index of accounts with a threshold, from its beginning or on; no row is locked.
_FIND_CROSSED: Final = f"""
    SELECT a.organization_id::text, a.account_id::text FROM accounts AS a
    WHERE a.low_balance_threshold IS NOT NULL AND (a.organization_id, a.account_id) > ($1::uuid, $2::uuid)
        AND {_CROSSED}
    ORDER BY a.organization_id, a.account_id LIMIT $3
"""  # noqa: S608 -- constants of ours alone.
# One row by primary key, locked against movements for as long as it takes to write the event. The version of what
# movements have read stays, since nothing that they look at changes.
_TELL: Final = f"""
    UPDATE accounts AS a SET low_balance_told = NOT a.low_balance_told
    WHERE a.organization_id = $1::uuid AND a.account_id = $2::uuid AND a.low_balance_threshold IS NOT NULL
        AND {_CROSSED}
    RETURNING a.low_balance_told, nullif(a.owner_id, a.organization_id)::text, a.currency_code, a.posted,
        a.low_balance_threshold
"""  # noqa: S608 -- constants of ours alone.

# The index of grants whose expiry is not announced, from its beginning. What another process announces is passed over.
_EXPIRING: Final = """
    SELECT g.organization_id::text, g.grant_id::text, g.account_id::text, g.currency_code, g.amount, g.rest,
        g.expire_time, g.source_reference, g.description
    FROM credit_grants AS g
    WHERE g.state <> 'ENDED' AND NOT g.expiry_told AND g.expire_time < $1::timestamptz
    ORDER BY g.expire_time, g.organization_id, g.grant_id LIMIT $2 FOR UPDATE SKIP LOCKED
"""
# By primary key; the rows are locked.
_EXPIRY_TOLD: Final = """
    UPDATE credit_grants AS g SET expiry_told = true
    FROM unnest($1::uuid[], $2::uuid[]) AS k (organization_id, grant_id)
    WHERE g.organization_id = ANY (ARRAY[k.organization_id]) AND g.grant_id = k.grant_id
"""

Key = tuple[str, str]


class Crossing(NamedTuple):
    """An account whose balance is on the other side of its threshold than was told."""

    is_low: bool
    project_id: str | None
    currency_code: str
    posted: Decimal
    threshold: Decimal


class Expiring(NamedTuple):
    """Credits that are about to expire. `rest` is as of the last event of the account."""

    organization_id: str
    grant_id: str
    account_id: str
    currency_code: str
    amount: Decimal
    rest: Decimal
    expire_time: datetime
    source_reference: str
    description: str


async def find_crossed(connection: RawConnection, after: Key, limit: int) -> list[Key]:
    """Return accounts of a shard whose balance has crossed their threshold, in the order of their keys."""
    return [(row[0], row[1]) for row in await connection.fetch(_FIND_CROSSED, *after, limit)]


async def tell(connection: RawConnection, key: Key) -> Crossing | None:
    """Note that the crossing of an account is told; return it, or None where there is none any more."""
    row = await connection.fetchrow(_TELL, *key)
    return None if row is None else Crossing(*row)


async def lock_expiring(connection: RawConnection, before: datetime, limit: int) -> list[Expiring]:
    """Return grants of a shard that expire before a moment and whose expiry is not announced, and lock them."""
    return [Expiring(*row) for row in await connection.fetch(_EXPIRING, before, limit)]


async def note_told(connection: RawConnection, grants: list[Expiring]) -> None:
    """Note that the expiry of locked grants is announced."""
    columns = [grant.organization_id for grant in grants], [grant.grant_id for grant in grants]
    await connection.execute(_EXPIRY_TOLD, *columns)
