"""Lets requests of a proxy pass, as far as limits allow, and counts them.

Requests that arrive together are decided in their order in one transaction, which locks the counters of all their
limits first. Nothing is stored for a request: one that is sent again is counted again, and so is one whose transaction
was tried again because nobody could tell whether it had been committed. More than a limit allows never passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Conflict, FieldViolation, InvalidArgument, Unavailable
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.model.catalogue import Catalogue
from services.metering.quota import counter_store
from services.metering.quota.alerts import Alerts, used_of
from services.metering.quota.allocation_domain import Asked, has_moved_on, takes_of
from services.metering.quota.calls import CallLimits
from services.metering.quota.counters import Counters, sums
from services.metering.quota.decisions import Take
from services.metering.quota.domain import Applied
from services.metering.rate_limit.decisions import Hit, Status, decide
from services.metering.rate_limit.descriptors import Described, Descriptors, Entries, Unknown

METRIC: Final = "tollhouse.unknown_descriptors"
_STEP: Final = Decimal(1)


class Descriptor(NamedTuple):
    """A descriptor, and what the request takes by it."""

    entries: Entries
    value: Decimal


@dataclass(frozen=True, slots=True)
class _Request:
    organization_id: str
    hits: Sequence[Hit]
    limits: Sequence[Sequence[Applied]]
    """Those in force for each hit."""


class RateLimits:
    """Decides requests of proxies."""

    def __init__(
        self,
        descriptors: Descriptors,
        shards: Shards,
        catalogue: Catalogue,
        organizations: Organizations,
        call_limits: CallLimits,
        counters: Counters,
        alerts: Alerts,
        clock: Clock,
        *,
        queue_max: int,
    ) -> None:
        self._descriptors = descriptors
        self._catalogue = catalogue
        self._organizations = organizations
        self._call_limits = call_limits
        self._counters = counters
        self._alerts = alerts
        self._clock = clock
        limits = BatchLimits(
            items_max=500, queued_max=queue_max, running_max=2, shards_max=3, full_at=100, wait_max_s=0.05
        )
        self._commits: GroupCommit[_Request, list[Status]] = GroupCommit(
            "rate limits", self._run, shards, limits, lambda request: request.organization_id
        )
        self._unknown = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Descriptors of proxies that no rule of the configuration is for, by domain."
        )
        self.unknown_count = 0
        """How many descriptors were unknown since the process began."""

    async def decide(self, domain: str, descriptors: Sequence[Descriptor]) -> list[Status]:
        """Decide whether a request passes; return the answer to each descriptor, in their order.

        If an unknown descriptor is denied, nothing is taken by the others.

        Raises:
            InvalidArgument: the descriptors are of several organizations.
            Unavailable: the limits or the catalogue cannot be read.
            Overloaded: too many requests wait already.
        """
        await self._catalogue.refresh()
        described = await self._described(domain, descriptors)
        unknown = described.count(None)
        if unknown:
            self.unknown_count += unknown
            self._unknown.add(unknown, {"domain": domain if self._descriptors.has(domain) else "unknown"})
        allows = self._descriptors.unknown is Unknown.ALLOW
        known = {place: one for place, one in enumerate(described) if one is not None}
        if not known or (unknown and not allows):
            return [Status(passes=one is not None or allows) for one in described]
        organization_ids = {one.organization_id for one in known.values()}
        if len(organization_ids) > 1:
            raise InvalidArgument([FieldViolation("descriptors", "must be of one organization")])
        hits = [Hit(one.call, one.metric, one.currency_code, descriptors[place].value) for place, one in known.items()]
        organization_id = organization_ids.pop()
        limits: list[Sequence[Applied]] = []
        for in_force in await self._call_limits.of([(organization_id, hit.call) for hit in hits]):
            if isinstance(in_force, Unavailable):
                raise in_force
            limits.append(in_force)
        (statuses,) = await self._commits.submit([_Request(organization_id, hits, limits)])
        if isinstance(statuses, Exception):
            raise statuses
        answers = dict(zip(known, statuses, strict=True))
        return [answers.get(place, Status(passes=True)) for place in range(len(descriptors))]

    async def close(self) -> None:
        """Take no more requests, and return when every waiting one is answered."""
        await self._commits.drain()

    async def _described(self, domain: str, descriptors: Sequence[Descriptor]) -> list[Described | None]:
        """Return what the descriptors stand for; None for unknown ones and those of organizations that do not exist."""
        described = [self._descriptors.described(domain, one.entries) for one in descriptors]
        organization_ids = {one.organization_id for one in described if one is not None}
        strange = await self._organizations.find_unknown(organization_ids) if organization_ids else ()
        return [
            None if one is None or one.organization_id in strange else self._with_provider(one) for one in described
        ]

    def _with_provider(self, described: Described) -> Described:
        call = described.call
        model = self._catalogue.model(call.model) if call.model and not call.provider else None
        return described if model is None else described._replace(call=call._replace(provider=model.provider))

    async def _run(
        self, database: Database, requests: Sequence[_Request], let_next_begin: Callable[[], None]
    ) -> list[list[Status] | Exception]:
        now = self._clock.now()
        asked = [self._takes(request, now) for request in requests]
        takes = [
            (request.organization_id, each)
            for request, descriptors in zip(requests, asked, strict=True)
            for one in descriptors
            for each in one
        ]
        if not takes:
            return [[Status(passes=True)] * len(request.hits) for request in requests]
        await self._counters.create(database, takes)
        async with database.raw_transaction() as connection:
            standings = await self._counters.lock(connection, takes)
            if has_moved_on((each for _, each in takes), self._clock.now()):
                raise Conflict
            answers: list[list[Status] | Exception] = []
            taken: list[tuple[counter_store.Key, Decimal, Decimal]] = []
            for request, descriptors in zip(requests, asked, strict=True):
                organization_id = request.organization_id
                statuses, hits = decide(descriptors, standings.get(organization_id, {}), now)
                answers.append(statuses)
                taken += (((organization_id, one.counter_id), one.used, one.reserved) for one in hits)
            if taken:
                await counter_store.add_hits(connection, sums(taken))
            counted = used_of(takes, standings) if taken else ()
            await self._alerts.add(connection, counted)
        self._alerts.remember(counted)
        return answers

    def _takes(self, request: _Request, now: datetime) -> list[list[Take]]:
        """Return what each descriptor of a request takes of limits."""
        return [
            takes_of(
                [self._counters.place_of(applied, now) for applied in limits],
                [Asked(hit.metric, hit.currency_code, hit.value, _STEP)],
                only_asked=True,
            )
            for hit, limits in zip(request.hits, request.limits, strict=True)
        ]
