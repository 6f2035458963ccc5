# ruff: noqa: S608 -- the statements are put together from constants, once; values are bound.
"""The statements by which a watcher finds what was committed since its last look.

Each row has the number of the transaction that wrote it (`xmin`), and a snapshot says whether it sees that one.
The number has 32 bits; the rest are those of the snapshot, or one less if the number would be in its future.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection

_WRITER: Final = """(
    xmin::text::bigint + ((pg_snapshot_xmax({until})::text::bigint >> 32) << 32)
    - CASE WHEN xmin::text::bigint > (pg_snapshot_xmax({until})::text::bigint & 4294967295) THEN 4294967296 ELSE 0 END
)::text::xid8"""


def _committed(since: str, until: str) -> str:
    writer = _WRITER.format(until=until)
    return (
        f"pg_visible_in_snapshot({writer}, {until})"
        f" AND ({since} IS NULL OR NOT pg_visible_in_snapshot({writer}, {since}))"
    )


# A range of the index by id. Parts of a call have an empty fingerprint and are no usage.
_USAGES: Final = f"""
SELECT operation_id, usage_id::text FROM usage_operations
WHERE organization_id = $1::uuid AND usage_id > $2::uuid AND fingerprint <> ''
    AND {_committed("$3::text::pg_snapshot", "$4::text::pg_snapshot")}
ORDER BY usage_id LIMIT $5
"""

# A range of the index by time.
_CORRECTIONS: Final = f"""
SELECT operation_id, create_time FROM usage_corrections
WHERE organization_id = $1::uuid AND (create_time, operation_id) > ($2::timestamptz, $3::text)
    AND {_committed("$4::text::pg_snapshot", "$5::text::pg_snapshot")}
ORDER BY create_time, operation_id LIMIT $6
"""


async def snapshot(connection: RawConnection) -> str:
    """Return which transactions are seen now; reads no table."""
    found: str = await connection.fetchval("SELECT pg_current_snapshot()::text")
    return found


async def usages_between(
    connection: RawConnection, organization_id: str, after: str, since: str, until: str, limit: int
) -> Sequence[tuple[str, str]]:
    """Return the operation ids and ids of usages that `until` sees and `since` does not, in the order of their ids."""
    rows = await connection.fetch(_USAGES, organization_id, after, since or None, until, limit)
    return [(row[0], row[1]) for row in rows]


async def corrections_between(
    connection: RawConnection, organization_id: str, after: tuple[datetime, str], since: str, until: str, limit: int
) -> Sequence[tuple[str, datetime]]:
    """Return the operation ids and times of such corrections, in the order of their times."""
    rows = await connection.fetch(_CORRECTIONS, organization_id, *after, since or None, until, limit)
    return [(row[0], row[1]) for row in rows]
