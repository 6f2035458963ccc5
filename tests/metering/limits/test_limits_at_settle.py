"""Settled and recorded usage is counted in limits: once, in the right windows, and reservations go once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from libs.common.ids import new_id
from services.metering.quota.domain import Scope, Window
from tests.metering.limits.settling import (
    PRICE,
    ZERO,
    Limits,
    first_of_month,
    limits_of,
    of,
    processes,
    settling,
    told,
)
from tests.metering.support import Metering, Platform, eventually, settlement, usage
from tollhouse.metering.v1 import usage_pb2

TOKENS = of("total_tokens", Window.DAY)
REQUESTS = of("requests", Window.MONTH)
SPEND = of("spend", Window.MONTH)
CONCURRENT = of("concurrent_calls", Window.NONE)
EVER = of("requests", Window.LIFETIME)


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as found:
        yield found


async def test_settled_call_counts_what_it_used_and_gives_the_rest_of_its_reservation_back(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS, "100")
    spent = await limits.set(organization_id, SPEND)
    calls = await limits.set(organization_id, CONCURRENT)
    requests = await limits.set(organization_id, REQUESTS)
    await limits.authorize(organization_id, "call-1", {used: 60, spent: "0.5", calls: 1, requests: 1})
    assert await limits.counted(organization_id, used) == (ZERO, 60)
    assert await limits.counted(organization_id, calls) == (ZERO, 1)

    answer = await metering.settle(settling(organization_id, "call-1", 20, 10))

    assert await limits.counted(organization_id, used) == (30, ZERO)
    assert await limits.counted(organization_id, spent) == (Decimal("0.00015"), ZERO)
    assert await limits.counted(organization_id, calls) == (ZERO, ZERO)
    assert await limits.counted(organization_id, requests) == (1, ZERO)
    assert told(answer.limits)["limit-0"] == ("30", "0", "70")


async def test_settlement_sent_again_counts_nothing_and_names_no_limits(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS)
    await limits.authorize(organization_id, "call-1", {used: 2_000})
    request = settlement(organization_id, "call-1")
    (first, twin) = await metering.settle_batch([request, request])
    again = await metering.settle(request)
    plain = await metering.record(usage_pb2.RecordUsageRequest.FromString(request.SerializeToString()))

    assert await limits.counted(organization_id, used) == (1_100, ZERO)
    assert told(first.settled.limits) == {"limit-0": ("1100", "0", "998900")}
    for answer in (twin.settled, again, plain):
        assert answer.replayed
        assert not answer.limits


async def test_settlement_after_a_lapse_counts_what_was_used_alone(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS)
    await limits.authorize(organization_id, "call-1", {used: 2_000})
    await limits.authorize(organization_id, "call-2", {used: 50})
    await limits.give_back(organization_id, ["call-1"])
    assert await limits.counted(organization_id, used) == (ZERO, 50)

    await metering.settle(settlement(organization_id, "call-1"))
    await limits.give_back(organization_id, ["call-1"])

    assert await limits.counted(organization_id, used) == (1_100, 50)


async def test_late_settlement_counts_in_the_window_of_the_authorization(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    (place,) = await limits.authorize(organization_id, "call-1", {used: 2_000}, at=yesterday)

    answer = await metering.settle(settlement(organization_id, "call-1"))

    assert await limits.windows(organization_id, used) == {place.counter.span.start: 1_100}
    assert answer.limits[0].reset_time.ToDatetime(UTC) == place.counter.span.end


async def test_usage_without_an_authorization_counts_in_the_windows_of_its_own_time(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    now = datetime.now(UTC)
    a_month = await limits.set(organization_id, REQUESTS)
    a_day = await limits.set(organization_id, TOKENS)
    ever = await limits.set(organization_id, EVER)
    last_month = max(first_of_month(now) - timedelta(days=2), now - timedelta(days=34))
    for number, moment in enumerate((now, last_month, last_month)):
        request = usage(organization_id, f"call-{number}")
        request.occur_time.FromDatetime(moment)
        await metering.record(request)

    assert await limits.windows(organization_id, a_month) == {
        first_of_month(now): 1,
        first_of_month(now, months_before=1): 2,
    }
    # What is older than the day before yesterday is in no window that anybody looks at.
    assert await limits.counted(organization_id, a_day) == (1_100, ZERO)
    assert await limits.counted(organization_id, ever) == (3, ZERO)


async def test_usage_is_recorded_and_counted_far_above_its_limits(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS, "10")
    call = await limits.set(organization_id, of("total_tokens", Window.CALL), "10")
    answer = await metering.record(usage(organization_id, "call-1"))
    settled = await metering.settle(settlement(organization_id, "call-2"))

    assert told(answer.limits) == {"limit-0": ("1100", "0", "0")}
    assert told(settled.limits) == {"limit-0": ("2200", "0", "0")}
    assert settled.limits[0].exceeded
    assert await limits.counted(organization_id, used) == (2_200, ZERO)
    assert await limits.counted(organization_id, call) == (ZERO, ZERO)


async def test_authorized_call_counts_in_what_was_in_force_when_it_was_authorized_and_in_nothing_else(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    first = await limits.set(organization_id, TOKENS)
    await limits.authorize(organization_id, "before", {})
    await limits.authorize(organization_id, "within", {first: 10})
    second = await limits.set(organization_id, REQUESTS)

    assert not (await metering.settle(settlement(organization_id, "before"))).limits
    assert set(told((await metering.settle(settlement(organization_id, "within"))).limits)) == {"limit-0"}
    assert await limits.counted(organization_id, first) == (1_100, ZERO)
    assert await limits.counted(organization_id, second) == (ZERO, ZERO)


async def test_usage_counts_for_each_of_those_whom_limits_limit(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    user, other, project = new_id(), new_id(), new_id()
    by = {
        scope: await limits.set(organization_id, of("requests", Window.DAY, scope=scope))
        for scope in (Scope.USER, Scope.PROJECT, Scope.MODEL, Scope.API_KEY, Scope.SUBSCRIPTION)
    }
    by[Scope.LABEL] = await limits.set(
        organization_id, of("requests", Window.DAY, scope=Scope.LABEL, label="team", scope_value="red")
    )
    await metering.record(usage(organization_id, user_id=user, project_id=project, labels={"team": "red"}))
    await metering.record(usage(organization_id, user_id=user, labels={"team": "blue"}))
    answer = await metering.record(usage(organization_id, user_id=other, project_id=project))

    assert {(one.scope_value, one.used) for one in answer.limits} == {(other, "1"), (project, "2"), ("gpt-4o", "3")}
    assert {scope: (await limits.counted(organization_id, limit))[0] for scope, limit in by.items()} == {
        Scope.USER: 3,
        Scope.PROJECT: 2,
        Scope.MODEL: 3,
        Scope.API_KEY: 0,
        Scope.SUBSCRIPTION: 0,
        Scope.LABEL: 1,
    }


async def test_batch_names_each_limit_once_with_the_last_usage_that_is_counted_in_it(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    user = new_id()
    await limits.set(organization_id, REQUESTS)
    await limits.set(organization_id, of("requests", Window.DAY, scope=Scope.USER))
    requests = [usage(organization_id, f"call-{number}") for number in range(4)]
    requests[1].user_id = user
    outcomes = await metering.record_batch([*requests, requests[0]])

    assert [told(one.recorded.limits) for one in outcomes] == [
        {},
        {"limit-1": ("1", "0", "999999")},
        {},
        {"limit-0": ("4", "0", "999996")},
        {},
    ]


async def test_batches_of_500_with_duplicates_sent_to_several_processes_count_each_usage_once(
    platform: Platform, limits: Limits
) -> None:
    organizations = [new_id() for _ in range(4)]
    counted = [await limits.set(one, TOKENS) for one in organizations]
    requests = [usage(organizations[number % 4], f"call-{number // 4}") for number in range(250)] * 2
    async with processes(platform, 3) as servers:
        await asyncio.gather(
            *(server.record_batch(requests[:: 1 if turn else -1]) for turn, server in enumerate(servers))
        )

    sums = [await limits.counted(one, limit) for one, limit in zip(organizations, counted, strict=True)]
    assert sums == [(1_100 * 63, ZERO), (1_100 * 63, ZERO), (1_100 * 62, ZERO), (1_100 * 62, ZERO)]


async def test_price_that_comes_late_adds_its_cost_to_limits_on_spend(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await metering.add_model("late")
    dollars = await limits.set(organization_id, SPEND)
    euros = await limits.set(organization_id, SPEND._replace(currency_code="EUR"))
    requests = await limits.set(organization_id, REQUESTS)
    await limits.authorize(organization_id, "call-1", {dollars: 3, requests: 1})
    await metering.settle(settlement(organization_id, "call-1", model="late"))
    await metering.record(usage(organization_id, "call-2", model="late"))
    await metering.record(usage(organization_id, "call-3", model="late", environment=usage_pb2.ENVIRONMENT_TEST))
    assert await limits.counted(organization_id, dollars) == (ZERO, ZERO)
    await limits.assert_consistent()

    await metering.set_price("late")
    await eventually(lambda: platform.value("SELECT count(*) FROM metering.unpriced_usages"), lambda count: count == 0)

    assert await limits.counted(organization_id, dollars) == (2 * Decimal("0.0035"), ZERO)
    assert await limits.counted(organization_id, euros) == (ZERO, ZERO)
    assert await limits.counted(organization_id, requests) == (3, ZERO)


async def test_tests_count_like_other_calls_but_spend_nothing(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    spent, requests = await limits.set(organization_id, SPEND), await limits.set(organization_id, REQUESTS)
    await limits.authorize(organization_id, "call-1", {spent: 0, requests: 1}, environment="TEST")
    await metering.settle(settlement(organization_id, "call-1"))
    await metering.record(usage(organization_id, environment=usage_pb2.ENVIRONMENT_TEST))
    await metering.settle(settling(organization_id, "call-2", 1_000))

    assert await limits.counted(organization_id, spent) == (PRICE, ZERO)
    assert await limits.counted(organization_id, requests) == (3, ZERO)


async def test_parts_count_nothing_until_the_last_settlement_counts_the_whole_call(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS)
    await limits.authorize(organization_id, "call-1", {used: 5_000})
    for made in (100, 200):
        part = settling(organization_id, "call-1", 1_000, made, final=False)
        assert not (await metering.settle(part)).limits
    assert await limits.counted(organization_id, used) == (ZERO, 5_000)

    last = settling(organization_id, "call-1", 1_000, 1_000)
    answer, again = await metering.settle(last), await metering.settle(last)

    assert told(answer.limits) == {"limit-0": ("2000", "0", "998000")}
    assert again.replayed
    assert not again.limits
    assert await limits.counted(organization_id, used) == (2_000, ZERO)


async def test_settlement_of_a_limit_that_was_deleted_counts_in_the_others(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    gone, kept = await limits.set(organization_id, TOKENS), await limits.set(organization_id, REQUESTS)
    await limits.authorize(organization_id, "call-1", {gone: 5_000, kept: 1})
    await limits.authorize(organization_id, "call-2", {gone: 5_000, kept: 1})
    await limits.delete(organization_id, gone)
    assert set(told((await metering.settle(settlement(organization_id, "call-1"))).limits)) == {"limit-1"}
    await platform.execute("DELETE FROM metering.limit_counters WHERE metric = 'total_tokens'")

    assert set(told((await metering.settle(settlement(organization_id, "call-2"))).limits)) == {"limit-1"}
    assert await limits.counted(organization_id, kept) == (2, ZERO)
    assert await limits.counted(organization_id, gone) == (ZERO, ZERO)


async def test_usage_recorded_under_the_name_of_an_authorized_call_takes_its_reservation_back(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    used, calls = await limits.set(organization_id, TOKENS), await limits.set(organization_id, CONCURRENT)
    await limits.authorize(organization_id, "call-1", {used: 5_000, calls: 1})
    await metering.record_batch([usage(organization_id, f"call-{number}") for number in range(3)])

    assert await limits.counted(organization_id, used) == (3_300, ZERO)
    assert await limits.counted(organization_id, calls) == (ZERO, ZERO)


async def test_answers_say_what_sliding_windows_and_bursts_leave(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    now = datetime.now(UTC)
    await limits.set(organization_id, of("requests", Window.WEEK, sliding=True), "10")
    burst = await limits.set(organization_id, of("requests", Window.DAY), "10", burst="5")
    for number, moment in enumerate((now - timedelta(days=3), now - timedelta(days=1), now - timedelta(days=1))):
        request = usage(organization_id, f"call-{number}")
        request.occur_time.FromDatetime(moment)
        await metering.record(request)
    answer = await metering.record(usage(organization_id, "call-4"))

    # Yesterday 8 of 10 were left, of which 5 may be used today as well.
    assert told(answer.limits) == {"limit-0": ("4", "0", "6"), "limit-1": ("1", "0", "14")}
    assert await limits.counted(organization_id, burst) == (3, ZERO)


@pytest.mark.own_database
async def test_settled_calls_are_not_looked_at_for_lapses(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS)
    for name in ("call-1", "call-2"):
        await limits.authorize(organization_id, name, {used: 5_000})
    await metering.settle(settlement(organization_id, "call-1"))
    assert await platform.value("SELECT array_agg(operation_id) FROM metering.lapse_checks") == ["call-2"]
