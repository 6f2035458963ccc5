"""A lease takes a slice of limits and money, or says why not and takes nothing."""

from datetime import timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from services.metering.quota.domain import Scope, Window
from tests.metering.allocations.support import BEST_EFFORT, CHECK_ONLY, Limits, allocate, release, state
from tests.metering.leases.support import (
    acquire,
    assert_consistent,
    balance,
    hold_of,
    reason,
    request_of,
    settle,
    stub,
    taken,
)
from tests.metering.support import Metering, Platform, eventually, refused
from tests.metering.test_admission import ask
from tests.support.clock import ShiftedClock
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.metering.v1 import lease_pb2 as pb

REUSED = (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_REUSED")


async def test_lease_reserves_in_every_limit_of_its_metrics_and_holds_its_money(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await limits.set(organization_id, "1000", "input_tokens", name="tokens")
    await limits.set(organization_id, "50", "spend", currency_code="USD", name="money")

    answer = await acquire(metering, organization_id, {"requests": "40", "USD": "2.5"}, "slice")

    assert answer.acquired
    assert not answer.replayed
    assert taken(answer) == {"requests": "40", "USD": "2.5"}
    assert answer.held_amount.value == "2.5"
    assert await state(metering, organization_id, "requests") == ("0", "40", "60")
    assert await state(metering, organization_id, "money") == ("0", "2.5", "47.5")
    assert await state(metering, organization_id, "tokens") == ("0", "0", "1000")
    assert await balance(platform, organization_id) == (Decimal(10), Decimal("2.5"), Decimal("7.5"))
    hold = await hold_of(platform, organization_id, "slice")
    assert timedelta(0) <= hold.expire_time.ToDatetime() - answer.end_time.ToDatetime() < timedelta(seconds=5)
    await assert_consistent(platform)


async def test_lease_larger_than_what_a_limit_leaves_is_refused_and_takes_nothing(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "1000", name="wide")
    await limits.set(organization_id, "30", name="narrow", window=Window.HOUR)

    answer = await acquire(metering, organization_id, {"requests": "31", "USD": "1"}, "slice")

    assert not answer.acquired
    assert reason(answer.denial) == "LIMIT_EXCEEDED"
    assert answer.denial.facts["limit"] == "narrow"
    assert (answer.limits[0].name, answer.limits[0].needed, answer.limits[0].remaining) == ("narrow", "31", "30")
    assert not answer.limits[0].HasField("retry_after"), "waiting does not help: it is more than the maximum"
    assert not answer.amounts
    assert not answer.HasField("end_time")
    assert await state(metering, organization_id, "wide") == ("0", "0", "1000")
    assert (await balance(platform, organization_id))[1] == 0
    # It is not stored: a repeat is decided anew.
    assert (await acquire(metering, organization_id, {"requests": "30", "USD": "1"}, "slice")).acquired


async def test_lease_larger_than_what_is_available_is_declined_for_good_and_gives_its_reservations_back_once(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "10", "USD": "8"}, "first")

    answer = await acquire(metering, organization_id, {"requests": "10", "USD": "2.000000001"}, "second")

    assert not answer.acquired
    assert reason(answer.denial) == "INSUFFICIENT_BALANCE"
    assert (answer.denial.facts["available"], answer.denial.facts["needed"]) == ("2", "2.000000001")
    assert [one.reserved for one in answer.limits] == ["10"]
    assert await state(metering, organization_id, "requests") == ("0", "10", "90")

    await platform.fund(organization_id, "100")
    repeated = await acquire(metering, organization_id, {"requests": "10", "USD": "2.000000001"}, "second")
    assert not repeated.acquired
    assert repeated.replayed
    assert reason(repeated.denial) == "INSUFFICIENT_BALANCE"
    assert await state(metering, organization_id, "requests") == ("0", "10", "90")
    settled = await settle(metering, organization_id, "second")
    assert settled.ended
    assert not settled.amounts
    assert (await acquire(metering, organization_id, {"requests": "10", "USD": "2.000000001"}, "third")).acquired
    await assert_consistent(platform)


async def test_best_effort_takes_what_limits_leave_and_holds_just_that(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "7", name="requests")
    await limits.set(organization_id, "1.5", "spend", currency_code="USD", name="money")

    answer = await acquire(metering, organization_id, {"requests": "10", "USD": "5"}, "most", mode=BEST_EFFORT)

    assert taken(answer) == {"requests": "7", "USD": "1.5"}
    assert (await balance(platform, organization_id))[1] == Decimal("1.5")
    nothing = await acquire(metering, organization_id, {"requests": "10", "USD": "5"}, "none", mode=BEST_EFFORT)
    assert reason(nothing.denial) == "LIMIT_EXCEEDED"
    assert (await balance(platform, organization_id))[1] == Decimal("1.5")


async def test_repeat_takes_nothing_and_gets_the_same_answer(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    request = request_of(organization_id, {"requests": "40", "USD": "2"}, "slice")
    first = await stub(metering).AcquireLease(request, metadata=metering.gateway)

    again = await stub(metering).AcquireLease(request, metadata=metering.gateway)

    assert again.replayed
    again.replayed = False
    assert again == first
    assert (await balance(platform, organization_id))[1] == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"amounts": {"requests": "41"}},
        {"ttl_s": 59},
        {"mode": BEST_EFFORT},
        {"user_id": new_id()},
        {"labels": {"team": "a"}},
        {"model": "gpt-4o"},
    ],
)
async def test_repeat_with_other_fields_is_refused(
    metering: Metering, organization_id: str, changed: dict[str, object]
) -> None:
    await acquire(metering, organization_id, {"requests": "40"}, "slice")
    call = acquire(metering, organization_id, **{"amounts": {"requests": "40"}, "lease_id": "slice", **changed})  # type: ignore[arg-type]
    assert await refused(call) == REUSED


