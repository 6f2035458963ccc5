"""The statement on who wants events of usage."""

from typing import Final

from libs.common.database import RawConnection

# The partial index of endpoints that name the type, in its order.
_WANTING: Final = """
    SELECT DISTINCT p.organization_id::text AS organization_id FROM event_endpoints AS p
    WHERE p.types && ARRAY['tollhouse.usage.recorded', 'tollhouse.usage.*']::text[] AND p.enabled
        AND p.delete_time IS NULL AND ($1::uuid IS NULL OR p.organization_id > $1::uuid)
    ORDER BY organization_id LIMIT $2
"""


async def wanting(connection: RawConnection, after: str | None, limit: int) -> list[str]:
    """Return organizations, after one, that have an endpoint which names the type; PLATFORM for one of the platform."""
    return [row[0] for row in await connection.fetch(_WANTING, after, limit)]
