"""Plans that are bought at checkouts, and subscriptions that providers renew, against the fakes of both."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from libs.common.ids import new_id
from services.billing import errors, next_steps
from services.billing.payment.provider import Renewal
from services.billing.payment.providers.stripe.provider import Stripe
from services.billing.plan.domain import PastDueEnd, ProviderReference
from services.billing.subscription.domain import PAYMENT_AWAITED_FOR, Updates, Way
from services.billing.subscription.states import State
from tests.billing.collecting_house import DAY, CollectingHouse, monthly, open_collecting
from tests.billing.period_house import pending
from tests.billing.shop import PROVIDERS
from tests.billing.webhook_house import eventually

each = pytest.mark.parametrize("provider", PROVIDERS)
_MONTH = 30 * DAY
_STATUSES = "SELECT status FROM external_subscriptions WHERE organization_id = $1::uuid"


@pytest.fixture(scope="module")
async def till(module_database_urls: dict[str, str]) -> AsyncIterator[CollectingHouse]:
    async with open_collecting(module_database_urls["billing"]) as till:
        yield till


@each
async def test_paid_checkout_subscribes_once_to_the_version_that_it_showed(
    till: CollectingHouse, provider: str
) -> None:
    org, plan = new_id(), await till.plan()
    await till.told()
    payment = await till.buy(provider, org, plan)
    await till.house.plan(plan.plan_code, monthly(99))
    webhooks = till.unsent()
    await till.shop.deliver(webhooks + webhooks)
    await till.work()
    made = await till.only(org)
    assert (made.plan, made.state, made.collection, made.collection_provider) == (
        plan, State.ACTIVE, Way.PROVIDER, provider,
    )  # fmt: skip
    assert (made.user_id, made.actor, made.trial_end_time) == (None, f"provider:{provider}", None)
    assert await till.balance(org) == {"USD": "0.00"}
    operation_id = f"subscription/{made.subscription_id}/2"
    paid = "SELECT payment_id::text, operation_id FROM period_payments WHERE organization_id = $1::uuid"
    assert await till.rows(org, paid) == [(payment.payment_id, operation_id)]
    linked = "SELECT subscription_id::text FROM external_subscriptions WHERE organization_id = $1::uuid"
    assert await till.rows(org, linked) == [(made.subscription_id,)]
    assert (await till.shop.payments.find(payment)).subscription_id == made.subscription_id
    await till.shop.deliver(webhooks)
    await till.work()
    assert await till.all_of(org) == [made]


async def test_plan_is_bought_for_the_user_that_the_checkout_names(till: CollectingHouse) -> None:
    org, user, plan = new_id(), new_id(), await till.plan()
    await till.told()
    await till.buy("stripe", org, plan, subscriber_user_id=user)
    await till.told()
    assert (await till.only(org)).user_id == user
    await till.buy("stripe", org, plan)
    await till.told()
    assert {one.user_id for one in await till.all_of(org)} == {user, None}


@each
async def test_live_subscription_to_another_plan_is_changed_and_a_period_begins(
    till: CollectingHouse, provider: str
) -> None:
    org, free, plan = new_id(), await till.plan(price=0), await till.plan()
    live = await till.house.add(pending(free, till.shop.clock.now(), organization_id=org))
    await till.work()
    await till.pass_time(3 * DAY)
    made = await till.bought(provider, plan, org)
    assert (made.subscription_id, made.plan, made.collection) == (live.subscription_id, plan, Way.PROVIDER)
    assert made.period_start_time is not None
    assert till.shop.clock.now() - made.period_start_time < timedelta(minutes=1)
    assert await till.balance(org) == {"USD": "0.00"}


async def test_what_cannot_be_subscribed_stays_on_the_balance_and_is_told_once_to_all(till: CollectingHouse) -> None:
    plan, other = await till.plan(), await till.plan()
    made = await till.bought("stripe", plan)
    org = made.organization_id
    for again in (plan, other):
        await till.buy("lemon_squeezy", org, again)
        await till.told()
    assert await till.now(made) == made
    assert await till.balance(org) == {"USD": "20.00"}
    told = await till.announced(org, "payment.not_subscribed")
    assert [(one["plan_code"], one["reason"]) for one in told] == [
        (one.plan_code, "the subscription is renewed by stripe already") for one in (plan, other)
    ]
    lemon = "SELECT status FROM external_subscriptions WHERE organization_id = $1::uuid AND provider = 'lemon_squeezy'"
    assert await till.rows(org, lemon) == [("CANCELLED",)] * 2


@pytest.mark.parametrize(
    ("provider", "happening", "reason"),
    [
        ("stripe", "refund the rest", "the payment was refunded"),
        ("stripe", "dispute", "the payment is disputed"),
        ("lemon_squeezy", "refund the rest", "the payment was refunded"),
    ],
)
async def test_payment_that_was_taken_back_before_anybody_subscribed_subscribes_nobody_and_is_told_once(
    till: CollectingHouse, provider: str, happening: str, reason: str
) -> None:
    org, plan = new_id(), await till.plan()
    await till.told()
    payment = await till.buy(provider, org, plan)
    till.shop.renews = True
    till.shop.clock.advance(timedelta(minutes=1))
    till.shop.happen(provider, happening)
    await till.shop.deliver(till.unsent())
    await till.work()
    await till.told()
    assert (await till.all_of(org), await till.balance(org)) == ([], {"USD": "0.00"})
    told = await till.announced(org, "payment.not_subscribed")
    assert [(one["payment_id"], one["subscription_id"], one["reason"]) for one in told] == [
        (payment.payment_id, None, reason)
    ]
    assert await till.rows(org, _STATUSES) == [("CANCELLED",)]


async def test_refunded_plan_is_ended_at_the_provider_at_once_though_its_step_ran_during_the_payments(
    till: CollectingHouse,
) -> None:
    org, plan = new_id(), await till.plan()
    await till.told()
    await till.buy("lemon_squeezy", org, plan)
    till.shop.renews = True
    till.shop.clock.advance(timedelta(minutes=1))
    till.shop.happen("lemon_squeezy", "refund the rest")
    await till.shop.deliver(till.unsent())
    shard = till.house.shards.of(org)
    async with shard.raw_transaction() as connection:
        await connection.fetch("SELECT FROM payments WHERE organization_id = $1::uuid FOR UPDATE", org)
        # The payment's step waits for this row. Meanwhile that of the provider's subscription is tried again and again.
        keeping = asyncio.create_task(till.worker.sweep(shard))
        for _ in range(20):
            await asyncio.sleep(0.01)
            await till.worker.sweep(shard)
        assert not keeping.done()
    await keeping
    await till.told()
    await till.work()
    await till.told()
    assert await till.rows(org, _STATUSES) == [("CANCELLED",)]


@pytest.mark.parametrize("changes", [False, True], ids=["new", "changed"])
async def test_refund_after_the_subscription_was_made_and_before_that_is_noted_leaves_it(
    till: CollectingHouse, changes: bool
) -> None:
    org, plan = new_id(), await till.plan()
    if changes:
        await till.house.add(pending(await till.plan(price=0), till.shop.clock.now(), organization_id=org))
        await till.work()
    await till.told()
    payment = await till.buy("stripe", org, plan)
    await till.told()
    made = await till.only(org)
    await till.happens("stripe", "refund the rest")
    async with till.house.shards.of(org).raw_transaction() as connection:
        step = next_steps.StepKind.PAYMENT
        await next_steps.add(connection, org, step, payment.payment_id, till.shop.clock.now())
    await till.work()
    assert await till.only(org) == made
    assert await till.announced(org, "payment.not_subscribed") == []
    assert (await till.shop.payments.find(payment)).subscription_id == made.subscription_id


async def test_account_in_debt_does_not_keep_a_paid_period_from_beginning(till: CollectingHouse) -> None:
    org = new_id()
    await till.shop.payments.earn(org, "1", "USD")
    await till.shop.payments.spend(org, "6", "USD")
    made = await till.bought("stripe", await till.plan(), org)
    assert made.state is State.ACTIVE
    assert await till.balance(org) == {"USD": "-5.00"}


@each
async def test_renewal_that_is_told_early_pays_when_the_period_ends(till: CollectingHouse, provider: str) -> None:
    made = await till.bought(provider, await till.plan())
    await till.happens(provider, "renew")
    assert await till.now(made) == made
    assert await till.balance(made.organization_id) == {"USD": "10.00"}
    await till.pass_time(_MONTH)
    after = await till.now(made)
    assert (after.state, after.period_start_time, after.period_number) == (State.ACTIVE, made.period_end_time, 1)
    assert await till.balance(made.organization_id) == {"USD": "0.00"}


@each
async def test_renewal_that_is_told_late_is_awaited_and_leaves_no_gap(till: CollectingHouse, provider: str) -> None:
    made = await till.bought(provider, await till.plan())
    await till.pass_time(_MONTH + PAYMENT_AWAITED_FOR - timedelta(hours=1))
    assert await till.now(made) == made
    await till.happens(provider, "renew")
    after = await till.now(made)
    assert (after.state, after.period_start_time) == (State.ACTIVE, made.period_end_time)


async def test_silence_makes_past_due_after_the_wait_and_a_payment_active_at_once(till: CollectingHouse) -> None:
    made = await till.bought("stripe", await till.plan(retries=[20 * 86_400]))
    await till.pass_time(_MONTH + PAYMENT_AWAITED_FOR)
    late = await till.now(made)
    assert (late.state, late.state_reason) == (State.PAST_DUE, "stripe has told of no payment for it.")
    assert late.period_start_time == made.period_end_time
    await till.happens("stripe", "renew")
    paid = await till.now(made)
    assert (paid.state, paid.owed, paid.period_start_time) == (State.ACTIVE, None, made.period_end_time)
    assert await till.balance(made.organization_id) == {"USD": "0.00"}


@pytest.mark.parametrize("is_paid", [True, False])
async def test_silence_while_nobody_listened_ends_nothing_before_a_day_has_passed(
    till: CollectingHouse, *, is_paid: bool
) -> None:
    """The plan has no further attempts, and the provider goes on while billing is away."""
    made = await till.bought("stripe", await till.plan())
    for _ in range(4):
        till.shop.clock.advance(_MONTH)
        if is_paid:
            till.shop.happen("stripe", "renew")
    await till.house.work_off()
    assert (await till.now(made)).state is State.PAST_DUE
    assert await till.announced(made.organization_id, "subscription.payment_failed") == []
    await till.told()
    await till.pass_time(DAY)
    after = await till.now(made)
    expected = (State.ACTIVE, 4) if is_paid else (State.CANCELLED, None)
    assert (after.state, after.period_number) == expected
    assert (await till.balance(made.organization_id))["USD"] == "0.00"


@each
async def test_failure_that_the_provider_tells_makes_past_due_at_the_end_and_recovery_active(
    till: CollectingHouse, provider: str
) -> None:
    made = await till.bought(provider, await till.plan(retries=[20 * 86_400]))
    await till.happens(provider, "fail")
    assert (await till.now(made)).state is State.ACTIVE
    await till.pass_time(_MONTH)
    assert (await till.now(made)).state is State.PAST_DUE
    await till.happens(provider, "recover")
    assert (await till.now(made)).state is State.ACTIVE


@each
async def test_provider_pauses_resumes_cancels_withdraws_and_ends(till: CollectingHouse, provider: str) -> None:
    made = await till.bought(provider, await till.plan())
    states = []
    for happening in ("pause", "resume", "cancel", "resume", "end"):
        await till.happens(provider, happening)
        now = await till.now(made)
        states.append((now.state.value, now.cancel_at_period_end))
    last = "CANCELLED" if provider == "stripe" else "EXPIRED"
    assert states == [("PAUSED", False), ("ACTIVE", False), ("ACTIVE", True), ("ACTIVE", False), (last, False)]
    kinds = [(one.kind.value, one.actor) for one in (await till.house.events(made))[2:] if one.kind.value != "UPDATED"]
    assert kinds == [
        (kind, f"provider:{provider}")
        for kind in ("PAUSED", "RESUMED", "CANCELLATION_SCHEDULED", "CANCELLATION_WITHDRAWN", last)
    ]
    before = len(await till.house.events(made))
    await till.shop.deliver([*till.shop.stripe.events[-6:], *till.shop.lemon.webhooks[-6:]])
    await till.work()
    assert len(await till.house.events(made)) == before


@each
async def test_cancellation_of_a_provider_ends_at_its_time(till: CollectingHouse, provider: str) -> None:
    made = await till.bought(provider, await till.plan())
    await till.happens(provider, "cancel")
    await till.pass_time(_MONTH)
    assert (await till.now(made)).state is State.CANCELLED
    assert await till.balance(made.organization_id) == {"USD": "0.00"}


@each
async def test_cancellation_here_and_its_withdrawal_reach_the_provider(till: CollectingHouse, provider: str) -> None:
    made = await till.bought(provider, await till.plan())
    key = made.organization_id, made.subscription_id
    found = []
    for step in ("schedule", "withdraw", "now"):
        till.shop.clock.advance(timedelta(minutes=1))
        if step == "withdraw":
            await till.subscriptions.withdraw_cancellation(*key, "")
        else:
            await till.subscriptions.cancel(*key, "", "asked for", at_period_end=step == "schedule")
        await till.work()
        await till.told()
        found += await till.rows(made.organization_id, _STATUSES)
    assert found == [("CANCELLED",), ("ACTIVE",), ("CANCELLED",)]


async def test_purchase_waits_for_no_provider_that_hangs(
    till: CollectingHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, set_renewal = asyncio.Event(), Stripe.set_renewal

    async def hang(provider: Stripe, external_id: str, renewal: Renewal) -> None:
        await answers.wait()
        await set_renewal(provider, external_id, renewal)

    for made in [await till.bought("stripe", await till.plan()) for _ in range(5)]:
        await till.subscriptions.cancel(made.organization_id, made.subscription_id, "", "", at_period_end=False)
    monkeypatch.setattr(Stripe, "set_renewal", hang)
    org, plan = new_id(), await till.plan()
    await till.buy("lemon_squeezy", org, plan)
    await till.shop.deliver(till.unsent())
    telling = asyncio.gather(*(till.worker.sweep(database) for database in till.house.shards))

    async def is_subscribed() -> bool:
        return [one.plan for one in await till.all_of(org)] == [plan]

    await eventually(is_subscribed)
    assert not telling.done()
    answers.set()
    await telling
    await till.told()
    # Time passes for those that are live still.
    await till.subscriptions.cancel(org, (await till.only(org)).subscription_id, "", "", at_period_end=False)
    await till.work()
    await till.told()


async def test_provider_that_cannot_be_reached_is_told_of_a_cancellation_later(till: CollectingHouse) -> None:
    made = await till.bought("stripe", await till.plan())
    await till.subscriptions.cancel(made.organization_id, made.subscription_id, "", "", at_period_end=False)
    providers = till.worker._following._providers
    till.worker._following._providers = {}
    await till.work()
    left = "SELECT kind, attempt_count FROM next_steps WHERE organization_id = $1::uuid AND kind = 'SUBSCRIPTION'"
    assert await till.rows(made.organization_id, left) == [("SUBSCRIPTION", 1)]
    till.worker._following._providers = providers
    await till.pass_time(timedelta(seconds=10))
    await till.told()
    assert await till.rows(made.organization_id, left) == []


async def test_end_of_unpaid_subscription_ends_it_at_the_provider(till: CollectingHouse) -> None:
    fallback = await till.plan(price=0)
    plans = [await till.plan(), await till.plan(end=PastDueEnd.CHANGE_PLAN, fallback=fallback.plan_code)]
    made = [await till.bought("stripe", plan) for plan in plans]
    await till.pass_time(_MONTH + PAYMENT_AWAITED_FOR)
    await till.told()
    after = [await till.now(one) for one in made]
    assert [(one.state, one.collection) for one in after] == [
        (State.CANCELLED, Way.PROVIDER),
        (State.ACTIVE, Way.BALANCE),
    ]
    for one in made:
        assert await till.rows(one.organization_id, _STATUSES) == [("CANCELLED",)]


async def test_changes_that_would_leave_the_payer_charged_otherwise_are_refused(till: CollectingHouse) -> None:
    made = await till.bought("stripe", await till.plan())
    key = made.organization_id, made.subscription_id
    with pytest.raises(errors.RenewedByProvider):
        await till.subscriptions.pause(*key, "", "")
    with pytest.raises(errors.RenewedByProvider):
        await till.subscriptions.update(*key, "", Updates({"collection": Way.BALANCE, "collection_provider": None}))
    assert await till.now(made) == made


async def test_payment_of_a_month_that_was_refunded_still_pays_it_and_leaves_a_debt(till: CollectingHouse) -> None:
    made = await till.bought("stripe", await till.plan())
    await till.happens("stripe", "renew")
    await till.happens("stripe", "refund the rest")
    await till.pass_time(_MONTH)
    assert (await till.now(made)).period_number == 1
    assert await till.balance(made.organization_id) == {"USD": "-10.00"}


async def test_operators_suspension_stays_though_a_payment_comes(till: CollectingHouse) -> None:
    made = await till.bought("stripe", await till.plan(retries=[20 * 86_400]))
    await till.pass_time(_MONTH + PAYMENT_AWAITED_FOR)
    await till.subscriptions.suspend(made.organization_id, made.subscription_id, "", "abuse")
    await till.happens("stripe", "renew")
    assert (await till.now(made)).state is State.SUSPENDED
    assert await till.balance(made.organization_id) == {"USD": "10.00"}


async def test_step_that_is_added_while_somebody_is_at_it_is_done_once_more(till: CollectingHouse) -> None:
    org, now = new_id(), till.shop.clock.now()
    kind = next_steps.StepKind.PAYMENT
    async with till.house.shards.of(org).raw_transaction() as connection:
        await next_steps.add(connection, org, kind, "x", now)
        (taken,) = [one for one in await next_steps.claim(connection, now, [kind], 10) if one.organization_id == org]
        await next_steps.add(connection, org, kind, "x", now)
        assert not await next_steps.done(connection, taken)
        (again,) = [one for one in await next_steps.claim(connection, now, [kind], 10) if one.organization_id == org]
        assert await next_steps.done(connection, again)


async def test_checkout_names_the_version_and_refuses_what_could_not_be_subscribed(till: CollectingHouse) -> None:
    prices = [till.shop.stripe.add_price(1_000, "USD") for _ in range(2)]
    plans = [
        await till.house.plan(f"sold-{new_id()}", monthly(), (ProviderReference("stripe", "price", price),))
        for price in prices
    ]
    org = new_id()
    made = await till.house.add(pending(plans[0], till.shop.clock.now(), organization_id=org))
    asked = await till.checkout(org, plans[1])
    assert (asked.plan_id, asked.plan_version, asked.external_product_id) == (plans[1].plan_id, 1, prices[1])
    with pytest.raises(errors.SamePlan):
        await till.checkout(org, plans[0])
    till.shop.stripe.pay(next(one["id"] for one in reversed(till.shop.stripe.objects.values()) if "_price" in one))
    await till.told()
    assert ((await till.now(made)).plan, (await till.now(made)).collection) == (plans[1], Way.PROVIDER)
    for plan in plans:
        with pytest.raises(errors.RenewedByProvider):
            await till.checkout(org, plan)
