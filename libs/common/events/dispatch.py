"""Makes the deliveries of new events: one for each endpoint that wants the event.

An event and its deliveries are apart, so that a change costs the same whoever listens. Killed at any statement, nothing
is lost: deliveries are made in the transaction that notes that they are.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.events import delivery_store, store
from libs.common.events.domain import Endpoint, Event
from libs.common.events.homes import Homes
from libs.common.sharding import PLATFORM

_AT_ONCE: Final = 200


class Dispatcher:
    """Makes deliveries."""

    def __init__(self, homes: Homes, clock: Clock, built_in: Sequence[Endpoint]) -> None:
        """`built_in` is the endpoints that are in no table: they are sent the events that name somebody."""
        self._homes = homes
        self._clock = clock
        self._built_in = built_in

    async def dispatch(self, home: Database) -> bool:
        """Make the deliveries of the oldest events of a database that have none; return whether there may be more."""
        async with home.raw_connection() as connection:
            waiting = await delivery_store.undispatched(connection, _AT_ONCE)
        if not waiting:
            return False
        # Read after the events, and so with every endpoint that is older than one of them.
        async with self._homes.platform.raw_connection() as connection:
            everybodys = await store.endpoints_of(connection, [PLATFORM])
        async with home.raw_transaction() as connection:
            events = await delivery_store.lock_undispatched(connection, waiting)
            organization_ids = sorted({event.organization_id for event in events} - {PLATFORM})
            own = await store.endpoints_of(connection, organization_ids) if organization_ids else []
            pairs = _wanted(events, [*everybodys, *own])
            pairs += [(event, one) for event in events for one in self._built_in if event.sealed_data is not None]
            if pairs:
                await delivery_store.add(connection, pairs, self._clock.now())
            await delivery_store.mark_dispatched(connection, events)
        return len(waiting) == _AT_ONCE

    async def release(self, home: Database, waiting_since: datetime) -> None:
        """Let go of what has waited for the event before it since before a moment."""
        async with home.raw_connection() as connection:
            await delivery_store.release(connection, waiting_since, _AT_ONCE)


def _wanted(events: Sequence[Event], endpoints: Sequence[Endpoint]) -> list[delivery_store.Pair]:
    return [
        (event, endpoint)
        for event in events
        for endpoint in endpoints
        if endpoint.wants(event.type) and endpoint.organization_id in (PLATFORM, event.organization_id)
    ]
