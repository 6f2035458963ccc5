"""Takes amounts from limits for callers that meter without money, and gives places of concurrent calls back.

Requests that arrive together are decided in their order in one transaction (see `libs.common.group_commit`), which
locks the counters of all their limits first. What is allocated is stored with what it counts, so a repeat takes nothing
and a place is given back once.

Whoever gives places back takes their leases out of the queue first, then locks their counters. So of a release and the
end of the lease one finds the lease there, and neither waits for the other in a circle. Who settles a lease holds its
place in the queue in the same way (see `lock_lease`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Conflict, NotFound, OperationIdReused, Refusal, Unavailable
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.clients.subscriptions import SubscriptionsClient
from services.metering.errors import CounterFull, OrganizationNotFound, SubscriptionNotLive
from services.metering.model.catalogue import Catalogue
from services.metering.model.units import Units
from services.metering.quota import allocation_store as store
from services.metering.quota import counter_store
from services.metering.quota.alerts import Alerts, used_of
from services.metering.quota.allocation_domain import (
    Allocation,
    Amount,
    Answer,
    Ask,
    Mode,
    Released,
    differing_field,
    granted,
    has_moved_on,
    lease_end,
    take,
    takes_of,
    too_much,
)
from services.metering.quota.allocation_store import Key
from services.metering.quota.calls import CallLimits
from services.metering.quota.counters import Counters, Standings, sums
from services.metering.quota.decisions import Place, Refused, Standing, Take, in_shadow, standing_at
from services.metering.quota.domain import SPEND, Applied
from services.metering.quota.named_subscriptions import refusal_of_subscription

_log = structlog.get_logger("allocations")

_LEASES_EVERY_S: Final = 1.0
_LEASES_MAX: Final = 200
"""How many leases are ended in one transaction."""
_ZERO: Final = Decimal(0)


def _limits(queue_max: int) -> BatchLimits:
    # Batches of a hot limit wait for each other's locks, so few run beside each other.
    return BatchLimits(items_max=500, queued_max=queue_max, running_max=2, shards_max=3, full_at=100, wait_max_s=0.05)


@dataclass(slots=True)
class _Waiting:
    """A request that waits for its batch."""

    ask: Ask
    limits: Sequence[Applied]
    """Those in force for it."""
    refusal: Refusal | None = None
    """Why it cannot fall under the subscription that it names; a repeat is answered all the same."""
    written: Allocation | None = None
    """What an attempt of its batch was about to store. If the next attempt finds it, it is no repeat."""
    in_shadow: Sequence[str] = ()
    """The metrics of SHADOW limits that would have refused it."""

    @property
    def key(self) -> Key:
        return self.ask.organization_id, self.ask.operation_id


class _Ready(NamedTuple):
    """A request with the limits that are in force for it."""

    waiting: _Waiting
    places: Sequence[Place]
    takes: Sequence[Take]


class Allocations:
    """Allocates amounts, and ends allocations with concurrent calls."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        organizations: Organizations,
        call_limits: CallLimits,
        subscriptions: SubscriptionsClient,
        counters: Counters,
        alerts: Alerts,
        clock: Clock,
        *,
        queue_max: int,
    ) -> None:
        self._subscriptions = subscriptions
        self._shards = shards
        self._catalogue = catalogue
        self._organizations = organizations
        self._call_limits = call_limits
        self._counters = counters
        self._alerts = alerts
        self._clock = clock
        limits = _limits(queue_max)
        self._allocations: GroupCommit[_Waiting, Answer] = GroupCommit(
            "allocations", self._allocate, shards, limits, lambda one: one.key[0]
        )
        self._releases: GroupCommit[Key, Released] = GroupCommit(
            "releases", self._release, shards, limits, lambda key: key[0]
        )

    @property
    def units(self) -> Units:
        """All units by their ids, archived ones included."""
        return self._catalogue.units

    async def know_units(self, unit_ids: Iterable[str]) -> None:
        """Reload the catalogue if it is older than two seconds, or lacks a unit that another process may have added."""
        await self._catalogue.refresh()
        if not all(unit_id in self._catalogue.units for unit_id in unit_ids):
            await self._catalogue.refresh_for_unknown()

    async def allocate(self, ask: Ask) -> Answer:
        """Take amounts, or say why not.

        Raises:
            OrganizationNotFound: identity does not know the organization.
            OperationIdReused: the operation id was allocated with other fields.
            CounterFull: a limit has counted as much as can be counted.
            SubscriptionNotFound, SubscriptionMismatch, SubscriptionNotLive: it cannot fall under the subscription that
                it names.
            Unavailable: the limits cannot be read.
            Overloaded: too many requests wait already.
        """
        if await self._organizations.find_unknown([ask.organization_id]):
            raise OrganizationNotFound(organization_id=ask.organization_id)
        if ask.call.model and not ask.call.provider:
            model = self._catalogue.model(ask.call.model)
            if model is not None:
                ask = ask._replace(call=ask.call._replace(provider=model.provider))
        (found,) = await self._call_limits.of([(ask.organization_id, ask.call)])
        if isinstance(found, Unavailable):
            raise found
        refusal = None if found.is_live else await self._refusal(ask)
        (answer,) = await self._allocations.submit([_Waiting(ask, found.applied, refusal)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _refusal(self, ask: Ask) -> Refusal | None:
        """Return why a request cannot fall under the subscription it names, which is no live one of its caller.

        Raises:
            Unavailable: billing cannot be asked.
        """
        call = ask.call
        refusal = await refusal_of_subscription(
            self._subscriptions, ask.organization_id, call.subscription_id, call.user_id, call.model
        )
        if refusal is not None or ask.mode is Mode.ADJUST_ONLY:
            return refusal
        return SubscriptionNotLive(subscription_id=call.subscription_id)

    async def release(self, organization_id: str, operation_id: str) -> Released:
        """Give the places of an allocation back.

        Raises:
            NotFound: nothing was allocated under this operation id.
            Overloaded: too many requests wait already.
        """
        (answer,) = await self._releases.submit([(organization_id, operation_id)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def decline(self, organization_id: str, lease_id: str) -> None:
        """Note that billing declined the hold of a lease, and give back what it has reserved, once."""
        key = organization_id, lease_id
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await store.take_out(connection, [key])
            await _give_back(connection, [key], self._clock.now())
            await store.decline(connection, key)

    async def run(self) -> NoReturn:
        """End leases whose time has come, in every shard, until cancelled."""
        await self._shards.visit(self.end_leases, every_s=_LEASES_EVERY_S)

    async def close(self) -> None:
        """Take no more requests, and return when every waiting one is answered."""
        await self._allocations.drain()
        await self._releases.drain()

    async def _allocate(
        self, database: Database, waiting: Sequence[_Waiting], let_next_begin: Callable[[], None]
    ) -> list[Answer | Exception]:
        answers: dict[int, Answer | Exception] = {}
        ready: dict[int, _Ready] = {}
        now = self._clock.now()
        for place, one in enumerate(waiting):
            places = [self._counters.place_of(applied, now) for applied in one.limits]
            ready[place] = _Ready(one, places, takes_of(places, one.ask.amounts, is_lease=one.ask.is_lease))
        takes = [(one.waiting.ask.organization_id, each) for one in ready.values() for each in one.takes]
        await self._counters.create(database, takes)
        async with database.raw_transaction() as connection:
            standings = await self._counters.lock(connection, takes)
            if has_moved_on((each for _, each in takes), self._clock.now()):
                raise Conflict
            # With a statement of its own: it sees what was committed while the locks were waited for.
            stored = await _stored(connection, waiting)
            leases = [one.key for one in waiting if one.ask.is_lease]
            authorized = await store.authorized(connection, leases) if leases else set()
            new: list[tuple[_Waiting, Allocation]] = []
            for place, request in ready.items():
                key = request.waiting.key
                if key in authorized and key not in stored:
                    answers[place] = OperationIdReused(operation_id=key[1], field="lease_id")
                    continue
                decided = _decide(request, stored, standings, now)
                if isinstance(decided, Allocation):
                    new.append((request.waiting, decided))
                    stored[key] = decided
                    decided = _answer(decided, _as_they_are(request, standings))
                answers[place] = decided
            await _write(connection, new)
            counted = used_of(takes, standings) if new else ()
            await self._alerts.add(connection, counted)
        self._alerts.remember(counted)
        for one, _ in new:
            self._counters.note_in_shadow(one.in_shadow)
        return [answers[place] for place in range(len(waiting))]

    async def _release(
        self, database: Database, keys: Sequence[Key], let_next_begin: Callable[[], None]
    ) -> list[Released | Exception]:
        async with database.raw_transaction() as connection:
            known = await store.find(connection, set(keys))
            # A lease is settled, not released.
            places = [key for key in keys if key not in known or not known[key].is_lease]
            await store.take_out(connection, places)
            found, ended = await _give_back(connection, places, self._clock.now())
        answers: list[Released | Exception] = []
        seen: set[Key] = set()
        for key in keys:
            allocation = found.get(key)
            if allocation is None:
                answers.append(NotFound(resource_type="allocation", resource_name=key[1]))
            elif key in ended:
                # A second release in the batch is a repeat of the first.
                answers.append(Released(key in seen and not ended[key], ended[key]))
            else:
                answers.append(Released(allocation.released and not allocation.lapsed, allocation.lapsed))
            seen.add(key)
        return answers

    async def end_leases(self, database: Database) -> None:
        """End the leases of a shard whose time has come, window by window. Several processes share them."""
        after: Key | None = store.FIRST_KEY
        while after is not None:
            async with database.raw_connection() as connection:
                until = await store.window_end(connection, after)
            while True:
                now = self._clock.now()
                async with database.raw_connection() as connection:
                    keys = await store.due(connection, after, until, now, _LEASES_MAX)
                if keys:
                    await self._end(database, keys, now)
                if len(keys) < _LEASES_MAX:
                    break
                after = keys[-1]
            after = until

    async def _end(self, database: Database, keys: Sequence[Key], now: datetime) -> None:
        """End leases. If one of them cannot be ended, the others are; it is tried again with the next visit."""
        try:
            async with database.raw_transaction() as connection:
                taken = await store.take_out_free(connection, keys)
                if taken:
                    await _give_back(connection, taken, now)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one must not reach the others.
            if len(keys) == 1:
                _log.error("lease not ended", organization_id=keys[0][0], operation_id=keys[0][1], exc_info=error)
                return
            for key in keys:
                await self._end(database, [key], now)


async def _stored(connection: RawConnection, waiting: Sequence[_Waiting]) -> dict[Key, Allocation]:
    keys = {one.key for one in waiting if one.ask.mode is not Mode.CHECK_ONLY}
    return await store.find(connection, keys) if keys else {}


def _decide(
    ready: _Ready, stored: Mapping[Key, Allocation], standings: Standings, now: datetime
) -> Answer | Allocation | Exception:
    """Return the answer to a request, or what is to be stored for it; its amounts are counted in `standings` then."""
    ask, takes = ready.waiting.ask, ready.takes
    counted = standings.get(ask.organization_id, {})
    before = stored.get(ready.waiting.key) if ask.mode is not Mode.CHECK_ONLY else None
    if before is not None:
        field = differing_field(before.fingerprint, ask.fingerprint)
        if before.is_lease != ask.is_lease:
            field = "lease_id"
        if field is not None:
            return OperationIdReused(operation_id=ask.operation_id, field=field)
        replayed = before != ready.waiting.written
        return _answer(before, _as_they_are(ready, standings), replayed=replayed)
    if ready.waiting.refusal is not None:
        return ready.waiting.refusal
    amounts = granted(ask, takes, counted, now)
    if isinstance(amounts, Refused):
        return Answer(
            allocated=False, amounts=(), currency_code="", limits=_as_they_are(ready, standings), refused=amounts
        )
    if ask.mode is Mode.CHECK_ONLY:
        return Answer(allocated=True, amounts=(), currency_code="", limits=_as_they_are(ready, standings))
    takes = takes_of(ready.places, amounts, is_lease=ask.is_lease)
    full = too_much(takes, counted)
    if full is not None:
        standing = standing_at(full.place, counted)
        return CounterFull(limit=full.limit.name, counted=standing.used + standing.reserved, needed=full.amount)
    ready.waiting.in_shadow = () if ask.mode is Mode.ADJUST_ONLY else in_shadow(takes, counted)
    return Allocation(
        organization_id=ask.organization_id,
        operation_id=ask.operation_id,
        fingerprint=ask.fingerprint,
        amounts=[Amount(one.metric, one.value) for one in amounts],
        currency_code=next((one.currency_code for one in amounts if one.metric == SPEND), ""),
        taken=take(takes, counted, is_lease=ask.is_lease),
        lease_end_time=now + ask.lease if ask.is_lease else lease_end(amounts, ask.lease, now),
        create_time=now,
        spent=[_ZERO] * len(amounts) if ask.is_lease else None,
    )


def _answer(allocation: Allocation, limits: Sequence[tuple[Place, Standing]], *, replayed: bool = False) -> Answer:
    return Answer(
        allocated=True,
        amounts=allocation.amounts,
        currency_code=allocation.currency_code,
        limits=limits,
        lease_end_time=allocation.lease_end_time,
        replayed=replayed,
        allocation=allocation,
    )


def _as_they_are(ready: _Ready, standings: Standings) -> list[tuple[Place, Standing]]:
    """Return where the limits of a request stand now. What is decided next does not change it."""
    counted = standings.get(ready.waiting.ask.organization_id, {})
    return [(place, replace(standing_at(place, counted))) for place in ready.places]


async def _write(connection: RawConnection, new: Sequence[tuple[_Waiting, Allocation]]) -> None:
    if not new:
        return
    for waiting, allocation in new:
        waiting.written = allocation
    if await store.add(connection, [allocation for _, allocation in new]) < len(new):
        # Another process has added one meanwhile. The next attempt finds it.
        raise Conflict
    changes = sums(
        ((one.organization_id, taken.counter_id), taken.used, taken.reserved) for _, one in new for taken in one.taken
    )
    if changes:
        await counter_store.add(connection, changes)


async def _give_back(
    connection: RawConnection, keys: Collection[Key], now: datetime
) -> tuple[dict[Key, Allocation], dict[Key, bool]]:
    """Give back the places of allocations in the running transaction, where that is still to be done.

    Returns the allocations as they were before, and of those whose places are given back now whether their leases had
    ended.
    """
    found = await store.find(connection, set(keys))
    places = {
        key: [one for one in allocation.taken if one.reserved]
        for key, allocation in found.items()
        if not allocation.released
    }
    counters = {(key[0], one.counter_id) for key, taken in places.items() for one in taken}
    if counters:
        await counter_store.lock(connection, counters)
    ended = await store.release(connection, sorted(places), now) if places else {}
    changes = sums(((key[0], one.counter_id), _ZERO, -one.reserved) for key in ended for one in places[key])
    if changes:
        await counter_store.add(connection, changes)
    return found, ended
