"""Counts usage in limits.

An authorized call is counted where it has reserved, so in the windows of its authorization, and what it has reserved is
taken back: in nothing else, and in nothing if no limit was in force when it was authorized. Other usage is counted in
the limits in force for it, in the windows of its own time, and is never refused.

The counters are created beforehand. In the transaction that writes the usage they are locked in the order of their
keys, after it is written. Only then it is read which reservations were given back: whoever gives some back holds the
same locks, and looks for usage first. So each reservation goes once.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Conflict, Refusal, Unavailable
from services.metering.model.catalogue import Catalogue
from services.metering.quota import counter_store
from services.metering.quota.alerts import Alerts
from services.metering.quota.book import LimitBook
from services.metering.quota.calls import CallLimits, InForce
from services.metering.quota.counter_store import Change, Counted, Key
from services.metering.quota.counters import Counters, is_kept
from services.metering.quota.decisions import Place, Take
from services.metering.quota.domain import (
    NOTHING_RESERVED,
    SPEND,
    Amounts,
    Applied,
    Reservations,
    Window,
    amount,
    amounts_of,
)
from services.metering.quota.quick_store import QuickChange
from services.metering.quota.windows import ALWAYS, kept_until
from services.metering.usage.callers import Caller, caller_of, under_subscription, with_subscription
from services.metering.usage.counter_places import CounterPlaces
from services.metering.usage.counts import counters_of, sums
from services.metering.usage.dimensions import TEST
from services.metering.usage.domain import Authorization, Counts, LimitState, Recorded
from services.metering.usage.leased import Leased, counters_of_lease
from services.metering.usage.limit_states import counters_beside, places_of, states_of, used_of
from services.metering.usage.part_domain import used_by

_log = structlog.get_logger("usage")

_KNOWN_MAX: Final = 20_000
_SOUGHT_MAX: Final = 10_000
_ZERO: Final = Decimal(0)
_NOTHING: Final = Counted(_ZERO, _ZERO)

Proposed = tuple[Recorded, Authorization | None]
"""Usage as it is to be recorded, with the authorization whose reservations it replaces."""


@dataclass(slots=True)
class _Plan:
    """Where usage of a caller is counted from a time until before another."""

    applied: Sequence[Applied]
    """The limits in force, whatever they count."""
    places: Sequence[Place]
    start: datetime
    end: datetime | None
    kept_until: datetime | None
    """When the first of the windows is dropped."""
    counter_ids: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]
    """The metric and currency of each counter."""
    by_key: Mapping[Key, Place]
    is_created: bool = False
    """Whether the counters are known to exist. If one is gone all the same, its limit was deleted."""

    def holds(self, applied: Sequence[Applied], occur_time: datetime, now: datetime) -> bool:
        return (
            (self.applied is applied or self.applied == applied)
            and self.start <= occur_time
            and (self.end is None or occur_time < self.end)
            and (self.kept_until is None or now < self.kept_until)
        )


class Counting:
    """Counts usage in limits."""

    def __init__(
        self,
        catalogue: Catalogue,
        book: LimitBook,
        limits: CallLimits,
        counters: Counters,
        alerts: Alerts,
        clock: Clock,
    ) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._counters = counters
        self._alerts = alerts
        self._clock = clock
        self._plans: OrderedDict[Caller, _Plan] = OrderedDict()
        self._counter_places = CounterPlaces(book, self._found)
        self._sought: set[Key] = set()
        """Operations that turned out to be authorized, although their usage does not settle an authorization."""

    def is_sought(self, key: Key) -> bool:
        """Tell whether an authorization must be looked for, although the usage does not say that there is one."""
        return key in self._sought

    async def propose(self, database: Database, proposed: Sequence[Proposed]) -> list[Recorded]:
        """Return usages with what they count in which limits, and create the counters that are missing.

        Usage without an authorization that names no subscription gets the one that it falls under.

        Raises:
            Unavailable: the limits of an organization cannot be read, nor can its usage be written then.
        """
        counted = [recorded for recorded, _ in proposed]
        by_caller: dict[Caller, list[int]] = {}
        settled: list[Recorded] = []
        places: dict[Key, Place] = {}
        for number, (recorded, authorization) in enumerate(proposed):
            if authorization is None:
                by_caller.setdefault(caller_of(recorded), []).append(number)
            elif authorization.reservations:
                reserved = authorization.reservations
                counts = self._counts(recorded, reserved.counter_ids, reserved.metrics, reserved, places)
                counted[number] = _with_counts(recorded, counts)
                settled.append(counted[number])
        now = self._clock.now()
        used: dict[int, tuple[str, _Plan]] = {}
        for caller, found in (await self._found(by_caller.keys())).items():
            for number in by_caller[caller]:
                recorded = counted[number]
                subscription_id, applied = under_subscription(caller, found, recorded.work.occur_time)
                if subscription_id != caller.subscription_id:
                    recorded = counted[number] = with_subscription(recorded, subscription_id)
                if applied:
                    plan = self._plan(caller, applied, recorded.work.occur_time, now)
                    counts = self._counts_of_free(recorded, plan, places)
                    counted[number] = _with_counts(recorded, counts)
                    if counts.counter_ids:
                        used[id(plan)] = caller.organization_id, plan
        for _, plan in used.values():
            places |= plan.by_key
        if settled:
            places |= await self._counter_places.of(database, settled)
        await self._create_missing(database, used.values())
        return counted

    async def _create_missing(self, database: Database, used: Iterable[tuple[str, _Plan]]) -> None:
        """Create the counters of organizations' plans that are not known to exist."""
        missing = [each for each in used if not each[1].is_created]
        if missing:
            takes = (
                (organization_id, Take(Place(place.counter), _ZERO, asked=False))
                for organization_id, plan in missing
                for place in plan.places
            )
            await self._counters.create(database, takes)
            for _, plan in missing:
                plan.is_created = True

    async def propose_in_lease(
        self, database: Database, proposed: Sequence[Recorded], lease: Leased
    ) -> tuple[list[Recorded], list[Amounts]]:
        """Return usages that are settled with a lease, with what they count in limits, and what they use of everything.

        They count in the counters of the lease whose metric they use, and in those limits in force for them in which it
        has reserved nothing. Counters that are missing are created.

        Raises:
            Unavailable: the limits of an organization cannot be read, nor can its usage be written then.
        """
        found = await self._found({caller_of(one) for one in proposed})
        counters = await counters_of_lease(database, lease)
        now = self._clock.now()
        counted: list[Recorded] = []
        amounts: list[Amounts] = []
        free: dict[str, Place] = {}
        places: dict[Key, Place] = {}
        for recorded in proposed:
            caller = caller_of(recorded)
            subscription_id, applied = under_subscription(caller, found[caller], recorded.work.occur_time)
            if subscription_id != caller.subscription_id:
                recorded = with_subscription(recorded, subscription_id)
            amounts.append(self._amounts(recorded))
            used: dict[str, Decimal] = {}
            for counter_id, (metric, currency_code) in counters.metrics.items():
                value = amount(metric, currency_code, amounts[-1])
                if value or (metric == SPEND and recorded.cost is None):
                    used[counter_id] = value
            beside = [one for one in applied if not counters.has(one)]
            plan = self._new_plan(lease.organization_id, beside, recorded.work.occur_time, now)
            used |= self._counts_of_free(recorded, plan, places).amounts
            free |= {place.counter.counter_id: place for place in plan.places if place.counter.counter_id in used}
            counts = Counts(tuple(used), tuple(used.values()), NOTHING_RESERVED, places)
            counted.append(_with_counts(recorded, counts))
        takes = ((lease.organization_id, Take(Place(one.counter), _ZERO, asked=False)) for one in free.values())
        await self._counters.create(database, takes)
        places |= await self._counter_places.of(database, counted)
        return counted, amounts

    def changes(self, proposed: Sequence[Recorded]) -> list[tuple[Key, QuickChange]]:
        """Return by how much counters change if all usages are new and as they seem, in the order of their keys.

        No counter may reach a threshold that no alert is known to be stored for: the careful way stores it.
        """
        places = places_of(proposed)
        changes: list[tuple[Key, QuickChange]] = []
        for key, (used, reserved) in sums(_counted_of(proposed), ()).items():
            place = places.get(key)
            maximum = None if place is None else self._alerts.quiet_up_to(place.counter)
            changes.append((key, QuickChange(used, reserved, maximum)))
        return changes

    def forget(self, new: Sequence[Recorded]) -> None:
        """Look for the authorizations of these usages no longer, since they are counted."""
        if self._sought:
            self._sought -= {(one.work.organization_id, one.work.operation_id) for one in new}

    async def add(
        self, connection: RawConnection, new: Sequence[Recorded], given_back: Mapping[Key, Decimal] | None = None
    ) -> dict[Key, Counted]:
        """Count usage that the running transaction has written; return the counters as they are then.

        Alerts are stored for the thresholds that are reached. A counter that is gone is left out: its window is over
        for good, or its limit was deleted. `given_back` is what a lease has reserved no longer.

        Raises:
            Conflict: an operation has reserved something and was recorded as if it had not. The next attempt knows it.
        """
        counted = _counted_of(new)
        if not counted and not given_back:
            return {}
        keys = {
            (organization_id, counter_id)
            for organization_id, _, counts in counted
            for counter_id in counters_of(counts)
        }
        keys.update(given_back or ())
        found = await counter_store.lock(connection, keys) if keys else {}
        reserves = {(one[0], one[1]): bool(one[2].reservations) for one in counted}
        contradicted = await counter_store.contradicted(connection, reserves) if reserves else set()
        unseen = [key for key in contradicted if not reserves[key]]
        if unseen:
            self._seek(unseen)
            raise Conflict
        self.forget(new)
        summed = sums(counted, contradicted)
        for key, rest in (given_back or {}).items():
            before = summed.get(key, Change(_ZERO, _ZERO))
            summed[key] = Change(before.used, before.reserved - rest)
        changes = {key: change for key, change in summed.items() if key in found}
        if changes:
            await counter_store.add(connection, changes)
        added = {
            key: Counted(found[key].used + used, found[key].reserved + reserved)
            for key, (used, reserved) in changes.items()
        }
        await self._alerts.add(connection, used_of(new, added))
        return added

    async def states(
        self, database: Database, new: Sequence[Recorded], added: Mapping[Key, Counted]
    ) -> dict[str, Sequence[LimitState]]:
        """Return where the limits stand that usages are counted in, by usage id. A limit that was deleted is left out.

        The usage is durable. Where this cannot be read, the answers are given without it.
        """
        if not added:
            return {}
        self._alerts.remember(used_of(new, added))
        try:
            states = await self._states(database, new, added)
        except Refusal as refusal:
            _log.warning("limits of recorded usage not read", schema=database.schema, reason=refusal.reason)
            return {}
        found: dict[str, Sequence[LimitState]] = {}
        together: dict[tuple[str, tuple[str, ...]], Sequence[LimitState]] = {}
        for recorded in new:
            if recorded.counts is not None:
                key = recorded.work.organization_id, counters_of(recorded.counts)
                if key not in together:
                    together[key] = [*filter(None, map(states.get(key[0], {}).get, key[1]))]
                found[recorded.usage_id] = together[key]
        return found

    async def _found(self, callers: Collection[Caller]) -> dict[Caller, InForce]:
        """Return what holds for the usage of callers, as far as it is known."""
        if not callers:
            return {}
        found: dict[Caller, InForce] = {}
        calls = [(one.organization_id, one.call) for one in callers]
        for caller, known in zip(callers, await self._limits.of(calls, is_done=True), strict=True):
            if isinstance(known, Unavailable):
                raise known
            found[caller] = known
        return found

    def _counts_of_free(self, recorded: Recorded, plan: _Plan, places: Mapping[Key, Place]) -> Counts:
        return self._counts(recorded, plan.counter_ids, plan.metrics, NOTHING_RESERVED, places)

    def _counts(
        self,
        recorded: Recorded,
        counter_ids: tuple[str, ...],
        metrics: tuple[tuple[str, str], ...],
        reservations: Reservations,
        places: Mapping[Key, Place],
    ) -> Counts:
        """Return what usage counts in counters of these metrics."""
        amounts = self._amounts(recorded)
        by_metric = {metric: amount(*metric, amounts) for metric in dict.fromkeys(metrics)}
        values = tuple(map(by_metric.__getitem__, metrics))
        if not all(values):
            # Spend that is not known yet is added later, to the counters that the usage names.
            later = () if recorded.cost is not None else [metric for metric in by_metric if metric[0] == SPEND]
            counted = [number for number, metric in enumerate(metrics) if values[number] or metric in later]
            counter_ids = tuple(map(counter_ids.__getitem__, counted))
            values = tuple(map(values.__getitem__, counted))
        return Counts(counter_ids, values, reservations, places)

    def _amounts(self, recorded: Recorded) -> Amounts:
        """Return what usage uses of everything. The spend of tests is zero, and so it is while no price is known."""
        work, cost = recorded.work, recorded.cost
        spend, currency_code = _ZERO, ""
        if cost is not None and work.environment != TEST:
            spend, currency_code = Decimal(cost.amount), cost.currency_code
        return amounts_of(used_by(work), self._catalogue.units, spend, currency_code, work.items or 0)

    def _plan(self, caller: Caller, applied: Sequence[Applied], occur_time: datetime, now: datetime) -> _Plan:
        """Return where usage without reservations is counted. The latest window of each caller is remembered."""
        plan = self._plans.get(caller)
        if plan is None or not plan.holds(applied, occur_time, now):
            plan = self._new_plan(caller.organization_id, applied, occur_time, now)
            self._plans.pop(caller, None)
            self._plans[caller] = plan
            if len(self._plans) > _KNOWN_MAX:
                self._plans.popitem(last=False)
        plan.applied = applied  # An equal list that is the same object is found equal at once the next time.
        return plan

    def _new_plan(self, organization_id: str, applied: Sequence[Applied], occur_time: datetime, now: datetime) -> _Plan:
        places = [
            self._counters.place_of(one, occur_time)
            for one in applied
            if one.limit.shape.window not in (Window.CALL, Window.NONE)
        ]
        kept = [place for place in places if is_kept(place, now)]
        shapes = [place.counter.limit.shape for place in kept]
        ends = [place.counter.span.end for place in places]
        untils = [kept_until(place.counter.limit.shape, place.counter.span) for place in kept]
        return _Plan(
            applied,
            kept,
            max((place.counter.span.start for place in places), default=ALWAYS),
            min((end for end in ends if end is not None), default=None),
            min((until for until in untils if until is not None), default=None),
            tuple(place.counter.counter_id for place in kept),
            tuple((shape.metric, shape.currency_code) for shape in shapes),
            {(organization_id, place.counter.counter_id): place for place in kept},
        )

    def _seek(self, keys: Sequence[Key]) -> None:
        while len(self._sought) + len(keys) > _SOUGHT_MAX:
            self._sought.pop()
        self._sought.update(keys)

    async def _states(
        self, database: Database, new: Sequence[Recorded], added: Mapping[Key, Counted]
    ) -> Mapping[str, Mapping[str, LimitState]]:
        """Return where limits stand, by organization and counter."""
        places = places_of(new)
        beside = counters_beside(places, added)
        counted = added
        if beside:
            async with database.raw_connection() as connection:
                counted = {**added, **await counter_store.read(connection, beside)}
        return states_of(places, added, counted)


def _with_counts(recorded: Recorded, counts: Counts) -> Recorded:
    """Return usage with what it counts. This is quicker than `_replace`: the last field is the one to be set."""
    return Recorded(*recorded[:-1], counts)


def _counted_of(new: Sequence[Recorded]) -> list[tuple[str, str, Counts]]:
    """Return the organization, the operation and the counts of usages that limits count."""
    return [(one.work.organization_id, one.work.operation_id, one.counts) for one in new if one.counts is not None]
