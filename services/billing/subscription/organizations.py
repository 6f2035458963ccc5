"""What subscriptions do when identity tells of an organization."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from libs.common.shards import Shards
from services.billing import errors
from services.billing.clients.organizations import Organization
from services.billing.subscription import list_store
from services.billing.subscription.creation import Creation
from services.billing.subscription.list_store import Filter
from services.billing.subscription.subscriptions import Subscriptions

_AT_A_TIME: Final = 200
_DELETED: Final = "the organization was deleted"
StopTopUps: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Switches the automatic top-ups of an organization off, for a reason."""


class OrganizationSubscriptions:
    """Subscribes a new user's personal organization to the free plan, and ends the subscriptions of a deleted one.

    What ends them may be charged to the balance, so its automatic top-ups are switched off before.
    """

    def __init__(
        self,
        shards: Shards,
        creation: Creation,
        subscriptions: Subscriptions,
        stop_top_ups: StopTopUps,
        *,
        free_plan_for_new_users: bool,
    ) -> None:
        self._stop_top_ups = stop_top_ups
        self._shards = shards
        self._creation = creation
        self._subscriptions = subscriptions
        self._free_plan_for_new_users = free_plan_for_new_users

    async def handle(self, organization: Organization) -> None:
        """Do what is to be done about an organization. Doing it again changes nothing."""
        if organization.delete_time is not None:
            await self._stop_top_ups(organization.organization_id, _DELETED)
            await self._end_all(organization.organization_id)
        elif organization.personal and self._free_plan_for_new_users:
            await self._creation.subscribe_to_free(organization.organization_id)

    async def _end_all(self, organization_id: str) -> None:
        before: str | None = None
        while True:
            async with self._shards.of(organization_id).raw_connection() as connection:
                page = await list_store.before(connection, organization_id, Filter(), before, _AT_A_TIME)
            for subscription in page:
                if subscription.is_live:
                    await self._end(organization_id, subscription.subscription_id)
            if len(page) < _AT_A_TIME:
                return
            before = page[-1].subscription_id

    async def _end(self, organization_id: str, subscription_id: str) -> None:
        try:
            await self._subscriptions.cancel(organization_id, subscription_id, "", _DELETED, at_period_end=False)
        except errors.SubscriptionEnded:
            return
