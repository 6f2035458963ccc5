"""GetUsageAgainstLimits lists the subscriptions of an organization, and those whose quota is used up as suspended."""

from datetime import timedelta

import grpc
import pytest

from libs.common.ids import new_id
from tests.billing.subscription_calls import Subscriptions
from tests.metering.limits.support import begin_minute
from tests.metering.limits.support_rpc import HOUR, LIFETIME, MODEL, PROJECT, SOFT, SUBSCRIPTION, USER, set_limit
from tests.metering.limits.support_subscriptions import ALLOWED, DENIED, asking, by_subscription, quota, subscribe
from tests.metering.limits.support_subscriptions import MODEL as GPT
from tests.metering.limits.test_entitlements_hold import entitle
from tests.metering.support import Metering, Platform, eventually, settlement, usage
from tests.support.clock import ShiftedClock
from tollhouse.billing.v1 import plan_pb2
from tollhouse.metering.v1 import admission_pb2
from tollhouse.metering.v1 import quota_pb2 as pb

pytestmark = pytest.mark.shards

ACTIVE, SUSPENDED, PAUSED = (
    pb.SUBSCRIPTION_STATE_ACTIVE,
    pb.SUBSCRIPTION_STATE_SUSPENDED,
    pb.SUBSCRIPTION_STATE_PAUSED,
)