async def test_id_of_an_authorization_or_an_allocation_is_refused_and_takes_nothing(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await metering.authorize(ask(organization_id, "call"))
    await allocate(metering, organization_id, {"requests": "1"}, "allocation")

    for name in ("call", "allocation"):
        assert await refused(acquire(metering, organization_id, {"requests": "40"}, name)) == REUSED
        assert await refused(acquire(metering, organization_id, {"USD": "1"}, name)) == REUSED
    assert await state(metering, organization_id, "requests") == ("1", "1", "98")
    await assert_consistent(platform)


async def test_id_of_a_lease_is_refused_elsewhere_and_its_money_stays_held(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")

    assert await refused(metering.authorize(ask(organization_id, "slice"))) == REUSED
    assert await refused(allocate(metering, organization_id, {"requests": "40"}, "slice")) == REUSED
    assert await refused(release(metering, organization_id, "slice")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (await balance(platform, organization_id))[1] == 2
    assert (await state(metering, organization_id, "requests"))[1] == "40"
    assert (await hold_of(platform, organization_id, "slice")).state == ledger_pb2.HOLD_STATE_OPEN


async def test_id_of_a_hold_in_billing_is_refused_and_gives_the_reservations_back(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await platform.ledger.hold(organization_id, "slice", "2")

    assert await refused(acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")) == REUSED
    assert await state(metering, organization_id, "requests") == ("0", "0", "100")
    await assert_consistent(platform)


async def test_lease_that_nobody_settles_is_given_back_when_its_time_is_over(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "100", "USD": "10"}, "dead", ttl_s=30)
    assert not (await acquire(metering, organization_id, {"requests": "1"}, "early")).acquired

    clock.advance(timedelta(seconds=32))

    await eventually(
        lambda: state(metering, organization_id, "requests"), lambda standing: standing == ("0", "0", "100")
    )
    ended = await acquire(metering, organization_id, {"requests": "100", "USD": "10"}, "dead", ttl_s=30)
    assert not ended.acquired
    assert ended.replayed
    assert reason(ended.denial) == "AUTHORIZATION_ENDED"
    assert (await acquire(metering, organization_id, {"requests": "100", "USD": "10"}, "next")).acquired
    await assert_consistent(platform)


async def test_limit_of_single_calls_refuses_no_lease_unless_it_allows_no_call(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "100", "input_tokens", name="each", window=Window.CALL)
    answer = await acquire(metering, organization_id, {"input_tokens": "5000"}, mode=BEST_EFFORT)
    assert taken(answer) == {"input_tokens": "5000"}
    assert [one.name for one in answer.limits] == ["each"]

    await limits.set(other := new_id(), "0", "input_tokens", name="none", window=Window.CALL)
    assert not (await acquire(metering, other, {"input_tokens": "5000"})).acquired


async def test_limits_of_the_call_are_those_of_whom_it_names(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "5", name="each-user", scope=Scope.USER)
    await limits.set(organization_id, "6", name="provider", scope=Scope.PROVIDER)

    assert not (await acquire(metering, organization_id, {"requests": "6"}, user_id=new_id())).acquired
    assert (await acquire(metering, organization_id, {"requests": "7"})).acquired
    answer = await acquire(metering, organization_id, {"requests": "5"}, user_id=new_id(), provider="acme")
    assert {one.name for one in answer.limits} == {"each-user", "provider"}


async def test_other_tenant_sees_and_changes_nothing_of_a_lease(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    other = new_id()
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")

    assert await refused(settle(metering, other, "slice")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (await acquire(metering, other, {"requests": "9"}, "slice")).acquired
    assert (await state(metering, organization_id, "requests"))[1] == "40"
    assert (await balance(platform, organization_id))[1] == 2


@pytest.mark.parametrize("mode", [CHECK_ONLY, 4])
async def test_other_modes_are_refused(metering: Metering, organization_id: str, mode: int) -> None:
    call = acquire(metering, organization_id, {"requests": "1"}, mode=mode)
    assert await refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


@pytest.mark.parametrize("ttl_s", [0, 0.999, 3600.001, -1])
async def test_time_out_of_bounds_is_refused(metering: Metering, organization_id: str, ttl_s: float) -> None:
    call = acquire(metering, organization_id, {"requests": "1"}, ttl_s=ttl_s)
    assert (await refused(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_lease_without_a_time_is_refused(metering: Metering, organization_id: str) -> None:
    request = pb.AcquireLeaseRequest(organization_id=organization_id, lease_id="slice")
    request.amounts.add(metric="requests", value="1")
    call = stub(metering).AcquireLease(request, metadata=metering.gateway)
    assert (await refused(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
