"""Subscriptions: what people do to them, and what is recorded of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from tests.billing import plan_calls
from tests.billing.plan_calls import included, reason, reference
from tests.billing.subscription_calls import (
    ABORTED,
    EXISTS,
    FAILED,
    NOW,
    PERIOD_END,
    Subscriptions,
    add_plan,
    settled,
    state,
)
from tests.billing.support import Ledger, balance_of, organization
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import plan_pb2
from tollhouse.billing.v1 import subscription_pb2 as pb

DAY: Final = timedelta(days=1)
WEEK: Final = plan_pb2.Interval(unit=plan_pb2.INTERVAL_UNIT_DAY, count=7)


@pytest.fixture
async def calls(timed: Ledger) -> AsyncIterator[Subscriptions]:
    """Calls on a clock that the test moves; credits that ended meanwhile have ended on the accounts, too."""
    calls = Subscriptions(timed)
    yield calls
    for organization_id in calls.organization_ids:
        await settled(timed, organization_id)


async def funded(ledger: Ledger, value: str = "1000") -> str:
    org = organization()
    await ledger.credit(org, "top-up", value)
    return org


async def test_subscription_to_a_free_plan_is_active_at_once_with_its_credits(
    calls: Subscriptions, clock: FixedClock
) -> None:
    made = await calls.create()

    assert (state(made), made.plan_code, made.plan_version) == ("ACTIVE", "free", 1)
    assert made.start_time.ToDatetime(clock.now().tzinfo) == clock.now()
    assert await calls.get(made) == made
    assert await calls.kinds(made) == ["CREATED", "PERIOD_STARTED"]
    assert (await balance_of(calls.ledger, made.organization_id)).available.value == "10"
    assert await calls.audited(made) == ["CreateSubscription"]


async def test_organization_users_and_models_have_one_live_subscription_each(calls: Subscriptions) -> None:
    org, users = organization(), [new_id(), new_id()]
    made = [await calls.create(org), *[await calls.create(org, user_id=user) for user in users]]
    made += [await calls.model(model, org, user_id=user) for model in ("a", "b") for user in users]

    for one in made:
        fields = {"user_id": one.user_id, "model": one.model}
        again = calls.creation(org, "" if one.model else "basic", **fields)
        assert await reason(again) == (EXISTS, "SUBSCRIPTION_EXISTS")
        await calls.cancel(one)
    assert len(await calls.listed(org)) == len(made)
    assert state(await calls.create(org)) == "ACTIVE"


async def test_of_many_subscriptions_at_once_one_is_made(calls: Subscriptions) -> None:
    org = organization()
    answers = await asyncio.gather(*(calls.create(org) for _ in range(6)), return_exceptions=True)

    made = [answer for answer in answers if isinstance(answer, pb.Subscription)]
    assert [one.subscription_id for one in await calls.listed(org)] == [one.subscription_id for one in made]
    assert len(made) == 1
    assert await reason(calls.create(org)) == (EXISTS, "SUBSCRIPTION_EXISTS")


async def test_request_sent_again_makes_one_subscription(calls: Subscriptions) -> None:
    org = organization()
    answers = await asyncio.gather(*(calls.creation(org, request_id="r-1") for _ in range(5)))

    assert len({answer.subscription.subscription_id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False, True, True, True, True]
    again = await calls.creation(org, request_id="r-1")
    assert (again.replayed, again.subscription) == (True, await calls.get(again.subscription))
    differing = calls.creation(org, "basic", request_id="r-1")
    assert await reason(differing) == (EXISTS, "REQUEST_ID_REUSED")
    elsewhere = await calls.creation(organization(), request_id="r-1")
    assert not elsewhere.replayed


async def test_subject_has_one_trial(calls: Subscriptions, clock: FixedClock) -> None:
    org = organization()
    await add_plan(calls.ledger, "tried", "0", trial=WEEK)
    trying = await calls.create(org, "tried")
    assert state(trying) == "TRIALING"
    assert trying.trial_end_time.ToDatetime(clock.now().tzinfo) == clock.now() + 7 * DAY
    await calls.cancel(trying)

    assert await reason(calls.create(org, "tried")) == (FAILED, "TRIAL_USED")
    assert state(await calls.create(org, "tried", skip_trial=True)) == "ACTIVE"
    user = await calls.create(org, "tried", user_id=new_id())
    assert state(user) == "TRIALING"


async def test_trial_that_never_began_was_not_used(calls: Subscriptions, clock: FixedClock) -> None:
    org = organization()
    await add_plan(calls.ledger, "tried", "0", trial=WEEK)
    later = await calls.create(org, "tried", start_time=clock.now() + DAY)
    assert state(later) == "PENDING"
    cancelled = await calls.cancel(later)

    assert (state(cancelled), cancelled.HasField("trial_end_time")) == ("CANCELLED", False)
    assert state(await calls.create(org, "tried")) == "TRIALING"


async def test_subscription_begins_at_its_start(calls: Subscriptions, clock: FixedClock) -> None:
    later = await calls.create(start_time=clock.now() + DAY)
    assert state(later) == "PENDING"
    assert await reason(calls.pause(later)) == (FAILED, "SUBSCRIPTION_STATE")
    assert await reason(calls.cancel(later, PERIOD_END)) == (FAILED, "SUBSCRIPTION_STATE")

    clock.advance(2 * DAY)
    assert state(await calls.pause(later)) == "PAUSED"
    assert await calls.kinds(later) == ["CREATED", "PERIOD_STARTED", "PAUSED"]


async def test_subscription_to_a_model_waits_for_approval(calls: Subscriptions, clock: FixedClock) -> None:
    waiting = await calls.model()
    assert state(waiting) == "PENDING"
    assert [(one.entitlement_code, one.limit.value) for one in waiting.limits] == [
        ("requests", "10000"),
        ("total_tokens", "1000000"),
    ]

    clock.advance(DAY)
    approved = await calls.approve(waiting, reason="looks fine")
    assert state(approved) == "ACTIVE"
    assert approved.start_time.ToDatetime(clock.now().tzinfo) == clock.now()
    assert await calls.approve(waiting, etag="stale") == approved
    assert await calls.kinds(waiting) == ["CREATED", "APPROVED", "PERIOD_STARTED"]
    assert await reason(calls.reject(waiting)) == (FAILED, "SUBSCRIPTION_NOT_PENDING")


async def test_rejected_subscription_has_ended(calls: Subscriptions) -> None:
    waiting = await calls.model()
    assert await reason(calls.reject(waiting, etag="0")) == (ABORTED, "STALE_ETAG")
    rejected = await calls.reject(waiting, "not for you", etag=waiting.etag)

    assert (state(rejected), rejected.state_reason) == ("CANCELLED", "not for you")
    assert await calls.reject(waiting) == rejected
    assert await reason(calls.approve(waiting)) == (FAILED, "SUBSCRIPTION_NOT_PENDING")
    assert await calls.audited(waiting) == ["CreateSubscription", "RejectSubscription"]


async def test_what_waits_for_nothing_cannot_be_approved(calls: Subscriptions) -> None:
    made = await calls.create()
    assert await reason(calls.approve(made)) == (FAILED, "SUBSCRIPTION_NOT_PENDING")
    assert await reason(calls.reject(made)) == (FAILED, "SUBSCRIPTION_NOT_PENDING")
    assert await calls.get(made) == made


async def test_subscription_is_paused_and_resumed(calls: Subscriptions) -> None:
    made = await calls.create()
    paused = await calls.pause(made, reason="holidays", etag=made.etag)

    assert (state(paused), paused.state_reason) == ("PAUSED", "holidays")
    assert await calls.pause(made, etag="stale") == paused
    assert await reason(calls.change(paused, "basic", PERIOD_END)) == (FAILED, "SUBSCRIPTION_STATE")
    resumed = await calls.resume(made)
    assert state(resumed) == "ACTIVE"
    assert await calls.resume(made, etag="stale") == resumed
    assert (await calls.kinds(made))[2:] == ["PAUSED", "RESUMED"]
    assert await calls.audited(made) == ["CreateSubscription", "PauseSubscription", "ResumeSubscription"]


async def test_paused_trial_is_resumed_as_a_trial(calls: Subscriptions) -> None:
    await add_plan(calls.ledger, "tried", "0", trial=WEEK)
    made = await calls.create(plan_code="tried")
    await calls.pause(made)
    assert state(await calls.resume(made)) == "TRIALING"


@pytest.mark.parametrize("call", ["resume", "retry"])
async def test_call_that_changes_nothing_does_what_is_due_before_it_answers(
    calls: Subscriptions, clock: FixedClock, call: str
) -> None:
    going_on, ending = await calls.create(), await calls.create()
    await calls.cancel(ending, PERIOD_END)
    clock.set(going_on.period_end_time.ToDatetime(clock.now().tzinfo) + DAY)

    answered = await getattr(calls, call)(going_on)
    assert answered.period_start_time == going_on.period_end_time
    assert await calls.get(going_on) == answered
    assert await reason(getattr(calls, call)(ending)) == (FAILED, "SUBSCRIPTION_ENDED")
    assert state(await calls.get(ending)) == "CANCELLED"


async def test_suspended_subscription_is_resumed_by_an_operator(calls: Subscriptions) -> None:
    made = await calls.create()
    suspended = await calls.suspend(made, "abuse")
    assert (state(suspended), suspended.state_reason) == ("SUSPENDED", "abuse")
    assert await calls.suspend(made, "again") == suspended
    assert await reason(calls.pause(made)) == (FAILED, "SUBSCRIPTION_STATE")
    assert state(await calls.resume(made)) == "ACTIVE"


async def test_cancelled_subscription_stays_cancelled(calls: Subscriptions) -> None:
    made = await calls.create()
    cancelled = await calls.cancel(made, reason="enough")

    assert (state(cancelled), cancelled.state_reason) == ("CANCELLED", "enough")
    assert await calls.cancel(made, etag="stale") == cancelled
    ended = (FAILED, "SUBSCRIPTION_ENDED")
    assert await reason(calls.resume(made)) == ended
    assert await reason(calls.pause(made)) == ended
    assert await reason(calls.suspend(made)) == ended
    assert await reason(calls.change(made, "basic")) == ended
    assert await reason(calls.change(made, "basic", PERIOD_END)) == ended
    assert await reason(calls.withdraw_cancellation(made)) == ended
    assert await reason(calls.withdraw_change(made)) == ended
    assert await reason(calls.retry(made)) == ended
    assert await calls.get(made) == cancelled


async def test_cancellation_waits_for_the_end_of_the_period_and_can_be_taken_back(
    calls: Subscriptions, clock: FixedClock
) -> None:
    made = await calls.create()
    scheduled = await calls.cancel(made, PERIOD_END)
    assert (state(scheduled), scheduled.cancel_at_period_end) == ("ACTIVE", True)
    assert await calls.cancel(made, PERIOD_END) == scheduled
    withdrawn = await calls.withdraw_cancellation(made)
    assert not withdrawn.cancel_at_period_end
    assert await calls.withdraw_cancellation(made) == withdrawn

    await calls.cancel(made, PERIOD_END)
    clock.advance(40 * DAY)
    ended = await calls.cancel(made, PERIOD_END)
    assert state(ended) == "CANCELLED"
    assert ended.state_time == made.period_end_time
    assert (await calls.kinds(made))[2:] == [
        "CANCELLATION_SCHEDULED",
        "CANCELLATION_WITHDRAWN",
        "CANCELLATION_SCHEDULED",
        "CANCELLED",
    ]


async def test_change_of_plan_waits_for_the_end_of_the_period(calls: Subscriptions, clock: FixedClock) -> None:
    org = await funded(calls.ledger)
    made = await calls.create(org)
    changed = await calls.change(made, "basic", PERIOD_END, request_id="up")

    assert (changed.subscription.plan_code, changed.subscription.next_plan_code) == ("free", "basic")
    assert (changed.effective_time, list(changed.lines)) == (made.period_end_time, [])
    again = await calls.change(made, "basic", PERIOD_END, request_id="up")
    assert (again.replayed, again.subscription, again.effective_time) == (
        True,
        changed.subscription,
        changed.effective_time,
    )
    assert not (await calls.change(made, "basic", PERIOD_END)).replayed
    replaced = await calls.change(made, "pro", PERIOD_END)
    assert replaced.subscription.next_plan_code == "pro"
    withdrawn = await calls.withdraw_change(made)
    assert (withdrawn.next_plan_code, withdrawn.next_plan_version) == ("", 0)
    assert await calls.withdraw_change(made) == withdrawn

    await calls.change(made, "basic", PERIOD_END)
    clock.advance(40 * DAY)
    assert (await calls.pause(made)).plan_code == "basic"
    assert (await calls.kinds(made))[-3:] == ["PLAN_CHANGED", "PERIOD_STARTED", "PAUSED"]


async def test_change_to_the_plan_that_it_has_takes_a_waiting_one_back(calls: Subscriptions) -> None:
    made = await calls.create()
    same = (FAILED, "SAME_PLAN")
    assert await reason(calls.change(made, "free")) == same
    assert await reason(calls.change(made, "free", PERIOD_END)) == same
    assert await reason(calls.change(made, "free", validate_only=True)) == same

    for timing in (NOW, PERIOD_END):
        await calls.change(made, "basic", PERIOD_END)
        changed = await calls.change(made, "free", timing)
        assert (changed.subscription.next_plan_code, changed.HasField("effective_time")) == ("", False)


async def test_new_version_of_its_plan_is_a_change(calls: Subscriptions) -> None:
    plan = await add_plan(calls.ledger, "team", "0")
    made = await calls.create(plan_code="team")
    await plan_calls.published(calls.ledger, await plan_calls.repriced(calls.ledger, plan, "1"), 2)

    changed = (await calls.change(made, "team", PERIOD_END)).subscription
    assert (changed.plan_version, changed.next_plan_version) == (1, 2)


async def test_preview_of_a_change_says_what_the_change_takes(calls: Subscriptions) -> None:
    org = await funded(calls.ledger)
    await add_plan(calls.ledger, "small", "30")
    await add_plan(calls.ledger, "large", "60")
    made = await calls.create(org, "small")
    before = await balance_of(calls.ledger, org, currency_code="USD")

    preview = await calls.change(made, "large", validate_only=True, request_id="up")
    later = await calls.change(made, "large", PERIOD_END, validate_only=True)
    assert (later.effective_time, list(later.lines)) == (made.period_end_time, [])
    assert await calls.get(made) == made
    assert await balance_of(calls.ledger, org, currency_code="USD") == before
    changed = await calls.change(made, "large", request_id="up")
    assert (list(changed.lines), changed.net_amount) == (list(preview.lines), preview.net_amount)
    assert [line.amount.value for line in changed.lines] == ["-30", "60"]
    again = await calls.change(made, "large", request_id="up")
    assert (again.replayed, list(again.lines), again.net_amount) == (True, list(changed.lines), changed.net_amount)
    assert (await balance_of(calls.ledger, org, currency_code="USD")).available.value == "940"
    assert (await calls.audited(made))[-1] == "ChangePlan"


async def test_change_that_the_account_cannot_pay_changes_nothing(calls: Subscriptions) -> None:
    org = await funded(calls.ledger, "5")
    made = await calls.create(org)
    refused = await reason(calls.change(made, "basic", request_id="up"))
    assert refused == (FAILED, "INSUFFICIENT_BALANCE")
    assert (await calls.get(made)).plan_code == "free"

    await calls.ledger.credit(org, "more", "100")
    changed = await calls.change(made, "basic", request_id="up")
    assert (changed.replayed, changed.subscription.plan_code) == (False, "basic")
    assert (await calls.change(made, "basic", request_id="up")).replayed


async def test_many_changes_at_once_are_made_once(calls: Subscriptions) -> None:
    org = await funded(calls.ledger)
    made = await calls.create(org)
    answers = await asyncio.gather(*(calls.change(made, "basic", request_id="up") for _ in range(5)))

    assert [answer.subscription.plan_code for answer in answers] == ["basic"] * 5
    assert sorted(answer.replayed for answer in answers) == [False, True, True, True, True]
    assert (await calls.kinds(made)).count("PLAN_CHANGED") == 1
    other = calls.change(made, "pro", request_id="up")
    assert await reason(other) == (EXISTS, "REQUEST_ID_REUSED")


async def test_named_fields_are_updated(calls: Subscriptions, clock: FixedClock) -> None:
    made = await calls.create(metadata={"a": "1"}, customer_reference="c-1", references=[reference("1")])
    later = clock.now() + DAY
    updated = await calls.update(made, "customer_reference", customer_reference="c-2", metadata={"b": "2"})
    assert (updated.customer_reference, dict(updated.metadata)) == ("c-2", {"a": "1"})
    everything = {"expire_time": later, "references": [reference("2"), reference("1")], "metadata": {"b": "2"}}
    updated = await calls.update(made, etag=updated.etag, **everything)
    assert [one.external_id for one in updated.references] == ["1", "2"]
    assert dict(updated.metadata) == {"b": "2"}
    assert await calls.update(made, etag="stale", **everything) == updated
    assert await reason(calls.update(made, etag=made.etag, customer_reference="c-3")) == (ABORTED, "STALE_ETAG")

    clock.advance(2 * DAY)
    expired = await calls.update(made, metadata={})
    assert (state(expired), dict(expired.metadata)) == ("EXPIRED", {})
    more = calls.update(made, expire_time=clock.now() + DAY)
    assert await reason(more) == (FAILED, "SUBSCRIPTION_ENDED")
    assert await reason(calls.resume(made)) == (FAILED, "SUBSCRIPTION_ENDED")


async def test_reference_of_a_provider_stands_for_one_subscription(calls: Subscriptions) -> None:
    org = organization()
    made = await calls.create(org, references=[reference("1")])
    taken = (EXISTS, "PROVIDER_REFERENCE_TAKEN")
    assert await reason(calls.create(org, user_id=new_id(), references=[reference("1")])) == taken
    other = await calls.create(org, user_id=new_id())
    assert await reason(calls.update(other, references=[reference("2"), reference("1")])) == taken
    assert await calls.get(other) == other

    await calls.update(made, references=[reference("2")])
    assert [one.external_id for one in (await calls.update(other, references=[reference("1")])).references] == ["1"]
    elsewhere = await calls.create(references=[reference("1")])
    assert len(elsewhere.references) == 1


async def test_limits_of_a_model_are_those_that_were_given(calls: Subscriptions) -> None:
    limits = [plan_calls.limit("requests", "7"), plan_calls.feature("beta")]
    made = await calls.model(limits=limits)
    assert list(made.limits) == limits


async def test_model_with_a_plan_has_the_terms_of_the_plan(calls: Subscriptions) -> None:
    await add_plan(calls.ledger, "ml", "0", credits=[included("5")], trial=WEEK)
    waiting = await calls.create(plan_code="ml", user_id=new_id(), model="m")
    assert (state(waiting), list(waiting.limits)) == ("PENDING", [])
    assert state(await calls.approve(waiting)) == "TRIALING"


async def test_first_period_that_cannot_be_paid_waits_for_its_price(calls: Subscriptions) -> None:
    org = organization()
    retrying = plan_pb2.PastDuePolicy(retry_after=[Duration(seconds=86_400)], end=plan_pb2.PAST_DUE_END_CANCEL)
    await add_plan(calls.ledger, "priced", "30", past_due=retrying, credits=[included("5")])
    waiting = await calls.create(org, "priced")
    assert (state(waiting), waiting.owed_amount.value) == ("PENDING", "30")
    assert await reason(calls.retry(waiting)) == (FAILED, "INSUFFICIENT_BALANCE")

    await calls.ledger.credit(org, "top-up", "30")
    paid = await calls.retry(waiting)
    assert (state(paid), paid.HasField("owed_amount")) == ("ACTIVE", False)
    assert (await calls.audited(waiting))[-1] == "RetryPayment"
