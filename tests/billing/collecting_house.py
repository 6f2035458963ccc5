"""Subscriptions that providers collect: real billing, a real inbox and the fakes of the providers, without a server."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from libs.common.database import RawConnection
from libs.common.ids import new_id
from services.billing.clients.subjects import Subjects
from services.billing.payment.checkouts import Checkouts, NewPurchase
from services.billing.payment.domain import Payment
from services.billing.payment.products import Products
from services.billing.plan.domain import Interval, IntervalUnit, Terms
from services.billing.plan.experiments import Experiments
from services.billing.recurring.charger import CollectingCharger
from services.billing.recurring.following import Following
from services.billing.recurring.purchases import Purchases
from services.billing.recurring.sales import Sales
from services.billing.recurring.saved_methods import SavedMethods
from services.billing.recurring.worker import RecurringWorker
from services.billing.subscription import list_store
from services.billing.subscription.creation import Creation
from services.billing.subscription.domain import AgreedPlan, Subscription
from services.billing.subscription.progress import Progress
from services.billing.subscription.self_service import SelfService
from services.billing.subscription.subscriptions import Subscriptions
from services.billing.subscription.worker import PeriodRun
from tests.billing.period_house import House, open_house, terms
from tests.billing.shop import Shop, open_shop

THIRTY_DAYS: Final = Interval(IntervalUnit.DAY, 30)
"""As long as the periods of the fakes."""
DAY: Final = timedelta(days=1)


def monthly(price: int = 10, **changes: Any) -> Terms:
    """Return terms of periods that are as long as the providers'."""
    return terms(price, interval=THIRTY_DAYS, **changes)


