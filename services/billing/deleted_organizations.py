"""Which organizations of a shard were deleted, so that nothing is begun for them that would be charged for later.

Whoever begins something asks in the transaction that does, and holds a lock that the note of a deletion waits for. So
whatever was begun before is there to be ended once the deletion is noted, and nothing is begun after it.
"""

from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from libs.common.errors import NotFound

REASON: Final = "the organization was deleted"
"""Why what an organization had was ended."""

# Held until the end of the transaction; several may begin something at once.
_KEEP: Final = "SELECT pg_advisory_xact_lock_shared(hashtextextended('billing.deleted_organization/' || $1, 0))"
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('billing.deleted_organization/' || $1, 0))"

# Each by primary key.
_FIND: Final = "SELECT EXISTS (SELECT FROM deleted_organizations WHERE organization_id = $1::uuid)"
_NOTE: Final = """
    INSERT INTO deleted_organizations (organization_id, delete_time) VALUES ($1::uuid, $2)
    ON CONFLICT ON CONSTRAINT deleted_organizations_pkey DO NOTHING
"""
_FORGET: Final = "DELETE FROM deleted_organizations WHERE organization_id = $1::uuid"


async def note(connection: RawConnection, organization_id: str, delete_time: datetime) -> None:
    """Note that an organization was deleted."""
    await connection.fetchval(_LOCK, organization_id)
    await connection.execute(_NOTE, organization_id, delete_time)


async def forget(connection: RawConnection, organization_id: str) -> None:
    """Note that an organization is not deleted, as after identity has gone back to an earlier state."""
    await connection.execute(_FORGET, organization_id)


async def is_deleted(connection: RawConnection, organization_id: str) -> bool:
    """Return whether an organization was deleted, as far as billing was told."""
    return bool(await connection.fetchval(_FIND, organization_id))


async def require_not_deleted(connection: RawConnection, organization_id: str) -> None:
    """Raise NotFound if an organization was deleted; until the transaction ends its deletion is not noted."""
    await connection.fetchval(_KEEP, organization_id)
    if await is_deleted(connection, organization_id):
        raise NotFound(resource_type="organization", resource_name=organization_id)