async def test_subscriptions_are_listed_with_their_limits_page_by_page(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    of_all = await subscribe(platform, organization_id)
    to_model = await subscribe(platform, organization_id, quota("10"), user_id=ada, model=GPT)
    ended = await subscribe(platform, organization_id, quota("10"), user_id=new_id(), model=GPT)
    await metering.add_model("gpt-9", provider="openai")
    paused = await subscribe(platform, organization_id, quota("10"), user_id=new_id(), model="gpt-9")
    others = [await subscribe(platform, organization_id, user_id=new_id()) for _ in range(5)]
    await subscribe(platform, new_id())
    await Subscriptions(platform.ledger).cancel(ended)
    await Subscriptions(platform.ledger).pause(paused)
    await set_limit(metering, organization_id, "each", scope=SUBSCRIPTION, window=LIFETIME, value="7")
    await metering.authorize(asking(organization_id, user_id=ada, operation_id="a"))
    await metering.authorize(asking(organization_id, user_id=ada, operation_id="b"))
    await metering.settle(settlement(organization_id, "a"))

    found = await by_subscription(metering, organization_id)
    wanted = [*reversed(others), paused, to_model, of_all]
    assert [one.subscription_id for one in found] == [one.subscription_id for one in wanted]
    of = {one.subscription_id: one for one in found}
    seen = of[to_model.subscription_id]
    assert (seen.user_id, seen.model, seen.provider, seen.plan_code) == (ada, GPT, "", "")
    assert (seen.state, seen.billing_state) == (ACTIVE, ACTIVE)
    assert [(one.name, one.max, one.used, one.reserved, one.remaining) for one in seen.limits] == [
        ("each", "7", "1", "1", "5"),
        ("quota", "10", "1", "1", "8"),
    ]
    assert seen.limits[1].HasField("reset_time")
    plan = of[of_all.subscription_id]
    assert (plan.user_id, plan.model, plan.plan_code, plan.plan_version) == ("", "", "free", 1)
    assert plan.period_start_time == of_all.period_start_time
    assert plan.period_end_time == of_all.period_end_time
    assert "max_api_calls_per_day" in [one.name for one in plan.limits]
    rests = of[paused.subscription_id]
    assert (rests.state, rests.billing_state, list(rests.limits)) == (PAUSED, PAUSED, [])
    assert (rests.model, rests.provider) == ("gpt-9", "openai")

    async def ids(**filters: object) -> list[str]:
        return [one.subscription_id for one in await by_subscription(metering, organization_id, **filters)]  # type: ignore[arg-type]

    assert await ids(scope=USER, scope_value=ada.upper()) == [to_model.subscription_id]
    assert await ids(scope=MODEL, scope_value=GPT) == [to_model.subscription_id]
    assert await ids(scope=SUBSCRIPTION, scope_value=of_all.subscription_id) == [of_all.subscription_id]
    for nobody in (new_id(), "no id", "ё"):
        assert await ids(scope=SUBSCRIPTION, scope_value=nobody) == []
        assert await ids(scope=USER, scope_value=nobody) == []
        assert await ids(scope=MODEL, scope_value=nobody) == []
    (named,) = await by_subscription(
        metering, organization_id, name="quota", scope=SUBSCRIPTION, scope_value=to_model.subscription_id
    )
    assert [one.name for one in named.limits] == ["quota"]


async def test_subscription_is_suspended_while_its_quota_is_used_up_and_comes_back_by_itself(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    a_minute = quota("2", window=plan_pb2.LIMIT_WINDOW_MINUTE)
    own = await subscribe(platform, organization_id, a_minute, user_id=ada, model=GPT)

    async def listed() -> pb.SubscriptionUsage:
        (one,) = await by_subscription(metering, organization_id)
        return one

    async def decision(operation_id: str) -> int:
        return (await metering.authorize(asking(organization_id, user_id=ada, operation_id=operation_id))).decision

    await eventually(listed, lambda one: [limit.name for limit in one.limits] == ["quota"])
    begin_minute(clock)
    assert [await decision(f"call-{number}") for number in range(3)] == [ALLOWED, ALLOWED, DENIED]
    full = await listed()
    assert (full.state, full.state_reason, full.billing_state) == (SUSPENDED, "QUOTA", ACTIVE)
    assert (full.limits[0].remaining, full.limits[0].reserved) == ("0", "2")
    # It comes back with what is given back.
    cancelled = admission_pb2.CancelRequest(organization_id=organization_id, operation_id="call-0")
    await metering.admission.Cancel(cancelled, metadata=metering.gateway)
    assert (await listed()).state == ACTIVE
    assert await decision("call-4") == ALLOWED
    assert (await listed()).state == SUSPENDED

    clock.advance(timedelta(seconds=61))
    back = await listed()
    assert (back.state, back.state_reason, back.limits[0].remaining) == (ACTIVE, own.state_reason, "2")
    assert await decision("call-5") == ALLOWED
    assert (await Subscriptions(platform.ledger).get(own)).state_reason == own.state_reason


async def test_only_a_quota_that_comes_back_suspends(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    ada = new_id()
    lifetime = quota("1", "ever", plan_pb2.LIMIT_WINDOW_LIFETIME)
    nothing = quota("0", "none", plan_pb2.LIMIT_WINDOW_DAY)
    nothing.limit.metric = "images"
    soft = quota("1", "soft", plan_pb2.LIMIT_WINDOW_DAY)
    soft.limit.soft = True
    await subscribe(platform, organization_id, lifetime, nothing, soft, user_id=ada, model=GPT)
    await set_limit(metering, organization_id, "a", scope=SUBSCRIPTION, window=HOUR, value="1", enforcement=SOFT)
    await metering.record(usage(organization_id, user_id=ada))

    async def listed() -> list[pb.SubscriptionUsage]:
        return await by_subscription(metering, organization_id)

    (one,) = await eventually(listed, lambda found: len(found[0].limits) == 4)
    assert {limit.name: limit.remaining for limit in one.limits} == {"a": "0", "ever": "0", "none": "0", "soft": "0"}
    assert (one.state, one.billing_state) == (ACTIVE, ACTIVE)


async def test_override_stands_in_for_what_the_subscription_gives(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    ada = new_id()
    await subscribe(platform, organization_id, quota("10"), user_id=ada, model=GPT)
    await entitle(platform, organization_id, "quota", quota("3").limit, user_id=ada, model=GPT)

    async def listed() -> list[pb.SubscriptionUsage]:
        return await by_subscription(metering, organization_id)

    (one,) = await eventually(listed, lambda found: [limit.max for limit in found[0].limits] == ["3"])
    assert [(limit.name, limit.subscription_id) for limit in one.limits] == [("quota", "")]


async def test_more_limits_than_an_answer_can_hold_make_smaller_pages(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await subscribe(platform, organization_id, user_id=new_id()) for _ in range(6)]
    ended = made.pop(3)
    await Subscriptions(platform.ledger).cancel(ended)
    monkeypatch.setattr("libs.common.pages.PAGE_BYTES_MAX", 1_500)
    found = await by_subscription(metering, organization_id, size=100)
    assert [one.subscription_id for one in found] == [one.subscription_id for one in reversed(made)]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scope": PROJECT, "scope_value": "x"}, "scope"),
        ({"scope": USER}, "scope_value"),
        ({"scope_value": "x"}, "scope_value"),
        ({"page_token": "bm9uZQ=="}, "page_token"),
        ({"page_token": "\x7f" * 9}, "page_token"),
        ({"scope": MODEL, "scope_value": "a\x00b"}, "scope_value"),
        ({"name": "'; DROP TABLE limits; --"}, "name"),
    ],
    ids=range(7),
)
async def test_what_cannot_be_asked_is_refused_by_name(
    metering: Metering, organization_id: str, fields: dict[str, object], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await by_subscription(metering, organization_id, **fields)  # type: ignore[arg-type]
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (failed.value.details() or "")


async def test_token_of_another_list_is_refused(platform: Platform, metering: Metering, organization_id: str) -> None:
    for _ in range(2):
        await subscribe(platform, organization_id, user_id=new_id())
    request = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id, by_subscription=True, page_size=1)
    page = await metering.quota.GetUsageAgainstLimits(request, metadata=metering.operator)
    assert page.next_page_token
    for change in ({"organization_id": new_id()}, {"by_subscription": False}, {"scope": MODEL, "scope_value": GPT}):
        other = pb.GetUsageAgainstLimitsRequest(page_token=page.next_page_token)
        other.MergeFrom(request)
        for name, value in change.items():
            setattr(other, name, value)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await metering.quota.GetUsageAgainstLimits(other, metadata=metering.operator)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_list_fails_while_billing_is_away(platform: Platform, metering: Metering, organization_id: str) -> None:
    await platform.stop_billing()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await by_subscription(metering, organization_id)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
