"""Refunds through the providers' own APIs and webhooks: made once, and with the taxes that the provider added."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from libs.common.errors import Unavailable
from services.billing.payment.domain import RefundState
from services.billing.payment.providers import http
from services.billing.payment.refunds import NewRefundRequest
from services.billing.payment.webhook.domain import State
from tests.billing.shop import Shop, open_shop, organization
from tests.support.providers.http import Fault


@pytest.fixture
async def shop(database_urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setattr(http, "_WAIT_FIRST_S", 0.001)
    async with open_shop(database_urls["billing"]) as opened:
        opened.stripe.tax_percent = 19
        yield opened


async def refund(shop: Shop, org: str, value: str | None, request_id: str = "back") -> bool:
    """Refund an organization's only payment, as RefundPayment does."""
    async with shop.payments.shards.of(org).raw_connection() as connection:
        payment_id = await connection.fetchval(
            "SELECT payment_id::text FROM payments WHERE organization_id = $1::uuid", org
        )
    amount = None if value is None else Decimal(value)
    asked = NewRefundRequest(org, payment_id, request_id, amount, "USD", "asked for")
    return (await shop.payments.refunds.refund(asked))[1]


async def bought(shop: Shop, org: str) -> None:
    await shop.deliver(await shop.live("stripe", org, ["buy"]))
    assert await shop.settle() == {State.APPLIED.value}


def charge_of(shop: Shop) -> dict[str, Any]:
    return next(one for one in shop.stripe.objects.values() if one["object"] == "charge")


async def refunded(shop: Shop, org: str) -> tuple[object, object]:
    """Return the status of an organization's only payment with what was refunded of it, and what is left."""
    outcome = await shop.outcome(org)
    payments: Any = outcome["payments"]
    ((status, _, amount, _),) = payments
    return f"{status} {amount.normalize():f}", outcome["posted"]


async def test_refund_whose_answer_was_lost_is_not_made_again_a_day_later(shop: Shop) -> None:
    """Its webhook says how much was refunded, and not by whom; and Stripe has forgotten its idempotency key."""
    org = organization()
    await bought(shop, org)
    sent = len(shop.stripe.events)
    shop.stripe.faults = [None, Fault.DROPPED_AFTER, *[Fault.NO_JSON] * http.TRIES_MAX]
    with pytest.raises(Unavailable):
        await refund(shop, org, "3")
    shop.stripe.faults = []
    await shop.deliver(shop.stripe.events[sent:])
    await shop.settle()
    shop.clock.advance(timedelta(hours=25))
    assert await refund(shop, org, "3") is False
    assert await refund(shop, org, "3") is True
    assert charge_of(shop)["amount_refunded"] == 357
    assert await refunded(shop, org) == ("PARTIALLY_REFUNDED 3", {"CREDIT": 7})


async def test_refund_of_a_taxed_payment_gives_back_the_taxes_and_takes_back_what_it_brought(shop: Shop) -> None:
    org = organization()
    await bought(shop, org)
    sent = len(shop.stripe.events)
    await refund(shop, org, "3.33", "part")
    assert charge_of(shop)["amount_refunded"] == 396
    assert await refunded(shop, org) == ("PARTIALLY_REFUNDED 3.33", {"CREDIT": Decimal("6.67")})
    shop.clock.advance(timedelta(minutes=1))
    await refund(shop, org, None, "rest")
    assert charge_of(shop)["amount_refunded"] == 1_190
    assert await refunded(shop, org) == ("REFUNDED 10", {"CREDIT": 0})
    await shop.deliver(shop.stripe.events[sent:])
    assert await shop.settle() == {State.APPLIED.value}
    assert await refunded(shop, org) == ("REFUNDED 10", {"CREDIT": 0})
    async with shop.payments.shards.of(org).raw_connection() as connection:
        states = await connection.fetch("SELECT state FROM payment_refunds WHERE organization_id = $1::uuid", org)
    assert {row["state"] for row in states} == {RefundState.COMPLETED.value}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("life", "payments", "posted"),
    [
        (["buy", "refund a part", "refund the rest"], ["REFUNDED 10"], {"CREDIT": "0"}),
        (["buy", "refund a part"], ["PARTIALLY_REFUNDED 0.84"], {"CREDIT": "9.16"}),
        (["subscribe", "renew", "refund a part"], ["COMPLETED 0", "PARTIALLY_REFUNDED 0.84"], {"USD": "19.16"}),
        (["subscribe", "fail and recover", "refund the rest"], ["COMPLETED 0", "REFUNDED 10"], {"USD": "10"}),
        (["buy", "dispute a part"], ["DISPUTED 0"], {"CREDIT": "9.16"}),
        (["buy", "lose a part", "lose a part"], ["DISPUTED 0"], {"CREDIT": "8.32"}),
        (["buy", "refund a part", "lose a part", "win a part"], ["DISPUTED 0.84"], {"CREDIT": "8.32"}),
        (["buy", "refund a part", "lose a dispute"], ["DISPUTED 0.84"], {"CREDIT": "0"}),
        (["buy", "refund a part", "fail the refund", "lose a part"], ["DISPUTED 0"], {"CREDIT": "9.16"}),
        (["buy", "refund a part", "refund a part", "fail the refund"], ["PARTIALLY_REFUNDED 0.84"], {"CREDIT": "9.16"}),
    ],
)
async def test_taxes_that_stripe_adds_are_no_part_of_a_payment_in_any_order_of_webhooks(
    shop: Shop, life: list[str], payments: list[str], posted: dict[str, str], *, backwards: bool
) -> None:
    org = organization()
    webhooks = await shop.live("stripe", org, life)
    await shop.deliver(webhooks[::-1] if backwards else webhooks)
    assert await shop.settle() == {State.APPLIED.value}
    outcome = await shop.outcome(org)
    found: Any = outcome["payments"]
    assert [f"{status} {amount.normalize():f}" for status, _, amount, _ in found] == payments
    assert outcome["posted"] == {unit: Decimal(value) for unit, value in posted.items()}


async def test_charge_above_the_price_brings_nothing_before_it_is_known_to_be_taxes(shop: Shop) -> None:
    """With a discount, a charge can exceed the price, too: 9 of 10 are paid, and 1.71 of taxes."""
    org = organization()
    webhooks = await shop.live("stripe", org, ["buy"])
    intent, session = (one["data"]["object"] for one in webhooks)
    session |= {"amount_total": 1_071, "total_details": {"amount_discount": 100, "amount_tax": 171}}
    intent["amount"] = 1_071
    await shop.deliver(webhooks)
    assert sorted((await shop.house.states()).values()) == [State.PARKED.value, State.REFUSED.value]
    assert await refunded(shop, org) == ("PENDING 0", {})
