"""Counts usage in limits.

An authorized call is counted where it has reserved, so in the windows of its authorization, and what it has reserved is
taken back: in nothing else, and in nothing if no limit was in force when it was authorized. Other usage is counted in
the limits in force for it, in the windows of its own time, and is never refused.

The counters are created beforehand. In the transaction that writes the usage they are locked in the order of their
keys, after it is written. Only then it is read which reservations were given back: whoever gives some back holds the
same locks, and looks for usage first. So each reservation goes once.
"""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Final, NamedTuple

import structlog

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Conflict, Refusal, Unavailable
from services.metering.model.catalogue import Catalogue
from services.metering.quota import counter_store
from services.metering.quota.alerts import Alerts
from services.metering.quota.book import LimitBook
from services.metering.quota.calls import CallLimits
from services.metering.quota.counter_store import Change, Counted, Identity, Key
from services.metering.quota.counters import Counters, is_kept
from services.metering.quota.decisions import Counter, Place, Standing, Take, carried, place_of
from services.metering.quota.domain import (
    NOTHING_RESERVED,
    SPEND,
    Amounts,
    Applied,
    Call,
    Limit,
    Window,
    amount,
    amounts_of,
)
from services.metering.quota.quick_store import QuickChange
from services.metering.quota.windows import ALWAYS, Span, kept_until
from services.metering.usage.dimensions import TEST
from services.metering.usage.domain import Authorization, Counts, LimitState, Recorded
from services.metering.usage.part_domain import used_by

_log = structlog.get_logger("usage")

_KNOWN_MAX: Final = 20_000
_IDENTITIES_MAX: Final = 100_000
_SOUGHT_MAX: Final = 10_000
_ZERO: Final = Decimal(0)
_NOTHING: Final = Counted(_ZERO, _ZERO)

Proposed = tuple[Recorded, Authorization | None]
"""Usage as it is to be recorded, with the authorization whose reservations it replaces."""


