"""A call falls under the nearest live subscription of its caller, and its usage is recorded under that one."""

import asyncio
from datetime import timedelta

import pytest

from libs.common.authentication import SigningKey, TokenSource
from libs.common.channel import open_channel
from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.shards import open_shards
from services.metering.clients.entitlements import EntitlementsClient
from services.metering.quota.book import LimitBook
from services.metering.quota.calls import CallLimits, InForce
from services.metering.quota.domain import Call
from tests.billing.subscription_calls import Subscriptions
from tests.metering.limits.support_rpc import LIFETIME, SUBSCRIPTION, set_limit, usage_of
from tests.metering.limits.support_subscriptions import (
    ALLOWED,
    DENIED,
    MODEL,
    asking,
    falls_under,
    quota,
    subscribe,
)
from tests.metering.limits.test_entitlements_hold import entitle
from tests.metering.support import Metering, Platform, eventually, settlement, stamp, usage
from tests.support.clock import ShiftedClock
from tests.support.sharded import shard_count
from tollhouse.metering.v1 import admission_pb2, quota_pb2, usage_pb2

pytestmark = pytest.mark.shards


async def requests_by_subscription(metering: Metering, organization_id: str) -> dict[str, int]:
    """Return how many requests each subscription has, as QueryUsage says it."""
    request = usage_pb2.QueryUsageRequest(
        organization_id=organization_id,
        start_time=stamp(days=-1),
        end_time=stamp(days=1),
        group_by=[usage_pb2.USAGE_DIMENSION_SUBSCRIPTION],
    )
    answer = await metering.usage.QueryUsage(request, metadata=metering.operator)
    return {one.dimensions["subscription_id"]: one.request_count for one in answer.summaries}


