"""A call that names a subscription falls under that one, or is refused with a reason that names it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info
from tests.billing.subscription_calls import Subscriptions
from tests.metering.limits.support_subscriptions import (
    ALLOWED,
    DENIED,
    MODEL,
    NOT_LIVE,
    asking,
    falls_under,
    quota,
    subscribe,
)
from tests.metering.support import Metering, Platform, eventually, settlement, stamp, usage
from tests.metering.test_batch_admission import reason
from tollhouse.metering.v1 import admission_pb2, quota_pb2, usage_pb2

NOT_FOUND, MISMATCH = "SUBSCRIPTION_NOT_FOUND", "SUBSCRIPTION_MISMATCH"


@dataclass
class Foreign:
    """Subscriptions that a call of a user to gpt-4o cannot fall under, with the reasons why work is refused."""

    user_id: str
    reasons: dict[str, str]
    own: str
    """The one that it falls under."""


@pytest.fixture
async def foreign(platform: Platform, organization_id: str) -> Foreign:
    ada, other = new_id(), new_id()
    await platform.fund(organization_id)
    own = await subscribe(platform, organization_id, user_id=ada)
    of_bob = await subscribe(platform, organization_id, user_id=new_id())
    to_another_model = await subscribe(platform, organization_id, quota("1"), user_id=ada, model="gpt-9")
    of_another = await subscribe(platform, other)
    of_their_ada = await subscribe(platform, other, quota("1"), user_id=ada, model=MODEL)
    reasons = {
        of_bob.subscription_id: MISMATCH,
        to_another_model.subscription_id: MISMATCH,
        of_another.subscription_id: NOT_FOUND,
        of_their_ada.subscription_id: NOT_FOUND,
        new_id(): NOT_FOUND,
        ada: NOT_FOUND,
    }
    return Foreign(ada, reasons, own.subscription_id)


async def why(call: Awaitable[object]) -> tuple[str, str, str]:
    """Return the reason of a refusal, the field that it names and the subscription."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    info = error_info(failed.value)
    assert info is not None
    return info.reason, info.metadata["field"], info.metadata["subscription_id"]


async def test_foreign_subscription_is_denied_before_the_work(
    metering: Metering, organization_id: str, foreign: Foreign
) -> None:
    for subscription_id in foreign.reasons:
        request = asking(organization_id, user_id=foreign.user_id, subscription_id=subscription_id)
        for _ in range(2):
            denied = await metering.authorize(request)
            assert (denied.decision, denied.denial.reason, denied.subscription_id) == (DENIED, NOT_LIVE, "")
            assert dict(denied.denial.facts) == {"field": "subscription_id", "subscription_id": subscription_id}
    requests = [asking(organization_id, user_id=foreign.user_id, subscription_id=one) for one in foreign.reasons]
    requests.insert(2, asking(organization_id, user_id=foreign.user_id, subscription_id=foreign.own))
    outcomes = await metering.authorize_batch(requests)
    assert [one.decided.decision == ALLOWED for one in outcomes] == [number == 2 for number in range(len(requests))]
    assert len(await metering.authorizations(organization_id)) == 1


async def test_foreign_subscription_of_work_is_refused_by_name_and_nothing_is_recorded(
    platform: Platform, metering: Metering, organization_id: str, foreign: Foreign
) -> None:
    for subscription_id, wanted in foreign.reasons.items():
        fields = {"user_id": foreign.user_id, "subscription_id": subscription_id}
        expected = (wanted, "subscription_id", subscription_id)
        assert await why(metering.record(usage(organization_id, "work", **fields))) == expected
        assert await why(metering.settle(settlement(organization_id, "work", **fields))) == expected
    requests = [
        usage(organization_id, user_id=foreign.user_id, subscription_id=one) for one in (*foreign.reasons, foreign.own)
    ]
    outcomes = await metering.record_batch(requests)
    assert [reason(one.refused) for one in outcomes[:-1]] == list(foreign.reasons.values())
    assert outcomes[-1].recorded.usage.subscription_id == foreign.own
    settled = await metering.settle_batch(
        [
            settlement(organization_id, f"s-{number}", user_id=foreign.user_id, subscription_id=one)
            for number, one in enumerate((*foreign.reasons, foreign.own))
        ]
    )
    assert [reason(one.refused) for one in settled[:-1]] == list(foreign.reasons.values())
    assert settled[-1].settled.usage.subscription_id == foreign.own
    call = metering.usage.StreamUsage(
        iter([usage_pb2.StreamUsageRequest(usage=one) for one in requests]), metadata=metering.operator
    )
    streamed = [one.outcome.refused async for one in call if one.outcome.HasField("refused")]
    assert sorted(map(reason, streamed)) == sorted(foreign.reasons.values())
    assert len(await metering.charges()) == 2
    assert await metering.findings() == []


async def test_foreign_subscription_is_refused_by_allocations(
    metering: Metering, organization_id: str, foreign: Foreign
) -> None:
    def asked(subscription_id: str, **fields: object) -> Awaitable[quota_pb2.AllocateQuotaResponse]:
        request = quota_pb2.AllocateQuotaRequest(
            organization_id=organization_id,
            operation_id="job",
            user_id=foreign.user_id,
            model=MODEL,
            subscription_id=subscription_id,
            amounts=[quota_pb2.QuotaAmount(metric="requests", value="1")],
            **fields,  # type: ignore[arg-type]
        )
        return metering.quota.AllocateQuota(request, metadata=metering.gateway)

    for mode in quota_pb2.AllocationMode.values():
        for subscription_id, wanted in foreign.reasons.items():
            assert await why(asked(subscription_id, mode=mode)) == (wanted, "subscription_id", subscription_id)
    assert (await asked(foreign.own)).allocated


