"""Sends events: makes their deliveries, takes those that are due, sends them, and notes what came of it.

Several processes share the work. A process takes a delivery for itself until a time by which the attempt is over; if it
dies before it has noted what came of it, another process tries again then, with the same id. So an event is sent at
least once, whenever a process is killed.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from libs.common.events import delivery_store, store
from libs.common.events.delivery_store import Capacity
from libs.common.events.dispatch import Dispatcher
from libs.common.events.domain import Delivery, Endpoint, Event, Off, Outcome, Reason, delay_after
from libs.common.events.endpoints import Endpoints
from libs.common.events.homes import Homes
from libs.common.events.mail import NOTIFIER_ID
from libs.common.events.options import Options
from libs.common.events.post import is_gone
from libs.common.events.sending import Sender
from libs.common.sharding import PLATFORM

_log = structlog.get_logger("events")
_MARGIN: Final = timedelta(seconds=30)
"""How long after the end of an attempt another process waits before it tries."""
_ROUNDS_MAX: Final = 50
_TIDY_EVERY: Final = timedelta(minutes=1)
_FORGOTTEN_AT_ONCE: Final = 1_000
_REQUESTS_KEPT: Final = timedelta(days=30)
_FAILING_AT_ONCE: Final = 1
"""How many attempts are under way to an endpoint whose attempts fail."""
_FAILING_KNOWN_MAX: Final = 10_000
_TRIED_FOR: Final = timedelta(hours=4)
"""For how long attempts of a process must have failed before it switches an endpoint off."""
_NOT_TRIED: Final = frozenset({Reason.ENDPOINT_OFF, Reason.ENDPOINT_DELETED})
_STATEMENTS_AT_ONCE: Final = 2
"""How many connections it uses at a time: calls share the pool, and must not wait for deliveries."""


class Deliverer:
    """Delivers the events of one service."""

    def __init__(self, homes: Homes, clock: Clock, options: Options, sender: Sender, endpoints: Endpoints) -> None:
        self._homes = homes
        self._clock = clock
        self._options = options
        self._sender = sender
        self._endpoints = endpoints
        self._dispatcher = Dispatcher(homes, clock, sender.built_in)
        self._under_way: Counter[str] = Counter()
        """How many attempts are under way, by endpoint."""
        self._under_way_of: Counter[str] = Counter()
        """How many attempts are under way, by organization."""
        self._failing: dict[str, datetime] = {}
        """Endpoints whose last attempt by this process failed, each with the time of the first of these."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._taking = asyncio.Lock()
        self._turns = asyncio.Semaphore(_STATEMENTS_AT_ONCE)
        self._tidied: dict[str, datetime] = {}

    async def run(self) -> NoReturn:
        """Deliver until cancelled."""
        try:
            await self._homes.all.visit(self.visit, every_s=self._options.look_every_s)
        finally:
            await self.close()

    async def close(self) -> None:
        """Cut off what is under way; it is tried again when others may take it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def visit(self, home: Database) -> None:
        """Do what is due in one database: make deliveries, begin attempts, delete what is old."""
        now = self._clock.now()
        for _ in range(_ROUNDS_MAX):
            if not await self._dispatcher.dispatch(home):
                break
        await self._dispatcher.release(home, now - self._options.ordered_for)
        await self._begin(home)
        if now - self._tidied.get(home.schema, datetime.min.replace(tzinfo=now.tzinfo)) >= _TIDY_EVERY:
            self._tidied[home.schema] = now
            await self.tidy(home)

    async def tidy(self, home: Database) -> None:
        """Delete events that are finished and old, endpoints that were deleted long ago, and old request ids."""
        now = self._clock.now()
        before, requests_before = now - self._options.kept_for, now - _REQUESTS_KEPT
        for _ in range(_ROUNDS_MAX):
            async with home.raw_transaction() as connection:
                if not await delivery_store.forget(connection, before, requests_before, _FORGOTTEN_AT_ONCE):
                    break

    async def finish_all(self) -> None:
        """Return when no attempt is under way, nor any that follows from one."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _begin(self, home: Database) -> None:
        """Take as many deliveries as may be under way, and begin an attempt for each."""
        # One at a time: two that count at once would both take the place that they find free.
        async with self._taking:
            taken = await self._take(home)
        if taken:
            begun = asyncio.create_task(self._read_and_send(home, taken))
            self._tasks.add(begun)
            begun.add_done_callback(self._tasks.discard)

    async def _take(self, home: Database) -> list[Delivery]:
        free = self._options.under_way_max - self._under_way.total()
        if free <= 0:
            return []
        now = self._clock.now()
        until = now + timedelta(seconds=self._options.attempt_timeout_s) + _MARGIN
        named = {one: max(0, self._most(one) - self._under_way[one]) for one in self._named()}
        # One organization has endpoints enough to take all places.
        share = max(self._options.per_endpoint_max, self._options.under_way_max // 2)
        capacity = Capacity(named, self._options.per_endpoint_max, free, dict(self._under_way_of), share)
        async with home.raw_connection() as connection:
            taken = await delivery_store.claim(connection, now, until, capacity)
        self._under_way.update(delivery.endpoint_id for delivery in taken)
        self._under_way_of.update(delivery.organization_id for delivery in taken)
        return taken

    def _named(self) -> Iterable[str]:
        return {*self._under_way, *self._failing}

    def _most(self, endpoint_id: str) -> int:
        return _FAILING_AT_ONCE if endpoint_id in self._failing else self._options.per_endpoint_max

    async def _read_and_send(self, home: Database, taken: list[Delivery]) -> None:
        """Read what is needed for the attempts, and let each run by itself."""
        try:
            async with self._turns:
                events, endpoints = await self._read(home, taken)
        except BaseException as error:
            for delivery in taken:
                self._end(delivery)
            if isinstance(error, Refusal):
                _log.warning("deliveries could not be read; they are tried later", reason=error.reason)
                return
            raise
        for delivery in taken:
            event, endpoint = events.get(delivery.event_id), endpoints.get(delivery.endpoint_id)
            if event is None:
                # An invariant finds it; the others are sent all the same.
                _log.error("a delivery is one of no event", event_id=delivery.event_id)
                self._end(delivery)
                continue
            task = asyncio.create_task(self._attempt(home, delivery, event, endpoint))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read(self, home: Database, taken: list[Delivery]) -> tuple[Mapping[str, Event], Mapping[str, Endpoint]]:
        """Return the events and endpoints of deliveries by their ids."""
        wanted = sorted({(delivery.organization_id, delivery.endpoint_id) for delivery in taken})
        async with home.raw_connection() as connection:
            events = await store.events_of_keys(connection, [(one.organization_id, one.event_id) for one in taken])
            endpoints = await store.endpoints_of_keys(connection, wanted)
        endpoints |= {one.endpoint_id: one for one in self._sender.built_in}
        others = sorted({endpoint_id for _, endpoint_id in wanted} - endpoints.keys())
        if others:
            async with self._homes.platform.raw_connection() as connection:
                found = await store.endpoints_of_keys(connection, [(PLATFORM, other) for other in others])
            endpoints = {**endpoints, **found}
        return events, endpoints

    async def _attempt(self, home: Database, delivery: Delivery, event: Event, endpoint: Endpoint | None) -> None:
        """Send once, note what came of it, and begin what may be sent next."""
        try:
            try:
                outcome = await self._sender.send(event, endpoint)
            except Exception as error:  # noqa: BLE001 -- one attempt must not end the work.
                _log.error("an attempt failed", event_id=delivery.event_id, exc_info=error)
                outcome = Outcome(False, Reason.INTERNAL, "the service could not make the attempt")
            async with self._turns:
                await self._note(home, delivery, endpoint, outcome)
        except Refusal as refusal:
            _log.warning("an attempt could not be noted; it is made again", reason=refusal.reason)
        finally:
            self._end(delivery)
        try:
            await self._begin(home)
        except Refusal as refusal:
            _log.warning("deliveries could not be taken; they are tried later", reason=refusal.reason)

    def _end(self, delivery: Delivery) -> None:
        for under_way, key in (
            (self._under_way, delivery.endpoint_id),
            (self._under_way_of, delivery.organization_id),
        ):
            under_way[key] -= 1
            if not under_way[key]:
                del under_way[key]

    async def _note(self, home: Database, delivery: Delivery, endpoint: Endpoint | None, outcome: Outcome) -> None:
        now = self._clock.now()
        retry_time = self._retry_time(delivery, outcome, now)
        async with home.raw_transaction() as connection:
            await delivery_store.finish(connection, delivery, outcome, retry_time=retry_time, now=now)
        if endpoint is None or outcome.reason in _NOT_TRIED or (outcome.final and endpoint.endpoint_id == NOTIFIER_ID):
            return
        if outcome.delivered:
            self._failing.pop(endpoint.endpoint_id, None)
            if endpoint.failing_since is not None:
                await self._endpoints.note_failing(endpoint, failing=False)
            return
        if len(self._failing) < _FAILING_KNOWN_MAX:
            self._failing.setdefault(endpoint.endpoint_id, now)
        if is_gone(outcome):
            await self._endpoints.switch_off(endpoint, Off.GONE)
        elif endpoint.failing_since is None:
            await self._endpoints.note_failing(endpoint, failing=True)
        elif now - endpoint.failing_since >= self._options.off_after and self._has_tried(endpoint, now):
            await self._endpoints.switch_off(endpoint, Off.FAILED_FOR_LONG)

    def _has_tried(self, endpoint: Endpoint, now: datetime) -> bool:
        """Return whether attempts of this process have failed for some hours. While none ran, nothing was tried."""
        return now - self._failing.get(endpoint.endpoint_id, now) >= _TRIED_FOR

    def _retry_time(self, delivery: Delivery, outcome: Outcome, now: datetime) -> datetime | None:
        """Return when the next attempt is made; None where there is none."""
        if outcome.delivered or outcome.final:
            return None
        # Retries are spread in time, which needs no secrecy.
        wait = delay_after(delivery.failure_count + 1, outcome.retry_after_s, random.random())
        return now + wait if now + wait < delivery.start_time + self._options.retried_for else None
