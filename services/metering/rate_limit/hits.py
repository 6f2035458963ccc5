"""Takes what requests of proxies use of limits, or looks whether it could be taken.

Requests that arrive together are decided in their order. Where all limits leave what all of them take, which is the
usual case, one statement looks and takes. Otherwise a transaction locks the counters first, so that some of them can
pass; so it does where limits have thresholds, whose alerts are stored with what reaches them. Nothing is stored for a
request: one that is sent again is counted again, and so is one whose transaction was tried again because nobody could
tell whether it had been committed. More than a limit allows never passes.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Conflict, Unavailable
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.shards import Shards
from services.metering.model.catalogue import Catalogue
from services.metering.quota import counter_store
from services.metering.quota.alerts import Alerts, used_of
from services.metering.quota.allocation_domain import Asked, has_moved_on, takes_of
from services.metering.quota.calls import CallLimits, InForce
from services.metering.quota.counters import Counters, Standings, sums
from services.metering.quota.decisions import Place, Standing, Take, standing_at
from services.metering.quota.domain import Applied, Call
from services.metering.rate_limit.decisions import Hit, Status, decide, give_back

_STEP: Final = Decimal(1)
_FULL_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Request:
    organization_id: str
    hits: Sequence[Hit]
    limits: Sequence[Sequence[Applied]]
    """Those in force for each hit."""
    tells_limits: bool


class Looked(NamedTuple):
    """The answer to a hit, and, where that is asked for, where the limits of its metric stand."""

    status: Status
    limits: Sequence[tuple[Place, Standing]] = ()


class Hits:
    """Decides what requests of proxies use."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        call_limits: CallLimits,
        counters: Counters,
        alerts: Alerts,
        clock: Clock,
        *,
        queue_max: int,
    ) -> None:
        self._catalogue = catalogue
        self._call_limits = call_limits
        self._counters = counters
        self._alerts = alerts
        self._clock = clock
        self._full: OrderedDict[str, None] = OrderedDict()
        """Counters that refused a hit lately: requests that need one of them are decided under locks at once."""
        limits = BatchLimits(
            items_max=500, queued_max=queue_max, running_max=2, shards_max=3, full_at=100, wait_max_s=0.05
        )
        self._takers: GroupCommit[_Request, Sequence[Looked]] = GroupCommit(
            "rate limits", self._take, shards, limits, lambda request: request.organization_id
        )
        self._lookers: GroupCommit[_Request, Sequence[Looked]] = GroupCommit(
            "looks at rate limits", self._look, shards, limits, lambda request: request.organization_id
        )

    def now(self) -> datetime:
        return self._clock.now()

    async def in_force(self, organization_id: str, calls: Sequence[Call]) -> list[InForce]:
        """Return what holds for calls, in their order.

        Raises:
            Unavailable: the limits or the catalogue cannot be read.
        """
        await self._catalogue.refresh()
        found: list[InForce] = []
        for one in await self._call_limits.of([(organization_id, self._with_provider(call)) for call in calls]):
            if isinstance(one, Unavailable):
                raise one
            found.append(one)
        return found

    async def take(self, organization_id: str, hits: Sequence[Hit]) -> list[Status]:
        """Take what hits use of the limits in force for them, or nothing; return the answer to each, in their order.

        Raises:
            Unavailable: the limits or the catalogue cannot be read.
            Overloaded: too many requests wait already.
        """
        limits = [one.applied for one in await self.in_force(organization_id, [hit.call for hit in hits])]
        request = _Request(organization_id, hits, limits, tells_limits=False)
        return [one.status for one in await self._answer(self._takers, request)]

    async def take_one(self, organization_id: str, hit: Hit, limits: Sequence[Applied], *, only_look: bool) -> Looked:
        """Take what a hit uses of the limits in force for it, and say where they stand.

        With `only_look` nothing is taken, and the answer says whether it could be.

        Raises:
            Unavailable: the counters cannot be read.
            Overloaded: too many requests wait already.
        """
        request = _Request(organization_id, [hit], [limits], tells_limits=True)
        (looked,) = await self._answer(self._lookers if only_look else self._takers, request)
        return looked

    async def close(self) -> None:
        """Take no more requests, and return when every waiting one is answered."""
        await self._takers.drain()
        await self._lookers.drain()

    @staticmethod
    async def _answer(commits: GroupCommit[_Request, Sequence[Looked]], request: _Request) -> Sequence[Looked]:
        (answer,) = await commits.submit([request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _with_provider(self, call: Call) -> Call:
        model = self._catalogue.model(call.model) if call.model and not call.provider else None
        return call if model is None else call._replace(provider=model.provider)

    async def _take(
        self, database: Database, requests: Sequence[_Request], let_next_begin: Callable[[], None]
    ) -> list[Sequence[Looked] | Exception]:
        now = self._clock.now()
        asked = [self._takes(request, now) for request in requests]
        takes = _all_of(requests, asked)
        if not takes:
            return [[_UNLIMITED] * len(request.hits) for request in requests]
        await self._counters.create(database, takes)
        standings = None
        if not any(take.place.counter.counter_id in self._full or take.limit.terms.thresholds for _, take in takes):
            async with database.raw_connection() as connection:
                standings = await self._counters.take_if_left(connection, takes)
        if standings is not None:
            answers, _, shadowed = self._decide(requests, asked, standings, now)
        else:
            async with database.raw_transaction() as connection:
                standings = await self._counters.lock(connection, takes)
                if has_moved_on((each for _, each in takes), self._clock.now()):
                    raise Conflict
                answers, taken, shadowed = self._decide(requests, asked, standings, now)
                if taken:
                    await counter_store.add_hits(connection, sums(taken))
                counted = used_of(takes, standings) if taken else ()
                await self._alerts.add(connection, counted)
            self._alerts.remember(counted)
        self._counters.note_in_shadow(shadowed)
        return answers

    def _decide(
        self,
        requests: Sequence[_Request],
        asked: Sequence[Sequence[Sequence[Take]]],
        standings: Standings,
        now: datetime,
    ) -> tuple[list[Sequence[Looked] | Exception], list[tuple[counter_store.Key, Decimal, Decimal]], list[str]]:
        """Decide requests in their order; return the answers, what is taken, and what limits in shadow would refuse."""
        answers: list[Sequence[Looked] | Exception] = []
        taken: list[tuple[counter_store.Key, Decimal, Decimal]] = []
        shadowed: list[str] = []
        for request, hits in zip(requests, asked, strict=True):
            organization_id = request.organization_id
            standing = standings.get(organization_id, {})
            decided = decide(hits, standing, now)
            answers.append(_looked(request, decided.statuses, hits, standing))
            taken += (((organization_id, one.counter_id), one.used, one.reserved) for one in decided.taken)
            shadowed += decided.in_shadow
            for status in decided.statuses:
                if status.refused is not None:
                    self._note_full(status.refused.take.place.counter.counter_id)
        return answers, taken, shadowed

    def _note_full(self, counter_id: str) -> None:
        self._full[counter_id] = None
        if len(self._full) > _FULL_MAX:
            self._full.popitem(last=False)

    async def _look(
        self, database: Database, requests: Sequence[_Request], let_next_begin: Callable[[], None]
    ) -> list[Sequence[Looked] | Exception]:
        now = self._clock.now()
        asked = [self._takes(request, now) for request in requests]
        takes = _all_of(requests, asked)
        if not takes:
            return [[_UNLIMITED] * len(request.hits) for request in requests]
        async with database.raw_connection() as connection:
            standings = await self._counters.read(connection, takes)
        answers: list[Sequence[Looked] | Exception] = []
        for request, hits in zip(requests, asked, strict=True):
            standing = standings.get(request.organization_id, {})
            decided = decide(hits, standing, now)
            give_back(decided.taken, standing)
            answers.append(_looked(request, decided.statuses, hits, standing))
        return answers

    def _takes(self, request: _Request, now: datetime) -> list[list[Take]]:
        """Return what each hit of a request takes of limits."""
        return [
            takes_of(
                [self._counters.place_of(applied, now) for applied in limits],
                [Asked(hit.metric, hit.currency_code, hit.value, _STEP)],
                only_asked=True,
            )
            for hit, limits in zip(request.hits, request.limits, strict=True)
        ]


_UNLIMITED: Final = Looked(Status(passes=True))


def _all_of(requests: Sequence[_Request], asked: Sequence[Sequence[Sequence[Take]]]) -> list[tuple[str, Take]]:
    return [
        (request.organization_id, take)
        for request, hits in zip(requests, asked, strict=True)
        for takes in hits
        for take in takes
    ]


def _looked(
    request: _Request,
    statuses: Sequence[Status],
    hits: Sequence[Sequence[Take]],
    standings: Mapping[str, Standing],
) -> Sequence[Looked]:
    if not request.tells_limits:
        return [Looked(status) for status in statuses]
    # What is decided next does not change where the limits stand now.
    return [
        Looked(status, [(one.place, replace(standing_at(one.place, standings))) for one in takes])
        for status, takes in zip(statuses, hits, strict=True)
    ]
