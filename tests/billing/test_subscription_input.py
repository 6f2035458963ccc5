"""What subscriptions refuse: requests that make no sense, and what is another organization's."""

from datetime import timedelta
from typing import Final

import pytest

from tests.billing import plan_calls
from tests.billing.plan_calls import reason, reference
from tests.billing.subscription_calls import FAILED, NOT_FOUND, PERIOD_END, Subscriptions, add_plan, faults
from tests.billing.support import Ledger, organization
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import subscription_pb2 as pb

DAY: Final = timedelta(days=1)


@pytest.fixture
def calls(timed: Ledger) -> Subscriptions:
    return Subscriptions(timed)


async def test_plans_that_nobody_can_subscribe_to(calls: Subscriptions) -> None:
    ledger, org = calls.ledger, organization()
    await plan_calls.created(ledger, plan_calls.new_plan("draft"))
    await plan_calls.archived(ledger, await add_plan(ledger, "old"))

    assert await reason(calls.create(org, "draft")) == (FAILED, "PLAN_NOT_PUBLISHED")
    assert await reason(calls.create(org, "old")) == (FAILED, "PLAN_ARCHIVED")
    assert await reason(calls.create(org, "unknown")) == (NOT_FOUND, "NOT_FOUND")
    assert await calls.listed(org) == []


async def test_subscription_of_another_organization_looks_like_a_missing_one(calls: Subscriptions) -> None:
    made = await calls.create()
    stolen = pb.Subscription(organization_id=organization(), subscription_id=made.subscription_id)
    missing = (NOT_FOUND, "NOT_FOUND")
    for call in (
        *(calls.get(stolen), calls.events(stolen), calls.approve(stolen), calls.reject(stolen), calls.pause(stolen)),
        *(calls.resume(stolen), calls.suspend(stolen), calls.retry(stolen), calls.cancel(stolen)),
        *(calls.change(stolen, "basic"), calls.withdraw_change(stolen), calls.withdraw_cancellation(stolen)),
        calls.update(stolen, metadata={}),
    ):
        assert await reason(call) == missing
    assert await calls.get(made) == made


async def test_times_that_make_no_sense_are_named(calls: Subscriptions, clock: FixedClock) -> None:
    now, year = clock.now(), timedelta(days=366)
    assert await faults(calls.create(start_time=now + year + DAY)) == {"start_time"}
    assert await faults(calls.create(start_time=now - year - DAY)) == {"start_time"}
    assert await faults(calls.create(anchor_time=now + DAY)) == {"anchor_time"}
    assert await faults(calls.create(anchor_time=now - 11 * year)) == {"anchor_time"}
    assert await faults(calls.create(expire_time=now)) == {"expire_time"}
    assert await faults(calls.create(expire_time=now + DAY, start_time=now + 2 * DAY)) == {"expire_time"}
    assert await faults(calls.create(time_zone="Mars/Olympus")) == {"time_zone"}
    made = await calls.create(anchor_time=now - 20 * DAY)
    assert await faults(calls.update(made, expire_time=now)) == {"expire_time"}


async def test_fields_that_contradict_each_other_are_named(calls: Subscriptions) -> None:
    limits = [plan_calls.limit()]
    assert await faults(calls.create(model="m")) == {"user_id"}
    assert await faults(calls.create(plan_code="")) == {"plan_code"}
    assert await faults(calls.create(limits=limits)) == {"limits"}
    assert await faults(calls.model(limits=[*limits, *limits])) == {"limits[1].entitlement_code"}
    assert await faults(calls.create(references=[reference("1"), reference("1")])) == {"references[1]"}
    made = await calls.create()
    assert await faults(calls.update(made, "state")) == {"update_mask"}
    assert await faults(calls.suspend(made, "  ")) == {"reason"}
    assert await faults(calls.reject(made, "\t")) == {"reason"}
    assert await faults(calls.change(made, "basic", pb.CHANGE_TIMING_UNSPECIFIED)) == {"timing"}


async def test_subscription_to_a_model_has_no_plan_to_change(calls: Subscriptions) -> None:
    approved = await calls.approve(await calls.model())
    assert await reason(calls.change(approved, "basic")) == (FAILED, "SUBSCRIPTION_WITHOUT_PLAN")
    assert await reason(calls.change(approved, "basic", PERIOD_END)) == (FAILED, "SUBSCRIPTION_WITHOUT_PLAN")
