"""The plans that can be subscribed to now, and the terms of versions that were agreed to."""

from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from libs.common.database import Database
from services.billing import errors
from services.billing.plan import store as plan_store
from services.billing.plan.domain import (
    Entitlement,
    Interval,
    IntervalUnit,
    Limit,
    LimitWindow,
    Money,
    PastDue,
    PastDueEnd,
    Terms,
)
from services.billing.plan.plans import require_subscribable
from services.billing.subscription.domain import AgreedPlan, Subject, Subscription

_TERMS_MAX: Final = 1_000
"""How many versions are kept in memory; each has at most some hundred kilobytes, and nearly all have a few."""

LIMITS_OF_MODELS: Final = (
    Entitlement("requests", Limit("requests", LimitWindow.PERIOD, Decimal(10_000), soft=False, currency_code="")),
    Entitlement(
        "total_tokens", Limit("total_tokens", LimitWindow.PERIOD, Decimal(1_000_000), soft=False, currency_code="")
    ),
)
"""What a subscription to a model without a plan allows, where it was made without figures."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The published version of a plan."""

    plan: AgreedPlan
    terms: Terms
    active: bool
    """Whether the plan is shown to users."""


class Offers:
    """Finds plans and their terms. A published version never changes, so its terms are kept in memory."""

    def __init__(self, platform: Database) -> None:
        """`platform` is the database of billing's own schema, where the plans are."""
        self._platform = platform
        self._terms: OrderedDict[tuple[str, int], Terms] = OrderedDict()

    async def published(self, plan_code: str) -> Offer:
        """Return what a new subscriber to a plan agrees to.

        Raises:
            NotFound: there is no such plan, or it is a draft and the caller may see none.
            PlanArchived, PlanNotPublished: nobody can subscribe to it.
        """
        async with self._platform.transaction() as connection:
            plan = require_subscribable(await plan_store.find_plan(connection, plan_code=plan_code), plan_code)
        version = plan.published
        assert version is not None
        self._keep(plan.plan_id, version.version, version.terms)
        return Offer(AgreedPlan(plan.plan_id, plan.plan_code, version.version), version.terms, plan.active)

    async def terms(self, subscription: Subscription) -> Terms:
        """Return what a subscription agreed to."""
        if subscription.plan is not None:
            return await self.terms_of(subscription.plan)
        return terms_without_plan(subscription.limits or ())

    async def terms_of(self, plan: AgreedPlan) -> Terms:
        """Return the terms of a version that somebody has subscribed to."""
        kept = self._terms.get((plan.plan_id, plan.version))
        if kept is not None:
            self._terms.move_to_end((plan.plan_id, plan.version))
            return kept
        async with self._platform.transaction() as connection:
            version = await plan_store.find_version(connection, plan.plan_id, plan.version)
        if version is None:
            raise LookupError(f"version {plan.version} of the plan {plan.plan_id}")
        self._keep(plan.plan_id, plan.version, version.terms)
        return version.terms

    def _keep(self, plan_id: str, version: int, terms: Terms) -> None:
        self._terms[plan_id, version] = terms
        self._terms.move_to_end((plan_id, version))
        if len(self._terms) > _TERMS_MAX:
            self._terms.popitem(last=False)


def require_subject(subject: Subject, offer: Offer) -> None:
    """Raise MinimumOfOrganization unless such a subject can subscribe to what is offered."""
    if offer.terms.minimum is not None and subject is not Subject.ORGANIZATION:
        raise errors.MinimumOfOrganization(plan_code=offer.plan.plan_code)


def terms_without_plan(limits: tuple[Entitlement, ...]) -> Terms:
    """Return the terms of a subscription to a model without a plan: it costs nothing, and its periods are months."""
    return Terms(
        price=Money("USD", Decimal(0)),
        billing_interval=Interval(IntervalUnit.MONTH),
        credits=(),
        trial=None,
        entitlements=limits,
        past_due=PastDue((), PastDueEnd.CANCEL, ""),
        metadata={},
    )
