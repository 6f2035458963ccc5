"""A settlement puts what was used in the place of what a lease had reserved, and charges it to the lease's hold."""

from datetime import timedelta
from decimal import Decimal

import grpc

from libs.common.ids import new_id
from services.metering.quota.domain import Scope, Window
from tests.metering.allocations.support import Limits, at_the_start_of_a_minute, state
from tests.metering.leases.support import (
    COST,
    acquire,
    assert_consistent,
    balance,
    hold_of,
    left,
    outcomes,
    settle,
)
from tests.metering.support import Metering, Platform, eventually, refused, usage
from tests.metering.test_admission import ask
from tests.support.clock import ShiftedClock
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.metering.v1 import usage_pb2
from tollhouse.metering.v1.usage_pb2 import ENVIRONMENT_TEST


async def test_settlement_replaces_reservations_by_what_was_used_and_gives_the_rest_back(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await limits.set(organization_id, "5", "spend", currency_code="USD", name="money")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")

    kept = await settle(metering, organization_id, "slice", [usage(organization_id) for _ in range(3)], final=False)

    assert outcomes(kept) == ["recorded"] * 3
    assert left(kept) == {"requests": ("3", "37", "0"), "USD": ("0.0105", "1.9895", "0")}
    assert not kept.ended
    assert not kept.HasField("released_amount")
    assert [one.settled.overrun_amount.value for one in kept.outcomes] == ["0"] * 3
    assert {one.settled.usage.settlement for one in kept.outcomes} == {usage_pb2.SETTLEMENT_SETTLED}
    assert await state(metering, organization_id, "requests") == ("3", "37", "60")
    assert await state(metering, organization_id, "money") == ("0.0105", "1.9895", "3")
    assert await balance(platform, organization_id) == (10 - 3 * COST, 2 - 3 * COST, Decimal(8))

    last = await settle(metering, organization_id, "slice", [usage(organization_id)])

    assert last.ended
    assert not last.lapsed
    assert last.released_amount.value == "1.986"
    assert left(last) == {"requests": ("4", "36", "0"), "USD": ("0.014", "1.986", "0")}
    assert await state(metering, organization_id, "requests") == ("4", "0", "96")
    assert await state(metering, organization_id, "money") == ("0.014", "0", "4.986")
    assert await balance(platform, organization_id) == (10 - 4 * COST, Decimal(0), 10 - 4 * COST)
    assert (await hold_of(platform, organization_id, "slice")).state == ledger_pb2.HOLD_STATE_RELEASED
    await assert_consistent(platform)


async def test_same_settlement_again_changes_nothing(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")
    usages = [usage(organization_id, f"call-{number}") for number in range(4)]
    answers = [
        await settle(metering, organization_id, "slice", [*usages, usages[0]], final=final)
        for final in (False, False, None, None, False)
    ]
    for answer in answers:
        assert left(answer) == {"requests": ("4", "36", "0"), "USD": ("0.014", "1.986", "0")}
    assert outcomes(answers[0]) == ["recorded"] * 4 + ["replayed"]
    assert [outcomes(answer) for answer in answers[1:]] == [["replayed"] * 5] * 4
    assert await state(metering, organization_id, "requests") == ("4", "0", "96")
    assert (await balance(platform, organization_id))[0] == 10 - 4 * COST
    await assert_consistent(platform)


async def test_what_is_used_beyond_the_lease_is_charged_counted_and_reported(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "3", name="requests")
    await acquire(metering, organization_id, {"requests": "2", "USD": "0.005"}, "slice")

    answer = await settle(metering, organization_id, "slice", [usage(organization_id) for _ in range(4)])

    assert outcomes(answer) == ["recorded"] * 4
    assert left(answer) == {"requests": ("4", "0", "2"), "USD": ("0.014", "0", "0.009")}
    assert sum(Decimal(one.settled.overrun_amount.value) for one in answer.outcomes) == Decimal("0.009")
    assert await state(metering, organization_id, "requests") == ("4", "0", "0")
    assert await balance(platform, organization_id) == (10 - 4 * COST, Decimal(0), 10 - 4 * COST)
    await assert_consistent(platform)


async def test_late_settlement_is_recorded_and_charged_and_only_raises_counters(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "10", name="requests")
    await acquire(metering, organization_id, {"requests": "10", "USD": "2"}, "dead", ttl_s=30)
    clock.advance(timedelta(seconds=31))
    await eventually(lambda: state(metering, organization_id, "requests"), lambda one: one == ("0", "0", "10"))
    assert (await acquire(metering, organization_id, {"requests": "9", "USD": "10"}, "next")).acquired

    answer = await settle(metering, organization_id, "dead", [usage(organization_id) for _ in range(2)])

    assert outcomes(answer) == ["recorded"] * 2
    assert answer.ended
    assert answer.lapsed
    assert not answer.HasField("released_amount")
    assert left(answer)["requests"] == ("2", "8", "0")
    assert await state(metering, organization_id, "requests") == ("2", "9", "0")
    assert await balance(platform, organization_id) == (10 - 2 * COST, Decimal(10), -2 * COST)
    await assert_consistent(platform)


async def test_usage_counts_in_the_windows_in_which_the_lease_was_acquired(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    clock.advance(at_the_start_of_a_minute(clock))
    limit = await limits.set(organization_id, "10", name="minute", window=Window.MINUTE)
    await limits.set(organization_id, "10", name="sliding", window=Window.MINUTE, sliding=True)
    await acquire(metering, organization_id, {"requests": "10"}, "slice", ttl_s=300)
    clock.advance(timedelta(seconds=70))

    await settle(metering, organization_id, "slice", [usage(organization_id) for _ in range(3)])

    assert await state(metering, organization_id, "minute") == ("0", "0", "10")
    query = "SELECT array_agg(used ORDER BY window_start) FROM metering.limit_counters WHERE limit_id = $1 AND used > 0"
    assert await platform.value(query, limit.limit_id) == [3]
    await assert_consistent(platform)


async def test_limits_that_the_lease_has_not_reserved_in_count_usage_as_recorded(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    ada, bob = new_id(), new_id()
    await limits.set(organization_id, "100", name="all")
    await limits.set(organization_id, "1000000", "total_tokens", name="tokens")
    per_user = await limits.set(organization_id, "1", name="each", scope=Scope.USER)
    await acquire(metering, organization_id, {"requests": "10"}, "slice")

    usages = [usage(organization_id, user_id=user) for user in (ada, ada, bob)]
    answer = await settle(metering, organization_id, "slice", usages)

    assert outcomes(answer) == ["recorded"] * 3
    assert await state(metering, organization_id, "all") == ("3", "0", "97")
    assert (await state(metering, organization_id, "tokens"))[0] == "3300"
    counted = "SELECT array_agg(used ORDER BY used) FROM metering.limit_counters WHERE limit_id = $1"
    assert await platform.value(counted, per_user.limit_id) == [1, 2]
    assert {limit.name for one in answer.outcomes for limit in one.settled.limits} == {"all", "tokens", "each"}
    await assert_consistent(platform)


async def test_leases_that_overlap_are_settled_each_by_itself(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "20", name="requests")
    for name in ("first", "second"):
        assert (await acquire(metering, organization_id, {"requests": "10", "USD": "5"}, name)).acquired
    assert (await balance(platform, organization_id))[2] == 0

    await settle(metering, organization_id, "first", [usage(organization_id) for _ in range(4)])
    assert await state(metering, organization_id, "requests") == ("4", "10", "6")
    assert (await balance(platform, organization_id))[1] == 5
    await settle(metering, organization_id, "second", [usage(organization_id)])
    assert await state(metering, organization_id, "requests") == ("5", "0", "15")
    assert await balance(platform, organization_id) == (10 - 5 * COST, Decimal(0), 10 - 5 * COST)
    await assert_consistent(platform)


async def test_bad_items_fail_alone_with_a_clear_reason(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")
    await metering.record(usage(organization_id, "recorded"))
    await metering.authorize(ask(organization_id, "authorized"))

    answer = await settle(
        metering,
        organization_id,
        "slice",
        [
            usage(organization_id, "good"),
            usage(new_id()),
            usage(organization_id, "slice"),
            usage(organization_id, "recorded"),
            usage(organization_id, "recorded", latency_ms=7),
            usage(organization_id, "authorized"),
            usage(organization_id, "bad\x00id"),
            usage(organization_id, project_id="no uuid"),
            usage(organization_id, backfill=True),
            usage("not-an-organization"),
            usage(organization_id, "dear", stated_amount={"currency_code": "USD", "value": "1e99"}),
            usage(organization_id, "good", latency_ms=3),
        ],
    )

    assert outcomes(answer) == [
        "recorded",
        "USAGE_OF_ANOTHER",
        "INVALID_ARGUMENT",
        "replayed",
        "OPERATION_ID_REUSED",
        "OPERATION_ID_REUSED",
        *["INVALID_ARGUMENT"] * 5,
        "OPERATION_ID_REUSED",
    ]
    assert left(answer)["requests"] == ("1", "39", "0")
    assert await state(metering, organization_id, "requests") == ("2", "1", "97")
    await assert_consistent(platform)


async def test_usage_of_tests_and_in_another_currency_does_not_use_the_money_of_the_lease(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await acquire(metering, organization_id, {"requests": "10", "USD": "2"}, "slice")
    await platform.ledger.credit(organization_id, "points", "0.000000001")

    answer = await settle(
        metering, organization_id, "slice", [usage(organization_id, environment=ENVIRONMENT_TEST)], final=False
    )

    assert left(answer) == {"requests": ("1", "9", "0"), "USD": ("0", "2", "0")}
    assert (await balance(platform, organization_id))[1] == 2


async def test_usage_that_waits_for_its_price_is_charged_to_the_hold_when_that_is_there(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "5", "spend", currency_code="USD", name="money")
    await metering.add_model("later")
    await acquire(metering, organization_id, {"USD": "2"}, "slice")
    answer = await settle(
        metering, organization_id, "slice", [usage(organization_id, "waits", model="later")], final=False
    )
    assert left(answer) == {"USD": ("0", "2", "0")}

    await metering.set_price("later")
    await eventually(lambda: platform.value("SELECT count(*) FROM metering.unpriced_usages"), lambda n: n == 0)
    await platform.settled()

    assert (await hold_of(platform, organization_id, "slice")).captured_amount.value == "0.0035"
    assert await balance(platform, organization_id) == (10 - COST, 2 - COST, Decimal(8))
    assert (await state(metering, organization_id, "money"))[:2] == ("0.0035", "2")
    await settle(metering, organization_id, "slice")
    assert (await state(metering, organization_id, "money"))[:2] == ("0.0035", "0")
    await assert_consistent(platform)


async def test_lease_without_usage_can_be_asked_about_and_given_back(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")
    await acquire(metering, organization_id, {"requests": "40", "USD": "2"}, "slice")

    asked = await settle(metering, organization_id, "slice", final=False)
    assert (asked.ended, left(asked)["requests"]) == (False, ("0", "40", "0"))
    given_back = await settle(metering, organization_id, "slice")
    assert (given_back.ended, given_back.released_amount.value) == (True, "2")
    assert await state(metering, organization_id, "requests") == ("0", "0", "100")
    assert (await balance(platform, organization_id))[1] == 0


async def test_lease_that_does_not_exist_is_not_found_and_nothing_is_recorded(
    metering: Metering, organization_id: str
) -> None:
    call = settle(metering, organization_id, "no-such", [usage(organization_id, "call")])
    assert await refused(call) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (await refused(metering.get(organization_id, "call")))[0] is grpc.StatusCode.NOT_FOUND
