"""Lets requests of a proxy pass, as far as limits allow, and counts them (see `hits`)."""

from collections import OrderedDict
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from opentelemetry import metrics

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.clients.organizations import Organizations
from services.metering.rate_limit.decisions import Hit, Status
from services.metering.rate_limit.descriptors import Described, Descriptors, Entries, Unknown
from services.metering.rate_limit.hits import Hits

METRIC: Final = "tollhouse.unknown_descriptors"
_KNOWN_MAX: Final = 20_000


class Descriptor(NamedTuple):
    """A descriptor, and what the request takes by it."""

    entries: Entries
    value: Decimal


class RateLimits:
    """Decides requests of proxies."""

    def __init__(self, descriptors: Descriptors, organizations: Organizations, hits: Hits) -> None:
        self._descriptors = descriptors
        self._organizations = organizations
        self._hits = hits
        self._unknown = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Descriptors of proxies that no rule of the configuration is for, by domain."
        )
        self._known: OrderedDict[tuple[str, tuple[tuple[str, str], ...]], Described] = OrderedDict()
        """What descriptors stand for, by their domain and entries."""

    async def decide(self, domain: str, descriptors: Sequence[Descriptor]) -> list[Status]:
        """Decide whether a request passes; return the answer to each descriptor, in their order.

        If an unknown descriptor is denied, nothing is taken by the others.

        Raises:
            InvalidArgument: the descriptors are of several organizations.
            Unavailable: the limits or the catalogue cannot be read.
            Overloaded: too many requests wait already.
        """
        described = await self._described(domain, descriptors)
        unknown = described.count(None)
        if unknown:
            self._unknown.add(unknown, {"domain": domain if self._descriptors.has(domain) else "unknown"})
        allows = self._descriptors.unknown is Unknown.ALLOW
        known = {place: one for place, one in enumerate(described) if one is not None}
        if not known or (unknown and not allows):
            return [Status(passes=one is not None or allows) for one in described]
        organization_ids = {one.organization_id for one in known.values()}
        if len(organization_ids) > 1:
            raise InvalidArgument([FieldViolation("descriptors", "must be of one organization")])
        hits = [Hit(one.call, one.metric, one.currency_code, descriptors[place].value) for place, one in known.items()]
        statuses = await self._hits.take(organization_ids.pop(), hits)
        answers = dict(zip(known, statuses, strict=True))
        return [answers.get(place, Status(passes=True)) for place in range(len(descriptors))]

    async def _described(self, domain: str, descriptors: Sequence[Descriptor]) -> list[Described | None]:
        """Return what the descriptors stand for; None for unknown ones and those of organizations that do not exist."""
        described = [self._describe(domain, one.entries) for one in descriptors]
        organization_ids = {one.organization_id for one in described if one is not None}
        strange = await self._organizations.find_unknown(organization_ids) if organization_ids else ()
        return [None if one is None or one.organization_id in strange else one for one in described]

    def _describe(self, domain: str, entries: Entries) -> Described | None:
        key = domain, tuple(entries)
        described = self._known.get(key)
        if described is None:
            described = self._descriptors.described(domain, entries)
            if described is not None:
                self._known[key] = described
                if len(self._known) > _KNOWN_MAX:
                    self._known.popitem(last=False)
        return described
