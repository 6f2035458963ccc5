"""The statements on entitlements: who may use what beside their plans, and the order in which that changes."""

from collections.abc import Collection
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import RawConnection, Transaction
from services.billing.tables import ENTITLEMENTS_CHANNEL

# Delivered when the transaction commits. It is a statement of its own, without a table, so that the server that the
# service is connected to makes it, wherever the shard is.
_ANNOUNCE: Final = "SELECT pg_notify($1, current_schema())"

# Locks the counter's row until the end of the transaction, so revisions become visible in their order. Each
# organization gets one of its own; those of one statement follow one another. The rest is by primary key.
_TOUCH: Final = """
    WITH counted AS (
        UPDATE entitlement_counter SET revision = revision + cardinality($1::uuid[]) WHERE counter_id = 1
        RETURNING revision - cardinality($1::uuid[]) AS before
    )
    INSERT INTO entitlement_revisions AS e (organization_id, revision)
    SELECT touched.organization_id, counted.before + touched.place
    FROM counted, unnest($1::uuid[]) WITH ORDINALITY AS touched (organization_id, place)
    ON CONFLICT (organization_id) DO UPDATE SET revision = excluded.revision
"""


async def touch_entitlements(connection: Transaction | RawConnection, organization_ids: Collection[str]) -> None:
    """Say that what these organizations or their users may use changes with this transaction, so that caches drop it.

    All are of the connection's shard. It must be the last statement of the transaction, since every other change of
    entitlements in the shard waits for it to end. Without organizations nothing is done.
    """
    touched = sorted({organization_id.lower() for organization_id in organization_ids})
    if not touched:
        return
    if isinstance(connection, AsyncConnection):
        await connection.exec_driver_sql(_ANNOUNCE, (ENTITLEMENTS_CHANNEL,))
        await connection.exec_driver_sql(_TOUCH, (touched,))
    else:
        await connection.execute(_ANNOUNCE, ENTITLEMENTS_CHANNEL)
        await connection.execute(_TOUCH, touched)
