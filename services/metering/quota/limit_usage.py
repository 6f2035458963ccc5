"""Where the limits of an organization stand: what Authorize decides by, read without locks."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.shards import Shards
from services.metering.quota import counter_store, store
from services.metering.quota.calls import CallLimits
from services.metering.quota.counter_store import Counted, Key
from services.metering.quota.counters import standing_of
from services.metering.quota.decisions import Place, Standing, place_of
from services.metering.quota.domain import Limit, Scope, Shape, Window, canonical_subject, may_be_subject
from services.metering.quota.windows import steps_of, window_of

_SUBJECTS_AT_ONCE: Final = 500
_LOOKED_MAX: Final = 5_000
"""How many subjects one page looks at, most of which may have used nothing in their present window."""
_COUNTERS_AT_ONCE: Final = 5_000

Standings = Sequence[tuple[Place, Standing]]


class Filters(NamedTuple):
    """Which limits are asked for, and for whom; empty for all."""

    name: str
    scope: Scope | None
    scope_value: str


class Position(NamedTuple):
    """A place in the order of a list: a limit's name and a subject."""

    name: str
    subject: str


START: Final = Position("", "")
"""Before all limits, whose names are not empty."""


class LimitUsage:
    """Reads where limits stand."""

    def __init__(self, shards: Shards, call_limits: CallLimits, clock: Clock) -> None:
        self._shards = shards
        self._call_limits = call_limits
        self._clock = clock

    async def page(
        self, organization_id: str, filters: Filters, after: Position, size: int
    ) -> tuple[Standings, Position | None]:
        """Return where limits stand, in the order of their names and subjects, and after which the next page begins.

        Raises:
            Unavailable: billing cannot be asked what the organization is entitled to.
        """
        now = self._clock.now()
        user_id = canonical_subject(Scope.USER, filters.scope_value) if filters.scope is Scope.USER else ""
        if not may_be_subject(Scope.USER, user_id):
            user_id = ""
        entitled = [one.limit for one in await self._call_limits.entitled_to(organization_id, user_id)]
        async with self._shards.of(organization_id).raw_connection() as connection:
            entries = (await store.of(connection, [organization_id])).get(organization_id, ())
            known = sorted([*(entry.limit for entry in entries), *entitled], key=lambda limit: limit.name)
            limits = (limit for limit in known if _is_asked_for(limit, filters))
            search = _Search(connection, organization_id, now, size)
            following = await search.run(limits, filters.scope_value, after)
            places = [place_of(limit, subject, now) for limit, subject in search.found[:size]]
            return await standings_at(connection, organization_id, places), following


class _Search:
    """Finds for whom limits count, up to one more than a page holds."""

    def __init__(self, connection: RawConnection, organization_id: str, now: datetime, size: int) -> None:
        self._connection = connection
        self._organization_id = organization_id
        self._now = now
        self._size = size
        self._looked = 0
        self.found: list[tuple[Limit, str]] = []

    async def run(self, limits: Iterable[Limit], scope_value: str, after: Position) -> Position | None:
        """Search the limits from a position on; return where the page ends, None where nothing follows."""
        for limit in limits:
            if limit.name < after.name:
                continue
            is_begun = limit.name == after.name
            subject = _only_subject(limit.shape, scope_value)
            if subject is None:
                following = await self._look(limit, after.subject if is_begun else "")
                if following is not None:
                    return following
            elif not is_begun or subject > after.subject:
                self.found.append((limit, subject))
            if len(self.found) > self._size:
                last, subject = self.found[self._size - 1]
                return Position(last.name, subject)
        return None

    async def _look(self, limit: Limit, after: str) -> Position | None:
        """Add those who have used something of a limit; return where the search stops that has looked at too many."""
        since = _present_since(limit.shape, self._now)
        while len(self.found) <= self._size:
            if self._looked >= _LOOKED_MAX:
                return Position(limit.name, after)
            subjects = await counter_store.subjects(
                self._connection,
                self._organization_id,
                limit.limit_id,
                after=after,
                since=since,
                count=_SUBJECTS_AT_ONCE,
            )
            self.found += [(limit, subject) for subject, has_used in subjects if has_used]
            self._looked += len(subjects)
            if len(subjects) < _SUBJECTS_AT_ONCE:
                return None
            after = subjects[-1][0]
        return None


def _is_asked_for(limit: Limit, filters: Filters) -> bool:
    scope = limit.shape.scope
    if filters.name and limit.name != filters.name:
        return False
    if scope is Scope.ORGANIZATION and filters.scope_value:
        return True
    if filters.scope is not None and scope is not filters.scope:
        return False
    if not filters.scope_value:
        return True
    value = canonical_subject(scope, filters.scope_value)
    return limit.shape.scope_value == value if limit.shape.scope_value else may_be_subject(scope, value)


def _only_subject(shape: Shape, scope_value: str) -> str | None:
    """Return the only one whom a limit counts, or who is asked for; None where those who have used something are."""
    if shape.scope is Scope.ORGANIZATION or shape.scope_value:
        return shape.scope_value
    if scope_value:
        return canonical_subject(shape.scope, scope_value)
    return "" if shape.window is Window.CALL else None


def _present_since(shape: Shape, now: datetime) -> datetime:
    """Return when the present window began; for a sliding one, the earliest step that counts."""
    span = window_of(shape, now)
    return steps_of(shape, span)[-1].start if shape.sliding else span.start


async def standings_at(connection: RawConnection, organization_id: str, places: Sequence[Place]) -> Standings:
    """Return what is counted at places, in their order."""
    found: list[tuple[Place, Standing]] = []
    for some, keys in _portions(organization_id, places):
        counted: dict[Key, Counted] = await counter_store.read(connection, keys) if keys else {}
        found += [(place, standing_of(organization_id, place, counted)) for place in some]
    return found


def _portions(organization_id: str, places: Sequence[Place]) -> Iterator[tuple[list[Place], list[Key]]]:
    """Divide places into those whose counters are read in one statement, each with the keys of these."""
    some: list[Place] = []
    keys: list[Key] = []
    for place in places:
        some.append(place)
        if place.counter.limit.shape.window is not Window.CALL:
            counters = [place.counter] if place.before is None else [place.counter, place.before]
            keys += [(organization_id, counter.counter_id) for counter in counters]
            keys += [(organization_id, step) for step in place.steps]
        if len(keys) >= _COUNTERS_AT_ONCE:
            yield some, keys
            some, keys = [], []
    if some:
        yield some, keys
