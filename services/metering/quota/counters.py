"""The counters of limits: they are created, locked, decided by, and changed.

A decision locks the counters of all limits of its calls in the order of their keys, decides in memory, and changes them
in the same transaction (see `decisions`). So a limit holds exactly, whatever the number of processes. Counters are
created beforehand, in a transaction of its own, and stay while their window is looked at.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NoReturn

from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Conflict
from libs.common.shards import Shards
from services.metering.quota import counter_store
from services.metering.quota.allocation_domain import COUNTED_MAX
from services.metering.quota.counter_store import Change, Counted, Key, New
from services.metering.quota.decisions import Counter, Place, Standing, Take, carried, later_steps, place_of
from services.metering.quota.domain import Applied, Enforcement, Limit, Window
from services.metering.quota.layouts import Layout, layout_of
from services.metering.quota.windows import kept_until

SHADOW_METRIC: Final = "tollhouse.limits_shadow_refused"
_PLACES_MAX: Final = 100_000
_LAYOUTS_MAX: Final = 20_000
_CREATED_MAX: Final = 200_000
_ZERO: Final = Decimal(0)
_NOTHING: Final = Counted(_ZERO, _ZERO)
_SWEEP_EVERY_S: Final = 30.0
CAREFUL_BATCHES: Final = 8
"""How many batches go the careful way after one that could not be done in one statement: it may be so again."""
_CLOCK_AHEAD: Final = timedelta(seconds=1)
"""How far the clock of another process is thought to be ahead."""
_KEPT_LONGER: Final = timedelta(minutes=1)
"""How long a counter is kept beyond its time, since the clocks of two processes differ."""

Standings = Mapping[str, Mapping[str, Standing]]
"""What is counted, by organization and counter."""


class Counters:
    """Knows where limits count, and which counters exist."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock
        self._places: OrderedDict[tuple[str, str], tuple[Limit, Place]] = OrderedDict()
        self._created: OrderedDict[str, None] = OrderedDict()
        self._layouts: OrderedDict[int, Layout] = OrderedDict()
        self._in_shadow = metrics.get_meter("tollhouse").create_counter(
            SHADOW_METRIC, description="Calls that a limit in shadow mode would have refused, by the metric it counts."
        )

    def note_in_shadow(self, limit_metrics: Iterable[str]) -> None:
        """Count what SHADOW limits would have refused, by the metrics of these limits."""
        for metric in limit_metrics:
            self._in_shadow.add(1, {"metric": metric})

    def layout(self, applied: Sequence[Applied], moment: datetime) -> Layout:
        """Return where calls under these limits count at a moment. It is remembered for the list of limits."""
        layout = self._layouts.get(id(applied))
        if layout is None or not layout.holds(applied, moment):
            layout = layout_of(applied, [self.place_of(one, moment) for one in applied])
            self._layouts.pop(id(applied), None)
            self._layouts[id(applied)] = layout
            if len(self._layouts) > _LAYOUTS_MAX:
                self._layouts.popitem(last=False)
        return layout

    async def create_all(self, database: Database, layouts: Iterable[tuple[str, Layout]]) -> None:
        """Create the counters of organizations that this process does not know to exist."""
        missing = {
            id(layout): (organization_id, layout) for organization_id, layout in layouts if not layout.is_created
        }
        takes = (
            (organization_id, Take(place, _ZERO, asked=False))
            for organization_id, layout in missing.values()
            for place in layout.places
        )
        if missing:
            await self.create(database, takes)
        for _, layout in missing.values():
            layout.is_created = True

    def place_of(self, applied: Applied, moment: datetime) -> Place:
        """Return where a limit counts what happens at a moment. The latest window of each is remembered."""
        limit, subject = applied
        key = limit.limit_id, subject
        limit_before, place = self._places.get(key, (None, None))
        if limit_before is limit and place is not None:
            start, end = place.counter.span
            if start <= moment and (end is None or moment < end):
                return place
        place = place_of(limit, subject, moment)
        self._places.pop(key, None)
        self._places[key] = limit, place
        if len(self._places) > _PLACES_MAX:
            self._places.popitem(last=False)
        return place

    async def create(self, database: Database, takes: Iterable[tuple[str, Take]]) -> None:
        """Create the counters that takes of organizations need and that this process does not know to exist.

        What is locked for a sliding window is needed for as long as the latest of its steps.
        """
        new: dict[str, New] = {}
        for organization_id, take in takes:
            if take.limit.shape.window is Window.CALL:
                continue
            for counter in take.place.locked:
                if counter.counter_id not in self._created:
                    new[counter.counter_id] = _new(organization_id, counter)
            head, step = take.place.head, new.get(take.place.counter.counter_id)
            if head is not None and step is not None:
                new[head.counter_id] = _new(organization_id, head)._replace(drop_time=step.drop_time)
        if not new:
            return
        async with database.raw_connection() as connection:
            await counter_store.create(connection, list(new.values()))
        for counter_id in new:
            self._created[counter_id] = None
        while len(self._created) > _CREATED_MAX:
            self._created.popitem(last=False)

    async def lock(self, connection: RawConnection, takes: Sequence[tuple[str, Take]]) -> Standings:
        """Lock the counters of takes until the end of the transaction, and return what they have.

        Raises:
            Conflict: a counter was deleted meanwhile. It is created by the next attempt.
        """
        places = _places(takes)
        keys = _locked(places)
        found = await counter_store.lock(connection, keys) if keys else {}
        if len(found) < len(keys):
            for _, counter_id in keys - found.keys():
                self._created.pop(counter_id, None)
            raise Conflict
        steps = _steps(places)
        if not steps:
            return _standings(places, found)
        # With a statement of its own: it sees what was committed while the locks were waited for.
        later = {
            key: later_steps(place, self._clock.now() + _CLOCK_AHEAD) for key, place in places.items() if place.steps
        }
        steps.update((key[0], step) for key, ids in later.items() for step in ids)
        counted = {**found, **await counter_store.read(connection, steps)}
        standings = _standings(places, counted)
        for (organization_id, counter_id), ids in later.items():
            standing = standings[organization_id][counter_id]
            standing.used += sum((sum(counted.get((organization_id, step), _NOTHING)) for step in ids), _ZERO)
        return standings

    async def take_if_left(self, connection: RawConnection, takes: Sequence[tuple[str, Take]]) -> Standings | None:
        """Count all takes in one statement, if every limit leaves it; return what the counters had before.

        None where nothing was counted: a limit leaves too little, or only a decision under locks can tell.
        """
        wanted: dict[Key, tuple[Decimal, Decimal]] = {}
        for organization_id, take in takes:
            counter, terms = take.place.counter, take.limit.terms
            if len(take.place.locked) > 1 or take.limit.shape.window is Window.CALL or terms.maximum == 0:
                return None
            key = organization_id, counter.counter_id
            used, maximum = wanted.get(key, (_ZERO, COUNTED_MAX))
            if terms.maximum is not None and terms.enforcement is Enforcement.HARD:
                maximum = min(maximum, terms.maximum)
            wanted[key] = used + take.amount, maximum
            if wanted[key][0] > maximum:
                return None
        before = await counter_store.take_if_left(connection, wanted)
        return _standings(_places(takes), before) if before else None

    async def read(self, connection: RawConnection, takes: Sequence[tuple[str, Take]]) -> Standings:
        """Return what the counters of takes have, without locks. A counter that does not exist has nothing."""
        places = _places(takes)
        keys = _locked(places) | _steps(places)
        return _standings(places, await counter_store.read(connection, keys) if keys else {})

    async def run(self) -> NoReturn:
        """Delete counters that nothing looks at any more, until cancelled."""
        await self._shards.visit(self.sweep, every_s=_SWEEP_EVERY_S)

    async def sweep(self, database: Database) -> None:
        """Go once through the counters of a shard, step by step."""
        after: Key | None = counter_store.FIRST_KEY
        drop_time = self._clock.now() - _KEPT_LONGER
        while after is not None:
            async with database.raw_connection() as connection:
                until = await counter_store.sweep_end(connection, after)
                await counter_store.sweep(connection, after, until, drop_time)
            after = until


