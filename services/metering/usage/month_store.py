"""The statements on the partitions of usage."""

from datetime import datetime
from typing import Final

from libs.common.database import RawConnection

_LOOKED_AT_MAX: Final = 100_000
# The default partition is empty on good days.
_STRAY: Final = """
SELECT DISTINCT date_trunc('month', occur_time, 'UTC') FROM (
    SELECT occur_time FROM usage_records_default LIMIT $1
) AS stray ORDER BY 1
"""


async def ensure_month(connection: RawConnection, moment: datetime) -> bool:
    """Create the partition of a month if it is missing. Waits a short time for a lock on the default partition."""
    return bool(await connection.fetchval("SELECT ensure_usage_month($1::timestamptz)", moment))


async def stray_months(connection: RawConnection) -> list[datetime]:
    """Return months of usage that is in the default partition."""
    return [row[0] for row in await connection.fetch(_STRAY, _LOOKED_AT_MAX)]


async def copy_stray(connection: RawConnection, month: datetime, rows: int) -> int:
    """Copy the next usages of a month out of the default partition, where they stay; return how many."""
    copied: int = await connection.fetchval("SELECT copy_stray_usage($1, $2::integer)", month, rows)
    return copied
