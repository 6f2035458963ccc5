"""A shop that sells by both providers: real payments and ledger, a real inbox, and the fakes of the providers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from libs.common.ids import new_id
from services.billing.payment.domain import Brings, Credits, Payment, PaymentType
from services.billing.payment.webhook.domain import State
from tests.billing.payment_house import PaymentHouse, open_payments
from tests.billing.test_provider_facts import new_checkout
from tests.billing.webhook_house import House, close, house_of
from tests.support.clock import FixedClock
from tests.support.providers.lemon_squeezy import FakeLemonSqueezy
from tests.support.providers.stripe import FakeStripe

PROVIDERS = ("stripe", "lemon_squeezy")
_VARIANT = "55"
_WAITING = {State.WAITING.value, State.PARKED.value}


@dataclass
class Shop:
    """Everything of one process."""

    payments: PaymentHouse
    house: House
    clock: FixedClock
    stripe: FakeStripe
    lemon: FakeLemonSqueezy
    renews: bool = False
    """Whether the life that happens now is a subscription's."""

    async def buy(self, provider: str, organization_id: str, *, renews: bool, **more: object) -> Payment:
        """Open a checkout of 10 credits for 10 USD, or of 10 USD each month, and have it paid.

        `more` are further fields of its payment.
        """
        price = _VARIANT if provider == "lemon_squeezy" else self.stripe.add_price(1_000, "USD")
        fields: dict[str, object] = {"provider": provider, "external_product_id": price}
        if renews:
            money = Credits("USD", Decimal(10))
            fields |= {"type": PaymentType.SUBSCRIPTION, "brings": Brings.MONEY, "credits": money}
        fields |= more
        payment = await self.payments.checkout(organization_id, **fields)
        asked = new_checkout(
            checkout_id=payment.payment_id,
            external_product_id=price,
            renews=renews,
            expire_time=self.clock.now() + timedelta(hours=1),
        )
        opened = await self.house.reconciliation._providers[provider].provider.create_checkout(asked)
        self._paid(provider, opened.references[0].external_id, renews=renews)
        return payment

    def _paid(self, provider: str, external_id: str, *, renews: bool) -> None:
        if provider == "stripe":
            self.stripe.pay(external_id)
        else:
            self.lemon.pay(external_id, renews=renews)

    async def live(
        self, provider: str, organization_id: str, happenings: list[str], **more: object
    ) -> list[dict[str, Any]]:
        """Let a life happen at the provider; return the webhooks that it sends, in order."""
        sent = len(self.stripe.events), len(self.lemon.webhooks)
        self.renews = happenings[0] == "subscribe"
        await self.buy(provider, organization_id, renews=self.renews, **more)
        bought = [*self.stripe.events[sent[0] :], *self.lemon.webhooks[sent[1] :]]
        return [*bought, *self.go_on(provider, happenings[1:])]

    def go_on(self, provider: str, happenings: list[str]) -> list[dict[str, Any]]:
        """Let the life of what was bought last go on; return the webhooks that the provider sends, in order."""
        sent = len(self.stripe.events), len(self.lemon.webhooks)
        for happening in happenings:
            self.clock.advance(timedelta(minutes=1))
            self.happen(provider, happening)
        return [*self.stripe.events[sent[0] :], *self.lemon.webhooks[sent[1] :]]

    def happen(self, provider: str, happening: str) -> None:
        """Let something happen at a provider to what was bought there last."""
        getattr(self, f"_{provider}")(happening)

    def _stripe(self, happening: str) -> None:
        objects = list(self.stripe.objects.values())
        last = {one["object"]: one["id"] for one in objects}
        charge = self.stripe.objects[last["charge"]]
        left = charge["amount"] - charge["amount_refunded"]
        match happening:
            case "refund a part":
                self.stripe.refund(last["charge"], min(left, 100))
            case "refund the rest":
                self.stripe.refund(last["charge"], left)
            case "refund above":
                with suppress(ValueError):
                    self.stripe.refund(last["charge"], left + 1)
            case "fail the refund":
                self.stripe.fail_refund(last["charge"], last["refund"])
            case "dispute" | "dispute a part" | "lose a dispute" | "win a dispute" | "lose a part" | "win a part":
                dispute = self.stripe.dispute(last["charge"], 100 if happening.endswith("a part") else None)
                if not happening.startswith("dispute"):
                    self.stripe.close_dispute(dispute["id"], "lost" if happening.startswith("lose") else "won")
            case "win the dispute":
                self.stripe.close_dispute(last["dispute"], "won")
            case _:
                self._stripe_renewal(happening, last)

    def _stripe_renewal(self, happening: str, last: dict[str, str]) -> None:
        match happening:
            case "renew":
                self.stripe.bill(last["subscription"])
            case "fail":
                self.stripe.bill(last["subscription"], fails=True)
            case "recover":
                self.stripe.collect(last["invoice"])
            case "fail and recover":
                self.stripe.collect(self.stripe.bill(last["subscription"], fails=True)["id"])
            case "pause" | "resume":
                getattr(self.stripe, happening)(last["subscription"])
            case "cancel":
                self.stripe.cancel(last["subscription"], at_period_end=True)
            case "end":
                self.stripe.cancel(last["subscription"])

    def _lemon_squeezy(self, happening: str) -> None:
        last = dict(one for one, of in self.lemon.objects.items() if of["attributes"].get("status") != "pending")
        subscription = last.get("subscriptions", "")
        # A subscription's life goes on with the last invoice that was paid, an order's with itself.
        kind = "subscription-invoices" if self.renews else "orders"
        paid = kind, last[kind]
        attributes = self.lemon.objects[paid]["attributes"]
        left = attributes["total"] - attributes["refunded_amount"]
        match happening:
            case "renew":
                self.lemon.bill(subscription)
            case "fail":
                self.lemon.bill(subscription, fails=True)
            case "fail and recover":
                self.lemon.recover(self.lemon.bill(subscription, fails=True)["id"])
            case "refund a part":
                self.lemon.refund(*paid, min(left, 100))
            case "refund the rest":
                self.lemon.refund(*paid, left)
            case "refund above":
                with suppress(ValueError):
                    self.lemon.refund(*paid, left + 1)
            case "dispute":
                self.lemon.find_fraud(last["orders"])
            case "cancel":
                self.lemon.cancel(subscription)
            case "end":
                self.lemon.expire(subscription)
            case "recover":
                self.lemon.recover(dict(iter(self.lemon.objects))["subscription-invoices"])
            case "pause" | "resume":
                getattr(self.lemon, happening)(subscription)

    async def deliver(self, webhooks: list[dict[str, Any]]) -> None:
        """Send webhooks, some at a time, and apply them meanwhile."""
        for begin in range(0, len(webhooks), 4):
            await asyncio.gather(*map(self.house.send, webhooks[begin : begin + 4]))
            await self.house.work()

    async def settle(self) -> set[str]:
        """Apply until nothing waits, or for two days; return the states that are left."""
        states: set[str] = set()
        for _ in range(60):
            await self.house.work()
            states = set((await self.house.states()).values())
            if not states & _WAITING:
                break
            self.clock.advance(timedelta(minutes=20))
        return states

    async def reconcile(self, provider: str) -> None:
        """Ask the provider for everything, twice: what names something unknown the first time is applied the second."""
        for _ in range(2):
            since = self.clock.now() - timedelta(days=30)
            found = [one async for one in self.house.reconciliation.ask(provider, since)]
            assert (found[-1].failure, found[-1].failed, found[-1].out_of_place) == ("", 0, 0)

    async def outcome(self, organization_id: str) -> dict[str, object]:
        """Return all that came of an organization's payments, without ids and times."""
        async with self.payments.shards.of(organization_id).raw_connection() as connection:
            payments = await connection.fetch(
                "SELECT status, amount, refunded_amount, external_customer_id IS NOT NULL AS customer FROM payments"
                " WHERE organization_id = $1 ORDER BY 1, 2, 3",
                organization_id,
            )
            subscriptions = await connection.fetch(
                "SELECT status FROM external_subscriptions WHERE organization_id = $1", organization_id
            )
        return {
            "payments": [tuple(row) for row in payments],
            "subscriptions": [row["status"] for row in subscriptions],
            "posted": await self.payments.posted(organization_id),
        }


@asynccontextmanager
async def open_shop(url: str) -> AsyncIterator[Shop]:
    """Open a shop on a database; what is left behind must be consistent."""
    clock = FixedClock()
    stripe, lemon = FakeStripe(clock=clock), FakeLemonSqueezy(clock=clock)
    async with stripe.serving(), lemon.serving(), open_branch(url, clock, stripe, lemon) as shop:
        yield shop
        # Nobody works off next steps here.
        found = await shop.payments.findings()
        assert [one for one in found if one.invariant != "next_steps_are_done"] == []


@asynccontextmanager
async def open_branch(url: str, clock: FixedClock, stripe: FakeStripe, lemon: FakeLemonSqueezy) -> AsyncIterator[Shop]:
    """Open a shop at providers that serve already, perhaps in another process."""
    async with open_payments(url, clock=clock) as payments:
        house = house_of(payments.platform, clock, stripe, lemon, payments.payments)  # type: ignore[arg-type]
        payments.providers.update({name: one.provider for name, one in house.reconciliation._providers.items()})
        yield Shop(payments, house, clock, stripe, lemon)
        await close(house)


def organization() -> str:
    return new_id()
