"""What providers document is read into facts; anything else is unreadable, and nothing of it gets into an error."""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.payment.provider import (
    Event,
    ExternalSubscriptionStatus,
    FactStatus,
    FailedRefund,
    Ignored,
    NewCheckout,
    Occasion,
    PaymentFact,
    ProviderMisconfigured,
    SubscriptionFact,
    Unreadable,
)
from services.billing.payment.providers.lemon_squeezy import webhooks
from services.billing.payment.providers.lemon_squeezy.objects import marked_name, order
from services.billing.payment.providers.stripe import events
from services.billing.payment.providers.stripe.money import read_amount, smallest, write_amount
from tests.support.clock import DEFAULT_NOW, FixedClock
from tests.support.providers.lemon_squeezy import FakeLemonSqueezy
from tests.support.providers.stripe import FakeStripe

OURS = "0190a0a0-0000-7000-8000-000000000001"


def stripe_life() -> FakeStripe:
    """A one-off payment that is refunded in part and disputed, and a subscription of two periods."""
    stripe = FakeStripe(clock=FixedClock())
    form = {
        "mode": "payment",
        "client_reference_id": OURS,
        "metadata[checkout_id]": OURS,
        "payment_intent_data[metadata][checkout_id]": OURS,
        "line_items[0][price_data][unit_amount]": "1000",
        "line_items[0][price_data][currency]": "usd",
    }
    session = stripe.pay(stripe._session(form)["id"])
    charge = stripe.objects[session["payment_intent"]]["latest_charge"]
    stripe.refund(charge, 300)
    stripe.close_dispute(stripe.dispute(charge)["id"], "lost")
    price = stripe.add_price(2_000, "USD")
    form |= {"mode": "subscription", "line_items[0][price]": price, "subscription_data[metadata][checkout_id]": OURS}
    subscription = stripe.pay(stripe._session(form)["id"])["subscription"]
    invoice = stripe.bill(subscription, fails=True)
    stripe.collect(invoice["id"])
    stripe.cancel(subscription, at_period_end=True)
    stripe.cancel(subscription)
    return stripe


def lemon_life(*, tax_percent: int = 0) -> FakeLemonSqueezy:
    """An order that is refunded in part, and a subscription of two periods."""
    lemon = FakeLemonSqueezy(clock=FixedClock(), tax_percent=tax_percent)
    checkout = {
        "custom_price": 1_000,
        "variant_id": 55,
        "product_options": {"name": marked_name("100 credits", OURS)},
        "checkout_data": {"custom": {"checkout_id": OURS}},
    }
    checkout_id = lemon._add("checkouts", checkout, {})["id"]
    lemon.refund("orders", lemon.pay(checkout_id)["id"], 300)
    subscription = lemon.pay(checkout_id, renews=True)["id"]
    lemon.recover(lemon.bill(subscription, fails=True)["id"])
    lemon.refund("subscription-invoices", lemon.bill(subscription)["id"], 500)
    lemon.pause(subscription)
    lemon.cancel(subscription)
    lemon.expire(subscription)
    return lemon


def stripe_facts(kind: str) -> list[Any]:
    return [fact for event in stripe_life().events if event["type"] == kind for fact in facts_of(event)]


def facts_of(event: dict[str, Any]) -> tuple[Any, ...]:
    parsed = events.parse(json.dumps(event).encode())
    return parsed.facts if isinstance(parsed, Event) else ()


def lemon_facts(kind: str, **options: int) -> list[Any]:
    found: list[Any] = []
    for document in lemon_life(**options).webhooks:
        parsed = webhooks.parse(json.dumps(document).encode())
        if parsed.kind == kind and isinstance(parsed, Event):
            found += parsed.facts
    return found


def test_checkout_of_stripe_says_what_was_paid_and_for_which_checkout() -> None:
    one_off, first = stripe_facts("checkout.session.completed")
    assert (one_off.amount, one_off.currency_code, one_off.status) == (Decimal(10), "USD", FactStatus.COMPLETED)
    assert (one_off.checkout_id, one_off.occasion, one_off.is_test) == (OURS, Occasion.ONE_OFF, False)
    assert [reference.kind for reference in one_off.references] == ["CHECKOUT", "PAYMENT", "CUSTOMER"]
    assert (first.occasion, first.amount) == (Occasion.FIRST, Decimal(20))
    assert {reference.kind for reference in first.references} >= {"SUBSCRIPTION", "INVOICE"}


