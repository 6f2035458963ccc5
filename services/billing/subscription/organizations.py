"""What subscriptions do when identity tells of an organization."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from libs.common.errors import Refusal
from libs.common.shards import Shards
from services.billing import deleted_organizations, errors
from services.billing.clients.organizations import Organization
from services.billing.subscription import list_store
from services.billing.subscription.creation import Creation
from services.billing.subscription.list_store import Filter
from services.billing.subscription.subscriptions import Subscriptions

_AT_A_TIME: Final = 200
StopTopUps: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Switches the automatic top-ups of an organization off, for a reason."""


class OrganizationSubscriptions:
    """Subscribes a new user's personal organization to the free plan, and ends the subscriptions of a deleted one.

    The deletion is noted first, so that no other subscription is begun. What ends them may be charged to the balance,
    so the organization's automatic top-ups are switched off before.
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
        """Do what is to be done about an organization. Doing it again changes nothing.

        Raises:
            Refusal: of a subscription that cannot be ended now; all others are ended.
        """
        organization_id = organization.organization_id
        if organization.delete_time is not None:
            async with self._shards.of(organization_id).raw_transaction() as connection:
                await deleted_organizations.note(connection, organization_id, organization.delete_time)
            await self._stop_top_ups(organization_id, deleted_organizations.REASON)
            await self._end_all(organization_id)
            return
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await deleted_organizations.forget(connection, organization_id)
        if organization.personal and self._free_plan_for_new_users:
            await self._creation.subscribe_to_free(organization_id)

    async def _end_all(self, organization_id: str) -> None:
        before: str | None = None
        problem: Refusal | None = None
        while True:
            async with self._shards.of(organization_id).raw_connection() as connection:
                page = await list_store.before(connection, organization_id, Filter(), before, _AT_A_TIME)
            for subscription in page:
                if subscription.is_live:
                    problem = await self._end(organization_id, subscription.subscription_id) or problem
            if len(page) < _AT_A_TIME:
                break
            before = page[-1].subscription_id
        if problem is not None:
            raise problem

    async def _end(self, organization_id: str, subscription_id: str) -> Refusal | None:
        """End a subscription; return why that cannot be done now."""
        try:
            reason = deleted_organizations.REASON
            await self._subscriptions.cancel(organization_id, subscription_id, "", reason, at_period_end=False)
        except errors.SubscriptionEnded:
            return None
        except Refusal as refusal:
            return refusal
        return None
