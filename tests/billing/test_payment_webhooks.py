"""Webhooks shuffled, doubled and lost end like webhooks in order, for both providers (acceptance cases 15 and 16)."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.billing.collecting_house import open_collecting
from tests.billing.shop import PROVIDERS, Shop, organization

each = pytest.mark.parametrize("provider", PROVIDERS)
ONE_OFF = ["refund a part", "refund the rest", "refund above"]
PERIODS = ["renew", "fail", "fail and recover", *ONE_OFF]
DISPUTES = ["dispute", "lose a dispute", "win a dispute", "dispute a part", "lose a part", "win a part"]
"""Stripe's. Lemon Squeezy, which answers disputes for its sellers, only says of an order that it is fraudulent."""
_EXAMPLES = 12
_PAID, _FAILED = ("COMPLETED", 10, 0, True), ("FAILED", 10, 0, True)
FLOWS: dict[str, tuple[list[tuple[object, ...]], list[str], dict[str, int]]] = {
    "buy": ([_PAID], [], {"CREDIT": 10}),
    "buy, refund a part": ([("PARTIALLY_REFUNDED", 10, 1, True)], [], {"CREDIT": 9}),
    "buy, refund a part, refund above, refund the rest": ([("REFUNDED", 10, 10, True)], [], {"CREDIT": 0}),
    "buy, dispute": ([("DISPUTED", 10, 0, True)], [], {"CREDIT": 0}),
    "subscribe, fail, cancel": ([_PAID, _FAILED], ["CANCELLED"], {"USD": 10}),
    "subscribe, renew, fail and recover, end": ([_PAID] * 3, ["CANCELLED"], {"USD": 30}),
}
"""What becomes of flows: the payments with what was refunded, the subscriptions, and what the account holds."""
OF_STRIPE = {
    "lose a dispute, win a dispute": ("DISPUTED", 0, 0),
    "win a dispute, lose a dispute": ("DISPUTED", 0, 0),
    "dispute a part": ("DISPUTED", 0, 9),
    "dispute a part, win the dispute": ("COMPLETED", 0, 10),
    "lose a part, win a part": ("DISPUTED", 0, 9),
    "lose a part, dispute a part": ("DISPUTED", 0, 8),
    "lose a part, dispute, win the dispute": ("DISPUTED", 0, 9),
    "refund a part, dispute a part": ("DISPUTED", 1, 8),
    "lose a part, refund a part, dispute": ("DISPUTED", 1, 0),
    "refund a part, lose a part, win a dispute": ("DISPUTED", 1, 8),
    "win a part, refund a part": ("PARTIALLY_REFUNDED", 1, 9),
    "refund a part, fail the refund": ("COMPLETED", 0, 10),
    "refund a part, fail the refund, refund a part": ("PARTIALLY_REFUNDED", 1, 9),
    "refund a part, refund the rest, fail the refund": ("PARTIALLY_REFUNDED", 1, 9),
    "refund the rest, dispute a part, fail the refund": ("DISPUTED", 0, 9),
}
"""What becomes of a payment of 10 at Stripe, of which a part is 1: its status, what was refunded, and its credits.
Lemon Squeezy tells no disputes apart, and of no refund that failed."""


@pytest.fixture(scope="module")
async def shop(module_database_urls: dict[str, str]) -> AsyncIterator[Shop]:
    async with open_collecting(module_database_urls["billing"]) as collecting:
        yield collecting.shop


@each
async def test_credits_of_one_order_come_once_whatever_tells_of_it_and_a_refund_takes_them(
    shop: Shop, provider: str
) -> None:
    org = organization()
    webhooks = await shop.live(provider, org, ["buy"])
    await shop.deliver([one for one in webhooks for _ in range(2)] + webhooks[:1] * 20 + webhooks)
    assert await shop.settle() == {"APPLIED"}
    assert (await shop.outcome(org))["posted"] == {"CREDIT": Decimal(10)}
    getattr(shop, f"_{provider}")("refund the rest")
    sent = shop.stripe.events if provider == "stripe" else shop.lemon.webhooks
    await shop.deliver([sent[-1], *webhooks])
    assert await shop.outcome(org) == {
        "payments": [("REFUNDED", Decimal(10), Decimal(10), True)],
        "subscriptions": [],
        "posted": {"CREDIT": Decimal(0)},
    }


@each
async def test_subscription_renews_fails_recovers_and_is_cancelled(shop: Shop, provider: str) -> None:
    org = organization()
    webhooks = await shop.live(provider, org, ["subscribe", "renew", "fail and recover", "refund a part", "cancel"])
    await shop.deliver(webhooks)
    assert await shop.settle() == {"APPLIED"}
    paid, refunded = ("COMPLETED", Decimal(10), Decimal(0), True), ("PARTIALLY_REFUNDED", Decimal(10), Decimal(1), True)
    assert await shop.outcome(org) == {
        "payments": [paid, paid, refunded],
        "subscriptions": ["CANCELLED"],
        "posted": {"USD": Decimal(29)},
    }


async def test_dispute_takes_the_credits_back_until_it_is_won(shop: Shop) -> None:
    for happening, posted, status in (("lose a dispute", 0, "DISPUTED"), ("win a dispute", 10, "COMPLETED")):
        org = organization()
        await shop.deliver(await shop.live("stripe", org, ["buy", happening]))
        assert await shop.settle() == {"APPLIED"}
        outcome = await shop.outcome(org)
        assert outcome["posted"] == {"CREDIT": Decimal(posted)}
        assert outcome["payments"] == [(status, Decimal(10), Decimal(0), True)]


