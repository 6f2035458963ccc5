"""Finds where the limits count that settled calls have reserved in."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

import structlog

from libs.common.database import Database
from libs.common.errors import Refusal, Unavailable
from services.metering.quota import counter_store
from services.metering.quota.book import LimitBook
from services.metering.quota.calls import InForce
from services.metering.quota.counter_store import Identity, Key
from services.metering.quota.decisions import Counter, Place, place_of
from services.metering.quota.domain import Limit
from services.metering.quota.windows import Span
from services.metering.usage.callers import Caller, caller_of
from services.metering.usage.counts import counters_of
from services.metering.usage.domain import Recorded

_log = structlog.get_logger("usage")

_IDENTITIES_MAX: Final = 100_000
_TOGETHER_MAX: Final = 5_000

_Found = Callable[[Collection[Caller]], Awaitable[Mapping[Caller, InForce]]]


class CounterPlaces:
    """Finds the places of counters."""

    def __init__(self, book: LimitBook, found: _Found) -> None:
        """`found` returns what holds for the usage of callers."""
        self._book = book
        self._found = found
        self._identities: OrderedDict[str, Identity] = OrderedDict()
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._together: OrderedDict[tuple[str, tuple[str, ...]], tuple[Sequence[Limit], Mapping[Key, Place]]] = (
            OrderedDict()
        )
        """The places of counters that calls have reserved in together, with the limits that were set then: these are
        another list as soon as one is changed. What callers are entitled to is not among them."""

    async def of(self, database: Database, settled: Sequence[Recorded]) -> dict[Key, Place]:
        """Return where the limits count that calls have reserved in, as far as they are known.

        Work that is done is recorded in any case. Where this cannot be read, the alerts that it is due for are stored
        with the next use in the window.
        """
        places: dict[Key, Place] = {}
        unknown: dict[tuple[str, tuple[str, ...]], Recorded] = {}
        try:
            books = await self._books_of({one.work.organization_id for one in settled})
            for one in settled:
                if one.counts is None or not counters_of(one.counts):
                    continue
                together = one.work.organization_id, counters_of(one.counts)
                limits, known = self._together.get(together, ((), {}))
                if known and limits is books[together[0]]:
                    places |= known
                else:
                    unknown[together] = one
            if unknown:
                places |= await self._find(database, unknown, books)
        except Refusal as refusal:
            _log.warning("limits of settled calls not read", schema=database.schema, reason=refusal.reason)
            return {}
        return places

    async def _books_of(self, organization_ids: Collection[str]) -> dict[str, Sequence[Limit]]:
        """Return the limits that are set for organizations.

        Raises:
            Unavailable: those of one cannot be read.
        """
        books: dict[str, Sequence[Limit]] = {}
        for organization_id, known in (await self._book.of(organization_ids)).items():
            if isinstance(known, Unavailable):
                raise known
            books[organization_id] = known
        return books

    async def _find(
        self,
        database: Database,
        unknown: Mapping[tuple[str, tuple[str, ...]], Recorded],
        books: Mapping[str, Sequence[Limit]],
    ) -> dict[Key, Place]:
        """Return the places of counters of calls, by the organization and the counters of each."""
        keys = {(organization_id, one) for organization_id, counter_ids in unknown for one in counter_ids}
        await self._identify(database, keys)
        set_ones = {(organization_id, one.limit_id): one for organization_id, book in books.items() for one in book}
        limits = await self._with_entitled(set_ones, list(unknown.values()), keys)
        places: dict[Key, Place] = {}
        for organization_id, counter_id in keys:
            identity = self._identities.get(counter_id)
            limit = None if identity is None else limits.get((organization_id, identity.limit_id))
            if identity is not None and limit is not None:
                places[organization_id, counter_id] = self._place(limit, counter_id, identity)
        for together in unknown:
            self._remember(together, books[together[0]], places, set_ones)
        return places

    async def _identify(self, database: Database, keys: Collection[Key]) -> None:
        """Know what counters count. It is remembered, since calls that follow are counted in the same."""
        unknown = [key for key in keys if key[1] not in self._identities]
        if unknown:
            async with database.raw_connection() as connection:
                self._identities |= await counter_store.identities(connection, unknown)
        while len(self._identities) > _IDENTITIES_MAX:
            self._identities.popitem(last=False)

    async def _with_entitled(
        self, set_ones: Mapping[Key, Limit], settled: Sequence[Recorded], keys: Collection[Key]
    ) -> dict[Key, Limit]:
        """Return limits by organization and id: those that are set, and those that the callers are entitled to."""
        limits = dict(set_ones)
        identities = ((organization_id, self._identities.get(one)) for organization_id, one in keys)
        if any(
            one is not None and (organization_id, one.limit_id) not in limits for organization_id, one in identities
        ):
            for caller, found in (await self._found({caller_of(one) for one in settled})).items():
                limits |= {(caller.organization_id, one.limit.limit_id): one.limit for one in found.applied}
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

    def _remember(
        self,
        together: tuple[str, tuple[str, ...]],
        book: Sequence[Limit],
        places: Mapping[Key, Place],
        set_ones: Mapping[Key, Limit],
    ) -> None:
        """Remember the places of counters that calls have reserved in together, if the limits of all are set."""
        organization_id, counter_ids = together
        found: dict[Key, Place] = {}
        for counter_id in counter_ids:
            place = places.get((organization_id, counter_id))
            if place is None or (organization_id, place.counter.limit.limit_id) not in set_ones:
                return
            found[organization_id, counter_id] = place
        self._together.pop(together, None)
        self._together[together] = book, found
        if len(self._together) > _TOGETHER_MAX:
            self._together.popitem(last=False)
