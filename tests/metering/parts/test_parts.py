"""A call that is settled in parts is charged what the whole of it costs, once."""

import asyncio
from decimal import Decimal
from typing import Final

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info
from tests.metering.parts.support import Call, amounts, assert_spent, captured, settlement_of
from tests.metering.support import Metering, Platform, eventually, refused, settlement, stamp, usage, usd
from tests.metering.test_admission import ask
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

FAILED: Final = grpc.StatusCode.FAILED_PRECONDITION
SETTLED: Final = usage_pb2.SETTLEMENT_SETTLED
PENDING: Final = usage_pb2.SETTLEMENT_PENDING


@pytest.fixture
def call(metering: Metering, organization_id: str) -> Call:
    return Call(metering, organization_id)


async def test_parts_and_the_last_settlement_charge_the_cost_of_the_whole_call(
    platform: Platform, metering: Metering, call: Call, organization_id: str
) -> None:
    await call.authorize()

    first = await call.part(1_000, 100)
    assert (captured(first), first.usage.cost.value, first.usage.usage_id) == ("0.0035", "0.0035", "")
    assert (first.usage.settlement, first.replayed) == (SETTLED, False)
    assert (first.released_amount, first.overrun_amount) == (usd("0"), usd("0"))
    assert (first.balance.posted, first.balance.held) == (usd("99.9965"), usd("0.009"))
    second = await call.part(1_000, 400)
    assert (captured(second), second.usage.cost.value) == ("0.0065", "0.0065")
    assert second.balance.held == usd("0.006")
    hold = await call.hold(platform)
    assert (hold.state, hold.captured_amount) == (ledger_pb2.HOLD_STATE_OPEN, usd("0.0065"))
    (authorization,) = await metering.authorizations(organization_id)
    assert authorization.state == admission_pb2.AUTHORIZATION_STATE_OPEN
    assert authorization.captured_amount == usd("0.0065")
    assert await refused(metering.get(organization_id, "call-1")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await platform.verify() == []

    last = await call.last(1_000, 600)
    assert (captured(last), last.usage.cost.value, bool(last.usage.usage_id)) == ("0.0085", "0.0085", True)
    assert (last.released_amount, last.overrun_amount, last.balance.held) == (usd("0.004"), usd("0"), usd("0"))
    await platform.settled()
    assert last.usage == await metering.get(organization_id, "call-1")
    assert amounts(await metering.charges(), organization_id) == [Decimal(t) for t in ("0.002", "0.003", "0.0035")]
    assert (await metering.authorizations(organization_id))[0].state == admission_pb2.AUTHORIZATION_STATE_SETTLED
    request = usage_pb2.QueryUsageRequest(
        organization_id=organization_id, start_time=stamp(hours=-1), end_time=stamp(hours=1)
    )
    (total,) = (await metering.usage.QueryUsage(request, metadata=metering.operator)).summaries
    assert (total.request_count, total.cost) == (1, usd("0.0085"))
    await assert_spent(platform, organization_id, "0.0085")


async def test_price_per_request_is_charged_once_and_thresholds_hold_for_the_whole_call(
    platform: Platform, call: Call, organization_id: str
) -> None:
    await call.authorize(model="tiered", input_tokens=3_000)

    # 1,000 at 5 a million would be 0.005, but they are 0.001 if the call ends above 2,000.
    first = await call.part(1_000, 100, model="tiered")
    assert (captured(first), first.usage.cost.value) == ("0.502", "0.506")
    second = await call.part(2_000, 100, model="tiered")
    assert (captured(second), second.usage.cost.value) == ("0.503", "0.511")
    third = await call.part(2_500, 100, model="tiered")
    assert (captured(third), third.usage.cost.value) == ("0.5035", "0.5035")
    last = await call.last(2_500, 200, model="tiered")
    assert captured(last) == last.usage.cost.value == "0.5045"
    await assert_spent(platform, organization_id, "0.5045")


async def test_repeat_of_any_part_captures_nothing_and_is_answered_as_before(
    platform: Platform, call: Call, organization_id: str
) -> None:
    await call.authorize()
    times: dict[int, dict[str, object]] = {10: {}, 20: {"occur_time": stamp(minutes=-9)}, 30: {}}
    answers = [await call.part(1_000, made, **fields) for made, fields in times.items()]
    await platform.settled()

    for answer, made in zip(answers, times, strict=True):
        for _ in range(2):
            again = await call.part(1_000, made, **times[made])
            assert again.replayed, made
            assert (again.usage, again.captured_amount) == (answer.usage, answer.captured_amount)
            assert not again.HasField("balance")
    last = await call.last(1_000, 30)
    repeated = await call.last(1_000, 30)
    late = await call.part(1_000, 20, **times[20])

    assert (captured(last), last.replayed) == ("0.0028", False)
    assert (repeated.replayed, repeated.captured_amount, repeated.usage.usage_id) == (
        True,
        last.captured_amount,
        last.usage.usage_id,
    )
    assert (late.replayed, captured(late)) == (True, "0.0027")
    await assert_spent(platform, organization_id, "0.0028")


async def test_settlement_below_an_earlier_part_is_refused_with_the_unit_and_both_figures(
    platform: Platform, call: Call, organization_id: str
) -> None:
    await call.authorize()
    await call.part(1_000, 100)

    for last in (False, True):
        for fields, facts in (
            (
                {"read": 1_000, "made": 99},
                {"unit": "output_tokens", "field": "output_tokens", "earlier": "100", "given": "99"},
            ),
            (
                {"read": 0, "made": 500},
                {"unit": "input_tokens", "field": "input_tokens", "earlier": "1000", "given": "0"},
            ),
            ({"read": 1_000, "made": 100, "model": "mini"}, {"field": "model", "earlier": "gpt-4o", "given": "mini"}),
            (
                {"read": 1_000, "made": 100, "service_tier": "batch"},
                {"field": "service_tier", "earlier": "standard", "given": "batch"},
            ),
            (
                {"read": 1_000, "made": 100, "stated_amount": usd("3")},
                {"field": "stated_amount", "earlier": "none", "given": "3"},
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.settle(last=last, **fields)
            info = error_info(caught.value)
            assert info is not None
            assert (caught.value.code(), info.reason) == (FAILED, "BELOW_EARLIER_PART")
            assert dict(info.metadata) == {"operation_id": "call-1", **facts}
    # None of these has done anything.
    assert captured(await call.last(1_000, 100)) == "0.0035"
    await assert_spent(platform, organization_id, "0.0035")


async def test_a_part_needs_an_open_authorization(platform: Platform, call: Call, organization_id: str) -> None:
    assert await refused(call.part(1)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    await call.authorize()
    await call.cancel()
    assert await refused(call.part(1)) == (FAILED, "AUTHORIZATION_NOT_OPEN")
    denied = Call(call.metering, organization_id, "denied")
    answer = await call.metering.authorize(ask(organization_id, "denied", max_output_tokens=10**9))
    assert answer.decision == admission_pb2.DECISION_DENIED
    assert await refused(denied.part(1)) == (FAILED, "AUTHORIZATION_NOT_OPEN")
    whole = Call(call.metering, organization_id, "whole")
    await whole.authorize()
    await whole.last(1_000)
    assert await refused(whole.part(2_000)) == (FAILED, "ALREADY_SETTLED")
    stranger = Call(call.metering, new_id(), "whole")
    assert await refused(stranger.part(2_000)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    await assert_spent(platform, organization_id, "0.0025")


async def test_a_call_with_parts_is_neither_cancelled_nor_begun_again(
    platform: Platform, call: Call, organization_id: str
) -> None:
    await call.authorize()
    await call.part(1_000)

    assert await refused(call.cancel()) == (FAILED, "ALREADY_SETTLED")
    again = await call.authorize()
    in_use = await refused(call.metering.authorize(ask(organization_id, "call-1", fail_if_replayed=True)))
    assert again.replayed
    assert in_use == (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_IN_USE")
    await call.last(1_000)
    await assert_spent(platform, organization_id, "0.0025")


async def test_parts_after_the_end_of_the_hold_and_above_it_are_charged_in_full(
    platform: Platform, call: Call, organization_id: str
) -> None:
    await call.authorize(hold_ttl={"seconds": 1})
    assert captured(await call.part(1_000, 100)) == "0.0035"
    await asyncio.sleep(1.2)

    late = await call.part(1_000, 1_000)
    assert (captured(late), late.overrun_amount) == ("0.0125", usd("0.009"))
    above = await call.part(1_000, 100_000)
    assert captured(above) == "1.0025"
    last = await call.last(1_000, 100_000)
    assert (captured(last), last.overrun_amount) == ("1.0025", usd("0"))
    await assert_spent(platform, organization_id, "1.0025")


async def test_two_parts_and_the_last_settlement_in_one_batch_are_settled_in_their_order(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    other_id, _ = await platform.identity.create_organization()
    await platform.fund(other_id, "100")
    for organization, name in ((organization_id, "a"), (organization_id, "b"), (other_id, "a")):
        await Call(metering, organization, name).authorize()
    batch = [
        settlement_of(organization_id, "a", 1_000, 600, last=True),
        settlement_of(organization_id, "a", 1_000, 100),
        settlement_of(other_id, "a", 1_000, 1),
        settlement_of(organization_id, "a", 1_000, 50),  # Less than the part before it.
        settlement_of(organization_id, "b", 500, 7),
        settlement_of(organization_id, "nobody", 1),
        settlement_of(organization_id, "a", 1_000, 400),
        settlement_of(organization_id, "a", 1_000, 400),
        settlement_of("no id", "a", 1),
        settlement(organization_id, "plain"),
    ]

    outcomes = await metering.settle_batch(batch)

    assert [one.operation_id for one in outcomes] == [one.operation_id for one in batch]
    kinds = [one.settled.captured_amount.value if one.HasField("settled") else one.refused.message for one in outcomes]
    assert [kinds[place] for place in (0, 1, 2, 4, 6, 7, 9)] == [
        *("0.0085", "0.0035", "0.00251", "0.00132", "0.0065", "0.0065", "")
    ]
    assert "an earlier part of it had 100" in kinds[3]
    assert "no such authorization" in kinds[5]
    assert "organization_id" in kinds[8]
    assert [one.settled.replayed for one in outcomes] == [place == 7 for place in range(10)]
    assert (outcomes[9].settled.usage.cost, outcomes[9].settled.HasField("captured_amount")) == (usd("0.0035"), False)
    assert captured(await Call(metering, other_id, "a").last(1_000, 1)) == "0.00251"
    await platform.settled()
    assert Decimal(100) - await platform.posted(other_id) == Decimal("0.00251")
    await assert_spent(platform, organization_id, "0.01332")


@pytest.mark.own_database
async def test_parts_of_a_test_key_and_of_a_free_model_are_stored_and_charge_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    identity = platform.identity
    key = api_key_pb2.CreateApiKeyRequest(environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST)
    created = await identity.create_key(key)
    request = admission_pb2.AuthorizeRequest(
        operation_id="test", api_key=created.secret, model="gpt-4o", input_tokens=1_000, max_output_tokens=100
    )
    allowed = await metering.authorize(request)
    owner = allowed.principal.organization_id
    assert allowed.environment == usage_pb2.ENVIRONMENT_TEST
    test = Call(metering, owner, "test")

    part = await test.part(1_000, 50)
    assert (part.usage.cost, part.captured_amount, part.usage.settlement) == (usd("0.003"), usd("0"), SETTLED)
    assert part.usage.environment == usage_pb2.ENVIRONMENT_TEST
    assert (await test.part(1_000, 50)).replayed
    last = await test.last(1_000, 100)
    assert (last.usage.cost, last.captured_amount, last.usage.settlement) == (usd("0.0035"), usd("0"), SETTLED)

    free = Call(metering, organization_id, "free")
    await free.authorize(model="free")
    assert (await free.part(1_000, 50, model="free")).captured_amount == usd("0")
    assert (await free.last(1_000, 50, model="free")).captured_amount == usd("0")
    assert await metering.charges() == {}
    await assert_spent(platform, organization_id, "0")


async def test_stated_amounts_are_those_since_the_call_began(
    platform: Platform, call: Call, organization_id: str
) -> None:
    await call.authorize()
    assert captured(await call.part(10, stated_amount=usd("0.5"))) == "0.5"
    assert captured(await call.part(20, stated_amount=usd("0.5"))) == "0.5"
    assert captured(await call.part(30, stated_amount=usd("0.75"))) == "0.75"
    assert await refused(call.part(40, stated_amount=usd("0.7"))) == (FAILED, "BELOW_EARLIER_PART")
    euro = {"currency_code": "EUR", "value": "9"}
    assert await refused(call.last(40, stated_amount=euro)) == (FAILED, "BELOW_EARLIER_PART")
    assert captured(await call.last(40, stated_amount=usd("1"))) == "1"
    await assert_spent(platform, organization_id, "1")


@pytest.mark.own_database
async def test_another_model_than_the_authorized_one_keeps_the_price_of_its_first_part(
    platform: Platform, metering: Metering, call: Call, organization_id: str
) -> None:
    await call.authorize()
    assert captured(await call.part(1_000_000, model="mini")) == "0.1"
    await metering.set_price("mini", price_in="0.01", price_out="0.01", effective_time=stamp(seconds=-1))

    assert captured(await call.part(2_000_000, model="mini")) == "0.2"
    last = await call.last(3_000_000, model="mini")
    assert (captured(last), last.usage.cost) == ("0.3", usd("0.3"))
    fresh = Call(metering, organization_id, "call-2")
    await fresh.authorize()
    assert captured(await fresh.part(1_000_000, model="mini")) == "0.01"
    await fresh.last(1_000_000, model="mini")
    await assert_spent(platform, organization_id, "0.31")


@pytest.mark.own_database
async def test_usage_that_is_recorded_without_settling_is_the_last_settlement_too(
    platform: Platform, metering: Metering, call: Call, organization_id: str
) -> None:
    await call.authorize()
    await call.part(1_000, 100)

    less = usage(organization_id, "call-1", tokens=model_pb2.TokenCounts(input=500))
    more = usage(organization_id, "call-1", tokens=model_pb2.TokenCounts(input=2_000))
    assert await refused(metering.record(less)) == (FAILED, "BELOW_EARLIER_PART")
    (outcome,) = await metering.record_batch([more])

    assert outcome.recorded.usage.cost == usd("0.006")
    assert outcome.recorded.balance.held == usd("0")
    assert (await metering.settle(settlement(organization_id, "call-1", tokens=more.tokens))).replayed
    await assert_spent(platform, organization_id, "0.006")


@pytest.mark.own_database
async def test_unit_without_a_rate_captures_nothing_and_the_call_is_charged_when_there_is_one(
    platform: Platform, metering: Metering, call: Call, organization_id: str
) -> None:
    await call.authorize()
    assert captured(await call.part(1_000, 100)) == "0.0035"
    part = await call.part(1_000, 200, quantities={"images": "1"})
    assert (captured(part), part.usage.settlement) == ("0.0035", usage_pb2.SETTLEMENT_PENDING_PRICE)
    assert not part.usage.HasField("cost")
    again = await call.part(1_000, 200, quantities={"images": "1"})
    assert (again.replayed, captured(again), again.usage) == (True, "0.0035", part.usage)

    last = await call.last(1_000, 300, quantities={"images": "1"})
    assert (captured(last), last.usage.settlement) == ("0.0035", usage_pb2.SETTLEMENT_PENDING_PRICE)
    repeated = await call.last(1_000, 300, quantities={"images": "1"})
    assert (repeated.replayed, captured(repeated)) == (True, "0.0035")
    assert await platform.verify() == []

    rates = [
        model_pb2.Rate(unit=unit, price=price, per=per)
        for unit, price, per in (("input_tokens", "2.5", 10**6), ("output_tokens", "10", 10**6), ("images", "1", 1))
    ]
    request = model_pb2.SetPriceRequest(
        model_id="gpt-4o",
        currency_code="USD",
        rate_card=model_pb2.RateCard(rates=rates),
        effective_time=stamp(minutes=-1),
    )
    await metering.models.SetPrice(request, metadata=metering.operator)
    stored = await eventually(
        lambda: metering.get(organization_id, "call-1"), lambda found: found.settlement == SETTLED
    )
    assert stored.cost == usd("1.0055")
    assert (await call.hold(platform)).state == ledger_pb2.HOLD_STATE_CAPTURED
    assert captured(await call.last(1_000, 300, quantities={"images": "1"})) == "1.0055"
    await assert_spent(platform, organization_id, "1.0055")


@pytest.mark.own_database
async def test_price_below_what_was_captured_leaves_the_usage_waiting_for_a_higher_one(
    platform: Platform, metering: Metering, call: Call, organization_id: str
) -> None:
    await call.authorize()
    await call.part(1_000, 100)
    await call.last(1_000, 100, quantities={"images": "1"})

    async def price(image: str, minutes: int) -> None:
        listed = (("input_tokens", "0", 10**6), ("output_tokens", "0", 10**6), ("images", image, 1))
        rates = [model_pb2.Rate(unit=unit, price=price, per=per) for unit, price, per in listed]
        request = model_pb2.SetPriceRequest(
            model_id="gpt-4o",
            currency_code="USD",
            rate_card=model_pb2.RateCard(rates=rates),
            effective_time=stamp(minutes=minutes),
        )
        await metering.models.SetPrice(request, metadata=metering.operator)

    await price("0.0034", -10)
    await asyncio.sleep(0.5)
    assert (await metering.get(organization_id, "call-1")).settlement == usage_pb2.SETTLEMENT_PENDING_PRICE
    await price("0.0035", -5)
    await eventually(lambda: metering.get(organization_id, "call-1"), lambda found: found.settlement == SETTLED)
    await assert_spent(platform, organization_id, "0.0035")


HOSTILE: Final = ("\x00", "'; DROP TABLE settlement_parts; --", "\U0001f600" * 300, "${jndi:x}", "\\x00", "%s%n{0}")


@pytest.mark.own_database
async def test_hostile_text_is_kept_out_of_nothing_and_breaks_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    names = ["call-'1'", 'call-"2"', "call-\\3", "call-%s{}", "~" * 255, "--"]
    for name, text in zip(names, HOSTILE, strict=True):
        call = Call(metering, organization_id, name)
        await call.authorize()
        described = {"error_message": text, "endpoint": text, "conversation_id": text, "labels": {"a": text}}
        part = await call.part(1_000, 10, **described)
        assert (captured(part), part.usage.operation_id) == ("0.0026", name)
        assert (await call.part(1_000, 10, **described)).replayed
        await call.last(1_000, 20, **described)
    await assert_spent(platform, organization_id, "0.0162")


async def test_what_is_wrong_with_a_part_is_refused_by_its_field(call: Call) -> None:
    await call.authorize()
    for fields, field in (
        ({"read": -1}, "tokens.input"),
        ({"read": 1, "quantities": {"unicorns": "1"}}, "quantities[0].unit"),
        ({"read": 1, "occur_time": stamp(days=-36)}, "occur_time"),
        ({"read": 1, "occur_time": stamp(minutes=6)}, "occur_time"),
        ({"read": 1, "stated_amount": usd("-1")}, "stated_amount.value"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.part(**fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field in (caught.value.details() or "")


@pytest.mark.own_database
async def test_a_call_has_at_most_so_many_parts_and_can_still_be_ended(
    platform: Platform, call: Call, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.admission.domain.PARTS_MAX", 3)
    await call.authorize()
    for made in (10, 20, 30):
        await call.part(1_000, made)
    assert await refused(call.part(1_000, 40)) == (FAILED, "TOO_MANY_PARTS")
    assert (await call.part(1_000, 20)).replayed
    assert captured(await call.last(1_000, 40)) == "0.0029"
    await assert_spent(platform, organization_id, "0.0029")