def test_refunds_and_disputes_of_stripe_are_told_of_the_charge_and_its_payment() -> None:
    (refunded,) = stripe_facts("charge.refunded")
    assert (refunded.refunded_amount, refunded.amount, refunded.checkout_id) == (Decimal(3), Decimal(10), OURS)
    (opened,), (closed,) = stripe_facts("charge.dispute.created"), stripe_facts("charge.dispute.closed")
    assert (opened.disputed, closed.disputed, opened.status, opened.amount) == (True, True, None, None)
    assert (opened.disputed_amount, opened.disputed_currency_code) == (Decimal(10), "USD")
    assert opened.references[1:] == tuple(sorted(refunded.references[:2]))
    stripe = stripe_life()
    charge = next(one["id"] for one in stripe.objects.values() if one["object"] == "charge")
    dispute = stripe.dispute(charge)
    stripe.close_dispute(dispute["id"], "won")
    assert facts_of(stripe.events[-1])[0].disputed is False
    stripe.dispute(charge, 250)
    assert facts_of(stripe.events[-1])[0].disputed_amount == Decimal("2.5")
    stripe.close_dispute(dispute["id"], "warning_closed")
    assert facts_of(stripe.events[-1]) == ()


@pytest.mark.parametrize(
    ("moved", "disputed"), [(None, False), ([], False), ([-1_500], True), ([-1_500, 1_500], False)]
)
def test_dispute_of_stripe_that_was_prevented_counts_where_money_was_withdrawn_for_it(
    moved: list[int] | None, *, disputed: bool
) -> None:
    event = next(copy.deepcopy(one) for one in stripe_life().events if one["type"] == "charge.dispute.closed")
    event["data"]["object"] |= {"status": "prevented", "balance_transactions": [{"amount": one} for one in moved or ()]}
    if moved is None:
        del event["data"]["object"]["balance_transactions"]
    assert facts_of(event)[0].disputed is disputed


def test_inquiry_of_stripe_that_becomes_a_dispute_counts_from_when_money_was_withdrawn() -> None:
    event = next(copy.deepcopy(one) for one in stripe_life().events if one["type"] == "charge.dispute.created")
    told = []
    for kind, status in (
        ("created", "warning_needs_response"),
        ("funds_withdrawn", "needs_response"),
        ("updated", "under_review"),
        ("closed", "won"),
        ("funds_reinstated", "won"),
    ):
        event["type"], event["data"]["object"]["status"] = f"charge.dispute.{kind}", status
        told.append([one.disputed for one in facts_of(event)])
    assert told == [[], [True], [True], [False], [False]]
    assert len(events.TYPES) <= 20


def test_order_of_lemon_squeezy_that_was_taken_for_fraud_is_disputed_until_it_is_paid_or_refunded() -> None:
    lemon = lemon_life()
    order_id = next(one for kind, one in lemon.objects if kind == "orders")
    attributes = lemon.objects["orders", order_id]["attributes"]
    disputed = []
    for status in ("pending", "paid", "fraudulent", "refunded", "partial_refund", "failed"):
        attributes["status"] = status
        disputed.append(order(lemon.objects["orders", order_id], {}).disputed)
    assert disputed == [None, False, True, False, False, None]


def test_refund_of_stripe_that_failed_is_told_of_its_charge_and_one_that_is_made_is_ignored() -> None:
    stripe = stripe_life()
    last = {one["object"]: one for one in stripe.objects.values()}
    charge = next(one for one in stripe.objects.values() if one["object"] == "charge")
    last["refund"]["metadata"] = {"refund_id": OURS}
    stripe.fail_refund(charge["id"], last["refund"]["id"])
    told = [facts_of(event)[0] for event in stripe.events[-3:]]
    made = datetime.fromtimestamp(last["refund"]["created"], UTC)
    assert {fact.failed_refund for fact in told} == {FailedRefund(Decimal(3), made, OURS)}
    assert [reference.kind for reference in told[0].references][:2] == ["REFUND", "CHARGE"]
    stripe.events[-1]["data"]["object"]["status"] = "succeeded"
    assert facts_of(stripe.events[-1]) == ()


