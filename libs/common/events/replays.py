"""Reading events and their deliveries, and sending events again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final

from libs.common.audit.recording import Changed, record_event
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import EventEndpointOff, NotFound
from libs.common.events import delivery_store, store
from libs.common.events.domain import Delivery, Endpoint, Event
from libs.common.events.homes import Homes
from libs.common.events.requests import earlier_outcome, request_of
from libs.common.events.store import EventFilters
from libs.common.sharding import PLATFORM

REPLAYED_MAX: Final = 1_000
_MOMENT: Final = timedelta(microseconds=1)
Place = tuple[datetime, str]
"""A place in the order of events: the time and the id of one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events to send again: those with these ids, or a part of those of a time."""

    event_ids: tuple[str, ...] = ()
    after: Place | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many events are sent again, how many are not and why, and after which the next part begins."""

    replayed: int = 0
    pending: int = 0
    unwanted: int = 0
    unknown: int = 0
    last_time: str = ""
    last_id: str = ""


class Replays:
    """Lists events and deliveries, and replays events."""

    def __init__(self, homes: Homes, clock: Clock, built_in: Sequence[Endpoint]) -> None:
        """`built_in` is the endpoints that are in no table: they are sent the events that name somebody."""
        self._homes = homes
        self._clock = clock
        self._built_in = built_in

    def now(self) -> datetime:
        """Return the moment before which events are replayed when nothing is said."""
        return self._clock.now()

    async def events(self, filters: EventFilters, before: Place, limit: int) -> list[Event]:
        """Return events before a place in their order, the newest first."""
        async with self._homes.of(filters.organization_id).raw_connection() as connection:
            return await store.list_events(connection, filters, before, limit)

    async def deliveries(
        self, organization_id: str, *, event_id: str, endpoint_id: str, before: str, limit: int, of_platform: bool
    ) -> tuple[list[Delivery], str]:
        """Return deliveries of an event, or to an endpoint, or one, and the id after which the next page begins.

        Without `of_platform` those to endpoints of the platform are left out. The id is empty on the last page.
        """
        async with self._homes.of(organization_id).raw_connection() as connection:
            if event_id:
                found = await delivery_store.list_of_event(connection, organization_id, event_id, before, limit + 1)
            else:
                key = organization_id, endpoint_id
                found = await delivery_store.list_to_endpoint(connection, *key, before, limit + 1)
            last = found[limit - 1] if len(found) > limit else None
            found = found[:limit]
            if not of_platform:
                keys = sorted({(organization_id, delivery.endpoint_id) for delivery in found})
                own = await store.endpoints_of_keys(connection, keys)
                found = [delivery for delivery in found if delivery.endpoint_id in own]
        last_id = "" if last is None else last.endpoint_id if event_id else last.event_id
        return [one for one in found if endpoint_id in ("", one.endpoint_id)], last_id

    async def replay(
        self, organization_id: str, endpoint_id: str, wanted: Wanted, *, request_id: str, of_platform: bool
    ) -> tuple[Replayed, bool]:
        """Send events again; return what is sent, and whether an earlier call with this request id did it.

        Raises:
            NotFound: there is no such endpoint, or only one of the platform and not `of_platform`.
            EventEndpointOff: it is switched off.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        # Without an end the body says so, since the time of the call differs from that of its repeat.
        body = {"endpoint_id": endpoint_id, **asdict(wanted)}
        request = request_of(organization_id, "ReplayEvents", request_id, body)
        endpoint = await self._endpoint(organization_id, endpoint_id, of_platform=of_platform)
        async with self._homes.of(organization_id).raw_transaction() as connection:
            earlier = await earlier_outcome(connection, request, now)
            if earlier is not None:
                return Replayed(**json.loads(earlier)), True
            if not endpoint.enabled:
                raise EventEndpointOff
            events = await _events_of(connection, organization_id, wanted, now)
            if endpoint in self._built_in:
                liked = [event for event in events if event.sealed_data is not None]
            else:
                liked = [event for event in events if endpoint.wants(event.type)]
            done = await _send_again(connection, events, liked, endpoint, wanted, now)
            if request is not None:
                await store.keep_outcome(connection, request, json.dumps(asdict(done)))
            await record_event(
                connection,
                now=now,
                organization_id=organization_id,
                resource_type="event_endpoint",
                resource_id=endpoint_id,
                changed=[Changed("replayed_count", after=str(done.replayed))],
            )
        return done, False

    async def _endpoint(self, organization_id: str, endpoint_id: str, *, of_platform: bool) -> Endpoint:
        for built_in in self._built_in:
            if of_platform and built_in.endpoint_id == endpoint_id:
                return built_in
        homes = {organization_id, PLATFORM} if of_platform else {organization_id}
        for owner in sorted(homes, reverse=True):
            async with self._homes.of(owner).raw_connection() as connection:
                found = await store.find_endpoint(connection, owner, endpoint_id)
            if found is not None and found.delete_time is None:
                return found
        raise NotFound(resource_type="event_endpoint", resource_name=endpoint_id)


async def _events_of(connection: RawConnection, organization_id: str, wanted: Wanted, now: datetime) -> Sequence[Event]:
    if wanted.event_ids:
        keys = [(organization_id, event_id) for event_id in sorted(set(wanted.event_ids))]
        return list((await store.events_of_keys(connection, keys)).values())
    assert wanted.after is not None, "the servicer gives a start where it gives no ids"
    end_time = wanted.end_time or now + _MOMENT
    return await store.events_after(connection, organization_id, wanted.after, end_time, REPLAYED_MAX)


async def _send_again(
    connection: RawConnection,
    events: Sequence[Event],
    liked: Sequence[Event],
    endpoint: Endpoint,
    wanted: Wanted,
    now: datetime,
) -> Replayed:
    """Make deliveries of those events that the endpoint likes, as if they were new, where there is none under way."""
    under_way = await delivery_store.unfinished_of(connection, liked, endpoint.endpoint_id)
    due = [(event, endpoint) for event in liked if event.event_id not in under_way]
    if due:
        await delivery_store.add(connection, due, now, replay=True)
    last = events[-1] if len(events) == REPLAYED_MAX and not wanted.event_ids else None
    return Replayed(
        replayed=len(due),
        pending=len(liked) - len(due),
        unwanted=len(events) - len(liked),
        unknown=len(set(wanted.event_ids)) - len(events) if wanted.event_ids else 0,
        last_time=last.event_time.isoformat() if last else "",
        last_id=last.event_id if last else "",
    )
