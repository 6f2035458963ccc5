"""Settles leases: records what was used within them, and charges it to their holds.

A settlement is one transaction. It locks the lease, then writes the usage with its charges in the outbox, then locks
the counters of limits and changes them, then stores what the lease has reserved still. That is the order of `counting`
and of `allocations`, so none waits for another in a circle. Then billing is asked; the relay makes charges that fail.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Conflict, NotFound, OperationIdReused, Refusal, Unavailable
from libs.common.shards import Shards
from services.metering.clients.billing import BillingClient, Charged, NotCharged
from services.metering.errors import CostTooLarge
from services.metering.lease.domain import Settled, Used, counters_of, held_currency, settle
from services.metering.model.catalogue import Catalogue
from services.metering.quota import allocation_store
from services.metering.quota.allocation_domain import Allocation
from services.metering.usage import store
from services.metering.usage.announcements import UsageEvents, announce_usage
from services.metering.usage.charging import Charging
from services.metering.usage.counting import Counting
from services.metering.usage.dimensions import KnownDimensions
from services.metering.usage.domain import (
    Accepted,
    LimitState,
    Outcome,
    Recorded,
    Work,
    charge_of,
    charged,
    differing_field,
    kind_in_lease,
    repeat_of,
)
from services.metering.usage.dropped_store import find_dropped, repeat_of_dropped
from services.metering.usage.leased import Leased
from services.metering.usage.named_subscriptions import NamedSubscriptions
from services.metering.usage.proposals import Proposals
from services.metering.usage.rows import rows_of
from services.metering.usage.store import Key
from services.metering.usage.tries import tries

_log = structlog.get_logger("leases")

RUNNING_MAX: Final = 4
"""How many settlements of a shard run at once in a process; the others wait, and leave connections to other calls."""


@dataclass(slots=True)
class _Batch:
    """Works that are settled in one transaction, by their places, and what became of them."""

    key: Key
    works: Mapping[int, Work]
    end: bool
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    fresh: dict[int, Recorded] = field(default_factory=dict)
    limits: Mapping[str, Sequence[LimitState]] = field(default_factory=dict)
    """Where the limits stand that new usage is counted in, by usage id."""


class Settlements:
    """Settles leases."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        counting: Counting,
        charging: Charging,
        billing: BillingClient,
        named_subscriptions: NamedSubscriptions,
        clock: Clock,
        events: UsageEvents,
        *,
        relay_after: timedelta,
    ) -> None:
        self._events = events
        self._named_subscriptions = named_subscriptions
        self._shards = shards
        self._catalogue = catalogue
        self._proposals = Proposals(catalogue)
        self._counting = counting
        self._charging = charging
        self._billing = billing
        self._clock = clock
        self._relay_after = relay_after
        self._dimensions = KnownDimensions()
        self._turns = {database: asyncio.Semaphore(RUNNING_MAX) for database in shards}

    async def settle(self, organization_id: str, lease_id: str, works: Sequence[Work], *, end: bool) -> Settled:
        """Record works of the organization, at most 500, with a lease, and end it where `end` says so.

        The outcome of a work is an exception if it is not recorded:
            OperationIdReused: its operation id was used with other fields, or is authorized.
            CostTooLarge: it costs more than an amount can be.
            SubscriptionMismatch: it cannot fall under the subscription that it names.

        Raises:
            NotFound: the organization has no such lease. Nothing was recorded.
            Conflict: others settled the lease meanwhile, again and again.
            Unavailable: the database, or the limits of the organization, cannot be read.
        """
        await self._named_subscriptions.know(works)
        database = self._shards.of(organization_id)
        batch = _Batch((organization_id, lease_id), dict(enumerate(works)), end)
        lease = await self._record(database, batch)
        confirmed = await self._charge(database, batch)
        released = None
        if end and confirmed and lease.released and not lease.lapsed and held_currency(lease):
            released = await self._release(lease)
        return Settled([batch.outcomes[place] for place in range(len(works))], lease, released)

    async def _record(self, database: Database, batch: _Batch) -> Allocation:
        """Record a batch. If it fails for a reason that one work may have caused, it is split in halves."""
        try:
            return await self._repeatedly(database, batch)
        except Refusal:
            raise
        except Exception as error:
            if not batch.works:
                raise
            if len(batch.works) == 1:
                _log.error("usage of a lease not recorded", organization_id=batch.key[0], exc_info=error)
                batch.outcomes.update(dict.fromkeys(batch.works, error))
                return await self._record(database, _Batch(batch.key, {}, batch.end))
        places, middle = list(batch.works), len(batch.works) // 2
        first = _Batch(batch.key, {place: batch.works[place] for place in places[:middle]}, end=False)
        second = _Batch(batch.key, {place: batch.works[place] for place in places[middle:]}, end=batch.end)
        await self._record(database, first)
        lease = await self._record(database, second)
        batch.outcomes = first.outcomes | second.outcomes
        batch.fresh = first.fresh | second.fresh
        batch.limits = {**first.limits, **second.limits}
        return lease

    async def _repeatedly(self, database: Database, batch: _Batch) -> Allocation:
        async for _ in tries():
            try:
                async with self._turns[database]:
                    return await self._try(database, batch)
            except Conflict:
                continue
        raise Conflict

    async def _try(self, database: Database, batch: _Batch) -> Allocation:
        batch.outcomes, batch.fresh = {}, {}
        await self._catalogue.refresh()
        firsts = _first_places(batch.works)
        keys = list(firsts)
        async with database.raw_connection() as connection:
            lease = (await allocation_store.find(connection, [batch.key])).get(batch.key)
            authorized = await allocation_store.authorized(connection, keys) if keys else set()
        if lease is None or not lease.is_lease:
            raise NotFound(resource_type="lease", resource_name=batch.key[1])
        now = self._clock.now()
        proposed = await self._propose(batch, firsts, authorized, lease, now)
        recorded, used = await self._count(database, proposed, lease)
        await store.know_dimensions(database, self._dimensions, recorded)
        lease, new = await self._write(database, batch, recorded, used, now)
        places = {one.usage_id: place for place, one in zip(proposed, recorded, strict=True)}
        batch.fresh = {places[one.usage_id]: one for one in new}
        await self._answer_repeats(database, batch, firsts)
        return lease

    async def _propose(
        self, batch: _Batch, firsts: Mapping[Key, int], authorized: set[Key], lease: Allocation, now: datetime
    ) -> dict[int, Recorded]:
        """Return the usages as they are to be recorded, by place. What may not be recorded has its outcome."""
        await self._proposals.know_prices([(batch.works[place], None) for place in firsts.values()])
        held = held_currency(lease)
        proposed: dict[int, Recorded] = {}
        refused = await self._named_subscriptions.refusals([(batch.works[place], None) for place in firsts.values()])
        for number, (key, place) in enumerate(firsts.items()):
            if number in refused:
                batch.outcomes[place] = refused[number]
                continue
            if key in authorized:
                batch.outcomes[place] = OperationIdReused(operation_id=key[1], field="lease_id")
                continue
            try:
                one = self._proposals.propose(batch.works[place], None, now)
            except CostTooLarge as refusal:
                batch.outcomes[place] = refusal
                continue
            cost = None if one.cost is None else kind_in_lease(one.cost, held)
            proposed[place] = one._replace(cost=cost, lease_id=batch.key[1])
        return proposed

    async def _count(
        self, database: Database, proposed: Mapping[int, Recorded], lease: Allocation
    ) -> tuple[list[Recorded], Used]:
        """Return usages with what they count in limits, and what each counts and uses."""
        if not proposed:
            return [], {}
        leased = Leased(lease.organization_id, lease.create_time, counters_of(lease))
        recorded, amounts = await self._counting.propose_in_lease(database, list(proposed.values()), leased)
        used = {
            one.usage_id: (one.counts, amount)
            for one, amount in zip(recorded, amounts, strict=True)
            if one.counts is not None
        }
        return recorded, used

    async def _write(
        self, database: Database, batch: _Batch, recorded: Sequence[Recorded], used: Used, now: datetime
    ) -> tuple[Allocation, Sequence[Recorded]]:
        """Write usages and what the lease has reserved then; return the lease and the usages that were new."""
        wanted = await self._events.wanted(database, recorded)
        async with database.raw_transaction() as connection:
            lease = await allocation_store.lock_lease(connection, batch.key)
            if lease is None:
                raise Conflict
            new: Sequence[Recorded] = ()
            new_ids: set[str] = set()
            if recorded:
                due_time = now + self._relay_after
                new_ids = await store.record(connection, rows_of(recorded), now=now, due_time=due_time, done=())
                new = [one for one in recorded if one.usage_id in new_ids]
            changed, rest = settle(lease, (used[one.usage_id] for one in new), now, end=batch.end)
            given_back = {(batch.key[0], counter_id): value for counter_id, value in rest.items()}
            added = await self._counting.add(connection, new, given_back)
            if new or batch.end:
                await allocation_store.settle_lease(connection, changed)
            await announce_usage(connection, wanted, new_ids, now)
        batch.limits = await self._counting.states(database, new, added)
        return changed, new

    async def _answer_repeats(self, database: Database, batch: _Batch, firsts: Mapping[Key, int]) -> None:
        """Answer works that were recorded before, or earlier in the batch. A refused one may be a repeat, too."""
        for place, one in batch.fresh.items():
            batch.outcomes[place] = Accepted(one, replayed=False)
        old = [key for key, place in firsts.items() if place not in batch.fresh]
        if old:
            async with database.raw_connection() as connection:
                stored = await store.find(connection, old)
                dropped = await find_dropped(connection, set(old) - stored.keys())
            for key in old:
                place = firsts[key]
                if key in stored:
                    batch.outcomes[place] = repeat_of(*stored[key], batch.works[place])
                elif key in dropped:
                    batch.outcomes[place] = repeat_of_dropped(key[1], dropped[key], batch.works[place].fingerprint)
                elif place not in batch.outcomes:
                    batch.outcomes[place] = OperationIdReused(operation_id=key[1], field="lease_id")
        for place, work in batch.works.items():
            earlier = firsts[work.organization_id, work.operation_id]
            if earlier != place:
                batch.outcomes[place] = _twin_outcome(batch.outcomes[earlier], batch.works[earlier], work)

    async def _charge(self, database: Database, batch: _Batch) -> bool:
        """Ask billing for what was recorded now; tell whether it has confirmed all of it."""
        costly = [(place, charge) for place, one in batch.fresh.items() if (charge := charge_of(one)) is not None]
        results: Sequence[Charged | NotCharged] = ()
        try:
            results = await self._charging.charge(database, [charge for _, charge in costly])
        except Exception as error:  # noqa: BLE001 -- the usage is durable: it is acknowledged, and the relay charges it.
            _log.error("charges of a lease failed and are left to the relay", exc_info=error)
        for place, one in batch.fresh.items():
            batch.outcomes[place] = Accepted(one, replayed=False, limits=batch.limits.get(one.usage_id, ()))
        for (place, _), result in zip(costly, results, strict=False):
            one = batch.fresh[place]
            batch.outcomes[place] = charged(one, result, batch.limits.get(one.usage_id, ()))
        return len(results) == len(costly) and all(isinstance(one, Charged) for one in results)

    async def _release(self, lease: Allocation) -> str | None:
        """Release the rest of the hold. If billing is away it ends by itself, or with a repeat."""
        try:
            released = await self._billing.release(lease.organization_id, lease.operation_id)
        except Unavailable:
            _log.warning("hold of a lease not released; it ends by itself", organization_id=lease.organization_id)
            return None
        return released.amount or None


def _first_places(works: Mapping[int, Work]) -> dict[Key, int]:
    """Return the place of each operation id's first work."""
    firsts: dict[Key, int] = {}
    for place, work in works.items():
        firsts.setdefault((work.organization_id, work.operation_id), place)
    return firsts


def _twin_outcome(first: Outcome, before: Work, now: Work) -> Outcome:
    """Return the outcome of a work whose operation id occurs earlier in the batch."""
    if not isinstance(first, Accepted):
        return first
    if before.fingerprint != now.fingerprint:
        return OperationIdReused(operation_id=now.operation_id, field=differing_field(before, now))
    return Accepted(first.recorded, replayed=True)
