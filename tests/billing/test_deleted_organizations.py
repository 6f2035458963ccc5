"""What a deleted organization had ends, and nothing is begun for it that would be charged later."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.errors import NotFound, Refusal
from libs.common.ids import new_id
from libs.common.repeats.once import Repeatable
from services.billing.clients.organizations import Organization
from services.billing.payment.provider import ExternalSubscriptionStatus
from services.billing.recurring import store
from services.billing.subscription.creation import NewSubscription
from services.billing.subscription.domain import Subject, Subscription
from services.billing.subscription.organizations import OrganizationSubscriptions
from services.billing.subscription.states import State
from tests.billing.collecting_house import CollectingHouse, open_collecting
from tests.billing.period_house import pending
from tests.support.sharded import execute_in_shards

REASON = "the organization was deleted"


@pytest.fixture
async def till(database_urls: dict[str, str]) -> AsyncIterator[CollectingHouse]:
    async with open_collecting(database_urls["billing"]) as house:
        yield house


def told(till: CollectingHouse, organization_id: str, *, deleted: bool = True) -> Organization:
    now = till.shop.clock.now()
    return Organization(organization_id, 1, False, None, now, now if deleted else None)


def handler(till: CollectingHouse) -> OrganizationSubscriptions:
    async def stop(_: str, __: str) -> None:
        return

    shards = till.house.shards
    return OrganizationSubscriptions(shards, till.creation, till.subscriptions, stop, free_plan_for_new_users=False)


async def create(till: CollectingHouse, organization_id: str, plan_code: str) -> Subscription:
    new = NewSubscription(organization_id, plan_code=plan_code)
    return (await till.creation.create(new, Repeatable("", "CreateSubscription", b"", lambda _: "body")))[0]


async def test_plan_that_is_paid_after_its_organization_was_deleted_is_not_subscribed_to(
    till: CollectingHouse,
) -> None:
    org, plan = new_id(), await till.plan()
    await till.told()
    payment = await till.buy("stripe", org, plan)
    for _ in range(2):
        await handler(till).handle(told(till, org))
    await till.told()
    assert await till.all_of(org) == []
    assert await till.balance(org) == {"USD": "10.00"}
    (event,) = await till.announced(org, "payment.not_subscribed")
    assert (event["payment_id"], event["reason"]) == (payment.payment_id, REASON)
    async with till.house.shards.of(org).raw_connection() as connection:
        (external,) = await store.find_externals(connection, org)
    assert external.status is ExternalSubscriptionStatus.CANCELLED


@pytest.mark.shards
async def test_nothing_is_begun_for_a_deleted_organization_until_identity_has_it_again(till: CollectingHouse) -> None:
    org, plan = new_id(), await till.plan()
    await handler(till).handle(told(till, org))
    with pytest.raises(NotFound):
        await create(till, org, "free")
    with pytest.raises(NotFound):
        await till.checkout(org, plan)
    await handler(till).handle(told(till, org, deleted=False))
    assert (await create(till, org, "free")).state is State.ACTIVE


async def test_subscribing_at_the_moment_of_the_deletion_leaves_nothing_live(till: CollectingHouse) -> None:
    organizations = [new_id() for _ in range(16)]
    both = [one for org in organizations for one in (create(till, org, "free"), handler(till).handle(told(till, org)))]
    answers = await asyncio.gather(*both, return_exceptions=True)
    assert {type(one) for one in answers} <= {Subscription, NotFound, type(None)}
    for org in organizations:
        assert all(not one.is_live for one in await till.all_of(org))


async def test_a_subscription_that_cannot_be_ended_keeps_no_other_from_its_end(
    till: CollectingHouse, database_admin_url: str
) -> None:
    org, now = new_id(), till.shop.clock.now()
    costly, minimum = await till.plan(), await till.plan(minimum="5")
    await till.shop.payments.earn(org, "100", "USD")
    users = [await till.house.add(pending(costly, now, organization_id=org, subject=Subject.USER)) for _ in range(2)]
    whole = await till.house.add(pending(minimum, now, organization_id=org))
    await till.work()
    # Its minimum is charged before it ends, which the account does not take.
    aside = "UPDATE billing.subscriptions SET set_aside_time = now(), set_aside_reason = 'ACCOUNT_CLOSED'"
    await execute_in_shards(database_admin_url, f"{aside} WHERE subscription_id = '{whole.subscription_id}'")
    with pytest.raises(Refusal, match="set aside"):
        await handler(till).handle(told(till, org))
    assert [(one.state, one.state_reason) for one in [await till.now(user) for user in users]] == [
        (State.CANCELLED, REASON)
    ] * 2
    await till.house.progress.resume(org, whole.subscription_id, actor="operator:test")
    await handler(till).handle(told(till, org))
    assert {one.state for one in await till.all_of(org)} == {State.CANCELLED}