def test_invoices_of_stripe_tell_the_first_payment_from_renewals() -> None:
    first, renewal = stripe_facts("invoice.paid")
    assert (first.occasion, renewal.occasion) == (Occasion.FIRST, Occasion.RENEWAL)
    assert first.checkout_id == renewal.checkout_id == OURS
    (failed,) = stripe_facts("invoice.payment_failed")
    assert (failed.status, failed.amount) == (FactStatus.FAILED, Decimal(20))
    assert failed.references[0] == renewal.references[0]


def test_invoice_of_a_later_version_of_stripe_is_read_where_the_fields_have_moved() -> None:
    event = next(copy.deepcopy(one) for one in stripe_life().events if one["type"] == "invoice.paid")
    before = facts_of(event)[0]
    invoice = event["data"]["object"]
    intent, subscription = invoice.pop("payment_intent"), invoice.pop("subscription")
    metadata = invoice.pop("subscription_details")["metadata"]
    invoice["parent"] = {"subscription_details": {"subscription": subscription, "metadata": metadata}}
    invoice["payments"] = {"data": [{"payment": {"type": "payment_intent", "payment_intent": intent}}]}
    (line,) = invoice["lines"]["data"]
    invoice["lines"]["data"] = [{"pricing": {"price_details": {"price": line["price"]["id"]}}}]
    assert facts_of(event)[0] == before


def test_subscription_of_stripe_is_in_our_words_and_its_events_of_one_second_are_in_order() -> None:
    life = [
        fact
        for event in stripe_life().events
        if event["type"].startswith("customer.subscription")
        for fact in facts_of(event)
    ]
    statuses = [fact.status.value for fact in life]
    assert statuses == ["ACTIVE", "PAST_DUE", "ACTIVE", "CANCELLED", "CANCELLED"]
    assert life[-1].ends_time == DEFAULT_NOW
    event = {
        "id": "evt_1",
        "object": "event",
        "created": 1_623_979_265,
        "type": "customer.subscription.created",
        "livemode": True,
        "data": {"object": {"id": "sub_1", "object": "subscription", "status": "active", "livemode": True}},
    }
    (created,), (updated,), (deleted,) = (
        facts_of(event | {"type": f"customer.subscription.{what}"}) for what in ("created", "updated", "deleted")
    )
    assert created.version < updated.version < deleted.version


@pytest.mark.parametrize(
    ("units", "code", "amount"),
    [
        (1_000, "USD", "10"),
        (500, "JPY", "500"),
        (500, "ISK", "5"),
        (500, "UGX", "5"),
        (5_120, "KWD", "5.12"),
        (1, "EUR", "0.01"),
        (1_045, "HUF", "10.45"),
    ],
)
def test_whole_numbers_of_stripe_have_the_decimals_that_it_documents(units: int, code: str, amount: str) -> None:
    assert read_amount(units, code) == Decimal(amount)
    assert write_amount(Decimal(amount), code) == units


@pytest.mark.parametrize("code", ["USD", "JPY", "KWD", "ISK", "UGX", "HUF"])
def test_smallest_amounts_of_stripe_can_be_charged_and_a_tenth_of_them_cannot(code: str) -> None:
    assert write_amount(smallest(code), code) > 0
    with pytest.raises(ProviderMisconfigured):
        write_amount(smallest(code) / 10, code)


@pytest.mark.parametrize(("amount", "code"), [("0.005", "USD"), ("1.5", "JPY"), ("5.125", "KWD"), ("5.5", "ISK")])
def test_amount_that_stripe_cannot_charge_is_not_rounded(amount: str, code: str) -> None:
    with pytest.raises(ProviderMisconfigured):
        write_amount(Decimal(amount), code)


def test_order_of_lemon_squeezy_says_what_was_paid_without_the_taxes_that_it_added() -> None:
    for tax in (0, 20):
        (created, *_), (refunded,) = lemon_facts("order_created", tax_percent=tax), lemon_facts("order_refunded")
        assert (created.amount, created.status, created.checkout_id) == (Decimal(10), FactStatus.COMPLETED, OURS)
        assert (created.store, created.product_external_id, created.refunded_amount) == ("7", "55", Decimal(0))
        assert refunded.refunded_amount == Decimal(3)
        assert refunded.version > created.version


def test_subscription_invoices_of_lemon_squeezy_tell_success_failure_recovery_and_refund() -> None:
    first, recovered, last = lemon_facts("subscription_payment_success")
    assert [fact.occasion for fact in (first, recovered, last)] == [Occasion.FIRST, Occasion.RENEWAL, Occasion.RENEWAL]
    (failed,) = lemon_facts("subscription_payment_failed")
    assert (failed.status, failed.references) == (FactStatus.FAILED, recovered.references)
    assert lemon_facts("subscription_payment_recovered")[0].status is FactStatus.COMPLETED
    (refunded,) = lemon_facts("subscription_payment_refunded")
    assert (refunded.references, refunded.refunded_amount) == (last.references, Decimal(5))