async def test_settlement_of_a_call_names_the_pinned_subscription_or_none(
    platform: Platform, metering: Metering, organization_id: str, foreign: Foreign
) -> None:
    of_all = (await subscribe(platform, organization_id)).subscription_id
    await metering.authorize(asking(organization_id, user_id=foreign.user_id, operation_id="call"))
    for subscription_id in (of_all, *foreign.reasons):
        for part in ({"final": False}, {}):
            other = settlement(organization_id, "call", subscription_id=subscription_id, **part)
            assert await why(metering.settle(other)) == (MISMATCH, "subscription_id", subscription_id)
    a_part = settlement(organization_id, "call", subscription_id=foreign.own, final=False)
    assert (await metering.settle(a_part)).usage.subscription_id == foreign.own
    last = settlement(organization_id, "call", subscription_id=foreign.own)
    assert (await metering.settle(last)).usage.subscription_id == foreign.own
    assert await metering.findings() == []


async def test_work_under_a_subscription_that_has_ended_is_recorded_and_a_new_call_is_not_allowed(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ended = await subscribe(platform, organization_id)
    await falls_under(metering, organization_id, ended.subscription_id)
    request = asking(organization_id, subscription_id=ended.subscription_id)
    assert (await metering.authorize(request)).decision == ALLOWED
    await Subscriptions(platform.ledger).cancel(ended)

    async def decided() -> admission_pb2.AuthorizeResponse:
        return await metering.authorize(asking(organization_id, subscription_id=ended.subscription_id))

    denied = await eventually(decided, lambda answer: answer.decision == DENIED)
    assert denied.denial.reason == NOT_LIVE
    done = usage(organization_id, subscription_id=ended.subscription_id.upper(), occur_time=stamp(hours=-1))
    assert (await metering.record(done)).usage.subscription_id == ended.subscription_id
    settled = await metering.settle(settlement(organization_id, request.operation_id))
    assert settled.usage.subscription_id == ended.subscription_id
    allocation = quota_pb2.AllocateQuotaRequest(
        organization_id=organization_id,
        operation_id="job",
        subscription_id=ended.subscription_id,
        amounts=[quota_pb2.QuotaAmount(metric="requests", value="1")],
    )
    refused = await why(metering.quota.AllocateQuota(allocation, metadata=metering.gateway))
    assert refused == ("SUBSCRIPTION_NOT_LIVE", "subscription_id", ended.subscription_id)
    allocation.mode = quota_pb2.ALLOCATION_MODE_ADJUST_ONLY
    assert (await metering.quota.AllocateQuota(allocation, metadata=metering.gateway)).allocated


async def test_repeat_with_another_subscription_is_refused_by_its_name(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada = new_id()
    of_all = (await subscribe(platform, organization_id)).subscription_id
    near = (await subscribe(platform, organization_id, user_id=ada)).subscription_id
    await falls_under(metering, organization_id, near, user_id=ada)

    first = asking(organization_id, user_id=ada, operation_id="call", subscription_id=of_all)
    assert (await metering.authorize(first)).subscription_id == of_all
    assert (await metering.authorize(first)).replayed
    for other in (near, ""):
        first.subscription_id = other
        assert await _field(metering.authorize(first)) == "subscription_id"
    work = usage(organization_id, "work", user_id=ada, subscription_id=of_all)
    assert (await metering.record(work)).usage.subscription_id == of_all
    assert (await metering.record(work)).replayed
    work.subscription_id = near
    assert await _field(metering.record(work)) == "subscription_id"


async def _field(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    info = error_info(failed.value)
    assert info is not None
    assert info.reason == "OPERATION_ID_REUSED"
    return info.metadata["field"]


async def test_done_work_is_recorded_as_it_was_named_while_billing_is_away_and_repeats_are_answered(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.stop_billing()
    named = new_id()
    work = usage(organization_id, "work", subscription_id=named)
    assert (await metering.record(work)).usage.subscription_id == named
    none = usage(organization_id, "other")
    assert (await metering.record(none)).usage.subscription_id == ""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await metering.authorize(asking(organization_id, subscription_id=named))
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    await platform.start_billing()

    async def refused() -> bool:
        try:
            await metering.record(usage(organization_id, subscription_id=named))
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await eventually(refused, bool)
    assert (await metering.record(work)).replayed, "what is recorded stays recorded"


_HOSTILE = ("x", "\x01", "ё" * 36, "' OR 1=1 --", "00000000-0000-0000-0000-00000000000g", "a" * 5_000, "{}", "%00")


@pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
async def test_text_that_is_no_id_is_refused_by_name(metering: Metering, organization_id: str, text: str) -> None:
    calls: Iterable[Callable[[], Awaitable[object]]] = (
        lambda: metering.authorize(asking(organization_id, subscription_id=text)),
        lambda: metering.record(usage(organization_id, subscription_id=text)),
        lambda: metering.settle(settlement(organization_id, "call", subscription_id=text)),
    )
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call()
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "subscription_id" in (failed.value.details() or "")