def standing_of(organization_id: str, place: Place, counted: Mapping[Key, Counted]) -> Standing:
    """Return what is counted at a place, from what its counters have. One that does not exist has counted nothing."""
    standing = Standing(*counted.get((organization_id, place.counter.counter_id), _NOTHING))
    if place.steps:
        steps = (counted.get((organization_id, step)) for step in place.steps)
        standing.earlier = tuple(_ZERO if one is None else one.used + one.reserved for one in steps)
        standing.earlier_sum = sum(standing.earlier, _ZERO)
    elif place.before is not None:
        before = Standing(*counted.get((organization_id, place.before.counter_id), _NOTHING))
        standing.carried = carried(place.counter.limit, before)
    return standing


def is_kept(place: Place, now: datetime) -> bool:
    """Tell whether a window is still looked at, so that what belongs to it is counted."""
    until = kept_until(place.counter.limit.shape, place.counter.span)
    return until is None or now < until


def sums(changes: Iterable[tuple[Key, Decimal, Decimal]]) -> dict[Key, Change]:
    """Return by how much counters change, from single changes: key, used, reserved."""
    summed: dict[Key, Change] = {}
    for key, used, reserved in changes:
        before = summed.get(key)
        summed[key] = Change(used, reserved) if before is None else Change(before[0] + used, before[1] + reserved)
    return summed


