"""Whatever the order, repetition and loss of a provider's webhooks, a subscription ends like the one told in order."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.ids import new_id
from services.billing.subscription.domain import AgreedPlan
from tests.billing.collecting_house import DAY, CollectingHouse, of_plan, open_collecting
from tests.billing.period_house import pending
from tests.billing.shop import PROVIDERS

_HAPPENINGS: Final = (
    *("renew", "fail and recover", "refund a part", "refund the rest", "pause", "resume"),
    *("lose a dispute", "win a dispute"),
)
"""Lemon Squeezy tells of no disputes: there nothing happens then."""
_RETURNS: Final = frozenset(("refund the rest", "lose a dispute", "win a dispute"))
"""After these a purchase subscribes nobody, if billing hears of them first. So it is told of the purchase before."""
_ENDINGS: Final = ("cancel", "end", "")
_EXAMPLES: Final = 6


@pytest.fixture
async def till(database_urls: dict[str, str]) -> AsyncIterator[CollectingHouse]:
    async with open_collecting(database_urls["billing"]) as till:
        yield till


async def test_any_order_repetition_and_loss_ends_like_in_order(till: CollectingHouse) -> None:
    running = asyncio.get_running_loop()
    free, plan = await till.plan(price=0), await till.plan()

    @settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        provider=st.sampled_from(PROVIDERS),
        has_free=st.booleans(),
        happenings=st.lists(st.sampled_from(_HAPPENINGS), max_size=4),
        ending=st.sampled_from(_ENDINGS),
        seed=st.integers(0, 2**32),
    )
    def check(provider: str, has_free: bool, happenings: list[str], ending: str, seed: int) -> None:
        life = ["subscribe", *happenings, *([ending] if ending else [])]
        old = free if has_free else None
        ends = ends_alike(till, provider, life, plan, old, random.Random(seed))
        asyncio.run_coroutine_threadsafe(ends, running).result(60)

    await asyncio.to_thread(check)


async def ends_alike(
    till: CollectingHouse,
    provider: str,
    life: list[str],
    plan: AgreedPlan,
    old: AgreedPlan | None,
    chance: random.Random,
) -> None:
    """Check that a life ends the same for one whose webhooks come in order and one whose do not, or not at all."""
    await till.told()
    in_order, mixed = new_id(), new_id()
    if old is not None:
        for org in (in_order, mixed):
            await till.house.add(pending(old, till.shop.clock.now(), organization_id=org))
        await till.work()
    for webhook in await till.shop.live(provider, in_order, life[:1], **of_plan(plan)):
        await till.shop.deliver([webhook])
    await till.work()
    for webhook in till.shop.go_on(provider, life[1:]):
        await till.shop.deliver([webhook])
    await till.work()
    told = await till.shop.live(provider, mixed, life[:1], **of_plan(plan))
    if not _RETURNS.isdisjoint(life):
        await till.shop.deliver(told)
        await till.work()
    webhooks = [one for one in [*told, *till.shop.go_on(provider, life[1:])] if chance.random() < 0.8]
    sent: list[dict[str, Any]] = list(itertools.chain(webhooks, (one for one in webhooks if chance.random() < 0.4)))
    chance.shuffle(sent)
    for begin in range(0, len(sent), 3):
        await till.shop.deliver(sent[begin : begin + 3])
        await till.work()
        till.shop.clock.advance(timedelta(seconds=7))
    await till.shop.reconcile(provider)
    await till.shop.settle()
    await till.work()
    assert await outcome(till, mixed) == await outcome(till, in_order), life
    await till.pass_time(30 * DAY + timedelta(hours=12))
    assert await outcome(till, mixed) == await outcome(till, in_order), life


async def outcome(till: CollectingHouse, organization_id: str) -> dict[str, object]:
    """Return all that came of an organization, without ids and times."""
    s = await till.only(organization_id)
    return {
        **await till.shop.outcome(organization_id),
        "state": (s.state, s.cancel_at_period_end, s.period_number, s.collection, s.plan, s.owed),
        "paid": len(await till.rows(organization_id, "SELECT 1 FROM period_payments WHERE organization_id = $1::uuid")),
        "linked": await till.rows(
            organization_id,
            "SELECT subscription_id IS NOT NULL FROM external_subscriptions WHERE organization_id = $1::uuid",
        ),
    }
