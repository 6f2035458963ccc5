"""Limits decide before the work: exactly, all or none, and with an answer that explains.

A call of `ask` is for 1,000 input and 1,000 output tokens, for which 0.0125 dollars are held.
"""

import asyncio

import grpc
import pytest

from libs.common.ids import new_id
from services.metering.quota.domain import Window
from tests.metering.lapses.support import Worker
from tests.metering.limits.support import begin_minute, counted, delete_limit, reserved, set_limit
from tests.metering.support import Metering, Platform, refused, settlement, usage
from tests.metering.test_authorizations import cancel
from tests.metering.test_batch_admission import ALLOWED, DENIED, ask
from tests.support.clock import ShiftedClock
from tollhouse.metering.v1 import admission_pb2, quota_pb2

REFUSED = admission_pb2.DENIAL_REASON_LIMIT_EXCEEDED


async def items(metering: Metering, organization_id: str, count: int) -> admission_pb2.AuthorizeResponse:
    return await metering.authorize(ask(organization_id, f"op-{new_id()}", items=count))


def status(response: admission_pb2.AuthorizeResponse, name: str) -> quota_pb2.LimitStatus:
    (found,) = [one for one in response.limits if one.name == name]
    return found


async def test_call_that_one_of_two_limits_refuses_takes_from_none(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    begin_minute(clock)
    a = await set_limit(platform, organization_id, "a", "100", window=Window.MINUTE)
    b = await set_limit(platform, organization_id, "b", "2", window=Window.MINUTE)

    answers = [await metering.authorize(ask(organization_id, f"call-{number}")) for number in range(3)]

    assert [one.decision for one in answers] == [ALLOWED, ALLOWED, DENIED]
    denied = answers[2]
    assert denied.denial.reason == REFUSED
    assert [one.name for one in denied.limits] == ["b", "a"]
    assert await reserved(platform, organization_id, a, b) == [2, 2]


async def test_of_fifty_calls_at_once_the_smaller_limit_admits_two_and_the_larger_counts_two(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    begin_minute(clock)
    a = await set_limit(platform, organization_id, "a", "100", window=Window.MINUTE)
    b = await set_limit(platform, organization_id, "b", "2", window=Window.MINUTE)

    answers = await asyncio.gather(
        *(metering.authorize(ask(organization_id, f"call-{number}")) for number in range(50))
    )

    assert [one.decision for one in answers].count(ALLOWED) == 2
    assert await reserved(platform, organization_id, a, b) == [2, 2]


async def test_calls_of_any_size_take_what_is_left_and_no_more(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    begin_minute(clock)
    await set_limit(platform, organization_id, "items", "10", metric="items", window=Window.MINUTE)

    told = []
    for count in (5, 100, 5, 0, 1):
        answer = await items(metering, organization_id, count)
        told.append((answer.decision, answer.limits[0].remaining))

    assert told == [(ALLOWED, "5"), (DENIED, "5"), (ALLOWED, "0"), (ALLOWED, "0"), (DENIED, "0")]
    assert await refused(items(metering, organization_id, -1)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


@pytest.mark.parametrize("metric", ["requests", "total_tokens", "output_tokens", "spend", "concurrent_calls"])
async def test_limit_of_zero_denies_every_call_that_wants_something(
    platform: Platform, metering: Metering, organization_id: str, metric: str
) -> None:
    await platform.fund(organization_id)
    window = Window.NONE if metric == "concurrent_calls" else Window.LIFETIME
    code = "USD" if metric == "spend" else ""
    limit = await set_limit(platform, organization_id, "none", "0", metric=metric, window=window, currency_code=code)

    answer = await metering.authorize(ask(organization_id, "call-1"))

    assert answer.denial.reason == REFUSED
    assert "retry_after_ms" not in answer.denial.facts
    assert not answer.limits[0].HasField("retry_after")
    assert answer.denial.message.endswith("waiting does not help.")

    await set_limit(platform, organization_id, "none", None, metric=metric, window=window, currency_code=code)
    assert (await metering.authorize(ask(organization_id, "call-1"))).decision == ALLOWED
    await delete_limit(platform, organization_id, limit)
    answer = await metering.authorize(ask(organization_id, "call-2"))
    assert answer.decision == ALLOWED
    assert not answer.limits


async def test_one_big_call_is_denied_before_the_work_and_a_smaller_one_passes(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    begin_minute(clock)
    limit = await set_limit(platform, organization_id, "tokens", "100", metric="total_tokens", window=Window.MINUTE)

    big = await metering.authorize(ask(organization_id, "big", input_tokens=10, max_output_tokens=16_000))
    small = await metering.authorize(ask(organization_id, "small", input_tokens=10, max_output_tokens=50))

    assert big.denial.reason == REFUSED
    assert dict(big.denial.facts) == {
        "limit": "tokens",
        "metric": "total_tokens",
        "max": "100",
        "used": "0",
        "reserved": "0",
        "remaining": "100",
        "needed": "16010",
    }
    assert small.decision == ALLOWED
    told = status(small, "tokens")
    assert (told.max, told.used, told.reserved, told.remaining) == ("100", "0", "60", "40")
    assert await counted(platform, organization_id, limit) == (0, 60)


async def test_call_gives_back_what_it_did_not_use_and_all_of_it_when_cancelled_or_expired(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "tokens", "100", metric="total_tokens", window=Window.LIFETIME)

    async def began(name: str) -> str:
        answer = await metering.authorize(ask(organization_id, name, input_tokens=10, max_output_tokens=50))
        return answer.limits[0].remaining if answer.decision == ALLOWED else "denied"

    assert await began("cancelled") == "40"
    assert await began("waits") == "denied"
    await cancel(metering, organization_id, "cancelled")
    assert await began("expires") == "40"
    assert await began("waits") == "denied"
    await looking.look_later()
    assert await began("used") == "40"
    settled = settlement(organization_id, "used")
    settled.tokens.input, settled.tokens.output = 10, 20
    await metering.settle(settled)
    assert await counted(platform, organization_id, limit) == (30, 0)
    assert await began("waits") == "10"
    assert await metering.findings() == []


async def test_lowered_limit_leaves_nothing_and_never_less(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    begin_minute(clock)
    await set_limit(platform, organization_id, "tokens", "100", metric="total_tokens", window=Window.MINUTE)
    first = await metering.authorize(ask(organization_id, "call-1", input_tokens=80, max_output_tokens=0))
    await set_limit(platform, organization_id, "tokens", "50", metric="total_tokens", window=Window.MINUTE)

    resets = set()
    for number in range(3):
        denied = await metering.authorize(ask(organization_id, f"more-{number}", input_tokens=1, max_output_tokens=0))
        assert denied.denial.reason == REFUSED
        assert (denied.limits[0].remaining, denied.limits[0].exceeded) == ("0", True)
        resets.add(denied.limits[0].reset_time.ToJsonString())
    assert resets == {first.limits[0].reset_time.ToJsonString()}

    begin_minute(clock)
    answer = await metering.authorize(ask(organization_id, "more-0", input_tokens=1, max_output_tokens=0))
    assert answer.decision == ALLOWED
    assert answer.limits[0].remaining == "49"


async def test_call_whose_usage_was_recorded_before_reserves_nothing_and_is_answered_without_funds(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    limit = await set_limit(platform, organization_id, "calls", "5", window=Window.LIFETIME)
    await metering.record(usage(organization_id, "call-1"))

    answer = await metering.authorize(ask(organization_id, "call-1"))

    assert answer.denial.reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE
    assert await counted(platform, organization_id, limit) == (1, 0)
