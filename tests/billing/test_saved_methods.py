"""Subscriptions whose periods are charged to a saved method of payment, against the fake of Stripe."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from libs.common.ids import new_id
from libs.common.repeats.once import Repeatable
from services.billing import payment_errors
from services.billing.payment.domain import Brings, Credits, PaymentType
from services.billing.payment.provider import NewCharge, PaymentFact, Version
from services.billing.plan.domain import PastDueEnd
from services.billing.subscription.creation import NewSubscription
from services.billing.subscription.domain import AgreedPlan, Subscription, Updates, WaitsFor, Way
from services.billing.subscription.states import State
from tests.billing.collecting_house import DAY, CollectingHouse, open_collecting
from tests.billing.payment_house import fact
from tests.billing.period_house import pending
from tests.support.providers.http import Fault

_MONTH = 30 * DAY
_RETRIES = [int(days.total_seconds()) for days in (DAY, 3 * DAY)]


@pytest.fixture(scope="module")
async def till(module_database_urls: dict[str, str]) -> AsyncIterator[CollectingHouse]:
    async with open_collecting(module_database_urls["billing"]) as till:
        yield till


@pytest.fixture(autouse=True)
async def alone(till: CollectingHouse) -> AsyncIterator[None]:
    """Let the provider be as it is, and leave no subscription to the tests that follow."""
    till.shop.stripe.decline = False
    till.shop.stripe.faults.clear()
    yield
    for database in till.house.shards:
        async with database.raw_connection() as connection:
            found = await connection.fetch(
                "SELECT organization_id::text, subscription_id::text FROM subscriptions WHERE due_time IS NOT NULL"
            )
        for organization_id, subscription_id in found:
            await till.subscriptions.cancel(organization_id, subscription_id, "", "", at_period_end=False)


async def customer(till: CollectingHouse) -> str:
    """Return an organization that has paid 10 USD to its balance once."""
    org = new_id()
    money = Credits("USD", Decimal(10))
    await till.shop.buy("stripe", org, renews=False, type=PaymentType.TOP_UP, brings=Brings.MONEY, credits=money)
    await till.told()
    return org


async def subscribe(
    till: CollectingHouse, org: str, plan: AgreedPlan, provider: str = "stripe", request_id: str = "r"
) -> Subscription:
    new = NewSubscription(org, plan_code=plan.plan_code, collection_provider=provider)
    repeatable = Repeatable(request_id, "CreateSubscription", b"", lambda _: "body")
    return (await till.creation.create(new, repeatable))[0]


async def payments_of(till: CollectingHouse, made: Subscription) -> list[tuple[str, str]]:
    """Return the status and amount of each payment of a subscription."""
    found = await till.rows(
        made.organization_id,
        "SELECT status, amount FROM payments WHERE organization_id = $1::uuid AND subscription_id IS NOT NULL"
        " ORDER BY payment_id",
    )
    return [(status, f"{amount:.2f}") for status, amount in found]


async def test_each_period_is_charged_once_to_the_saved_method_and_leaves_the_balance(till: CollectingHouse) -> None:
    org = await customer(till)
    plan = await till.plan()
    made = await subscribe(till, org, plan)
    assert (made.state, made.collection, made.collection_provider) == (State.ACTIVE, Way.SAVED_METHOD, "stripe")
    assert await subscribe(till, org, plan) == made
    await till.pass_time(2 * _MONTH)
    await till.told()
    assert await payments_of(till, made) == [("COMPLETED", "10.00")] * 3
    assert (await till.balance(org))["USD"] == "10.00"
    used = await till.rows(
        org, "SELECT operation_id FROM period_payments WHERE organization_id = $1::uuid ORDER BY operation_id"
    )
    assert used == [(f"subscription/{made.subscription_id}/{number}",) for number in (2, 3, 4)]
    operations = "SELECT operation_id FROM payments WHERE organization_id = $1::uuid AND type = 'SUBSCRIPTION'"
    assert sorted(await till.rows(org, operations)) == used


async def test_period_that_costs_a_part_of_a_yen_is_charged_by_whole_yen(till: CollectingHouse) -> None:
    org = await customer(till)
    plan = await till.plan(price="1000.5", currency="JPY")
    made = await subscribe(till, org, plan)
    assert made.state is State.ACTIVE
    assert await payments_of(till, made) == [("COMPLETED", "1001.00")]
    assert (await till.balance(org))["JPY"] == "0.50"


async def test_declined_charges_follow_the_schedule_and_each_is_announced_once(till: CollectingHouse) -> None:
    org = await customer(till)
    made = await subscribe(till, org, await till.plan(retries=_RETRIES, end=PastDueEnd.SUSPEND))
    till.shop.stripe.decline = True
    ends = made.period_end_time
    assert ends is not None
    await till.pass_time(_MONTH)
    states = [await till.now(made)]
    for wait in (DAY, 2 * DAY):
        await till.pass_time(wait)
        states.append(await till.now(made))
    assert [one.state for one in states] == [State.PAST_DUE, State.PAST_DUE, State.SUSPENDED]
    assert "Your card was declined" in states[0].state_reason
    told = await till.announced(org, "subscription.payment_failed")
    times = [one and one[:10] for one in (each["next_attempt_time"] for each in told)]
    assert [(one["attempt"], one["attempts_max"], one["end"]) for one in told] == [
        (number, 3, "SUSPEND") for number in (1, 2, 3)
    ]
    assert times == [f"{(ends + wait).date()}" for wait in (DAY, 3 * DAY)] + [None]
    assert {one["end_time"][:10] for one in told} == {f"{(ends + 3 * DAY).date()}"}
    assert await payments_of(till, made) == [("COMPLETED", "10.00")] + [("FAILED", "10.00")] * 3
    till.shop.stripe.decline = False
    await till.subscriptions.retry_payment(org, made.subscription_id)
    assert (await till.now(made)).state is State.ACTIVE
    assert (await till.balance(org))["USD"] == "10.00"


async def test_first_period_that_is_declined_waits_for_payment_and_begins_with_it(till: CollectingHouse) -> None:
    org = await customer(till)
    till.shop.stripe.decline = True
    made = await subscribe(till, org, await till.plan(retries=_RETRIES))
    assert (made.state, made.waits_for, made.period_number) == (State.PENDING, WaitsFor.PAYMENT, 0)
    till.shop.stripe.decline = False
    await till.pass_time(DAY)
    assert (await till.now(made)).state is State.ACTIVE


async def test_a_period_charged_while_its_account_was_closed_is_paid_when_it_is_open_and_never_charged_again(
    till: CollectingHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    org = await customer(till)
    made = await subscribe(till, org, await till.plan(retries=_RETRIES))
    await till.shop.payments.spend(org, "10", "USD")
    stripe = till.saved_methods._providers["stripe"]
    charge_saved = stripe.charge_saved

    async def charge_and_close(charge: NewCharge) -> PaymentFact:
        said = await charge_saved(charge)
        await till.shop.payments.close_account(org, "USD")
        return said

    monkeypatch.setattr(stripe, "charge_saved", charge_and_close)
    with capture_logs() as logs:
        await till.pass_time(_MONTH)
        for _ in range(3):
            await till.pass_time(timedelta(hours=12))
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["charged and not applied"]
    assert await payments_of(till, made) == [("COMPLETED", "10.00"), ("PENDING", "10.00")]
    assert (await till.now(made)).state is State.ACTIVE
    await till.shop.payments.open_account(org)
    await till.shop.payments.settle()
    await till.pass_time(timedelta(hours=2))
    assert await payments_of(till, made) == [("COMPLETED", "10.00")] * 2
    now = await till.now(made)
    assert (now.state, now.period_number, made.period_number) == (State.ACTIVE, 1, 0)
    assert (await till.balance(org))["USD"] == "0.00"


async def test_provider_that_is_down_is_asked_again_and_keeps_no_other_from_its_turn(till: CollectingHouse) -> None:
    org, other = await customer(till), new_id()
    made = await subscribe(till, org, await till.plan())
    await till.shop.payments.earn(other, "20", "USD")
    paid = await till.house.add(pending(await till.plan(), till.shop.clock.now(), organization_id=other))
    await till.work()
    till.shop.stripe.faults = [Fault.NO_JSON] * 2
    await till.pass_time(_MONTH)
    left = await till.now(made)
    assert (left.state, left.period_end_time) == (State.ACTIVE, made.period_end_time)
    assert (await till.now(paid)).period_number == 1
    assert [one[0] for one in await payments_of(till, made)] == ["COMPLETED", "PENDING"]
    till.shop.stripe.faults.clear()
    till.shop.clock.advance(timedelta(hours=2))
    assert [one.partition(":")[0] for one in await till.house.findings()] == ["subscription_events_are_completed"]
    await till.work()
    assert (await till.now(made)).period_number == 1
    assert [one[0] for one in await payments_of(till, made)] == ["COMPLETED", "COMPLETED"]


async def test_charge_whose_answer_is_lost_is_made_once(till: CollectingHouse) -> None:
    org = await customer(till)
    made = await subscribe(till, org, await till.plan())
    charges = len([one for one in till.shop.stripe.objects.values() if one["object"] == "charge"])
    # Of the two questions for the saved method and the charge, the charge's answers are lost, and then Stripe is down.
    till.shop.stripe.faults = [None, None, Fault.DROPPED_AFTER, Fault.NO_JSON]
    await till.pass_time(_MONTH)
    await till.pass_time(timedelta(minutes=1))
    await till.told()
    assert (await till.now(made)).period_number == 1
    assert len([one for one in till.shop.stripe.objects.values() if one["object"] == "charge"]) == charges + 1
    assert (await till.balance(org))["USD"] == "10.00"


async def test_charge_that_is_not_answered_for_a_day_counts_as_refused_and_is_not_asked_again(
    till: CollectingHouse,
) -> None:
    org = await customer(till)
    made = await subscribe(till, org, await till.plan(retries=_RETRIES))
    await till.work()
    till.shop.stripe.faults = [Fault.NO_JSON]
    await till.pass_time(_MONTH)
    asked = len(till.shop.stripe.requests)
    await till.pass_time(timedelta(hours=23, minutes=30))
    late = await till.now(made)
    assert (late.state, len(till.shop.stripe.requests)) == (State.PAST_DUE, asked)
    assert "did not answer" in late.state_reason
    await till.pass_time(DAY)
    assert (await till.now(made)).state is State.ACTIVE


async def test_failed_payment_that_completes_later_pays_what_is_owed(till: CollectingHouse) -> None:
    org = await customer(till)
    made = await subscribe(till, org, await till.plan(retries=_RETRIES))
    till.shop.stripe.decline = True
    await till.pass_time(_MONTH)
    assert (await till.now(made)).state is State.PAST_DUE
    intent = next(one for one in reversed(till.shop.stripe.objects.values()) if one["object"] == "payment_intent")
    till.shop.clock.advance(timedelta(minutes=1))
    intent |= {"status": "succeeded", "last_payment_error": None}
    till.shop.stripe._tell("payment_intent.succeeded", intent)
    await till.told()
    assert (await till.now(made)).state is State.ACTIVE
    assert [one[0] for one in await payments_of(till, made)] == ["COMPLETED", "COMPLETED"]


@pytest.mark.parametrize(("refunded", "charges", "left"), [(0, 3, 10), (1, 4, 19), (10, 4, 10)])
async def test_payment_made_twice_pays_the_next_period_unless_it_was_refunded(
    till: CollectingHouse, refunded: int, charges: int, left: int
) -> None:
    org = await customer(till)
    made = await subscribe(till, org, await till.plan(retries=_RETRIES))
    till.shop.stripe.decline = True
    await till.pass_time(_MONTH)
    till.shop.stripe.decline = False
    intent = next(one for one in reversed(till.shop.stripe.objects.values()) if one["object"] == "payment_intent")
    await till.pass_time(DAY)
    intent |= {"status": "succeeded", "last_payment_error": None, "latest_charge": None}
    till.shop.stripe._tell("payment_intent.succeeded", intent)
    await till.told()
    assert (await till.balance(org))["USD"] == "20.00"
    checkout_id = intent["metadata"]["checkout_id"]
    told = fact(None, 0, provider="stripe", checkout_id=checkout_id, refunded_amount=Decimal(refunded))
    await till.shop.payments.payments.apply(replace(told, version=Version(till.shop.clock.now())))
    await till.pass_time(_MONTH)
    assert (await till.now(made)).state is State.ACTIVE
    assert (len(await payments_of(till, made)), await till.balance(org)) == (charges, {"USD": f"{left}.00"})


async def test_charge_that_was_refunded_before_it_paid_its_period_counts_as_refused(till: CollectingHouse) -> None:
    org = await customer(till)
    made = await subscribe(till, org, await till.plan(retries=_RETRIES))
    await till.told()
    till.shop.stripe.faults = [None, None, Fault.DROPPED_AFTER, Fault.NO_JSON]
    await till.pass_time(_MONTH)
    till.shop.happen("stripe", "refund the rest")
    await till.shop.deliver(till.unsent())
    assert [one[0] for one in await payments_of(till, made)] == ["COMPLETED", "REFUNDED"]
    await till.pass_time(timedelta(minutes=1))
    late = await till.now(made)
    assert (late.state, "the payment was refunded" in late.state_reason) == (State.PAST_DUE, True)
    await till.pass_time(DAY)
    assert (await till.now(made)).state is State.ACTIVE
    assert (await till.balance(org))["USD"] == "10.00"


async def test_way_is_changed_and_changed_back(till: CollectingHouse) -> None:
    org = await customer(till)
    await till.shop.payments.earn(org, "10", "USD")
    made = await till.house.add(pending(await till.plan(), till.shop.clock.now(), organization_id=org))
    await till.work()
    for provider, way in (("stripe", Way.SAVED_METHOD), (None, Way.BALANCE)):
        updates = Updates({"collection_provider": provider, "collection": way})
        await till.subscriptions.update(org, made.subscription_id, "", updates)
        await till.pass_time(_MONTH)
        assert (await till.now(made)).collection is way
    assert await payments_of(till, made) == [("COMPLETED", "10.00")]
    assert (await till.balance(org))["USD"] == "0.00"


@pytest.mark.parametrize(
    ("provider", "refusal"),
    [
        ("manual", payment_errors.PaymentProviderCannot),
        ("lemon_squeezy", payment_errors.PaymentProviderCannot),
        ("acme", payment_errors.PaymentProviderUnknown),
        ("stripe", payment_errors.NoSavedMethod),
    ],
)
async def test_provider_that_cannot_charge_is_refused_by_name(
    till: CollectingHouse, provider: str, refusal: type[Exception]
) -> None:
    plan = await till.plan()
    with pytest.raises(refusal):
        await subscribe(till, new_id(), plan, provider)
