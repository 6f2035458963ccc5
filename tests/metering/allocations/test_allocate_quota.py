"""AllocateQuota takes amounts from every limit of their metric or from none, and says what is left."""

from datetime import timedelta
from typing import Final

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import field_violations, reason_of
from services.metering.quota.domain import Enforcement, Scope, Window
from tests.metering.allocations.support import (
    ADJUST_ONLY,
    BEST_EFFORT,
    CHECK_ONLY,
    Limits,
    allocate,
    allocated,
    assert_counters_are_allocations,
    at_the_start_of_a_minute,
    release,
    request_of,
    standing,
    state,
    stub,
    total,
)
from tests.metering.support import Metering, Platform, eventually, refused
from tests.support.clock import ShiftedClock
from tollhouse.metering.v1 import quota_pb2 as pb

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT


async def faults(metering: Metering, request: pb.AllocateQuotaRequest) -> dict[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub(metering).AllocateQuota(request, metadata=metering.gateway)
    assert error.value.code() is INVALID
    return dict(field_violations(error.value))


async def test_call_that_one_limit_refuses_takes_nothing_from_the_others(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    """Acceptance case 18."""
    await limits.set(organization_id, "100", name="a")
    await limits.set(organization_id, "2", name="b")

    answers = [await allocate(metering, organization_id, {"requests": "1"}) for _ in range(3)]

    assert [answer.allocated for answer in answers] == [True, True, False]
    assert [limit.name for limit in answers[2].limits] == ["b", "a"]
    assert (answers[2].limits[0].needed, answers[2].limits[1].needed) == ("1", "")
    assert (standing(answers[2], "a"), standing(answers[2], "b")) == (("2", "0", "98"), ("2", "0", "0"))
    assert (allocated(answers[2]), answers[2].HasField("lease_end_time")) == ({}, False)
    await assert_counters_are_allocations(platform)


async def test_amounts_above_the_rest_zero_and_negative_ones_are_told_apart(
    metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    """Acceptance case 19."""
    clock.advance(at_the_start_of_a_minute(clock))
    await limits.set(organization_id, "10", name="ten", window=Window.MINUTE)

    async def ask(value: str) -> tuple[bool, str]:
        answer = await allocate(metering, organization_id, {"requests": value})
        return answer.allocated, standing(answer, "ten")[2]

    assert await ask("5") == (True, "5")
    assert await ask("100") == (False, "5")
    assert await ask("5") == (True, "0")
    assert await ask("0") == (True, "0")
    assert await ask("1") == (False, "0")
    assert "amounts[0].value" in await faults(metering, request_of(organization_id, {"requests": "-1"}))
    assert (await state(metering, organization_id, "ten")) == ("10", "0", "0")
    clock.advance(timedelta(seconds=60))
    assert await ask("10") == (True, "0")


async def test_maximum_of_zero_denies_everything_and_no_limit_or_no_maximum_denies_nothing(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    """Acceptance case 19."""
    await limits.set(organization_id, "0", "items", name="none")
    await limits.set(organization_id, None, "products", name="any")

    assert not (await allocate(metering, organization_id, {"items": "0"})).allocated
    assert not (await allocate(metering, organization_id, {"items": "0"}, mode=BEST_EFFORT)).allocated
    assert (await allocate(metering, organization_id, {"pages": "1000000000"})).allocated
    answer = await allocate(metering, organization_id, {"products": "1000000000"})
    assert answer.allocated
    assert standing(answer, "any") == ("1000000000", "0", "")
    # The limit that the request does not ask for refuses nothing, and is shown.
    assert standing(answer, "none") == ("0", "0", "0")


async def test_limit_holds_and_goes_with_its_changes(metering: Metering, limits: Limits, organization_id: str) -> None:
    """Acceptance cases 20 and 21, for limits that another process changes."""
    limit = await limits.set(organization_id, "100", "input_tokens", name="tokens")
    assert (await allocate(metering, organization_id, {"input_tokens": "80"})).allocated
    assert not (await allocate(metering, organization_id, {"input_tokens": "21"})).allocated

    async def rest() -> str:
        return (await state(metering, organization_id, "tokens"))[2]

    await limits.change(organization_id, limit, "50")
    await eventually(rest, lambda left: left == "0")
    assert not (await allocate(metering, organization_id, {"input_tokens": "1"})).allocated
    assert (await allocate(metering, organization_id, {"input_tokens": "0"})).allocated

    await limits.change(organization_id, limit, None)
    await eventually(rest, lambda left: left == "")
    assert (await allocate(metering, organization_id, {"input_tokens": "1000000"})).allocated

    async def names() -> list[str]:
        answer = await allocate(metering, organization_id, {"input_tokens": "0"}, mode=CHECK_ONLY)
        return [one.name for one in answer.limits]

    await limits.change(organization_id, limit, "0")
    await eventually(rest, lambda left: left == "0")
    assert not (await allocate(metering, organization_id, {"input_tokens": "0"})).allocated
    await limits.delete(organization_id, limit)
    await eventually(names, lambda found: found == [])
    assert (await allocate(metering, organization_id, {"input_tokens": "5"})).allocated


async def test_best_effort_takes_of_each_metric_what_every_limit_leaves(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "10.5", name="wide")
    await limits.set(organization_id, "7", name="narrow", window=Window.DAY)
    await limits.set(organization_id, "2", name="soft", enforcement=Enforcement.SOFT)
    await limits.set(organization_id, "1.25", "spend", name="money", currency_code="USD")
    amounts = {"requests": "20", "USD": "3.000000001", "EUR": "4", "pages": "3"}
    del amounts["EUR"]

    answer = await allocate(metering, organization_id, amounts, mode=BEST_EFFORT)

    assert answer.allocated
    assert list(allocated(answer).items()) == [("requests", "7"), ("USD", "1.25"), ("pages", "3")]
    assert standing(answer, "wide") == ("7", "0", "3.5")
    assert standing(answer, "soft") == ("7", "0", "0")
    assert [limit.exceeded for limit in answer.limits if limit.name == "soft"] == [True]
    again = await allocate(metering, organization_id, amounts, mode=BEST_EFFORT)
    assert allocated(again) == {"requests": "0", "USD": "0", "pages": "3"}
    # Where nothing at all is left it is a refusal, which says when to come again.
    nothing = await allocate(metering, organization_id, {"requests": "1", "USD": "1"}, mode=BEST_EFFORT)
    assert (nothing.allocated, nothing.limits[0].needed) == (False, "1")
    await assert_counters_are_allocations(platform)


@pytest.mark.own_database
async def test_check_takes_nothing_stores_nothing_and_leaves_its_operation_id_free(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "10", name="ten")

    good = await allocate(metering, organization_id, {"requests": "10"}, "op", mode=CHECK_ONLY)
    bad = await allocate(metering, organization_id, {"requests": "11"}, "op", mode=CHECK_ONLY)

    assert (good.allocated, allocated(good), standing(good, "ten")) == (True, {}, ("0", "0", "10"))
    assert (bad.allocated, bad.limits[0].needed, bad.limits[0].used) == (False, "11", "0")
    assert await platform.value("SELECT count(*) FROM metering.quota_allocations") == 0
    taken = await allocate(metering, organization_id, {"requests": "10"}, "op")
    assert (taken.allocated, taken.replayed) == (True, False)
    after = await allocate(metering, organization_id, {"requests": "1"}, "op", mode=CHECK_ONLY)
    assert (after.allocated, after.replayed) == (False, False)


async def test_adjustment_takes_everything_whatever_is_left(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "10", name="ten")
    await limits.set(organization_id, "0", name="zero", window=Window.DAY)

    answer = await allocate(metering, organization_id, {"requests": "25"}, mode=ADJUST_ONLY)

    assert (answer.allocated, allocated(answer)) == (True, {"requests": "25"})
    assert standing(answer, "ten") == ("25", "0", "0")
    assert [limit.exceeded for limit in answer.limits] == [True, True]
    await assert_counters_are_allocations(platform)


async def test_amount_counts_for_those_whom_the_request_names(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    await metering.add_model("gpt-4o-mini", provider="openai")
    await limits.set(organization_id, "3", name="user", scope=Scope.USER)
    await limits.set(organization_id, "2", name="team", scope=Scope.LABEL, label="team")
    await limits.set(organization_id, "5", name="provider", scope=Scope.PROVIDER)
    ada, bob = new_id(), new_id()

    first = await allocate(
        metering, organization_id, {"requests": "2"}, user_id=ada.upper(), labels={"team": "red"}, model="gpt-4o-mini"
    )
    assert {limit.name: limit.scope_value for limit in first.limits} == {
        "user": ada,
        "team": "red",
        "provider": "openai",
    }
    other = await allocate(metering, organization_id, {"requests": "2"}, user_id=bob, labels={"team": ""})
    assert {limit.name: limit.remaining for limit in other.limits} == {"user": "1"}
    red = await allocate(metering, organization_id, {"requests": "1"}, user_id=bob, labels={"team": "red"})
    assert (red.allocated, red.limits[0].name) == (False, "team")
    named = await allocate(metering, organization_id, {"requests": "4"}, provider="openai", model="elsewhere")
    assert (named.allocated, named.limits[0].name) == (False, "provider")


@pytest.mark.own_database
async def test_limit_of_single_calls_refuses_large_ones_and_counts_nothing(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "10", "items", name="each", window=Window.CALL)

    assert [
        (await allocate(metering, organization_id, {"items": value})).allocated for value in ("10", "10", "11")
    ] == [True, True, False]
    cut = await allocate(metering, organization_id, {"items": "15"}, mode=BEST_EFFORT)
    assert allocated(cut) == {"items": "10"}
    assert await total(platform) == "0"


async def test_other_tenant_has_its_own_limits_and_operation_ids(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    other = new_id()
    await limits.set(organization_id, "1", name="one")

    assert (await allocate(metering, organization_id, {"requests": "1"}, "same")).allocated
    theirs = await allocate(metering, other, {"requests": "500"}, "same")
    assert (theirs.allocated, theirs.replayed, list(theirs.limits)) == (True, False, [])
    assert await refused(release(metering, new_id(), "same")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (await state(metering, organization_id, "one")) == ("1", "0", "0")


@pytest.mark.own_database
async def test_unknown_organization_is_refused(platform: Platform, metering: Metering) -> None:
    await platform.start_identity()
    unknown = new_id()

    assert await refused(allocate(metering, unknown, {"requests": "1"})) == (
        grpc.StatusCode.NOT_FOUND,
        "ORGANIZATION_NOT_FOUND",
    )


async def test_request_that_makes_no_sense_names_every_fault(metering: Metering, organization_id: str) -> None:
    request = request_of(
        organization_id,
        {"requests": "1.5", "no_such_unit": "1", "items": "1000000001", "output_seconds": "0.0001", "pages": "1"},
        lease_ttl={"seconds": 60},
    )
    request.amounts.add(metric="requests", value="1")
    request.amounts.add(metric="spend", value="1")
    request.amounts[4].currency_code = "USD"

    found = await faults(metering, request)

    assert found == {
        "amounts[0].value": "must be a multiple of 1, at most 1,000,000,000",
        "amounts[1].metric": "no_such_unit is not a unit of the catalogue",
        "amounts[2].value": "must be a multiple of 1, at most 1,000,000,000",
        "amounts[3].value": "must be a multiple of 0.001, at most 1,000,000,000",
        "amounts[4].currency_code": "must be empty for pages",
        "amounts[5].metric": "names requests twice",
        "amounts[6].currency_code": "must be given for spend",
        "lease_ttl": "is for concurrent_calls, which are not among the amounts",
    }
    request.organization_id = "acme"
    assert (await faults(metering, request)).keys() == found.keys() | {"organization_id"}
    for amounts in ({}, {"Requests": "1"}, {"requests": ""}, {"requests": "1e3"}, {"requests": "1.0000000001"}):
        assert await faults(metering, request_of(organization_id, amounts))


async def test_limit_that_has_counted_too_much_takes_no_more(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, None, "spend", name="money", currency_code="USD")
    huge = {"USD": "999999999999999"}
    assert (await allocate(metering, organization_id, huge, mode=ADJUST_ONLY)).allocated
    await platform.execute("UPDATE metering.limit_counters SET used = 999999999999999999")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await allocate(metering, organization_id, huge, mode=ADJUST_ONLY)

    assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "COUNTER_FULL")
    assert (await allocate(metering, organization_id, {"USD": "1"})).allocated
