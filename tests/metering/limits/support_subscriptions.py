"""Subscriptions of users and organizations, and calls under them."""

from typing import Final

from libs.common.ids import new_id
from tests.billing.subscription_calls import Subscriptions
from tests.metering.support import Metering, Platform, eventually
from tests.metering.test_batch_admission import ask
from tollhouse.billing.v1 import plan_pb2, subscription_pb2
from tollhouse.metering.v1 import admission_pb2, quota_pb2

MODEL: Final = "gpt-4o"
ALLOWED, DENIED = admission_pb2.DECISION_ALLOWED, admission_pb2.DECISION_DENIED
NOT_LIVE: Final = admission_pb2.DENIAL_REASON_SUBSCRIPTION_NOT_LIVE


def quota(
    value: str, code: str = "quota", window: plan_pb2.LimitWindow.ValueType = plan_pb2.LIMIT_WINDOW_DAY
) -> plan_pb2.Entitlement:
    """Return an entitlement to so many requests."""
    limit = plan_pb2.EntitledLimit(metric="requests", window=window, value=value)
    return plan_pb2.Entitlement(entitlement_code=code, limit=limit)


async def subscribe(
    platform: Platform, organization_id: str, *limits: plan_pb2.Entitlement, user_id: str = "", model: str = ""
) -> subscription_pb2.Subscription:
    """Subscribe an organization or a user to the free plan, or a user to a model with limits."""
    subscriptions = Subscriptions(platform.ledger)
    if not model:
        made = await subscriptions.create(organization_id, user_id=user_id)
    else:
        made = await subscriptions.model(model, organization_id, user_id=user_id, limits=limits)
        if made.state == subscription_pb2.SUBSCRIPTION_STATE_PENDING:
            made = await subscriptions.approve(made)
    assert made.state == subscription_pb2.SUBSCRIPTION_STATE_ACTIVE
    return made


def asking(
    organization_id: str, *, user_id: str = "", model: str = MODEL, operation_id: str = "", **fields: object
) -> admission_pb2.AuthorizeRequest:
    """Return a call of a user that asks to begin."""
    request = ask(organization_id, operation_id or f"op-{new_id()}", model=model, **fields)
    request.principal.user_id = user_id
    return request


async def falls_under(metering: Metering, organization_id: str, subscription_id: str, **fields: object) -> None:
    """Wait until calls fall under a subscription, which is when metering has heard of it."""

    async def found() -> str:
        return (await metering.authorize(asking(organization_id, **fields))).subscription_id  # type: ignore[arg-type]

    await eventually(found, lambda one: one == subscription_id)


async def by_subscription(
    metering: Metering, organization_id: str, *, size: int = 3, **filters: object
) -> list[quota_pb2.SubscriptionUsage]:
    """Return the subscriptions of an organization with their limits, a small page at a time."""
    request = quota_pb2.GetUsageAgainstLimitsRequest(
        organization_id=organization_id,
        by_subscription=True,
        page_size=size,
        **filters,  # type: ignore[arg-type]
    )
    found: list[quota_pb2.SubscriptionUsage] = []
    while True:
        page = await metering.quota.GetUsageAgainstLimits(request, metadata=metering.operator)
        assert not page.limits
        found += page.subscriptions
        request.page_token = page.next_page_token
        if not request.page_token:
            return found
