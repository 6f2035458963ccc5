"""The statements on alerts of limits."""

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.database import RawConnection


class Alert(NamedTuple):
    """A threshold of a limit was reached in a window."""

    organization_id: str
    counter_id: str
    threshold: int
    limit_id: str
    name: str
    metric: str
    currency_code: str
    scope: str
    subject: str
    window: str
    window_start: datetime
    window_end: datetime | None
    maximum: Decimal
    used: Decimal
    create_time: datetime


Place = tuple[datetime, str, int]
"""A place in the order of the list: create_time, counter and threshold."""

# By primary key, in the order of the keys. Each threshold is there once for each window.
_ADD: Final = """
INSERT INTO limit_alerts (organization_id, counter_id, threshold, limit_id, name, metric, currency_code, scope, subject,
    "window", window_start, window_end, maximum, used, create_time)
SELECT organization_id, counter_id, threshold, limit_id, name, metric, currency_code, scope, subject, "window",
    window_start, window_end, maximum::numeric, used::numeric, create_time
FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::text[], $14::text[], $15::timestamptz[])
    AS t(organization_id, counter_id, threshold, limit_id, name, metric, currency_code, scope, subject, "window",
    window_start, window_end, maximum, used, create_time)
ORDER BY organization_id, counter_id, threshold ON CONFLICT DO NOTHING
"""
# Index: limit_alerts_by_time, read backwards.
_LIST: Final = """
SELECT organization_id::text, counter_id::text, threshold, limit_id::text, name, metric, currency_code, scope, subject,
    "window", window_start, window_end, maximum, used, create_time
FROM limit_alerts
WHERE organization_id = $1::uuid AND create_time >= $2::timestamptz
    AND (create_time, counter_id, threshold) < ($3::timestamptz, $4::uuid, $5::integer)
ORDER BY create_time DESC, counter_id DESC, threshold DESC LIMIT $6
"""

# The index of alerts that are not announced, from its beginning. What another process announces is passed over.
_LOCK_NEW: Final = """
SELECT organization_id::text, counter_id::text, threshold, limit_id::text, name, metric, currency_code, scope, subject,
    "window", window_start, window_end, maximum, used, create_time
FROM limit_alerts WHERE NOT delivered
ORDER BY organization_id, create_time, counter_id, threshold LIMIT $1 FOR UPDATE SKIP LOCKED
"""
# By primary key; the rows are locked.
_NOTE_ANNOUNCED: Final = """
UPDATE limit_alerts AS a SET delivered = true
FROM unnest($1::uuid[], $2::uuid[], $3::integer[]) AS k (organization_id, counter_id, threshold)
WHERE a.organization_id = ANY (ARRAY[k.organization_id]) AND a.counter_id = k.counter_id AND a.threshold = k.threshold
"""


async def add(connection: RawConnection, alerts: Collection[Alert]) -> None:
    """Store alerts; those that are stored already stay as they are."""
    rows = [(*one[:12], format_amount(one.maximum), format_amount(one.used), one.create_time) for one in alerts]
    await connection.execute(_ADD, *zip(*rows, strict=True))


async def page(
    connection: RawConnection, organization_id: str, start_time: datetime, before: Place, limit: int
) -> Sequence[Alert]:
    """Return alerts of an organization, the latest first."""
    return [Alert(*row) for row in await connection.fetch(_LIST, organization_id, start_time, *before, limit)]


async def lock_new(connection: RawConnection, limit: int) -> Sequence[Alert]:
    """Return alerts of a shard that are not announced, the earliest of each organization first, and lock them."""
    return [Alert(*row) for row in await connection.fetch(_LOCK_NEW, limit)]


async def note_announced(connection: RawConnection, alerts: Sequence[Alert]) -> None:
    """Note that locked alerts are announced."""
    keys = [(alert.organization_id, alert.counter_id, alert.threshold) for alert in alerts]
    await connection.execute(_NOTE_ANNOUNCED, *map(list, zip(*keys, strict=True)))
