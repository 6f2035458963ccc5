"""A process that is killed between any two steps of a collected subscription leaves nothing lost and nothing twice."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from multiprocessing.context import ForkServerContext

import pytest

from libs.common.ids import new_id
from services.billing.subscription.domain import Subscription, Way
from services.billing.subscription.states import State
from tests.billing import dying_collection
from tests.billing.collecting_house import CollectingHouse, open_collecting
from tests.billing.period_house import pending
from tests.billing.test_saved_methods import customer, payments_of, subscribe
from tests.support.kills import KILLS_AT_EACH_POINT

pytestmark = pytest.mark.thorough


@pytest.fixture
async def till(database_urls: dict[str, str]) -> AsyncIterator[CollectingHouse]:
    async with open_collecting(database_urls["billing"]) as till:
        yield till


@pytest.mark.shards
@pytest.mark.timeout(120 + 60 * KILLS_AT_EACH_POINT)
async def test_sigkill_at_every_point_subscribes_charges_and_tells_once(
    till: CollectingHouse, database_urls: dict[str, str]
) -> None:
    url = database_urls["billing"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.billing.dying_collection"])
    for _ in range(KILLS_AT_EACH_POINT):
        saved = await subscribe(till, await customer(till), await till.plan())
        buyer, changer, ended = new_id(), new_id(), await till.bought("stripe", await till.plan())
        live = await till.house.add(pending(await till.plan(price=0), till.shop.clock.now(), organization_id=changer))
        await till.work()
        plan = await till.plan()
        for org in (buyer, changer):
            await till.buy("stripe", org, plan)
        for webhook in till.unsent():
            await till.shop.house.send(webhook)
        await _kill(till, url, context, dying_collection.PURCHASE)
        saved_is_due = saved.period_end_time
        assert saved_is_due is not None
        till.shop.clock.set(saved_is_due)
        await till.subscriptions.cancel(ended.organization_id, ended.subscription_id, "", "", at_period_end=False)
        await _kill(till, url, context, dying_collection.RENEWAL)
        await till.told()
        await _check(till, buyer, live, saved, ended)
        await till.subscriptions.cancel(saved.organization_id, saved.subscription_id, "", "", at_period_end=False)
    assert await till.house.findings() == []


async def _kill(till: CollectingHouse, url: str, context: ForkServerContext, points: Sequence[str]) -> None:
    """Have processes killed, one at each point, and do what is left then."""
    for point in points:
        now, ports = till.shop.clock.now(), (till.shop.stripe.port, till.shop.lemon.port)
        child = context.Process(target=dying_collection.run, args=(url, point, now, *ports))
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode == -signal.SIGKILL, point
        # What the process had taken is free for the next one then.
        till.shop.clock.advance(timedelta(minutes=2))
    await till.work()


async def _check(
    till: CollectingHouse, buyer: str, live: Subscription, saved: Subscription, ended: Subscription
) -> None:
    """Check that each has exactly what it would have if nobody had been killed."""
    bought, changed = await till.only(buyer), await till.now(live)
    for one in (bought, changed):
        assert (one.state, one.collection, one.period_number) == (State.ACTIVE, Way.PROVIDER, 0)
        assert (await till.balance(one.organization_id))["USD"] == "0.00"
    assert (await till.now(saved)).period_number == 1
    assert await payments_of(till, saved) == [("COMPLETED", "10.00")] * 2
    assert (await till.balance(saved.organization_id))["USD"] == "10.00"
    named = "SELECT DISTINCT external_customer_id FROM payments WHERE organization_id = $1::uuid"
    ((customer_id,),) = await till.rows(saved.organization_id, named)
    charges = [one for one in till.shop.stripe.objects.values() if one["object"] == "charge"]
    assert len([one for one in charges if f"stripe/{one['customer']}" == customer_id]) == 3
    said = "SELECT status FROM external_subscriptions WHERE organization_id = $1::uuid"
    assert await till.rows(ended.organization_id, said) == [("CANCELLED",)]
    assert (await till.now(ended)).state is State.CANCELLED
