"""Announces alerts: the event that a threshold of a limit was reached.

Calls store alerts, and this makes events of them, so that no call takes longer for it. The event is written in the
transaction that notes that it is: killed before its end, it is done by the next look.
"""

from typing import Final, NoReturn

from libs.common.amount import format_amount
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.events.outbox import NewEvent, announce
from libs.common.shards import Shards
from libs.common.timestamps import rfc3339
from services.metering.quota import alert_store
from services.metering.quota.alert_store import Alert

_LOOK_EVERY_S: Final = 1.0
_AT_ONCE: Final = 200


class AlertEvents:
    """Looks at the shards again and again. Several processes may do so at once."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def run(self) -> NoReturn:
        await self._shards.visit(self.announce_new, every_s=_LOOK_EVERY_S)

    async def announce_new(self, database: Database) -> None:
        """Announce the alerts of a shard that are not announced."""
        while await self._announce_some(database) == _AT_ONCE:
            pass

    async def _announce_some(self, database: Database) -> int:
        async with database.raw_transaction() as connection:
            alerts = await alert_store.lock_new(connection, _AT_ONCE)
            if alerts:
                await alert_store.note_announced(connection, alerts)
                await announce(connection, list(map(_event, alerts)), self._clock.now())
        return len(alerts)


def _event(alert: Alert) -> NewEvent:
    data = {
        "limit_id": alert.limit_id,
        "name": alert.name,
        "metric": alert.metric,
        "currency_code": alert.currency_code,
        "scope": alert.scope,
        "subject": alert.subject,
        "window": alert.window,
        "window_start_time": rfc3339(alert.window_start),
        "window_end_time": None if alert.window_end is None else rfc3339(alert.window_end),
        "threshold_percent": alert.threshold,
        "maximum": format_amount(alert.maximum),
        "used": format_amount(alert.used),
        "reached_time": rfc3339(alert.create_time),
    }
    return NewEvent(alert.organization_id, "tollhouse.limit.reached", f"limit/{alert.limit_id}", data)
