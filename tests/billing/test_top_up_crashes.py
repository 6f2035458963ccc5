"""A process that is killed while it tops an account up leaves a top-up that is charged once and credited once."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing.context import ForkServerContext

import pytest

from services.billing.clients.subjects import Subjects
from services.billing.payment.checkouts import Checkouts, NewPurchase
from services.billing.payment.domain import PaymentStatus
from services.billing.payment.products import Products
from services.billing.payment.top_up_domain import TopUpPolicy
from services.billing.payment.top_ups import TopUps
from services.billing.plan.domain import Money
from services.billing.recurring.sales import Sales
from services.billing.subscription.offers import Offers
from services.billing.subscription.self_service import SelfService
from tests.billing import dying_top_up
from tests.billing.shop import PROVIDERS, Shop, open_shop, organization
from tests.support.kills import KILLS_AT_EACH_POINT
from tests.support.providers.http import Fault

pytestmark = [pytest.mark.shards, pytest.mark.thorough]


@dataclass
class Topped:
    """A shop whose customers' accounts are topped up by themselves."""

    shop: Shop
    url: str
    top_ups: TopUps
    sent: int = 0
    """How many of Stripe's webhooks were sent."""

    async def due(self) -> str:
        """Return an organization whose account is below the threshold of its policy."""
        org = organization()
        await self.shop.deliver(await self.shop.live("stripe", org, ["buy"]))
        policy = TopUpPolicy(
            organization_id=org,
            enabled=True,
            currency_code="USD",
            threshold=Decimal(5),
            top_up_amount=Decimal(20),
            target_balance=None,
            provider="stripe",
            external_customer_id="",
            max_per_day=5,
            max_per_month=5,
            actor="",
            update_time=self.shop.clock.now(),
        )
        await self.top_ups.set(policy)
        return org

    async def sweep(self) -> None:
        for database in self.shop.payments.shards:
            await self.top_ups.sweep(database)

    async def deliver_all(self) -> None:
        """Send every webhook of Stripe, as it does in the end."""
        events = self.shop.stripe.events[self.sent :]
        self.sent += len(events)
        await self.shop.deliver(events)
        assert await self.shop.settle() == {"APPLIED"}

    async def charged(self, org: str) -> list[int]:
        """Return what Stripe has charged the organization's customer beside the purchase, in cents."""
        customer = (await self.top_ups.get(org)).external_customer_id
        charges = [one for one in self.shop.stripe.objects.values() if one["object"] == "charge"]
        return [one["amount"] for one in charges if one["customer"] == customer][1:]


@pytest.fixture(scope="module")
async def topped(module_database_urls: dict[str, str]) -> AsyncIterator[Topped]:
    url = module_database_urls["billing"]
    async with open_shop(url) as shop:
        stripe = shop.house.reconciliation._providers["stripe"].provider
        yield Topped(shop, url, dying_top_up.top_ups_of(shop.payments, stripe, shop.clock))


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.billing.dying_top_up"])
    return context


async def test_sigkill_at_every_point_of_a_top_up_charges_and_credits_once(
    topped: Topped, processes: ForkServerContext
) -> None:
    for point in dying_top_up.POINTS * KILLS_AT_EACH_POINT:
        org = await topped.due()
        child = processes.Process(target=dying_top_up.run, args=(topped.url, topped.shop.stripe.url, point))
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode == -signal.SIGKILL, point
        assert len(await topped.charged(org)) <= 1, point
        await asyncio.gather(topped.sweep(), topped.sweep())
        await topped.deliver_all()
        await topped.sweep()
        assert await topped.charged(org) == [2_000], point
        assert await topped.shop.payments.posted(org) == {"CREDIT": 10, "USD": 20}, point
        policy = await topped.top_ups.get(org)
        assert (policy.enabled, policy.pending_payment_id, policy.paused_reason) == (True, None, ""), point


async def test_processes_that_find_one_policy_due_at_once_charge_once(
    topped: Topped, processes: ForkServerContext
) -> None:
    org = await topped.due()
    together = processes.Barrier(3)
    args = (topped.url, topped.shop.stripe.url, "", together)
    children = [processes.Process(target=dying_top_up.run, args=args) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        await asyncio.to_thread(child.join)
        assert child.exitcode == 0
    await topped.sweep()
    await topped.deliver_all()
    assert await topped.charged(org) == [2_000]
    assert await topped.shop.payments.posted(org) == {"CREDIT": 10, "USD": 20}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_client_that_repeats_a_top_up_with_one_id_pays_once(topped: Topped, provider: str) -> None:
    shop, org = topped.shop, organization()
    new = NewPurchase(
        organization_id=org,
        request_id="top-up",
        provider=provider,
        user_id=None,
        email=None,
        product_code="",
        plan_code="",
        top_up=Money("USD", Decimal(20)),
        success_url="https://example.com/",
        cancel_url="https://example.com/",
        subscriber_user_id=None,
        description="",
        metadata=None,
        request={"value": "20"},
    )
    by_two_processes = [_checkouts(shop), _checkouts(shop)]
    fake = shop.stripe if provider == "stripe" else shop.lemon
    fake.faults.append(Fault.DROPPED_AFTER)
    opened = await asyncio.gather(*(one.open(new) for one in by_two_processes * 5))
    ((payment_id, page),) = {(payment.payment_id, payment.checkout_url) for payment, _ in opened}
    assert page is not None
    shop._paid(provider, page.rpartition("/")[2], renews=False)
    sent = [shop.stripe.events[-1], shop.stripe.events[-2]] if provider == "stripe" else [shop.lemon.webhooks[-1]]
    await shop.deliver(sent * 2)
    assert await shop.settle() == {"APPLIED"}
    payment, is_repeat = await _checkouts(shop).open(new)
    assert (payment.payment_id, payment.status, is_repeat) == (payment_id, PaymentStatus.COMPLETED, True)
    assert await shop.payments.posted(org) == {"USD": 20}


def _checkouts(shop: Shop) -> Checkouts:
    """Return what opens checkouts in one process."""
    house = shop.payments
    providers = {name: one.provider for name, one in shop.house.reconciliation._providers.items()}
    products = Products(house.platform, house.clock)
    return Checkouts(
        *(house.shards, house.platform, house.references, house.steps, products, providers, house.clock),
        subjects=Subjects(None, None),
        sales=Sales(house.shards, Offers(house.platform), SelfService()),
        is_test=False,
    )
