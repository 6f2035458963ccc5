"""Webhooks through the server: from a checkout to credits and back, and what is refused."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.api import httpbody_pb2

from libs.common.access import Caller, CallerKind
from libs.common.call import Call, enter_call, leave_call
from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.shards import open_shards
from services.billing.payment.portals import Portals
from services.billing.payment.providers.stripe.provider import Stripe
from services.billing.payment_errors import PortalIsPersonal
from tests.billing.support import BillingServer, Ledger, balance_of, refusal, usd
from tests.billing.webhook_house import eventually
from tests.common.test_call import FromAfar
from tests.support.callers import Callers
from tests.support.providers import lemon_squeezy as lemon_fake
from tests.support.providers import stripe as stripe_fake
from tests.support.providers.lemon_squeezy import FakeLemonSqueezy
from tests.support.providers.stripe import FakeStripe
from tests.support.sharded import SHARDS
from tests.system.forked_commands import run_command
from tollhouse.billing.v1 import payment_pb2 as pb

PAGES: dict[str, Any] = {"success_url": "https://app.example.com/done", "cancel_url": "https://app.example.com/back"}


@dataclass
class Till:
    """A server of billing with both providers."""

    ledger: Ledger
    stripe: FakeStripe
    lemon: FakeLemonSqueezy

    async def send(self, document: dict[str, Any]) -> pb.ReceiveWebhookResponse:
        """Send a webhook without credentials, with the headers as metadata, as Envoy does."""
        fake, provider = (self.lemon, "lemon_squeezy") if "meta" in document else (self.stripe, "stripe")
        headers, body = fake.webhook(document)
        request = pb.ReceiveWebhookRequest(provider=provider, body=httpbody_pb2.HttpBody(data=body))
        return await self.ledger.payments.ReceiveWebhook(request, metadata=tuple(headers.items()), timeout=20)

    async def payment(self, org: str, payment_id: str) -> pb.Payment:
        request = pb.GetPaymentRequest(organization_id=org, payment_id=payment_id)
        return (await self.ledger.payments.GetPayment(request, metadata=self.ledger.metadata)).payment

    async def becomes(self, org: str, payment_id: str, status: pb.PaymentStatus.ValueType) -> pb.Payment:
        async def holds() -> bool:
            return (await self.payment(org, payment_id)).status == status

        await eventually(holds, within_s=20)
        return await self.payment(org, payment_id)


@pytest.fixture(scope="module")
async def till(callers: Callers, module_database_urls: dict[str, str]) -> AsyncIterator[Till]:
    stripe, lemon = FakeStripe(clock=SystemClock()), FakeLemonSqueezy(clock=SystemClock())
    async with stripe.serving(), lemon.serving():
        settings: dict[str, Any] = {
            "stripe_secret_key": stripe_fake.SECRET_KEY,
            "stripe_webhook_secrets": [stripe_fake.WEBHOOK_SECRET],
            "stripe_url": stripe.url,
            "lemon_squeezy_api_key": lemon_fake.API_KEY,
            "lemon_squeezy_store_id": str(lemon_fake.STORE),
            "lemon_squeezy_webhook_secrets": [lemon_fake.WEBHOOK_SECRET],
            "lemon_squeezy_top_up_variant_id": "99",
            "lemon_squeezy_url": lemon.url,
        }
        async with BillingServer(callers, module_database_urls["billing"]).start(**settings) as ledger:
            yield Till(ledger, stripe, lemon)
            assert await ledger.findings() == []


@pytest.mark.parametrize("provider", ["stripe", "lemon_squeezy"])
async def test_checkout_is_paid_brings_money_and_is_refunded_at_the_provider(till: Till, provider: str) -> None:
    org, ledger = new_id(), till.ledger
    request = pb.CreateCheckoutRequest(
        organization_id=org, request_id="top-up", provider=provider, top_up_amount=usd("25"), **PAGES
    )
    opened = (await ledger.payments.CreateCheckout(request, metadata=ledger.metadata, timeout=20)).payment
    place = opened.checkout_url.rpartition("/")[2]
    if provider == "stripe":
        till.stripe.pay(place)
        webhooks = till.stripe.events
    else:
        till.lemon.pay(place)
        webhooks = till.lemon.webhooks
    for webhook in reversed(webhooks):
        assert not (await till.send(webhook)).replayed
        assert (await till.send(webhook)).replayed
    paid = await till.becomes(org, opened.payment_id, pb.PAYMENT_STATUS_COMPLETED)
    assert paid.awarded
    assert (await balance_of(ledger, org)).posted == usd("25")
    refund = pb.RefundPaymentRequest(
        organization_id=org, payment_id=opened.payment_id, request_id="r", amount=usd("5"), reason="asked for"
    )
    for _ in range(2):
        refunded = (await ledger.payments.RefundPayment(refund, metadata=ledger.metadata, timeout=20)).payment
        assert refunded.refunded_amount == usd("5")
    await till.send(webhooks[-1])
    assert (await balance_of(ledger, org)).posted == usd("20")
    at_provider = {
        "stripe": lambda: [one["amount_refunded"] for one in till.stripe.objects.values() if one["object"] == "charge"],
        "lemon_squeezy": lambda: [
            one["attributes"]["refunded_amount"] for (kind, _), one in till.lemon.objects.items() if kind == "orders"
        ],
    }
    assert at_provider[provider]() == [500]


async def test_top_up_policy_is_set_changed_and_switched_off_from_a_terminal(till: Till, callers: Callers) -> None:
    async def run(*arguments: str) -> dict[str, Any]:
        environment = dict(os.environ) | {"TOLLHOUSE_TOKEN": callers.token(callers.operator_key)}
        words = ("payment", "top-up", *arguments, "--json", "--billing", till.ledger.target)
        done = await asyncio.to_thread(run_command, words, environment, 60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    org = new_id()
    buy = pb.CreateCheckoutRequest(
        organization_id=org, request_id="first", provider="stripe", top_up_amount=usd("25"), **PAGES
    )
    opened = (await till.ledger.payments.CreateCheckout(buy, metadata=till.ledger.metadata, timeout=20)).payment
    till.stripe.pay(opened.checkout_url.rpartition("/")[2])
    await till.send(till.stripe.events[-1])
    await till.becomes(org, opened.payment_id, pb.PAYMENT_STATUS_COMPLETED)
    made = await run("set", org, "--below", "5USD", "--amount", "20USD", "--provider", "stripe", "--per-day", "3")
    assert (made["enabled"], made["threshold"]["value"], made["top_up_amount"]["value"]) == (True, "5", "20")
    assert await run("get", org) == made
    changed = await run("set", org, "--up-to", "50.50USD", "--off")
    assert (changed["enabled"], changed["target_balance"]["value"]) == (False, "50.5")
    assert "top_up_amount" not in changed
    assert [changed[name] for name in ("threshold", "provider", "max_per_day", "max_per_month")] == [
        made[name] for name in ("threshold", "provider", "max_per_day", "max_per_month")
    ]
    assert (await run("set", org))["enabled"] is True


async def paid_by(till: Till, org: str, user_id: str) -> str:
    """Have a user pay for an organization at Stripe; return who they are there."""
    buy = pb.CreateCheckoutRequest(
        organization_id=org, request_id=new_id(), provider="stripe", user_id=user_id, top_up_amount=usd("25"), **PAGES
    )
    opened = (await till.ledger.payments.CreateCheckout(buy, metadata=till.ledger.metadata, timeout=20)).payment
    session = till.stripe.pay(opened.checkout_url.rpartition("/")[2])
    await till.send(till.stripe.events[-1])
    await till.becomes(org, opened.payment_id, pb.PAYMENT_STATUS_COMPLETED)
    return str(session["customer"])


async def test_portal_is_that_of_who_paid_last_or_of_the_user_who_is_named(till: Till, callers: Callers) -> None:
    org, ada, bob = new_id(), new_id(), new_id()

    async def portal(**fields: str) -> str:
        request = pb.GetCustomerPortalRequest(organization_id=org, provider="stripe", **fields)
        call = till.ledger.payments.GetCustomerPortal(request, metadata=till.ledger.metadata, timeout=20)
        return (await call).url

    missing = (grpc.StatusCode.FAILED_PRECONDITION, "NO_CUSTOMER")
    assert refused(await refusal(portal())) == missing
    of_ada, of_bob = await paid_by(till, org, ada), await paid_by(till, org, bob)
    assert await portal() == await portal(user_id=bob) == f"https://billing.stripe.com/{of_bob}"
    assert await portal(user_id=ada.upper()) == f"https://billing.stripe.com/{of_ada}"
    assert refused(await refusal(portal(user_id=new_id()))) == missing
    elsewhere = pb.GetCustomerPortalRequest(organization_id=new_id(), provider="stripe", user_id=ada)
    call = till.ledger.payments.GetCustomerPortal(elsewhere, metadata=till.ledger.metadata, timeout=20)
    assert refused(await refusal(call)) == missing

    environment = dict(os.environ) | {"TOLLHOUSE_TOKEN": callers.token(callers.operator_key)}
    words = ("payment", "portal", org, "--user", ada, "--provider", "stripe", "--billing", till.ledger.target)
    done = await asyncio.to_thread(run_command, words, environment, 60)
    assert f"https://billing.stripe.com/{of_ada}" in done.stdout, done.stderr


async def test_users_open_their_own_portal_and_nobody_elses(
    till: Till, module_database_urls: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """The customer of another one may have paid for other organizations, whose receipts are on the page."""
    request.addfinalizer(leave_call)
    org, ada, bob = new_id(), new_id(), new_id()
    of_ada = await paid_by(till, org, ada)
    await paid_by(till, org, bob)
    shards = open_shards(module_database_urls["billing"], schema="billing", count=SHARDS)
    stripe = Stripe(stripe_fake.SECRET_KEY, till.stripe.url, SystemClock())
    portals = Portals(shards, {"stripe": stripe})

    for caller in (
        Caller(CallerKind.USER, ada, session_id=new_id()),
        Caller(CallerKind.USER, ada, api_key_id=new_id()),
    ):
        enter_call(Call("GetCustomerPortal", caller, FromAfar("unix:/socket")))
        for named in (None, ada):
            assert await portals.open(org, "", named) == f"https://billing.stripe.com/{of_ada}"
        with pytest.raises(PortalIsPersonal):
            await portals.open(org, "", bob)
    enter_call(Call("GetCustomerPortal", Caller(CallerKind.SERVICE_ACCOUNT, ada), FromAfar("unix:/socket")))
    for named in (None, ada):
        with pytest.raises(PortalIsPersonal):
            await portals.open(org, "", named)
    await stripe.close()
    await shards.close()


async def test_refusals_have_the_codes_that_gateways_turn_into_400_401_404_and_409(till: Till) -> None:
    receive = till.ledger.payments.ReceiveWebhook
    event = till.stripe.events[0] if till.stripe.events else {}
    headers, body = till.stripe.webhook({"id": "evt_x", "object": "event"})
    signed = pb.ReceiveWebhookRequest(provider="stripe", body=httpbody_pb2.HttpBody(data=body), headers=headers)
    assert refused(await refusal(receive(signed))) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    signed.ClearField("headers")
    forged = (grpc.StatusCode.UNAUTHENTICATED, "WEBHOOK_SIGNATURE_REFUSED")
    assert refused(await refusal(receive(signed))) == forged
    assert refused(await refusal(receive(signed, metadata=till.ledger.metadata))) == forged
    signed.headers["Stripe-Signature"] = headers["stripe-signature"].upper()
    assert refused(await refusal(receive(signed))) == forged
    signed.body.data = b"x" * 300_000
    assert refused(await refusal(receive(signed)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    unknown = pb.ReceiveWebhookRequest(provider="paypal", body=httpbody_pb2.HttpBody(data=body))
    assert refused(await refusal(receive(unknown)))[0] is grpc.StatusCode.NOT_FOUND
    assert event == {} or (await till.send(event | {"type": "product.created"})).webhook_id == ""


async def test_operators_list_count_retry_and_reconcile_and_nobody_else_does(till: Till) -> None:
    payments, metadata = till.ledger.payments, till.ledger.metadata
    checkout = "0190a0a0-0000-7000-8000-000000000001"
    intent = {"id": "pi_lost", "status": "succeeded", "amount": 500, "currency": "usd", "livemode": True}
    event = {
        "id": "evt_lost",
        "object": "event",
        "type": "payment_intent.succeeded",
        "created": 1_790_000_000,
        "livemode": True,
        "data": {"object": {**intent, "metadata": {"checkout_id": checkout}}},
    }
    webhook_id = (await till.send(json.loads(json.dumps(event)))).webhook_id

    async def parked() -> bool:
        request = pb.ListWebhooksRequest(state=pb.WEBHOOK_STATE_PARKED, page_size=1)
        page = await payments.ListWebhooks(request, metadata=metadata)
        return [one.webhook_id for one in page.webhooks] == [webhook_id]

    await eventually(parked)
    retried = await payments.RetryWebhook(pb.RetryWebhookRequest(webhook_id=webhook_id), metadata=metadata)
    assert (retried.webhook.state, retried.webhook.attempt_count) == (pb.WEBHOOK_STATE_WAITING, 0)

    async def counted() -> bool:
        counts = (await payments.CountWebhooks(pb.CountWebhooksRequest(provider="stripe"), metadata=metadata)).counts
        return sum(one.count for one in counts if one.outcome == "RECEIVED") >= 1

    await eventually(counted)
    stream = payments.ReconcilePayments(pb.ReconcilePaymentsRequest(), metadata=metadata)
    ended = [one async for one in stream if one.ended]
    assert [(one.provider, one.failure) for one in ended] == [("lemon_squeezy", ""), ("stripe", "")]
    for call in (
        payments.ListWebhooks(pb.ListWebhooksRequest()),
        payments.RetryWebhook(pb.RetryWebhookRequest(webhook_id=webhook_id)),
        payments.CountWebhooks(pb.CountWebhooksRequest(provider="stripe")),
    ):
        assert refused(await refusal(call))[0] is grpc.StatusCode.UNAUTHENTICATED


def refused(answer: tuple[grpc.StatusCode, str, dict[str, str]]) -> tuple[grpc.StatusCode, str]:
    return answer[0], answer[1]