def _places(takes: Sequence[tuple[str, Take]]) -> dict[Key, Place]:
    """Return the places of takes by their keys. A limit of single calls has no counter."""
    return {
        (organization_id, take.place.counter.counter_id): take.place
        for organization_id, take in takes
        if take.limit.shape.window is not Window.CALL
    }


def _locked(places: Mapping[Key, Place]) -> set[Key]:
    return {(key[0], counter.counter_id) for key, place in places.items() for counter in place.locked}


def _steps(places: Mapping[Key, Place]) -> set[Key]:
    return {(key[0], step) for key, place in places.items() for step in place.steps}


def _standings(places: Mapping[Key, Place], found: Mapping[Key, Counted]) -> Standings:
    """Return what is counted at places, from the counters that were found."""
    standings: defaultdict[str, dict[str, Standing]] = defaultdict(dict)
    for (organization_id, counter_id), place in places.items():
        standings[organization_id][counter_id] = standing_of(organization_id, place, found)
    return standings


async def give_back(
    connection: RawConnection, operations: Sequence[Key], *, ended_before: datetime | None = None
) -> set[Key]:
    """Give back what authorizations have reserved, in the running transaction; return those for which that was due.

    Nothing is given back twice, and nothing that is settled. Where a time is given, nothing is given back of those
    whose holds end later, but for cancelled and declined ones. The counters are locked first, in the order of their
    keys.
    """
    reserved = await counter_store.reserved_by(connection, operations)
    if not reserved:
        return set()
    keys = {(key[0], one.counter_id) for key, reservations in reserved.items() for one in reservations}
    await counter_store.lock(connection, keys)
    due = await counter_store.release(connection, list(reserved), ended_before)
    changes = sums(((key[0], one.counter_id), _ZERO, -one.amount) for key in due for one in reserved[key])
    if changes:
        await counter_store.add(connection, changes)
    return due


def _new(organization_id: str, counter: Counter) -> New:
    shape, span = counter.limit.shape, counter.span
    return New(
        organization_id,
        counter.counter_id,
        counter.limit.limit_id,
        counter.subject,
        span.start,
        span.end,
        kept_until(shape, span),
        shape.metric,
        shape.currency_code,
        counter.limit.is_entitled,
    )