def test_subscription_of_lemon_squeezy_is_in_our_words() -> None:
    for what, status in (
        ("created", ExternalSubscriptionStatus.ACTIVE),
        ("paused", ExternalSubscriptionStatus.PAUSED),
        ("cancelled", ExternalSubscriptionStatus.CANCELLED),
        ("expired", ExternalSubscriptionStatus.EXPIRED),
    ):
        (fact,) = lemon_facts(f"subscription_{what}")
        assert (fact.status, fact.checkout_id, fact.plan_external_id) == (status, OURS, "55")


def test_checkout_is_found_by_the_name_that_was_sold_where_there_is_no_custom_data() -> None:
    document = copy.deepcopy(lemon_life().webhooks[0])
    document["meta"]["custom_data"] = []
    (fact,) = _facts(webhooks.parse(json.dumps(document).encode()))
    assert fact.checkout_id == OURS


def _facts(parsed: Event | Ignored) -> tuple[PaymentFact | SubscriptionFact, ...]:
    assert isinstance(parsed, Event)
    return parsed.facts


def all_webhooks() -> Iterator[tuple[str, bytes]]:
    for event in stripe_life().events:
        yield "stripe", json.dumps(event).encode()
    for document in lemon_life().webhooks:
        yield "lemon_squeezy", json.dumps(document).encode()


PARSERS = {"stripe": events.parse, "lemon_squeezy": webhooks.parse}
BODIES = list(all_webhooks())
HOSTILE: list[object] = [
    *(None, True, -1, 10**40, 1.5, "", "\x00", "\ud800", "'; DROP TABLE payments; --", "../..", "x" * 1_000_000),
    *([], {}, [[]], {"id": {}}),
]


@given(data=st.data())
def test_any_field_replaced_by_anything_is_read_or_unreadable_and_never_an_error(data: st.DataObject) -> None:
    provider, body = data.draw(st.sampled_from(BODIES))
    document = json.loads(body)
    inner, path = document, data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    for step in path:
        if not isinstance(inner, dict | list) or not inner:
            break
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = keys[step % len(keys)]
        if step == path[-1]:
            inner[key] = data.draw(st.sampled_from(HOSTILE))
            break
        inner = inner[key]
    try:
        parsed = PARSERS[provider](json.dumps(document).encode())
    except Unreadable as unreadable:
        flaw = str(unreadable)
    else:
        flaw = ""
        assert len(parsed.event_id) <= 255
        for fact in parsed.facts if isinstance(parsed, Event) else ():
            texts = [value for name in fact.__slots__ if isinstance(value := getattr(fact, name), str)]
            assert all(text.isprintable() and len(text) <= 2_048 for text in texts), texts
    assert len(flaw) < 200


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000, b'{"meta":1}', b"9" * 5_000])
@pytest.mark.parametrize("provider", PARSERS)
def test_what_is_no_webhook_is_unreadable(provider: str, body: bytes) -> None:
    with pytest.raises(Unreadable):
        PARSERS[provider](body)


def test_event_that_says_nothing_of_payments_is_ignored_by_name() -> None:
    event = json.loads(BODIES[0][1]) | {"type": "product.created"}
    ignored = events.parse(json.dumps(event).encode())
    assert isinstance(ignored, Ignored)
    assert ignored.kind == "product.created"
    document = {"meta": {"event_name": "license_key_created"}}
    assert isinstance(webhooks.parse(json.dumps(document).encode()), Ignored)


def new_checkout(**changes: object) -> NewCheckout:
    fields: dict[str, Any] = {
        "checkout_id": OURS,
        "organization_id": OURS,
        "user_id": None,
        "email": "ada@example.com",
        "name": "100 credits",
        "amount": Decimal(10),
        "currency_code": "USD",
        "external_product_id": None,
        "renews": False,
        "success_url": "https://app.example.com/done",
        "cancel_url": "https://app.example.com/back",
        "expire_time": datetime(2026, 3, 15, 13, tzinfo=UTC),
        "is_test": False,
    }
    return NewCheckout(**{**fields, **changes})
