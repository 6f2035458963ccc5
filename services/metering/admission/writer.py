"""Stores authorizations in batches, within the limits in force.

Without limits a batch is one statement. With them it is one as well where all calls fit (see `quota.quick_store`). Else
it is one transaction: the counters are locked, all calls of the batch are decided in their order, those that may begin
are stored with what they reserve, and the counters are changed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database, RawConnection
from libs.common.errors import Conflict
from services.metering.admission import store
from services.metering.admission.domain import Pinned, Status, Stored
from services.metering.admission.limits import (
    UNSAID,
    Said,
    changes_of,
    decide,
    reservations_of,
    statuses,
    takes_of,
    without,
)
from services.metering.clients.identity import KeyPrincipal
from services.metering.quota import counter_store
from services.metering.quota.counter_store import Counted, Key
from services.metering.quota.counters import CAREFUL_BATCHES, Counters, Standings
from services.metering.quota.decisions import Place, Standing, Take
from services.metering.quota.domain import NOTHING_RESERVED, Amounts, Applied
from services.metering.quota.layouts import Layout
from services.metering.quota.quick_store import QuickChange

_WRITTEN_WITHIN: Final = timedelta(seconds=10)
"""How long after its create_time an authorization is written at the latest, but for the time of the statement."""
_ZERO: Final = Decimal(0)


@dataclass(slots=True)
class Waiting:
    """An authorization that waits for its batch."""

    pinned: Pinned
    principal: KeyPrincipal
    applied: Sequence[Applied] = ()
    """The limits in force for the call."""
    amounts: Amounts | None = None
    """What the call may use; None where no limit is in force."""
    written: bool = False
    """Whether an earlier attempt of its batch has stored it. The next attempt must not treat it as a repeat then."""
    takes: Sequence[Take] = ()
    """What it takes of each limit at the moment of the last attempt; nothing where it was stored or recorded before."""
    said: Said = UNSAID
    """What the limits said to it then."""
    statuses: Sequence[Status] = ()
    """Where they stand after its batch. Calls under the same limits share the list."""

    @property
    def key(self) -> store.Key:
        return self.pinned.ask.organization_id, self.pinned.ask.operation_id

    @property
    def statuses_without(self) -> Sequence[Status]:
        """Where the limits stand when what the call has reserved is given back."""
        return without(self.pinned.reservations, self.statuses)


class _Plan(NamedTuple):
    """What one statement writes if all calls of a batch fit into their limits."""

    calls: Sequence[tuple[str, Layout, Sequence[Decimal]]]
    """Of each call the organization, where it counts, and what it takes of each metric."""
    changes: Sequence[tuple[Key, QuickChange]]
    """By how much counters change, in the order of their keys."""


class Writer:
    """Stores authorizations."""

    def __init__(self, counters: Counters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock
        self._careful_batches = 0

    async def write(self, database: Database, waiting: Sequence[Waiting]) -> dict[store.Key, Stored]:
        """Store the authorizations that no limit refuses; return those that were stored before under the same ids.

        What the limits said to each is noted with it. An authorization that an earlier attempt of the same batch stored
        is not returned. With fail_if_replayed, an operation whose usage is recorded is returned as well, even if it was
        never authorized.

        Raises:
            Conflict: a window ended, or the same operations were authorized elsewhere, while the counters were locked.
        """
        own = {one.key for one in waiting if one.written}
        self._renew(waiting)
        asking = [one for one in waiting if one.applied and not one.written]
        if not asking:
            async with database.raw_connection() as connection:
                repeated = await self._add(connection, waiting)
                _note_written(waiting, repeated)
                return await self._known(connection, waiting, repeated, own)
        plan = None if own else self._plan(asking)
        if plan is not None:
            await self._counters.create_all(database, [one[:2] for one in plan.calls])
        repeated = set()
        counted = [] if plan is None else await self._write_quickly(database, waiting, plan)
        if plan is not None and counted:
            _note_written(waiting, repeated)
            _note_plan(asking, plan, counted)
        else:
            repeated = await self._write_within_limits(database, waiting, asking)
        if not repeated and not any(one.pinned.fail_if_replayed for one in waiting):
            return {}
        async with database.raw_connection() as connection:
            return await self._known(connection, waiting, repeated, own)

    def _plan(self, asking: Sequence[Waiting]) -> _Plan | None:
        """Return what one statement writes if all calls fit into their limits; None if it must be done carefully."""
        if self._careful_batches:
            self._careful_batches -= 1
            return None
        now = self._clock.now()
        calls: list[tuple[str, Layout, list[Decimal]]] = []
        for one in asking:
            assert one.amounts is not None, "a call with limits has amounts"
            layout = self._counters.layout(one.applied, now)
            wanted = layout.amounts(one.amounts)
            if not layout.is_plain or not layout.fits_singles(wanted):
                return None
            calls.append((one.key[0], layout, wanted))
            one.said = UNSAID
            one.pinned = one.pinned._replace(reservations=layout.reservations(wanted))
        changes = changes_of(calls)
        return _Plan(calls, changes) if changes else None

    async def _write_quickly(self, database: Database, waiting: Sequence[Waiting], plan: _Plan) -> list[Counted]:
        """Store the batch if all calls fit into their limits, and return what each counter has; else do nothing."""
        try:
            async with database.raw_connection() as connection:
                counted = await store.add_within_limits(connection, [one.pinned for one in waiting], plan.changes)
        except ConstraintViolation as violation:
            if violation.constraint == store.PRIMARY_KEY:
                return []
            counted = []
        if not counted:
            self._careful_batches = CAREFUL_BATCHES
        return counted

    async def _write_within_limits(
        self, database: Database, waiting: Sequence[Waiting], asking: Sequence[Waiting]
    ) -> set[store.Key]:
        """Decide the calls that limits are in force for, and store the batch; return what was stored before.

        All calls of a batch are decided for the same moment, so that each sees what those before it have reserved. That
        moment is over when a window has ended, by the time the counters are locked, that a burst of the next one looks
        back at: another process may have decided in the next one meanwhile.
        """
        now = self._clock.now()
        takes = self._takes(asking, now)
        await self._counters.create(database, takes)
        async with database.raw_transaction() as connection:
            standings = await self._counters.lock(connection, takes)
            if _has_ended(takes, self._clock.now()):
                raise Conflict
            # Repeats take nothing, and no limit refuses them. What is recorded already is counted.
            taken = await store.taken(connection, [one.key for one in asking])
            new = [one for one in asking if one.key not in taken]
            before = {
                (organization_id, counter_id): standing.reserved
                for organization_id, of_organization in standings.items()
                for counter_id, standing in of_organization.items()
            }
            said = decide([(one.key[0], one.takes) for one in new], standings, now)
            for one, told in zip(new, said, strict=True):
                one.said = told
                if told.refused is None:
                    one.pinned = one.pinned._replace(reservations=reservations_of(one.takes))
            _note_statuses(asking, standings)
            for one in asking:
                if one.key in taken:
                    one.takes = ()
            entering = [one for one in waiting if one.said.refused is None]
            repeated = await self._add(connection, entering)
            if any(one.key in repeated for one in new):
                raise Conflict
            # Those in which nothing is reserved are among them, for statements that took no locks (see `quick_store`).
            entered = {
                (one.key[0], counter_id)
                for one in new
                if one.said.refused is None
                for counter_id in one.pinned.reservations.counter_ids
            }
            changes = {
                key: counter_store.Change(_ZERO, standings[key[0]][key[1]].reserved - before[key]) for key in entered
            }
            if changes:
                await counter_store.add(connection, changes)
        _note_written(entering, repeated)
        for one in new:
            self._counters.note_in_shadow(one.said.in_shadow)
        return repeated

    def _takes(self, asking: Sequence[Waiting], now: datetime) -> list[tuple[str, Take]]:
        """Note what each call takes of limits at a moment; return one take of each place, with its organization."""
        # Calls under the same limits share the list of these, and so the places.
        places_of: dict[int, list[Place]] = {}
        needed: dict[int, tuple[str, Take]] = {}
        for one in asking:
            assert one.amounts is not None, "a call with limits has amounts"
            places = places_of.get(id(one.applied))
            is_first = places is None
            if places is None:
                places = [self._counters.place_of(applied, now) for applied in one.applied]
                places_of[id(one.applied)] = places
            one.takes = takes_of(one.applied, places, one.amounts)
            one.said = UNSAID
            one.pinned = one.pinned._replace(reservations=NOTHING_RESERVED)
            if is_first:
                needed.update((id(take.place), (one.key[0], take)) for take in one.takes)
        return list(needed.values())

    async def _add(self, connection: RawConnection, waiting: Sequence[Waiting]) -> set[store.Key]:
        return set(await store.add(connection, [one.pinned for one in waiting])) if waiting else set()

    async def _known(
        self, connection: RawConnection, waiting: Sequence[Waiting], repeated: set[store.Key], own: set[store.Key]
    ) -> dict[store.Key, Stored]:
        """Return the authorizations that were stored before, and note where limits stand for them now."""
        keys = list(repeated | {one.key for one in waiting if one.pinned.fail_if_replayed})
        if not keys:
            return {}
        found = await store.find(connection, keys)
        known = {key: stored for key, stored in found.items() if key in repeated - own or stored.settled}
        repeats = [one for one in waiting if one.takes and one.key in known]
        if repeats:
            takes = [(one.key[0], take) for one in repeats for take in one.takes]
            _note_statuses(repeats, await self._counters.read(connection, takes))
        return known

    def _renew(self, waiting: Sequence[Waiting]) -> None:
        """Give what has waited long the present time, since what is written late must not seem to have been there.

        Whoever looks for authorizations that lapse goes by their times, and comes along once (see `lapses`).
        """
        now = self._clock.now()
        for one in waiting:
            if not one.written and one.pinned.create_time < now - _WRITTEN_WITHIN:
                one.pinned = one.pinned._replace(create_time=now)


def _note_statuses(waiting: Sequence[Waiting], standings: Standings) -> None:
    """Note where limits stand with each of the calls they are in force for."""
    noted: dict[int, Sequence[Status]] = {}
    for one in waiting:
        found = noted.get(id(one.applied))
        if found is None:
            places = [take.place for take in one.takes]
            found = noted[id(one.applied)] = statuses(places, standings.get(one.key[0], {}))
        one.statuses = found


def _note_plan(asking: Sequence[Waiting], plan: _Plan, counted: Sequence[Counted]) -> None:
    """Note where limits stand with each of the calls, from what the counters have now."""
    standings: defaultdict[str, dict[str, Standing]] = defaultdict(dict)
    for ((organization_id, counter_id), _), (used, reserved) in zip(plan.changes, counted, strict=True):
        standings[organization_id][counter_id] = Standing(used, reserved)
    noted: dict[int, Sequence[Status]] = {}
    for one, (organization_id, layout, _) in zip(asking, plan.calls, strict=True):
        found = noted.get(id(layout))
        if found is None:
            found = noted[id(layout)] = statuses(layout.places, standings[organization_id])
        one.statuses = found


def _note_written(waiting: Sequence[Waiting], repeated: set[store.Key]) -> None:
    for one in waiting:
        one.written = one.written or one.key not in repeated


def _has_ended(takes: Sequence[tuple[str, Take]], now: datetime) -> bool:
    """Tell whether a window is over that a burst of the next one looks back at."""
    places = [take.place for _, take in takes if take.place.before is not None]
    return any(place.counter.span.end is not None and place.counter.span.end <= now for place in places)