class _Caller(NamedTuple):
    """What decides which limits are in force for usage."""

    organization_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    api_key_id: str | None
    subscription_id: str | None
    model: str
    provider: str
    labels: str | None
    """As JSON with sorted keys."""

    @property
    def call(self) -> Call:
        labels = json.loads(self.labels) if self.labels else {}
        return Call._make((*(value or "" for value in self[1:8]), labels))


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
    by_metric: Mapping[tuple[str, str], Sequence[str]]
    """The counters by metric and currency."""
    is_created: bool = False
    """Whether the counters are known to exist. If one is gone all the same, its limit was deleted."""

    def holds(self, applied: Sequence[Applied], occur_time: datetime, now: datetime) -> bool:
        return (
            self.applied == applied
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
        self._book = book
        self._limits = limits
        self._counters = counters
        self._alerts = alerts
        self._clock = clock
        self._plans: OrderedDict[_Caller, _Plan] = OrderedDict()
        self._identities: OrderedDict[str, Identity] = OrderedDict()
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._sought: set[Key] = set()
        """Operations that turned out to be authorized, although their usage does not settle an authorization."""

    def is_sought(self, key: Key) -> bool:
        """Tell whether an authorization must be looked for, although the usage does not say that there is one."""
        return key in self._sought

    async def propose(self, database: Database, proposed: Sequence[Proposed]) -> list[Recorded]:
        """Return usages with what they count in limits, and create the counters that are missing.

        Raises:
            Unavailable: the limits of an organization cannot be read, nor can its usage be written then.
        """
        callers = [None if one is not None else _caller(recorded) for recorded, one in proposed]
        applied = await self._applied({caller for caller in callers if caller is not None})
        now = self._clock.now()
        counted: list[Recorded] = []
        used: dict[int, tuple[str, _Plan]] = {}
        for (recorded, authorization), caller in zip(proposed, callers, strict=True):
            counts = None
            if authorization is not None and authorization.reservations:
                counts = self._counts_of_reserved(recorded, authorization)
            elif caller is not None and applied[caller]:
                plan = self._plan(caller, applied[caller], recorded.work.occur_time, now)
                counts = self._counts_of_free(recorded, plan)
                if counts.amounts and not plan.is_created:
                    used[id(plan)] = caller.organization_id, plan
            # Quicker than `_replace`: the last field is the one to be set.
            counted.append(recorded if counts is None else Recorded(*recorded[:-1], counts))
        if used:
            takes = (
                (organization_id, Take(Place(place.counter), _ZERO, asked=False))
                for organization_id, plan in used.values()
                for place in plan.places
            )
            await self._counters.create(database, takes)
            for _, plan in used.values():
                plan.is_created = True
        return counted

    def changes(self, proposed: Sequence[Recorded]) -> list[tuple[Key, QuickChange]]:
        """Return by how much counters change if all usages are new and as they seem, in the order of their keys."""
        summed = _sums(_counted_of(proposed), ())
        return [(key, QuickChange(*change)) for key, change in sorted(summed.items())]

    def forget(self, new: Sequence[Recorded]) -> None:
        """Look for the authorizations of these usages no longer, since they are counted."""
        if self._sought:
            self._sought -= {(one.work.organization_id, one.work.operation_id) for one in new}

    async def add(self, connection: RawConnection, new: Sequence[Recorded]) -> dict[Key, Counted]:
        """Count usage that the running transaction has written; return the counters as they are then.

        A counter that is gone is left out: its window is over for good, or its limit was deleted.

        Raises:
            Conflict: an operation has reserved something and was recorded as if it had not. The next attempt knows it.
        """
        counted = _counted_of(new)
        if not counted:
            return {}
        keys = {
            (organization_id, counter_id)
            for organization_id, _, counts in counted
            for counter_id in counters_of(counts)
        }
        found = await counter_store.lock(connection, keys) if keys else {}
        reserves = {(one[0], one[1]): bool(one[2].reservations) for one in counted}
        contradicted = await counter_store.contradicted(connection, reserves)
        unseen = [key for key in contradicted if not reserves[key]]
        if unseen:
            self._seek(unseen)
            raise Conflict
        self.forget(new)
        changes = {key: change for key, change in _sums(counted, contradicted).items() if key in found}
        if changes:
            await counter_store.add(connection, changes)
        return {
            key: Counted(found[key].used + used, found[key].reserved + reserved)
            for key, (used, reserved) in changes.items()
        }

    async def states(
        self, database: Database, new: Sequence[Recorded], added: Mapping[Key, Counted]
    ) -> dict[str, Sequence[LimitState]]:
        """Return where the limits stand that usages are counted in, by usage id. A limit that was deleted is left out.

        The usage is durable. Where this cannot be read, the answers are given without it.
        """
        if not added:
            return {}
        try:
            states = await self._states(database, new, added)
        except Refusal as refusal:
            _log.warning("limits of recorded usage not read", schema=database.schema, reason=refusal.reason)
            return {}
        await self._alerts.note(
            database,
            (
                (organization_id, state.place.counter, state.standing.used)
                for organization_id, of_organization in states.items()
                for state in of_organization.values()
            ),
        )
        found: dict[str, Sequence[LimitState]] = {}
        for recorded in new:
            known = states.get(recorded.work.organization_id)
            if known is not None and recorded.counts is not None:
                counters = counters_of(recorded.counts)
                found[recorded.usage_id] = [known[one] for one in counters if one in known]
        return found

    async def _applied(self, callers: Collection[_Caller]) -> dict[_Caller, Sequence[Applied]]:
        """Return the limits in force for the usage of callers, as far as they are known."""
        if not callers:
            return {}
        found = await self._limits.of([(one.organization_id, one.call) for one in callers], is_done=True)
        applied: dict[_Caller, Sequence[Applied]] = {}
        for caller, known in zip(callers, found, strict=True):
            if isinstance(known, Unavailable):
                raise known
            applied[caller] = known
        return applied

    def _counts_of_reserved(self, recorded: Recorded, authorization: Authorization) -> Counts:
        amounts, reservations = self._amounts(recorded), authorization.reservations
        values = {metric: amount(*metric, amounts) for metric in set(reservations.metrics)}
        used: dict[str, Decimal] = {}
        for counter_id, metric in zip(reservations.counter_ids, reservations.metrics, strict=True):
            value = values[metric]
            # Spend that is not known yet is added later, to the counters that the usage names.
            if value or (recorded.cost is None and metric[0] == SPEND):
                used[counter_id] = value
        return Counts(used, reservations)

    def _counts_of_free(self, recorded: Recorded, plan: _Plan) -> Counts:
        amounts = self._amounts(recorded)
        used: dict[str, Decimal] = {}
        for (metric, currency_code), counters in plan.by_metric.items():
            value = amount(metric, currency_code, amounts)
            if value or (metric == SPEND and recorded.cost is None):
                used |= dict.fromkeys(counters, value)
        return Counts(used, NOTHING_RESERVED)

    def _amounts(self, recorded: Recorded) -> Amounts:
        """Return what usage uses of everything. The spend of tests is zero, and so it is while no price is known."""
        work, cost = recorded.work, recorded.cost
        spend, currency_code = _ZERO, ""
        if cost is not None and work.environment != TEST:
            spend, currency_code = Decimal(cost.amount), cost.currency_code
        return amounts_of(used_by(work), self._catalogue.units, spend, currency_code, work.items or 0)

    def _plan(self, caller: _Caller, applied: Sequence[Applied], occur_time: datetime, now: datetime) -> _Plan:
        """Return where usage without reservations is counted. The latest window of each caller is remembered."""
        plan = self._plans.get(caller)
        if plan is None or not plan.holds(applied, occur_time, now):
            plan = self._new_plan(applied, occur_time, now)
            self._plans.pop(caller, None)
            self._plans[caller] = plan
            if len(self._plans) > _KNOWN_MAX:
                self._plans.popitem(last=False)
        return plan

    def _new_plan(self, applied: Sequence[Applied], occur_time: datetime, now: datetime) -> _Plan:
        places = [
            self._counters.place_of(one, occur_time)
            for one in applied
            if one.limit.shape.window not in (Window.CALL, Window.NONE)
        ]
        kept = [place for place in places if is_kept(place, now)]
        by_metric: dict[tuple[str, str], list[str]] = {}
        for counter_id, limit, _, _ in (place.counter for place in kept):
            by_metric.setdefault((limit.shape.metric, limit.shape.currency_code), []).append(counter_id)
        ends = [place.counter.span.end for place in places]
        untils = [kept_until(place.counter.limit.shape, place.counter.span) for place in kept]
        return _Plan(
            applied,
            kept,
            max((place.counter.span.start for place in places), default=ALWAYS),
            min((end for end in ends if end is not None), default=None),
            min((until for until in untils if until is not None), default=None),
            by_metric,
        )

    def _seek(self, keys: Sequence[Key]) -> None:
        while len(self._sought) + len(keys) > _SOUGHT_MAX:
            self._sought.pop()
        self._sought.update(keys)

    async def _states(
        self, database: Database, new: Sequence[Recorded], added: Mapping[Key, Counted]
    ) -> dict[str, dict[str, LimitState]]:
        """Return where limits stand, by organization and counter."""
        await self._identify(database, added)
        limits = await self._limits_of(new, added)
        states: dict[str, dict[str, LimitState]] = {}
        beside: set[Key] = set()
        for (organization_id, counter_id), counted in added.items():
            identity = self._identities.get(counter_id)
            limit = None if identity is None else limits.get((organization_id, identity.limit_id))
            if identity is not None and limit is not None:
                place = self._place(limit, counter_id, identity)
                states.setdefault(organization_id, {})[counter_id] = LimitState(place, Standing(*counted))
                beside.update((organization_id, other) for other in _counters_beside(place))
        if beside:
            async with database.raw_connection() as connection:
                found = await counter_store.read(connection, beside)
            for organization_id, of_organization in states.items():
                for state in of_organization.values():
                    _look_beside(state, partial(_counted_in, found, organization_id))
        return states

    async def _identify(self, database: Database, added: Collection[Key]) -> None:
        """Know what counters count. It is remembered, since calls that follow are counted in the same."""
        unknown = [key for key in added if key[1] not in self._identities]
        if unknown:
            async with database.raw_connection() as connection:
                self._identities |= await counter_store.identities(connection, unknown)
        while len(self._identities) > _IDENTITIES_MAX:
            self._identities.popitem(last=False)

    async def _limits_of(self, new: Sequence[Recorded], added: Mapping[Key, Counted]) -> dict[Key, Limit]:
        """Return limits by organization and id: those that are set, and those that the callers are entitled to."""
        limits: dict[Key, Limit] = {}
        for organization_id, known in (await self._book.of({key[0] for key in added})).items():
            if isinstance(known, Unavailable):
                raise known
            limits |= {(organization_id, one.limit_id): one for one in known}
        identities = ((organization_id, self._identities.get(one)) for organization_id, one in added)
        if any(
            one is not None and (organization_id, one.limit_id) not in limits for organization_id, one in identities
        ):
            for caller, applied in (await self._applied({_caller(one) for one in new})).items():
                limits |= {(caller.organization_id, one.limit.limit_id): one.limit for one in applied}
        return limits

    def _place(self, limit: Limit, counter_id: str, identity: Identity) -> Place:
        known = self._places.get(counter_id)
        if known is not None and known.counter.limit is limit:
            return known
        place = place_of(limit, identity.subject, identity.window_start)
        if place.counter.counter_id != counter_id:
            # An earlier billing period, of which the limit does not know any more how long it was.
            place = Place(Counter(counter_id, limit, identity.subject, Span(*identity[2:])))
        self._places.pop(counter_id, None)
        self._places[counter_id] = place
        if len(self._places) > _IDENTITIES_MAX:
            self._places.popitem(last=False)
        return place


def _caller(recorded: Recorded) -> _Caller:
    work = recorded.work
    return _Caller(
        work.organization_id,
        work.project_id,
        work.user_id,
        work.service_account_id,
        work.api_key_id,
        work.subscription_id,
        work.model,
        recorded.dimensions.provider,
        work.labels,
    )


def _counted_of(new: Sequence[Recorded]) -> list[tuple[str, str, Counts]]:
    """Return the organization, the operation and the counts of usages that limits count."""
    return [(one.work.organization_id, one.work.operation_id, one.counts) for one in new if one.counts is not None]


def counters_of(counts: Counts) -> Iterable[str]:
    """Return the counters that usage changes, by their ids."""
    return counts.reservations.counter_ids or counts.amounts


def _sums(counted: Iterable[tuple[str, str, Counts]], contradicted: Collection[Key]) -> dict[Key, Change]:
    """Return by how much counters change. What was given back already is not taken back."""
    used: defaultdict[str, defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    taken_back: defaultdict[Key, Decimal] = defaultdict(Decimal)
    for organization_id, operation_id, (amounts, reservations) in counted:
        of_organization = used[organization_id]
        for counter_id, value in amounts.items():
            of_organization[counter_id] += value
        is_reserved = bool(reservations) and (organization_id, operation_id) not in contradicted
        for counter_id, value in zip(reservations.counter_ids, reservations.amounts, strict=True):
            of_organization[counter_id] += _ZERO
            if is_reserved:
                taken_back[organization_id, counter_id] -= value
    return {
        (organization_id, counter_id): Change(value, taken_back.get((organization_id, counter_id), _ZERO))
        for organization_id, of_organization in used.items()
        for counter_id, value in of_organization.items()
    }


def _counters_beside(place: Place) -> Iterable[str]:
    """Return the other counters that say how much a limit leaves at a place."""
    return place.steps or (() if place.before is None else (place.before.counter_id,))


def _counted_in(found: Mapping[Key, Counted], organization_id: str, counter_id: str) -> Counted:
    return found.get((organization_id, counter_id), _NOTHING)


def _look_beside(state: LimitState, counted: Callable[[str], Counted]) -> None:
    """Add what is counted elsewhere and says how much a limit leaves."""
    place, standing = state.place, state.standing
    if place.steps:
        standing.earlier = tuple(sum(counted(step), _ZERO) for step in place.steps)
        standing.earlier_sum = sum(standing.earlier, _ZERO)
    elif place.before is not None:
        standing.carried = carried(place.counter.limit, Standing(*counted(place.before.counter_id)))