async def test_nearest_live_subscription_is_pinned_recorded_and_told(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada, bob = new_id(), new_id()
    of_all = (await subscribe(platform, organization_id)).subscription_id
    of_ada = (await subscribe(platform, organization_id, user_id=ada)).subscription_id
    to_model = (await subscribe(platform, organization_id, user_id=ada, model=MODEL)).subscription_id
    await metering.add_model("gpt-9")
    await metering.set_price("gpt-9")

    for user_id, model, wanted in (
        (ada, MODEL, to_model),
        (ada, "gpt-9", of_ada),
        (bob, MODEL, of_all),
        ("", MODEL, of_all),
    ):
        operation_id = f"op-{new_id()}"
        allowed = await metering.authorize(
            asking(organization_id, user_id=user_id, model=model, operation_id=operation_id)
        )
        assert (allowed.decision, allowed.subscription_id) == (ALLOWED, wanted)
        settled = await metering.settle(settlement(organization_id, operation_id, model=model))
        assert settled.usage.subscription_id == wanted
        stored = await metering.get(organization_id, operation_id)
        assert stored.subscription_id == wanted
        recorded = await metering.record(usage(organization_id, user_id=user_id, model=model))
        assert recorded.usage.subscription_id == wanted
        (listed,) = [one for one in await metering.authorizations(organization_id) if one.operation_id == operation_id]
        assert listed.subscription_id == wanted
    assert await requests_by_subscription(metering, organization_id) == {to_model: 2, of_ada: 2, of_all: 4}
    stranger = await metering.authorize(asking(new_id()))
    assert stranger.subscription_id == ""
    assert await metering.findings() == []


async def test_batches_and_streams_find_it_too(platform: Platform, metering: Metering, organization_id: str) -> None:
    await platform.fund(organization_id)
    wanted = (await subscribe(platform, organization_id)).subscription_id
    outcomes = await metering.authorize_batch([asking(organization_id, operation_id=f"a-{n}") for n in range(3)])
    assert {one.decided.subscription_id for one in outcomes} == {wanted}
    settled = await metering.settle_batch([settlement(organization_id, f"a-{number}") for number in range(3)])
    assert {one.settled.usage.subscription_id for one in settled} == {wanted}
    recorded = await metering.record_batch([usage(organization_id) for _ in range(3)])
    assert {one.recorded.usage.subscription_id for one in recorded} == {wanted}

    call = metering.usage.StreamUsage(
        iter([usage_pb2.StreamUsageRequest(usage=usage(organization_id))]), metadata=metering.operator
    )
    streamed = [one async for one in call]
    assert [one.outcome.recorded.usage.subscription_id for one in streamed] == [wanted]


async def test_pinned_subscription_stays_when_another_one_follows(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    first = await subscribe(platform, organization_id, quota("10"), user_id=ada, model=MODEL)
    request = asking(organization_id, user_id=ada, operation_id="before")
    assert (await metering.authorize(request)).subscription_id == first.subscription_id
    await Subscriptions(platform.ledger).cancel(first)
    second = await subscribe(platform, organization_id, quota("10"), user_id=ada, model=MODEL)
    await falls_under(metering, organization_id, second.subscription_id, user_id=ada)

    again = await metering.authorize(request)
    assert (again.replayed, again.subscription_id) == (True, first.subscription_id)
    # Another process of metering, which remembers nothing of the authorization.
    await platform.start_metering()
    settled = await platform.metering.settle(settlement(organization_id, "before"))
    assert settled.usage.subscription_id == first.subscription_id
    assert (await platform.metering.settle(settlement(organization_id, "before"))).replayed
    assert await platform.metering.findings() == []


async def test_limits_of_subscriptions_count_the_calls_under_them(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    own = await subscribe(platform, organization_id, user_id=ada)
    await subscribe(platform, organization_id)
    await set_limit(metering, organization_id, "each", scope=SUBSCRIPTION, window=LIFETIME, value="2")
    await falls_under(metering, organization_id, own.subscription_id, user_id=ada)

    told = [(await metering.authorize(asking(organization_id, user_id=ada))) for _ in range(2)]
    assert [one.decision for one in told] == [ALLOWED, DENIED]
    facts = told[1].denial.facts
    assert (facts["subscription_id"], facts["scope_value"]) == (own.subscription_id, own.subscription_id)
    assert own.subscription_id in told[1].denial.message
    assert (await metering.authorize(asking(organization_id))).decision == ALLOWED
    statuses = await usage_of(
        metering, organization_id, name="each", scope=SUBSCRIPTION, scope_value=own.subscription_id
    )
    assert [(one.name, one.reserved) for one in statuses] == [("each", "2")]


async def test_quota_of_a_subscription_that_refuses_names_it_and_when_it_would_pass(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    own = await subscribe(platform, organization_id, quota("1"), user_id=ada, model=MODEL)
    await falls_under(metering, organization_id, own.subscription_id, user_id=ada)
    refused = await metering.authorize(asking(organization_id, user_id=ada))
    assert refused.denial.reason == admission_pb2.DENIAL_REASON_LIMIT_EXCEEDED
    assert refused.denial.facts["subscription_id"] == own.subscription_id
    assert int(refused.denial.facts["retry_after_ms"]) > 0
    assert (refused.limits[0].subscription_id, refused.limits[0].entitled) == (own.subscription_id, True)
    assert (await metering.authorize(asking(organization_id, user_id=new_id()))).decision == ALLOWED


async def test_call_under_a_wider_subscription_is_limited_by_that_one_alone(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    of_all = await subscribe(platform, organization_id)
    near = await subscribe(platform, organization_id, quota("1"), user_id=ada, model=MODEL)
    await falls_under(metering, organization_id, near.subscription_id, user_id=ada)

    wider = asking(organization_id, user_id=ada, subscription_id=of_all.subscription_id.upper())
    allowed = await metering.authorize(wider)
    assert (allowed.decision, allowed.subscription_id) == (ALLOWED, of_all.subscription_id)
    assert "quota" not in [one.name for one in allowed.limits]
    settled = await metering.settle(settlement(organization_id, wider.operation_id))
    assert settled.usage.subscription_id == of_all.subscription_id
    assert (await metering.authorize(asking(organization_id, user_id=ada))).decision == DENIED


async def test_override_holds_whatever_subscription_a_call_names(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    of_all = await subscribe(platform, organization_id)
    await subscribe(platform, organization_id, quota("100"), user_id=ada, model=MODEL)
    await entitle(platform, organization_id, "quota", quota("1").limit, user_id=ada)
    calls = [
        await metering.authorize(asking(organization_id, user_id=ada, subscription_id=named))
        for named in (of_all.subscription_id, of_all.subscription_id, "")
    ]
    assert [one.decision for one in calls] == [ALLOWED, DENIED, DENIED]


async def test_history_falls_under_no_subscription_that_had_not_begun(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    of_all = await subscribe(platform, organization_id)
    clock.advance(timedelta(minutes=30))
    await subscribe(platform, organization_id, quota("5"), user_id=ada, model=MODEL)

    async def under(hours: float) -> str:
        work = usage(organization_id, user_id=ada, occur_time=stamp(clock, hours=hours))
        return (await metering.record(work)).usage.subscription_id

    assert await under(-0.25) == of_all.subscription_id
    assert await under(-2) == ""
    work = usage(organization_id, user_id=ada, occur_time=stamp(clock))
    assert (await metering.record(work)).usage.subscription_id not in ("", of_all.subscription_id)
    assert (await metering.record(work)).replayed


async def test_allocations_count_under_the_nearest_subscription(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    ada = new_id()
    own = await subscribe(platform, organization_id, quota("3"), user_id=ada, model=MODEL)
    request = quota_pb2.AllocateQuotaRequest(
        organization_id=organization_id,
        operation_id="job",
        user_id=ada,
        model=MODEL,
        amounts=[quota_pb2.QuotaAmount(metric="requests", value="2")],
    )

    async def allocated() -> quota_pb2.AllocateQuotaResponse:
        return await metering.quota.AllocateQuota(request, metadata=metering.gateway)

    first = await allocated()
    assert first.allocated
    request.operation_id = "job-2"
    second = await eventually(allocated, lambda answer: not answer.allocated)
    assert (second.limits[0].subscription_id, second.limits[0].scope_value) == (own.subscription_id,) * 2


async def test_calls_share_a_question_to_billing_whatever_they_fall_under(
    platform: Platform, organization_id: str
) -> None:
    ada = new_id()
    of_all = (await subscribe(platform, organization_id)).subscription_id
    of_ada = (await subscribe(platform, organization_id, user_id=ada)).subscription_id
    shards = open_shards(platform.urls["metering"], schema="metering", count=shard_count())
    signing_key = SigningKey.read(platform.callers.signing_key_file("metering", platform.folder))
    tokens = TokenSource(signing_key, SystemClock())
    channel = open_channel(f"127.0.0.1:{platform.billing_port}", caller=tokens, audience="billing.tollhouse")
    client = EntitlementsClient(channel, SystemClock())
    watching = asyncio.create_task(client.watch())
    try:
        async with asyncio.timeout(10):
            await eventually(lambda: asyncio.sleep(0, client.is_current), bool)
            limits = CallLimits(LimitBook(shards), client)
            calls = [
                (organization_id, Call(user_id=ada, model=MODEL, subscription_id=named))
                for named in ("", of_ada, of_all, new_id())
            ]
            for _ in range(50):
                found = [one for one in await limits.of(calls) if isinstance(one, InForce)]
                assert [one.subscription_id for one in found[:3]] == [of_ada, of_ada, of_all]
                assert [one.is_live for one in found] == [True, True, True, False]
            # Of Ada with the model and of the organization alone; and anew if the stream names it after the first.
            assert client.asked_count <= 4
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await channel.close()
        await shards.close()
