"""Who may buy which plan at a checkout: nobody is to pay for what cannot be subscribed to then."""

from libs.common.call import is_limited
from libs.common.shards import Shards
from services.billing import errors
from services.billing.plan.domain import Plan
from services.billing.subscription import store
from services.billing.subscription.domain import AgreedPlan, Way
from services.billing.subscription.offers import Offers
from services.billing.subscription.self_service import SelfService


class Sales:
    """Looks at what there is already, before a checkout is opened."""

    def __init__(self, shards: Shards, offers: Offers, self_service: SelfService) -> None:
        self._shards = shards
        self._offers = offers
        self._self_service = self_service

    async def require(self, organization_id: str, user_id: str | None, plan: Plan) -> None:
        """Check that a plan can be bought for an organization, or for a user in it.

        Raises:
            NotForSelfService: the platform leaves it to operators and services.
            RenewedByProvider, SamePlan: a live subscription could not be changed to it.
        """
        version = plan.published
        assert version is not None
        if is_limited() and not self._self_service.offers(plan.plan_code, active=plan.is_offered):
            raise errors.NotForSelfService(what=f"The plan {plan.plan_code}")
        async with self._shards.of(organization_id).raw_connection() as connection:
            live = await store.find_live(connection, organization_id, user_id, None)
        if live is None:
            return
        if live.collection is Way.PROVIDER:
            raise errors.RenewedByProvider(provider=live.collection_provider, change="bought anew")
        if live.plan == AgreedPlan(plan.plan_id, plan.plan_code, version.version):
            raise errors.SamePlan(plan_code=plan.plan_code, version=version.version)
        if is_limited() and not self._self_service.offers_change(await self._offers.terms(live), version.terms):
            raise errors.NotForSelfService(what=f"A change to {plan.plan_code}, which costs less,")
