"""Whatever is killed or away, money and limits of leases are exact once it is over."""

import asyncio
import os
import signal
from collections.abc import Awaitable
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest

from tests.metering.allocations.support import Limits, state
from tests.metering.leases.processes import locked_account, process, until_waiting
from tests.metering.leases.support import (
    COST,
    acquire,
    assert_consistent,
    balance,
    hold_of,
    outcomes,
    reason,
    settle,
)
from tests.metering.support import Metering, Platform, eventually, refused, usage
from tests.support.clock import ShiftedClock
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.metering.v1 import usage_pb2

pytestmark = [pytest.mark.timeout(120), pytest.mark.shards]

LEASES = "SELECT count(*) FROM metering.quota_allocations WHERE spent IS NOT NULL"


async def _outcome(call: Awaitable[object]) -> object:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error


@pytest.mark.parametrize("is_repeated", [True, False])
async def test_process_killed_between_the_lease_and_its_hold_does_no_harm(
    platform: Platform,
    metering: Metering,
    limits: Limits,
    organization_id: str,
    clock: ShiftedClock,
    is_repeated: bool,
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    amounts = {"requests": "40", "USD": "2"}
    async with process(platform) as (server, pid), locked_account(platform, organization_id):
        call = asyncio.create_task(_outcome(acquire(server, organization_id, amounts, "slice")))
        await eventually(lambda: platform.value(LEASES), lambda found: found == 1)
        os.kill(pid, signal.SIGKILL)
        assert isinstance(await call, grpc.aio.AioRpcError)
    assert await state(metering, organization_id, "requests") == ("0", "40", "60")

    if is_repeated:
        answer = await eventually(lambda: _outcome(acquire(metering, organization_id, amounts, "slice")), _is_answer)
        assert getattr(answer, "acquired", False)
        assert await balance(platform, organization_id) == (Decimal(10), Decimal(2), Decimal(8))
        await settle(metering, organization_id, "slice", [usage(organization_id)])
        assert await state(metering, organization_id, "requests") == ("1", "0", "99")
    else:
        clock.advance(timedelta(seconds=65))
        await eventually(lambda: state(metering, organization_id, "requests"), lambda one: one == ("0", "0", "100"))
        answer = await acquire(metering, organization_id, amounts, "slice")
        assert reason(answer.denial) == "AUTHORIZATION_ENDED"
    assert (await balance(platform, organization_id))[1] == 0
    await assert_consistent(platform)


def _is_answer(answer: object) -> bool:
    return not isinstance(answer, grpc.aio.AioRpcError)


async def test_lease_without_its_hold_is_unavailable_and_its_usage_is_charged_all_the_same(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    # What the organization is entitled to is known for some seconds then.
    await acquire(metering, organization_id, {"requests": "0"}, "before")
    await platform.stop_billing()
    call = acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")
    assert (await refused(call))[0] is grpc.StatusCode.UNAVAILABLE
    answer = await settle(metering, organization_id, "slice", [usage(organization_id) for _ in range(3)])
    assert outcomes(answer) == ["recorded"] * 3
    await platform.start_billing()

    await platform.settled()
    assert await balance(platform, organization_id) == (10 - 3 * COST, Decimal(0), 10 - 3 * COST)
    assert await state(metering, organization_id, "requests") == ("3", "0", "97")
    await assert_consistent(platform)


async def test_charges_that_billing_did_not_hear_of_are_captured_from_the_hold_by_the_relay(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice", ttl_s=600)
    await platform.stop_billing()
    usages = [usage(organization_id) for _ in range(3)]
    answer = await settle(metering, organization_id, "slice", usages)
    assert {one.settled.usage.settlement for one in answer.outcomes} == {usage_pb2.SETTLEMENT_PENDING}
    assert answer.ended
    assert not answer.HasField("released_amount")
    await platform.start_billing()

    await platform.settled()
    hold = await hold_of(platform, organization_id, "slice")
    assert (hold.state, hold.captured_amount.value) == (ledger_pb2.HOLD_STATE_OPEN, "0.0105")
    assert await balance(platform, organization_id) == (10 - 3 * COST, 2 - 3 * COST, Decimal(8))
    again = await settle(metering, organization_id, "slice", usages)
    assert (outcomes(again), again.released_amount.value) == (["replayed"] * 3, "1.9895")
    assert (await balance(platform, organization_id))[1] == 0
    await assert_consistent(platform)


async def test_process_killed_before_it_asks_billing_is_charged_once_from_the_hold(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice", ttl_s=600)
    usages = [usage(organization_id) for _ in range(3)]
    waiting = "SELECT count(*) FROM metering.outbox"
    async with process(platform) as (server, pid), locked_account(platform, organization_id):
        call = asyncio.create_task(_outcome(settle(server, organization_id, "slice", usages, final=False)))
        await eventually(lambda: platform.value(waiting), lambda found: found == 3)
        os.kill(pid, signal.SIGKILL)
        assert isinstance(await call, grpc.aio.AioRpcError)

    again = await settle(metering, organization_id, "slice", usages)
    assert outcomes(again) == ["replayed"] * 3
    await platform.settled()
    assert await balance(platform, organization_id) == (10 - 3 * COST, Decimal(0), 10 - 3 * COST)
    assert await state(metering, organization_id, "requests") == ("3", "0", "97")
    await assert_consistent(platform)


async def test_process_killed_while_it_counts_leaves_nothing_and_a_repeat_counts_once(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")
    usages = [usage(organization_id) for _ in range(3)]
    lock = "SELECT FROM limit_counters WHERE organization_id = $1 FOR UPDATE"
    database = limits.shards.of(organization_id)
    async with process(platform) as (server, pid), database.raw_transaction() as connection:
        await connection.execute(lock, organization_id)
        call = asyncio.create_task(_outcome(settle(server, organization_id, "slice", usages)))
        await until_waiting(platform, 1)
        os.kill(pid, signal.SIGKILL)
        assert isinstance(await call, grpc.aio.AioRpcError)
    assert await state(metering, organization_id, "requests") == ("0", "40", "60")

    assert outcomes(await settle(metering, organization_id, "slice", usages)) == ["recorded"] * 3
    assert await state(metering, organization_id, "requests") == ("3", "0", "97")
    await assert_consistent(platform)


@pytest.mark.parametrize("at_billing", [True, False])
async def test_cancelled_calls_leave_what_a_repeat_completes(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, at_billing: bool
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    amounts, usages = {"requests": "40", "USD": "2"}, [usage(organization_id) for _ in range(3)]
    after_s = 0.15 if at_billing else 0.0
    for _ in range(3):
        call = asyncio.ensure_future(acquire(metering, organization_id, amounts, "slice"))
        await asyncio.sleep(after_s)
        call.cancel()
    assert (await acquire(metering, organization_id, amounts, "slice")).acquired
    for _ in range(3):
        settling = asyncio.ensure_future(settle(metering, organization_id, "slice", usages))
        await asyncio.sleep(after_s)
        settling.cancel()
    await settle(metering, organization_id, "slice", usages)

    await platform.settled()
    assert await balance(platform, organization_id) == (10 - 3 * COST, Decimal(0), 10 - 3 * COST)
    assert await state(metering, organization_id, "requests") == ("3", "0", "97")
    await assert_consistent(platform)