@dataclass
class CollectingHouse:
    """Everything of one process."""

    shop: Shop
    house: House
    saved_methods: SavedMethods = field(init=False)
    creation: Creation = field(init=False)
    subscriptions: Subscriptions = field(init=False)
    worker: RecurringWorker = field(init=False)
    checkouts: Checkouts = field(init=False)
    sent: tuple[int, int] = (0, 0)
    """How many webhooks each provider has sent."""

    def __post_init__(self) -> None:
        house, made, clock = self.house, self.shop.payments, self.shop.clock
        asked = {name: one.provider for name, one in self.shop.house.reconciliation._providers.items()}
        self.saved_methods = SavedMethods(
            house.shards, made.references, made.steps, made.payments, asked, clock, is_test=False
        )
        charger = CollectingCharger(house.shards, house.engine, self.saved_methods, clock)
        house.progress = Progress(house.shards, house.locks, house.engine, clock, house.offers, charger)
        house.run = PeriodRun(house.locks, house.progress, clock, every_s=3600)
        self.creation = Creation(
            house.shards,
            house.offers,
            Experiments(house.platform, house.shards, house.shards, clock, members=None),
            house.progress,
            clock,
            self_service=SelfService(),
            models_need_approval=True,
            subjects=Subjects(None, None),
            saved_methods=self.saved_methods,
        )
        self.subscriptions = Subscriptions(
            house.shards,
            house.offers,
            house.progress,
            clock,
            self_service=SelfService(),
            saved_methods=self.saved_methods,
        )
        products, sales = Products(made.platform, clock), Sales(house.shards, house.offers, SelfService())
        self.checkouts = Checkouts(
            *(made.shards, made.platform, made.references, made.steps, products, asked, clock),
            *(Subjects(None, None), sales),
            is_test=False,
        )
        following = Following(house.shards, asked, self.subscriptions, house.progress, house.offers, clock)
        purchases = Purchases(house.shards, self.creation, house.progress, clock)
        self.worker = RecurringWorker(house.shards, purchases, following, clock)

    async def plan(self, **changes: Any) -> AgreedPlan:
        """Publish a plan of 10 USD for 30 days, if nothing else is given."""
        return await self.house.plan(f"plan-{new_id()}", monthly(**changes))

    async def buy(self, provider: str, organization_id: str, plan: AgreedPlan, **more: object) -> Payment:
        """Have a checkout of a plan paid at a provider; nobody is told yet."""
        return await self.shop.buy(provider, organization_id, renews=True, **of_plan(plan), **more)

    async def checkout(self, organization_id: str, plan: AgreedPlan) -> Payment:
        """Open a checkout of a plan at Stripe, as CreateCheckout does."""
        new = NewPurchase(
            organization_id=organization_id,
            request_id=new_id(),
            provider="stripe",
            user_id=None,
            email=None,
            product_code="",
            plan_code=plan.plan_code,
            top_up=None,
            success_url="https://example.com/",
            cancel_url="https://example.com/",
            subscriber_user_id=None,
            description="",
            metadata=None,
            request={},
        )
        return (await self.checkouts.open(new))[0]

    async def bought(self, provider: str, plan: AgreedPlan, organization_id: str | None = None) -> Subscription:
        """Have a plan bought, and all webhooks of it worked off; return the organization's subscription."""
        organization_id = organization_id or new_id()
        await self.told()
        await self.buy(provider, organization_id, plan)
        await self.told()
        return await self.only(organization_id)

    async def happens(self, provider: str, happening: str) -> None:
        """Let something happen at a provider to what was bought there last, and do what follows."""
        self.shop.clock.advance(timedelta(minutes=1))
        self.shop.happen(provider, happening)
        await self.told()

    async def told(self) -> None:
        """Deliver the webhooks that were sent since the last call, and do what follows from them."""
        while unsent := self.unsent():
            await self.shop.deliver(unsent)
            await self.work()

    def unsent(self) -> list[dict[str, Any]]:
        """Return the webhooks since the last call, which are sent then, or lost."""
        sent = self.sent
        self.sent = len(self.shop.stripe.events), len(self.shop.lemon.webhooks)
        return [*self.shop.stripe.events[sent[0] :], *self.shop.lemon.webhooks[sent[1] :]]

    async def work(self) -> None:
        """Do what is due, until nothing is."""
        for _ in range(20):
            tried = await self.shop.house.work() + await self.house.work_off()
            for database in self.house.shards:
                tried += await self.worker.sweep(database)
            if not tried:
                return
        raise AssertionError("there is always something to do")

    async def pass_time(self, by: timedelta) -> None:
        """Let time pass, and do what is due then."""
        self.shop.clock.advance(by)
        await self.work()

    async def all_of(self, organization_id: str) -> list[Subscription]:
        async with self.house.shards.of(organization_id).raw_connection() as connection:
            return await list_store.before(connection, organization_id, list_store.Filter(), None, 10)

    async def only(self, organization_id: str) -> Subscription:
        (found,) = await self.all_of(organization_id)
        return found

    async def now(self, subscription: Subscription) -> Subscription:
        return await self.house.find(subscription)

    async def balance(self, organization_id: str) -> dict[str, str]:
        """Return what an organization has, by unit."""
        posted = await self.shop.payments.posted(organization_id)
        return {unit: f"{amount:.2f}" for unit, amount in posted.items()}

    async def rows(self, organization_id: str, query: str) -> list[tuple[Any, ...]]:
        """Return what a query finds, of which the first parameter is the organization."""
        connection: RawConnection
        async with self.house.shards.of(organization_id).raw_connection() as connection:
            return [tuple(row) for row in await connection.fetch(query, organization_id)]

    async def announced(self, organization_id: str, name: str) -> list[Any]:
        """Return what was announced under a name, in order."""
        found = await self.rows(
            organization_id, "SELECT type, data::text FROM events WHERE organization_id = $1::uuid ORDER BY event_id"
        )
        return [json.loads(data) for kind, data in found if kind == f"tollhouse.{name}"]


def of_plan(plan: AgreedPlan) -> dict[str, object]:
    """Return the fields of a checkout's payment that say what is bought."""
    return {"plan_id": plan.plan_id, "plan_code": plan.plan_code, "plan_version": plan.version}


@asynccontextmanager
async def open_collecting(url: str) -> AsyncIterator[CollectingHouse]:
    """Open billing on a database; what is left behind must be consistent."""
    async with open_shop(url) as shop, open_house(url, shop.clock) as house:
        yield (collecting := CollectingHouse(shop, house))
        await collecting.told()
        await collecting.saved_methods.drain()
        found = await house.findings()
        assert found == [], found