@pytest.mark.parametrize("life", OF_STRIPE)
async def test_disputes_that_are_won_and_refunds_that_fail_give_back_what_they_took(shop: Shop, life: str) -> None:
    status, refunded, posted = OF_STRIPE[life]
    outcome = await ends_alike(shop, "stripe", ["buy", *life.split(", ")], random.Random(life))
    payment = (status, Decimal(10), Decimal(refunded), True)
    assert outcome == {"payments": [payment], "subscriptions": [], "posted": {"CREDIT": Decimal(posted)}}


async def test_invoice_that_comes_before_its_subscription_waits_and_is_applied(shop: Shop) -> None:
    org = organization()
    webhooks = await shop.live("stripe", org, ["subscribe", "renew"])
    renewal = next(one for one in reversed(webhooks) if one["type"] == "invoice.paid")
    # As an account of Stripe may have it that sells without our metadata: the subscription alone leads to the payment.
    renewal["data"]["object"]["subscription_details"] = {"metadata": {}}
    await shop.deliver([renewal])
    assert "PARKED" in (await shop.house.states()).values()
    await shop.deliver(webhooks)
    assert await shop.settle() == {"APPLIED"}
    assert (await shop.outcome(org))["posted"] == {"USD": Decimal(20)}


async def test_newer_state_of_a_subscription_stays_though_an_older_one_comes_later(shop: Shop) -> None:
    org = organization()
    webhooks = await shop.live("stripe", org, ["subscribe", "cancel"])
    kinds = ("customer.subscription.updated", "customer.subscription.created")
    await shop.deliver(sorted(webhooks, key=lambda one: one["created"], reverse=True))
    assert await shop.settle() == {"APPLIED"}
    assert (await shop.outcome(org))["subscriptions"] == ["CANCELLED"]
    assert {one["type"] for one in webhooks} >= set(kinds)


@each
async def test_webhooks_lost_for_a_week_are_made_up_for_by_asking(shop: Shop, provider: str) -> None:
    told, silent = organization(), organization()
    happenings = ["subscribe", "renew", "refund a part", "cancel"]
    await shop.deliver(await shop.live(provider, told, happenings))
    await shop.settle()
    await shop.live(provider, silent, happenings)
    assert (await shop.outcome(silent))["posted"] == {}
    await shop.reconcile(provider)
    assert await shop.outcome(silent) == await shop.outcome(told)
    before = await shop.outcome(silent)
    await shop.reconcile(provider)
    assert await shop.outcome(silent) == before


@each
@pytest.mark.parametrize("flow", FLOWS)
async def test_each_flow_ends_as_it_should_in_order_and_shuffled_doubled_and_lost(
    shop: Shop, provider: str, flow: str
) -> None:
    payments, subscriptions, posted = FLOWS[flow]
    if flow.endswith("end") and provider == "lemon_squeezy":
        subscriptions = ["EXPIRED"]
    if "fail, cancel" in flow and provider == "stripe":
        # It is cancelled at the end of a period that is not paid.
        subscriptions = ["PAST_DUE"]
    outcome = await ends_alike(shop, provider, flow.split(", "), random.Random(flow))
    assert outcome == {"payments": payments, "subscriptions": subscriptions, "posted": posted}


async def test_any_order_repetition_and_loss_ends_like_in_order(shop: Shop) -> None:
    running = asyncio.get_running_loop()

    @settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        provider=st.sampled_from(PROVIDERS),
        renews=st.booleans(),
        happenings=st.lists(st.integers(0, 17), max_size=4),
        end=st.sampled_from(["cancel", "end", ""]),
        seed=st.integers(0, 2**32),
    )
    def check(provider: str, renews: bool, happenings: list[int], end: str, seed: int) -> None:
        disputes = DISPUTES if provider == "stripe" else [] if renews else DISPUTES[:1]
        possible = (PERIODS if renews else ONE_OFF) + disputes
        life = ["subscribe" if renews else "buy", *(possible[one % len(possible)] for one in happenings)]
        life += [end] * (renews and bool(end))
        asyncio.run_coroutine_threadsafe(ends_alike(shop, provider, life, random.Random(seed)), running).result(60)

    await asyncio.to_thread(check)


async def ends_alike(shop: Shop, provider: str, life: list[str], chance: random.Random) -> dict[str, object]:
    """Check that a life ends the same for one whose webhooks come in order and one whose do not, or not at all.

    Return how it ends.
    """
    in_order, mixed = organization(), organization()
    await shop.deliver(await shop.live(provider, in_order, life))
    assert await shop.settle() <= {"APPLIED"}
    webhooks = [one for one in await shop.live(provider, mixed, life) if chance.random() < 0.8]
    sent: list[dict[str, Any]] = list(itertools.chain(webhooks, (one for one in webhooks if chance.random() < 0.4)))
    chance.shuffle(sent)
    await shop.deliver(sent)
    # Lemon Squeezy says of no invoice that its payment failed but in the webhook; it is taken so after an hour.
    shop.clock.advance(timedelta(hours=2))
    await shop.reconcile(provider)
    assert await shop.settle() <= {"APPLIED"}
    outcome = await shop.outcome(in_order)
    assert await shop.outcome(mixed) == outcome, life
    return outcome
