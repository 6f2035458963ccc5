"""The statements on the charges of dropped usage."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from libs.common.digests import PartDigest, bucket_sql, digest_sql
from libs.common.ids import MAX
from libs.common.timestamps import LATEST
from services.metering.usage.dropped_store import COUNTS

_LAST: Final = (LATEST, MAX)

# One probe of an index for each organization.
_WITH_DROPPED: Final = f"""
SELECT o.organization_id::text FROM unnest($1::uuid[]) AS o(organization_id)
WHERE EXISTS (SELECT FROM dropped_usage_months m WHERE m.organization_id = o.organization_id AND m.{COUNTS})
"""  # noqa: S608
_DROPPED_END: Final = """
SELECT occur_time, usage_id::text FROM dropped_usages
WHERE organization_id = $1 AND (occur_time, usage_id) > ($2, $3::uuid)
ORDER BY occur_time, usage_id OFFSET $4 LIMIT 1
"""
_CHARGED_OF_DROPPED: Final = "(CASE WHEN g.captured_before IS NULL THEN g.cost ELSE g.cost - g.captured_before END)"
# A range of what is kept of one organization's dropped usage, by the primary key.
_OF_DROPPED: Final = f"""
SELECT g.organization_id::text, {bucket_sql("g.operation_id", "$6")} AS bucket, g.currency_code, count(*),
    sum({_CHARGED_OF_DROPPED}), {digest_sql("g.operation_id", _CHARGED_OF_DROPPED)}
FROM dropped_usages g
WHERE g.organization_id = $1 AND (g.occur_time, g.usage_id) > ($2, $3::uuid)
    AND (g.occur_time, g.usage_id) <= ($4, $5::uuid)
    AND {_CHARGED_OF_DROPPED} > 0 AND g.charge_kind IS NOT NULL
    AND ($7::timestamptz IS NULL OR g.create_time <= $7)
    AND EXISTS (
        SELECT FROM dropped_usage_months m WHERE m.organization_id = g.organization_id
            AND m.month = date_trunc('month', g.occur_time, 'UTC') AND m.{COUNTS})
GROUP BY g.organization_id, bucket, g.currency_code
"""  # noqa: S608


async def organizations_with_dropped(connection: RawConnection, organization_ids: Sequence[str]) -> list[str]:
    """Return those of the organizations that have dropped usage."""
    return [row[0] for row in await connection.fetch(_WITH_DROPPED, list(organization_ids))]


async def end_of_dropped(
    connection: RawConnection, organization_id: str, after: tuple[datetime, str], rows: int
) -> tuple[datetime, str] | None:
    """Return the key of the last of the next `rows` dropped usages; None if there are fewer."""
    row = await connection.fetchrow(_DROPPED_END, organization_id, *after, rows - 1)
    return None if row is None else (row[0], row[1])


async def digests_of_dropped(
    connection: RawConnection,
    organization_id: str,
    after: tuple[datetime, str],
    last: tuple[datetime, str] | None,
    bucket_count: int,
    until_time: datetime | None,
) -> list[PartDigest]:
    """Return the digests of what was charged for dropped usage of an organization, in a range of its keys."""
    values = organization_id, *after, *(last or _LAST), bucket_count, until_time
    return [PartDigest(*row) for row in await connection.fetch(_OF_DROPPED, *values)]
