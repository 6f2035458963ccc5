"""Calls of the providers' APIs: bounded, tried again where nothing can be done twice, and errors told apart."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from services.billing.payment.provider import (
    FactStatus,
    NewCharge,
    NewRefund,
    PaymentFact,
    ProviderCannot,
    ProviderDeclined,
    ProviderDown,
    ProviderError,
    ProviderMisconfigured,
    Reference,
    ReferenceKind,
)
from services.billing.payment.providers import http
from services.billing.payment.providers.lemon_squeezy.provider import LemonSqueezy
from services.billing.payment.providers.stripe.money import read_amount
from services.billing.payment.providers.stripe.provider import Stripe
from tests.billing.test_provider_facts import OURS, new_checkout
from tests.support.clock import FixedClock
from tests.support.providers import lemon_squeezy as lemon_fake
from tests.support.providers import stripe as stripe_fake
from tests.support.providers.http import Fault
from tests.support.providers.lemon_squeezy import FakeLemonSqueezy
from tests.support.providers.stripe import FakeStripe


def new_refund(
    references: tuple[Reference, ...], value: str, refund_id: str = "refund-1", *, before: str = "0"
) -> NewRefund:
    """Return a refund of a payment of 10 USD, of which so much was refunded before."""
    amounts = {"payment_amount": Decimal(10), "refunded_before": Decimal(before)}
    return NewRefund(refund_id, references, Decimal(value), "USD", "asked for", **amounts, may_be_made=False)


CHARGE = NewCharge(OURS, "cus_1", Decimal(25), "USD", "Top-up", is_test=False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_WAIT_FIRST_S", 0.001)


@pytest.fixture
async def stripe(clock: FixedClock) -> AsyncIterator[FakeStripe]:
    fake = FakeStripe(clock=clock)
    async with fake.serving():
        yield fake


@pytest.fixture
async def to_stripe(stripe: FakeStripe, clock: FixedClock) -> AsyncIterator[Stripe]:
    provider = Stripe(stripe_fake.SECRET_KEY, stripe.url, clock)
    yield provider
    await provider.close()


@pytest.fixture
async def lemon(clock: FixedClock) -> AsyncIterator[FakeLemonSqueezy]:
    fake = FakeLemonSqueezy(clock=clock, tax_percent=20)
    async with fake.serving():
        yield fake


@pytest.fixture
async def to_lemon(lemon: FakeLemonSqueezy, clock: FixedClock) -> AsyncIterator[LemonSqueezy]:
    provider = LemonSqueezy(lemon_fake.API_KEY, str(lemon_fake.STORE), "99", lemon.url, clock)
    yield provider
    await provider.close()


async def test_checkout_of_stripe_is_opened_once_however_often_it_is_asked_for(
    stripe: FakeStripe, to_stripe: Stripe
) -> None:
    stripe.faults = [Fault.DROPPED_AFTER, Fault.OVERLOADED, Fault.FAILED]
    opened = await to_stripe.create_checkout(new_checkout())
    assert opened == await to_stripe.create_checkout(new_checkout())
    (session,) = [one for one in stripe.objects.values() if one["object"] == "checkout.session"]
    assert opened.references == (Reference(ReferenceKind.CHECKOUT, session["id"]),)
    assert (session["amount_total"], session["currency"], session["client_reference_id"]) == (1_000, "usd", OURS)
    assert {request.headers["idempotency-key"] for request in stripe.requests} == {OURS}


async def test_checkout_of_a_plan_needs_a_price_at_the_provider(stripe: FakeStripe, to_stripe: Stripe) -> None:
    with pytest.raises(ProviderMisconfigured):
        await to_stripe.create_checkout(new_checkout(renews=True))
    price = stripe.add_price(1_000, "USD")
    opened = await to_stripe.create_checkout(new_checkout(renews=True, external_product_id=price))
    assert stripe.objects[opened.references[0].external_id]["mode"] == "subscription"


@pytest.mark.parametrize(("amount", "code"), [(2_000, "USD"), (1_000, "EUR"), (1_001, "USD")])
async def test_checkout_whose_price_at_stripe_is_not_the_catalogues_is_not_opened(
    stripe: FakeStripe, to_stripe: Stripe, amount: int, code: str
) -> None:
    """Who paid it would get nothing: a payment of another amount is refused."""
    price = stripe.add_price(amount, code)
    with pytest.raises(ProviderMisconfigured):
        await to_stripe.create_checkout(new_checkout(external_product_id=price))


async def test_refund_of_stripe_is_made_once_and_says_what_is_refunded_in_all(
    stripe: FakeStripe, to_stripe: Stripe
) -> None:
    session = stripe.pay((await to_stripe.create_checkout(new_checkout())).references[0].external_id)
    references = (Reference(ReferenceKind.PAYMENT, session["payment_intent"]),)
    first = new_refund(references, "3")
    stripe.faults = [None, Fault.DROPPED_AFTER]
    for _ in range(2):
        assert (await to_stripe.refund(first)).refunded_amount == Decimal(3)
    second = await to_stripe.refund(new_refund(references, "7", "refund-2", before="3"))
    assert second.refunded_amount == Decimal(10)
    with pytest.raises(ProviderDeclined):
        await to_stripe.refund(new_refund(references, "1", "refund-3"))


@pytest.mark.parametrize(
    ("code", "price", "value", "refunded"), [("KWD", "5.12", "1", 1_050), ("UGX", "999", "5", 500)]
)
async def test_refund_of_stripe_with_taxes_is_asked_for_in_amounts_that_it_takes_in_the_currency(
    stripe: FakeStripe, to_stripe: Stripe, code: str, price: str, value: str, refunded: int
) -> None:
    """Of KWD it takes 1.050 and not 1.049; UGX has no decimals."""
    stripe.tax_percent = 5
    checkout = new_checkout(currency_code=code, amount=Decimal(price))
    session = stripe.pay((await to_stripe.create_checkout(checkout)).references[0].external_id)
    references = (Reference(ReferenceKind.PAYMENT, session["payment_intent"]),)
    amounts = {"payment_amount": Decimal(price), "refunded_before": Decimal(0)}
    part = NewRefund("part", references, Decimal(value), code, "asked for", **amounts, may_be_made=False)
    assert (await to_stripe.refund(part)).refunded_amount == read_amount(refunded, code)
    left = Decimal(price) - Decimal(value)
    rest = replace(part, refund_id="rest", amount=left, refunded_before=Decimal(value))
    all_of_it = await to_stripe.refund(rest)
    assert all_of_it.refunded_amount == all_of_it.amount


@pytest.mark.parametrize("kind", ["payment_intent", "charge"])
async def test_refund_of_stripe_is_found_after_its_key_was_forgotten(
    stripe: FakeStripe, to_stripe: Stripe, clock: FixedClock, kind: str
) -> None:
    intent = stripe.pay((await to_stripe.create_checkout(new_checkout())).references[0].external_id)["payment_intent"]
    charge = stripe.objects[intent]["latest_charge"]
    payment = kind == "payment_intent"
    references = (Reference(*((ReferenceKind.PAYMENT, intent) if payment else (ReferenceKind.CHARGE, charge))),)
    refund = new_refund(references, "3")
    await to_stripe.refund(refund)
    for _ in range(120):
        stripe.refund(charge, 1)
    clock.advance(timedelta(hours=25))
    found = await to_stripe.refund(replace(refund, may_be_made=True))
    assert (found.refunded_amount, found.version.time) == (Decimal("4.2"), clock.now() - timedelta(hours=25))
    assert stripe.objects[charge]["amount_refunded"] == 420
    # One that was never made is made now.
    other = new_refund(references, "2", "refund-2", before="4.2")
    assert (await to_stripe.refund(replace(other, may_be_made=True))).refunded_amount == Decimal("6.2")


@pytest.mark.parametrize("name", ["stripe", "lemon_squeezy"])
async def test_refunds_of_all_parts_give_back_all_taxes(
    stripe: FakeStripe, to_stripe: Stripe, lemon: FakeLemonSqueezy, to_lemon: LemonSqueezy, name: str
) -> None:
    """Rounded each by itself, they are 4 + 4 + 4.01 of 12."""
    stripe.tax_percent = 20
    provider: Stripe | LemonSqueezy = to_stripe if name == "stripe" else to_lemon
    checkout = (await provider.create_checkout(new_checkout())).references[0].external_id
    if name == "stripe":
        intent = stripe.pay(checkout)["payment_intent"]
        references = (Reference(ReferenceKind.PAYMENT, intent),)
        charge = stripe.objects[stripe.objects[intent]["latest_charge"]]
    else:
        references = (Reference(ReferenceKind.ORDER, lemon.pay(checkout)["id"]),)
        charge = lemon.objects["orders", references[0].external_id]["attributes"]
    refunded = []
    for number, (value, before) in enumerate((("3.33", "0"), ("3.33", "3.33"), ("3.34", "6.66"))):
        await provider.refund(new_refund(references, value, f"refund-{number}", before=before))
        refunded.append(charge.get("amount_refunded", charge.get("refunded_amount")))
    assert refunded == [400, 799, 1_200]


async def test_saved_method_is_charged_once_and_a_declined_card_is_a_payment_that_failed(
    stripe: FakeStripe, to_stripe: Stripe
) -> None:
    stripe._add("cus", "customer", {"invoice_settings": {}})
    stripe.faults = [None, None, Fault.DROPPED_AFTER]
    for _ in range(2):
        charged = await to_stripe.charge_saved(CHARGE)
        assert (charged.status, charged.amount, charged.checkout_id) == (FactStatus.COMPLETED, Decimal(25), OURS)
    assert sum(one["object"] == "payment_intent" for one in stripe.objects.values()) == 1
    stripe.decline = True
    declined = await to_stripe.charge_saved(NewCharge("other", "cus_1", Decimal(25), "USD", "", is_test=False))
    assert (declined.status, declined.failure) == (FactStatus.FAILED, "Your card was declined.")
    # The method that was saved has changed meanwhile: what became of the first charge is told by its webhook.
    other = NewCharge(OURS, "cus_1", Decimal(26), "USD", "Top-up", is_test=False)
    assert (await to_stripe.charge_saved(other)).status is FactStatus.PENDING


async def test_portals_are_where_the_provider_says(
    stripe: FakeStripe, to_stripe: Stripe, lemon: FakeLemonSqueezy, to_lemon: LemonSqueezy
) -> None:
    assert await to_stripe.portal_url("cus_9") == "https://billing.stripe.com/cus_9"
    lemon._add("customers", {"urls": {"customer_portal": "https://store.lemonsqueezy.com/billing"}}, {})
    assert await to_lemon.portal_url("1") == "https://store.lemonsqueezy.com/billing"
    lemon._add("customers", {"urls": {"customer_portal": None}}, {})
    with pytest.raises(ProviderDeclined):
        await to_lemon.portal_url("2")
    with pytest.raises(ProviderMisconfigured):
        await to_lemon.portal_url("../orders/1?x=#")


async def test_checkout_of_lemon_squeezy_has_our_price_our_data_and_no_discounts(
    lemon: FakeLemonSqueezy, to_lemon: LemonSqueezy
) -> None:
    opened = await to_lemon.create_checkout(new_checkout(external_product_id="55"))
    made = lemon.objects["checkouts", opened.references[0].external_id]["attributes"]
    assert (made["custom_price"], made["variant_id"], made["checkout_options"]) == (1_000, 55, {"discount": False})
    assert made["checkout_data"] == {"custom": {"checkout_id": OURS}, "email": "ada@example.com"}
    top_up = await to_lemon.create_checkout(new_checkout())
    assert lemon.objects["checkouts", top_up.references[0].external_id]["attributes"]["variant_id"] == 99


@pytest.mark.parametrize("fault", [None, Fault.DROPPED_AFTER, Fault.NO_JSON])
async def test_refund_of_lemon_squeezy_that_may_have_been_made_is_not_made_again(
    lemon: FakeLemonSqueezy, to_lemon: LemonSqueezy, fault: Fault | None
) -> None:
    checkout = (await to_lemon.create_checkout(new_checkout())).references[0].external_id
    order = lemon.pay(checkout)["id"]
    lemon.faults = [None, fault]
    refund = new_refund((Reference(ReferenceKind.ORDER, order),), "5")
    if fault is Fault.NO_JSON:
        # Nothing was refunded, as the order says.
        with pytest.raises(ProviderDown):
            await to_lemon.refund(refund)
        return
    assert (await to_lemon.refund(refund)).refunded_amount == Decimal(5)
    # Taxes are refunded with it.
    assert lemon.objects["orders", order]["attributes"]["refunded_amount"] == 600
    with pytest.raises(ProviderDeclined):
        await to_lemon.refund(new_refund(refund.references, "5.01", "refund-2"))
    # A process that died after it, and another that repeats it.
    assert (await to_lemon.refund(replace(refund, may_be_made=True))).refunded_amount == Decimal(5)
    assert lemon.objects["orders", order]["attributes"]["refunded_amount"] == 600
    # One that died before it.
    last = new_refund(refund.references, "2", "refund-3", before="5")
    assert (await to_lemon.refund(replace(last, may_be_made=True))).refunded_amount == Decimal(7)


async def test_lemon_squeezy_charges_no_saved_method(to_lemon: LemonSqueezy) -> None:
    with pytest.raises(ProviderCannot):
        await to_lemon.charge_saved(CHARGE)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.DROPPED_BEFORE, ProviderDown),
        (Fault.OVERLOADED, ProviderDown),
        (Fault.FAILED, ProviderDown),
        (Fault.NO_JSON, ProviderDown),
        (Fault.COMPRESSED, ProviderDown),
        (Fault.REDIRECT, ProviderMisconfigured),
    ],
)
async def test_errors_are_told_apart_and_tries_are_bounded(
    stripe: FakeStripe, to_stripe: Stripe, fault: Fault, error: type[ProviderError]
) -> None:
    stripe.faults = [fault] * 100
    with pytest.raises(error):
        await to_stripe.create_checkout(new_checkout())
    answered = (Fault.NO_JSON, Fault.COMPRESSED, Fault.REDIRECT)
    assert len(stripe.requests) == (1 if fault in answered else http.TRIES_MAX)


async def test_wrong_key_is_a_misconfiguration_and_is_not_in_the_error(stripe: FakeStripe, clock: FixedClock) -> None:
    provider = Stripe("sk_" + "wrong", stripe.url, clock)
    with pytest.raises(ProviderMisconfigured) as refused:
        await provider.create_checkout(new_checkout())
    assert "wrong" not in str(refused.value)
    await provider.close()
    nowhere = Stripe("sk_", "http://127.0.0.1:1", clock)
    with pytest.raises(ProviderDown):
        await nowhere.portal_url("cus_1")
    await nowhere.close()


async def test_events_of_stripe_are_read_oldest_first_over_all_pages(
    stripe: FakeStripe, to_stripe: Stripe, clock: FixedClock
) -> None:
    begin = clock.now()
    for number in range(130):
        checkout = new_checkout(checkout_id=f"checkout-{number}")
        stripe.pay((await to_stripe.create_checkout(checkout)).references[0].external_id)
    clock.advance(timedelta(hours=20))
    facts = [fact async for changes in to_stripe.changed_since(begin) for fact in changes.facts]
    assert [fact.version for fact in facts] == sorted(fact.version for fact in facts)
    assert len(facts) == 260
    later = begin + timedelta(seconds=200)
    assert len([1 async for changes in to_stripe.changed_since(later) for _ in changes.facts]) == 60


async def test_changes_of_lemon_squeezy_are_those_since_then_also_of_older_objects(
    lemon: FakeLemonSqueezy, to_lemon: LemonSqueezy, clock: FixedClock
) -> None:
    orders = []
    for number in range(210):
        clock.advance(timedelta(minutes=1))
        checkout = new_checkout(checkout_id=f"0190a0a0-0000-7000-8000-{number:012d}")
        orders.append(lemon.pay((await to_lemon.create_checkout(checkout)).references[0].external_id)["id"])
    clock.advance(timedelta(days=10))
    begin = clock.now()
    clock.advance(timedelta(days=3))
    lemon.refund("orders", orders[0], 1_200)
    (fact,) = [fact async for changes in to_lemon.changed_since(begin) for fact in changes.facts]
    assert isinstance(fact, PaymentFact)
    assert (fact.checkout_id, fact.refunded_amount) == ("0190a0a0-0000-7000-8000-000000000000", Decimal(10))
    every = [
        fact async for changes in to_lemon.changed_since(clock.now() - timedelta(days=20)) for fact in changes.facts
    ]
    assert len(every) == 210
    assert all(before.version <= after.version for before, after in itertools.pairwise(every[1:]))
