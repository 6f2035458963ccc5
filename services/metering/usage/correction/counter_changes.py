"""Changes the counters of limits by what corrections of usage change."""

from collections.abc import Sequence

from libs.common.database import RawConnection
from services.metering.quota import counter_store
from services.metering.quota.counter_store import Change
from services.metering.quota.counters import sums
from services.metering.usage.correction.domain import Counted, count_changes


async def change_counters(connection: RawConnection, counted: Sequence[tuple[str, Counted, Counted]]) -> None:
    """Change counters by what usages of organizations counted before and count now.

    What a counter that is gone had is added to nothing. The counters are locked in the order of their keys, as by new
    usage, which waits for them: so this comes last in a transaction.
    """
    changes = sums(
        ((organization_id, counter_id), change, change - change)
        for organization_id, before, after in counted
        for counter_id, change in count_changes(before, after).items()
    )
    found = await counter_store.lock(connection, changes) if changes else {}
    if found:
        await counter_store.add(connection, {key: Change(*changes[key]) for key in found})
