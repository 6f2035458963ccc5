"""What a provider takes off a price is refused and shown to operators. A trial is no payment, what follows is one."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from libs.common.ids import new_id
from services.billing.payment.domain import Brings, Credits, Payment, PaymentStatus, PaymentType
from services.billing.payment.provider import Reference, ReferenceKind
from services.billing.payment.references import ProvidersReference
from services.billing.payment.webhook.domain import State
from services.billing.payment.webhook.webhooks import Filter
from tests.billing.collecting_house import open_collecting
from tests.billing.dying_payment import record_of
from tests.billing.shop import PROVIDERS, Shop
from tests.billing.test_provider_facts import new_checkout

each = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(scope="module")
async def shop(module_database_urls: dict[str, str]) -> AsyncIterator[Shop]:
    async with open_collecting(module_database_urls["billing"]) as collecting:
        yield collecting.shop


async def bought(
    shop: Shop, provider: str, discount: int, *, renews: bool = False
) -> tuple[Payment, list[dict[str, Any]]]:
    """Open a checkout of 10 USD, and have it paid with so many cents less; return it with the webhooks."""
    price = "55" if provider == "lemon_squeezy" else shop.stripe.add_price(1_000, "USD")
    money: dict[str, object] = {"brings": Brings.MONEY, "credits": Credits("USD", Decimal(10))}
    fields = money | {"type": PaymentType.SUBSCRIPTION} if renews else {}
    payment = await shop.payments.checkout(new_id(), provider=provider, external_product_id=price, **fields)
    asked = new_checkout(
        checkout_id=payment.payment_id,
        external_product_id=price,
        renews=renews,
        expire_time=shop.clock.now() + timedelta(hours=1),
    )
    opened = await shop.house.reconciliation._providers[provider].provider.create_checkout(asked)
    (page,) = [one.external_id for one in opened.references if one.kind is ReferenceKind.CHECKOUT]
    sent = len(shop.stripe.events), len(shop.lemon.webhooks)
    if provider == "stripe":
        session = shop.stripe.objects[page]
        session |= {"amount_total": 1_000 - discount, "total_details": {"amount_discount": discount, "amount_tax": 0}}
        shop.stripe.pay(page)
    else:
        shop.lemon.discount = discount
        shop.lemon.pay(page, renews=renews)
        shop.lemon.discount = 0
    return payment, [*shop.stripe.events[sent[0] :], *shop.lemon.webhooks[sent[1] :]]


@each
async def test_discounted_payment_is_refused_shown_and_recorded_by_an_operator(shop: Shop, provider: str) -> None:
    payment, webhooks = await bought(shop, provider, 200)
    await shop.deliver(webhooks)
    assert (await shop.payments.find(payment)).status is PaymentStatus.PENDING
    assert await shop.payments.posted(payment.organization_id) == {}
    refused, _ = await shop.house.webhooks.page(Filter(State.REFUSED, provider), 10, "")
    assert len(refused) >= 1
    assert {one.reason for one in refused} == {"WRONG_AMOUNT: the checkout is of another amount"}
    assert {one.organization_id for one in refused} == {payment.organization_id}
    order = Reference(ReferenceKind.ORDER, f"of-{payment.payment_id}")
    new = replace(
        record_of(payment.organization_id), amount=Decimal(8), references=(ProvidersReference(provider, order),)
    )
    recorded, _ = await shop.payments.records.record(new)
    assert recorded.status is PaymentStatus.COMPLETED
    assert await shop.payments.posted(payment.organization_id) == {"USD": 10}


@each
async def test_free_trial_is_no_payment_and_the_first_period_that_costs_is_one(shop: Shop, provider: str) -> None:
    payment, webhooks = await bought(shop, provider, 1_000, renews=True)
    org = payment.organization_id
    await shop.deliver(webhooks)
    outcome = await shop.outcome(org)
    assert (outcome["payments"], outcome["posted"]) == ([("PENDING", 10, 0, False)], {})
    assert outcome["subscriptions"] == ["ACTIVE"]
    shop.clock.advance(timedelta(days=14))
    sent = len(shop.stripe.events), len(shop.lemon.webhooks)
    if provider == "stripe":
        subscription = next(one for one in reversed(shop.stripe.objects.values()) if one["object"] == "subscription")
        subscription["_amount"] = 1_000
        shop.stripe.bill(subscription["id"])
    else:
        shop.lemon.bill(next(number for kind, number in reversed(shop.lemon.objects) if kind == "subscriptions"))
    await shop.deliver([*shop.stripe.events[sent[0] :], *shop.lemon.webhooks[sent[1] :]] * 2)
    outcome = await shop.outcome(org)
    assert (outcome["payments"], outcome["posted"]) == (
        [("COMPLETED", 10, 0, True), ("PENDING", 10, 0, False)],
        {"USD": 10},
    )
