"""The subscriptions of an organization, each with where its limits stand.

Billing says which there are and in which state; whether one's quota is used up follows from its limits at this moment.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.shards import Shards
from services.metering.clients.subscriptions import Subject, Subscription, SubscriptionsClient
from services.metering.quota import store
from services.metering.quota.calls import CallLimits
from services.metering.quota.decisions import Place, Standing, left, place_of
from services.metering.quota.domain import Applied, Call, Enforcement, Limit, Scope, Window, subject_of
from services.metering.quota.limit_usage import Standings, standings_at

SUBSCRIPTIONS_MAX: Final = 100
"""The most subscriptions of a page."""
_SET_LIMITS_MAX: Final = 5_000
"""The most limits that are set for subscriptions of which one page reads where they stand."""
_NO_QUOTA: Final = (Window.NONE, Window.CALL, Window.LIFETIME)


class Asked(NamedTuple):
    """Which subscriptions are asked for, and which limits of theirs; empty for all."""

    subject: Subject
    subscription_id: str
    name: str


class Listed(NamedTuple):
    """A subscription, and where its limits stand."""

    number: int
    """Its place in billing's page."""
    subscription: Subscription
    standings: Standings

    @property
    def is_used_up(self) -> bool:
        """Whether a quota leaves nothing: a hard limit above zero, whose window ends."""
        return any(_is_used_up(place, standing) for place, standing in self.standings)


class SubscriptionUsage:
    """Reads the subscriptions of organizations with their limits."""

    def __init__(
        self, shards: Shards, call_limits: CallLimits, subscriptions: SubscriptionsClient, clock: Clock
    ) -> None:
        self._shards = shards
        self._call_limits = call_limits
        self._subscriptions = subscriptions
        self._clock = clock

    async def page(self, organization_id: str, asked: Asked, size: int, page_token: str) -> tuple[list[Listed], str]:
        """Return subscriptions that have not ended, the latest first, and the token of the page after these.

        Raises:
            InvalidArgument: the token is none of this list.
            Unavailable: billing cannot be asked.
        """
        now = self._clock.now()
        async with self._shards.of(organization_id).raw_connection() as connection:
            entries = (await store.of(connection, [organization_id])).get(organization_id, ())
        limits = [entry.limit for entry in entries if entry.limit.shape.scope is Scope.SUBSCRIPTION]
        size = max(1, min(size, _SET_LIMITS_MAX // max(len(limits), 1)))
        found, following = await self._find(organization_id, asked, size, page_token)
        lasting = {number: one for number, one in enumerate(found) if not one.has_ended}
        applied = await asyncio.gather(*(self._applied(organization_id, one, limits) for one in lasting.values()))
        places = [
            [place_of(*one, now) for one in of_subscription if asked.name in ("", one.limit.name)]
            for of_subscription in applied
        ]
        async with self._shards.of(organization_id).raw_connection() as connection:
            standings = iter(
                await standings_at(connection, organization_id, [place for some in places for place in some])
            )
        return list(_listed(lasting, places, standings)), following

    async def _find(
        self, organization_id: str, asked: Asked, size: int, page_token: str
    ) -> tuple[list[Subscription], str]:
        if not asked.subscription_id:
            return await self._subscriptions.page(organization_id, asked.subject, size, page_token)
        one = await self._subscriptions.find(organization_id, asked.subscription_id)
        return ([] if one is None else [one]), ""

    async def _applied(self, organization_id: str, one: Subscription, limits: Sequence[Limit]) -> list[Applied]:
        """Return the limits of a subscription, in the order of their names; none where it entitles to nothing."""
        if not one.entitles:
            return []
        given = await self._call_limits.given_by(organization_id, one.subscription_id, one.subject)
        if given is None:
            return []
        call = Call(subscription_id=one.subscription_id)
        set_for_it = [
            Applied(limit, subject) for limit in limits if (subject := subject_of(limit.shape, call)) is not None
        ]
        return sorted([*given, *set_for_it], key=lambda one: one.limit.name)


def _listed(
    lasting: Mapping[int, Subscription], places: Sequence[Sequence[Place]], standings: Iterator[tuple[Place, Standing]]
) -> Iterator[Listed]:
    for (number, one), some in zip(lasting.items(), places, strict=True):
        yield Listed(number, one, [next(standings) for _ in some])


def _is_used_up(place: Place, standing: Standing) -> bool:
    limit = place.counter.limit
    if limit.terms.enforcement is not Enforcement.HARD or limit.shape.window in _NO_QUOTA:
        return False
    return bool(limit.terms.maximum) and left(limit, standing) == 0
