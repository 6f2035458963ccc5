"""Authorizations that may use more than was asked for at first: what is held, what is refused, and what is settled.

The calls are authorized for 1,000 input and 1,000 output tokens, which cost 0.0125 dollars at most.
"""

import asyncio
from decimal import Decimal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from libs.common.status import error_info
from tests.metering.policy_calls import cap, fix, open_ask
from tests.metering.support import Metering, Platform, eventually, refused, settlement, stamp
from tests.metering.test_authorizations import SECOND, cancel, lapse, states
from tests.metering.test_batch_admission import ask, ends, held_amount
from tests.metering.unit_calls import faults
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, unit_pb2

NOT_OPEN = (grpc.StatusCode.FAILED_PRECONDITION, "AUTHORIZATION_NOT_OPEN")
NOT_HELD = (grpc.StatusCode.FAILED_PRECONDITION, "AUTHORIZATION_NOT_HELD")
POOR = (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE")
NOBODY = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def hold_of(platform: Platform, organization_id: str, operation_id: str) -> ledger_pb2.Hold:
    request = ledger_pb2.GetHoldRequest(organization_id=organization_id, operation_id=operation_id)
    return (await platform.ledger.ledger.GetHold(request, metadata=platform.ledger.metadata)).hold


@pytest.fixture
async def authorized(platform: Platform, metering: Metering, organization_id: str) -> str:
    """The organization of a call `call-1` that is authorized, and has a dollar."""
    await platform.fund(organization_id, "1")
    await metering.authorize(ask(organization_id, "call-1"))
    return organization_id


async def test_enlarged_authorization_holds_the_cost_of_the_whole_call_and_keeps_its_end(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    before = await hold_of(platform, authorized, "call-1")

    more_output = await metering.extend(authorized, "call-1", max_output_tokens=5000)
    more_input = await metering.extend(authorized, "call-1", input_tokens=3000)
    (listed,) = await metering.authorizations(authorized)
    after = await hold_of(platform, authorized, "call-1")

    assert (more_output.held_amount.value, more_output.max_output_tokens) == ("0.0525", 5000)
    assert (more_input.held_amount.value, more_input.input_tokens, more_input.max_output_tokens) == (
        "0.0575",
        3000,
        5000,
    )
    assert listed == more_input
    assert (await held_amount(platform, authorized), after.amount.value) == ("0.0575", "0.0575")
    assert after.expire_time == before.expire_time
    assert listed.expire_time.ToDatetime() - listed.create_time.ToDatetime() == Duration(seconds=600).ToTimedelta()
    settled = await metering.settle(settlement(authorized, "call-1"))
    assert (settled.usage.cost.value, settled.released_amount.value) == ("0.0035", "0.054")
    assert await metering.findings() == []


async def test_call_can_be_extended_and_enlarged_at_once(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    until = stamp(seconds=3000)

    extended = await metering.extend(authorized, "call-1", until, max_output_tokens=2000)

    assert (extended.expire_time, extended.held_amount.value) == (until, "0.0225")
    assert (await hold_of(platform, authorized, "call-1")).expire_time.ToDatetime() >= until.ToDatetime()


async def test_repeat_and_a_smaller_amount_change_nothing(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    first = await metering.extend(authorized, "call-1", max_output_tokens=5000)

    assert await metering.extend(authorized, "call-1", max_output_tokens=5000) == first
    assert await metering.extend(authorized, "call-1", max_output_tokens=10) == first
    assert await metering.extend(authorized, "call-1", input_tokens=0, max_output_tokens=5001) == first
    assert await metering.extend(authorized, "call-1", stamp(seconds=1), max_output_tokens=5000) == first
    assert await held_amount(platform, authorized) == "0.0525"


async def test_repeated_authorize_answers_the_first_amount_and_the_hold_stays_large(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    await metering.extend(authorized, "call-1", max_output_tokens=5000)

    again = await metering.authorize(ask(authorized, "call-1"))
    (in_batch,) = await metering.authorize_batch([ask(authorized, "call-1")])

    assert (again.replayed, again.held_amount.value, again.max_output_tokens) == (True, "0.0125", 1000)
    assert ends([in_batch]) == ["ALLOWED again"]
    assert await held_amount(platform, authorized) == "0.0525"


async def test_many_enlargements_at_once_leave_the_largest(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    counts = [2000, 5000, 1000, 4000, 3000, 4999]

    await asyncio.gather(*(metering.extend(authorized, "call-1", max_output_tokens=count) for count in counts * 3))

    (listed,) = await metering.authorizations(authorized)
    assert (listed.max_output_tokens, listed.held_amount.value) == (5000, "0.0525")
    assert await held_amount(platform, authorized) == "0.0525"


async def test_enlargement_beyond_the_balance_changes_nothing_and_can_be_asked_for_again(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    (before,) = await metering.authorizations(authorized)
    hold = await hold_of(platform, authorized, "call-1")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await metering.extend(authorized, "call-1", stamp(seconds=3000), max_output_tokens=200_000)
    info = error_info(error.value)
    assert info is not None
    assert (error.value.code(), info.reason) == POOR
    assert (info.metadata["needed"], info.metadata["available"], info.metadata["currency_code"]) == (
        "1.99",
        "0.9875",
        "USD",
    )
    assert await metering.authorizations(authorized) == [before]
    assert await hold_of(platform, authorized, "call-1") == hold
    await platform.fund(authorized, "1.01")
    larger = await metering.extend(authorized, "call-1", max_output_tokens=200_000)
    assert larger.held_amount.value == "2.0025"
    assert await held_amount(platform, authorized) == "2.0025"


async def test_estimate_of_the_whole_call_holds_its_price_by_class(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.set_price(organization_id=organization_id, price_in="2", price_out="10", cache_read="0.5")
    await metering.authorize(ask(organization_id, "call-1"))

    larger = await metering.extend(
        organization_id, "call-1", estimate=model_pb2.TokenCounts(input=1000, cache_read=10_000, output=2000)
    )

    assert (larger.held_amount.value, larger.input_tokens, larger.max_output_tokens) == ("0.027", 11_000, 2000)


async def test_quantities_of_the_whole_call_are_priced_and_kept(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.add_model("searcher")
    rates = [("input_tokens", "0.000002"), ("output_tokens", "0.00001"), ("web_searches", "0.01")]
    request = model_pb2.SetPriceRequest(request_id=new_id(), model_id="searcher", currency_code="USD")
    for unit, price in rates:
        request.rate_card.rates.add(unit=unit, price=price, per=1)
    await metering.models.SetPrice(request, metadata=metering.operator)
    searches = [unit_pb2.Quantity(unit="web_searches", value="2")]
    first = await metering.authorize(ask(organization_id, "call-1", model="searcher", quantities=searches))

    more = [unit_pb2.Quantity(unit="web_searches", value="5")]
    searched = await metering.extend(organization_id, "call-1", quantities=more)
    written = await metering.extend(organization_id, "call-1", max_output_tokens=2000)
    unknown = [unit_pb2.Quantity(unit="pages", value="1")]
    priceless = await refused(metering.extend(organization_id, "call-1", quantities=unknown))

    assert first.held_amount.value == "0.032"
    assert (searched.held_amount.value, list(searched.quantities)) == ("0.062", more)
    assert (written.held_amount.value, list(written.quantities)) == ("0.072", more)
    assert priceless == (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_UNKNOWN")
    assert await metering.authorizations(organization_id) == [written]


@pytest.mark.own_database
async def test_call_is_enlarged_at_the_price_it_was_authorized_at(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    await metering.set_price(price_in="250", price_out="1000", effective_time=stamp())

    assert (await metering.extend(authorized, "call-1", max_output_tokens=2000)).held_amount.value == "0.0225"


@pytest.mark.own_database
async def test_call_that_was_held_for_by_the_policy_is_enlarged_to_what_it_may_cost(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await cap(metering, organization_id, 500)
    await metering.authorize(open_ask(organization_id, "capped"))
    await fix(metering, organization_id, "0.001")
    await metering.authorize(open_ask(organization_id, "fixed"))

    capped = await metering.extend(organization_id, "capped", input_tokens=2000)
    fixed = await metering.extend(organization_id, "fixed", max_output_tokens=2000)

    assert (capped.held_amount.value, fixed.held_amount.value) == ("0.01", "0.0225")


async def test_operation_of_another_organization_and_one_never_authorized_look_alike(
    metering: Metering, authorized: str
) -> None:
    for organization_id, operation_id in ((new_id(), "call-1"), (authorized, "call-2")):
        assert await refused(metering.extend(organization_id, operation_id, max_output_tokens=5000)) == NOBODY


async def test_what_is_not_open_cannot_be_enlarged(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "0.05")
    names = ("settled", "cancelled", "lapsed")
    await metering.authorize_batch([ask(organization_id, name, hold_ttl=SECOND) for name in names])
    await metering.authorize(ask(organization_id, "declined", input_tokens=1_000_000))
    await metering.settle(settlement(organization_id, "settled"))
    await cancel(metering, organization_id, "cancelled")
    await lapse(platform, metering, organization_id)
    before = await metering.authorizations(organization_id)

    for name in (*names, "declined"):
        assert await refused(metering.extend(organization_id, name, max_output_tokens=2_000_000)) == NOT_OPEN, name
    assert await metering.authorizations(organization_id) == before
    assert await held_amount(platform, organization_id) == "0"


async def test_nothing_more_is_held_for_a_call_without_a_hold(metering: Metering, organization_id: str) -> None:
    nothing = ask(organization_id, "nothing", max_output_tokens=0)
    nothing.input_tokens = 0
    await metering.authorize(nothing)
    assert (await metering.authorizations(organization_id))[0].held_amount.value == "0"
    await metering.add_model("free")
    await metering.set_price("free", price_in="0", price_out="0")
    await metering.authorize(ask(organization_id, "free", model="free"))

    assert await refused(metering.extend(organization_id, "nothing", max_output_tokens=1)) == NOT_HELD
    until = stamp(seconds=3000)
    assert (await metering.extend(organization_id, "nothing", until)).expire_time == until
    assert (await metering.extend(organization_id, "free", max_output_tokens=5000)).held_amount.value == "0"


@pytest.mark.own_database
async def test_nothing_is_held_for_a_call_of_a_test_key_however_much_it_may_use(
    platform: Platform, metering: Metering
) -> None:
    identity = await platform.start_identity()
    organization_id, owner = await identity.create_organization()
    await platform.fund(organization_id, "1")
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=owner, environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST
        )
    )
    request = admission_pb2.AuthorizeRequest(operation_id="call-1", api_key=key.secret, model="gpt-4o")
    await metering.authorize(request)

    assert await refused(metering.extend(organization_id, "call-1", max_output_tokens=5000)) == NOT_HELD
    until = stamp(seconds=3000)
    assert (await metering.extend(organization_id, "call-1", until)).expire_time == until
    assert await held_amount(platform, organization_id) == "0"


@pytest.mark.parametrize(
    ("more", "at_fault"),
    [
        ({}, {"expire_time"}),
        ({"input_tokens": -1}, {"input_tokens"}),
        ({"max_output_tokens": 1_000_000_001}, {"max_output_tokens"}),
        (
            {"estimate": model_pb2.TokenCounts(input=1), "input_tokens": 0, "max_output_tokens": 1},
            {"input_tokens", "max_output_tokens"},
        ),
        ({"quantities": [unit_pb2.Quantity(unit="no_unit", value="1")]}, {"quantities[0].unit"}),
        ({"quantities": [unit_pb2.Quantity(unit="pages", value="-1")]}, {"quantities[0].value"}),
        ({"quantities": [unit_pb2.Quantity(unit="input_tokens", value="1")]}, {"quantities"}),
    ],
)
async def test_extension_that_makes_no_sense_is_refused_with_each_field(
    metering: Metering, authorized: str, more: dict[str, object], at_fault: set[str]
) -> None:
    assert set(await faults(metering.extend(authorized, "call-1", None, **more))) == at_fault


@pytest.mark.own_database
async def test_enlargement_while_billing_is_away_is_refused_and_can_be_repeated(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    await platform.stop_billing()
    answer = await refused(metering.extend(authorized, "call-1", max_output_tokens=5000))
    (unchanged,) = await metering.authorizations(authorized)
    await platform.start_billing()

    async def enlarge() -> bool:
        try:
            await metering.extend(authorized, "call-1", max_output_tokens=5000)
        except grpc.aio.AioRpcError:
            return False
        return True

    assert answer == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert unchanged.held_amount.value == "0.0125"
    await eventually(enlarge, bool)
    assert await held_amount(platform, authorized) == "0.0525"


@pytest.mark.own_database
async def test_enlargement_that_only_billing_knows_of_is_stored_by_a_repeat(
    platform: Platform, metering: Metering, authorized: str
) -> None:
    await metering.extend(authorized, "call-1", max_output_tokens=5000)
    await platform.execute("UPDATE metering.authorizations SET enlarged = NULL")  # As if metering had died before.

    again = await metering.extend(authorized, "call-1", max_output_tokens=5000)

    assert again.held_amount.value == "0.0525"
    assert await metering.authorizations(authorized) == [again]
    assert Decimal(await held_amount(platform, authorized)) == Decimal("0.0525")
    assert states([again]) == {"call-1": "OPEN"}
    assert again.state == admission_pb2.AUTHORIZATION_STATE_OPEN
