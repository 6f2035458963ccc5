"""BatchAuthorize and BatchSettle: each item has the outcome a single call would have, and stops no other."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import grpc
import pytest
from google.rpc import status_pb2

from libs.common.ids import new_id
from libs.common.status import error_info_in
from tests.metering.support import Metering, Platform, eventually, refused, settlement, usage
from tests.support.poison import plant_poison, poisoned
from tollhouse.billing.v1 import account_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

pytestmark = pytest.mark.shards

ALLOWED, DENIED = admission_pb2.DECISION_ALLOWED, admission_pb2.DECISION_DENIED
SETTLED, PENDING = usage_pb2.SETTLEMENT_SETTLED, usage_pb2.SETTLEMENT_PENDING
ITEMS_MAX = 200


def ask(organization_id: str, operation_id: str, **fields: object) -> admission_pb2.AuthorizeRequest:
    """Return a call of 1,000 input and at most 1,000 output tokens: a hold of 0.0125."""
    request = admission_pb2.AuthorizeRequest(
        operation_id=operation_id,
        principal=admission_pb2.Principal(organization_id=organization_id),
        model="gpt-4o",
        input_tokens=1000,
        max_output_tokens=1000,
    )
    request.MergeFrom(admission_pb2.AuthorizeRequest(**fields))  # type: ignore[arg-type]
    return request


async def held_amount(platform: Platform, organization_id: str) -> str:
    request = account_pb2.GetBalanceRequest(organization_id=organization_id)
    response = await platform.ledger.accounts.GetBalance(request, metadata=platform.ledger.metadata)
    return response.balance.held.value


def reason(status: status_pb2.Status) -> str:
    info = error_info_in(status)
    assert info is not None
    return info.reason


def ends(outcomes: Sequence[admission_pb2.AuthorizeOutcome]) -> list[str]:
    """Return how each item ended: ALLOWED, the reason of its denial, or the reason of its failure."""
    told: list[str] = []
    for outcome in outcomes:
        if outcome.HasField("refused"):
            told.append(reason(outcome.refused))
        elif outcome.decided.decision == ALLOWED:
            told.append("ALLOWED" + (" again" if outcome.decided.replayed else ""))
        else:
            name = admission_pb2.DenialReason.Name(outcome.decided.denial.reason)
            told.append(name.removeprefix("DENIAL_REASON_"))
    return told


def settled_ends(outcomes: Sequence[admission_pb2.SettleOutcome]) -> list[str]:
    return [
        reason(outcome.refused)
        if outcome.HasField("refused")
        else usage_pb2.Settlement.Name(outcome.settled.usage.settlement).removeprefix("SETTLEMENT_")
        + (" again" if outcome.settled.replayed else "")
        for outcome in outcomes
    ]


@pytest.mark.own_database
async def test_batches_hold_and_charge_what_the_single_calls_would(platform: Platform, metering: Metering) -> None:
    organizations = [new_id() for _ in range(5)]
    for organization_id in organizations:
        await platform.fund(organization_id, "1")
    names = [(organization_id, f"call-{number}") for number in range(10) for organization_id in organizations]

    allowed = await metering.authorize_batch([ask(*name) for name in names])
    settled = await metering.settle_batch([settlement(*name) for name in names])

    assert ends(allowed) == ["ALLOWED"] * len(names)
    assert [outcome.operation_id for outcome in allowed] == [operation_id for _, operation_id in names]
    assert {outcome.decided.held_amount.value for outcome in allowed} == {"0.0125"}
    assert len({outcome.decided.hold_id for outcome in allowed}) == len(names)
    assert [(outcome.organization_id, outcome.operation_id) for outcome in settled] == names
    assert settled_ends(settled) == ["SETTLED"] * len(names)
    assert {outcome.settled.released_amount.value for outcome in settled} == {"0.009"}
    for organization_id in organizations:
        assert await platform.posted(organization_id) == 1 - 10 * Decimal("0.0035")
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_same_batch_twice_is_answered_as_before_and_charged_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    asks = [ask(organization_id, f"call-{number}") for number in range(20)]
    settlements = [settlement(organization_id, f"call-{number}") for number in range(20)]

    first, again = await metering.authorize_batch(asks), await metering.authorize_batch(asks)
    settled, settled_again = await metering.settle_batch(settlements), await metering.settle_batch(settlements)
    late = await metering.authorize_batch(asks)

    assert ends(again) == ["ALLOWED again"] * 20
    assert [one.decided.hold_id for one in again] == [one.decided.hold_id for one in first]
    assert settled_ends(settled_again) == ["SETTLED again"] * 20
    assert [one.settled.usage.usage_id for one in settled_again] == [one.settled.usage.usage_id for one in settled]
    assert ends(late) == ["AUTHORIZATION_ENDED"] * 20
    assert await platform.posted(organization_id) == 1 - 20 * Decimal("0.0035")
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_batches_sent_at_the_same_time_to_two_processes_are_charged_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    service = platform.metering_service
    assert service is not None
    other = await platform.start_metering()
    try:
        asks = [ask(organization_id, f"call-{number}") for number in range(100)]
        settlements = [settlement(organization_id, f"call-{number}") for number in range(100)]

        both = await asyncio.gather(metering.authorize_batch(asks), other.authorize_batch(asks[::-1]))
        charged = await asyncio.gather(metering.settle_batch(settlements), other.settle_batch(settlements[::-1]))

        holds = [{one.operation_id: one.decided.hold_id for one in outcomes} for outcomes in both]
        assert holds[0] == holds[1]
        assert all(one.HasField("settled") for outcomes in charged for one in outcomes)
        await platform.settled()
        assert await platform.posted(organization_id) == 10 - 100 * Decimal("0.0035")
        assert await metering.findings() == []
    finally:
        await service.stop(0)


async def test_changed_items_of_a_repeated_batch_are_refused_alone_with_the_field_named(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    asks = [ask(organization_id, f"call-{number}") for number in range(3)]
    await metering.authorize_batch(asks)
    asks[1].input_tokens = 5
    asks[2].fail_if_replayed = True
    changed = await metering.authorize_batch(asks)
    settlements = [settlement(organization_id, f"call-{number}") for number in range(3)]
    await metering.settle_batch(settlements)
    settlements[1].tokens.output = 7
    settled = await metering.settle_batch(settlements)

    assert ends(changed) == ["ALLOWED again", "OPERATION_ID_REUSED", "OPERATION_ID_IN_USE"]
    assert settled_ends(settled) == ["SETTLED again", "OPERATION_ID_REUSED", "SETTLED again"]
    differences = [error_info_in(changed[1].refused), error_info_in(settled[1].refused)]
    assert [info.metadata["field"] for info in differences if info] == ["input_tokens", "tokens"]
    assert await platform.posted(organization_id) == 1 - 3 * Decimal("0.0035")


async def test_one_id_twice_in_a_batch_is_one_call_after_the_other(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    poor = new_id()
    asks = [
        ask(organization_id, "call-1"),
        ask(organization_id, "call-1"),
        ask(organization_id, "call-1", input_tokens=5),
        ask(organization_id, "call-1", fail_if_replayed=True),
        ask(poor, "call-1"),
        ask(poor, "call-1"),
        ask(organization_id, "call-1"),
    ]
    allowed = await metering.authorize_batch(asks)
    settled = await metering.settle_batch(
        [
            settlement(organization_id, "call-1"),
            settlement(organization_id, "call-1"),
            settlement(organization_id, "call-1", tokens=model_pb2.TokenCounts(output=7)),
        ]
    )

    assert ends(allowed) == [
        "ALLOWED",
        "ALLOWED again",
        "OPERATION_ID_REUSED",
        "OPERATION_ID_IN_USE",
        "INSUFFICIENT_BALANCE",
        "INSUFFICIENT_BALANCE",
        "ALLOWED again",
    ]
    assert [outcome.decided.replayed for outcome in allowed[4:6]] == [False, True]
    assert settled_ends(settled) == ["SETTLED", "SETTLED again", "OPERATION_ID_REUSED"]
    assert await platform.posted(organization_id) == Decimal("0.9965")
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_a_batch_of_one_id_only_takes_two_turns_of_the_database_and_delays_no_tenant(
    platform: Platform, metering: Metering
) -> None:
    honest, hostile = new_id(), new_id()
    await platform.fund(honest)
    await platform.fund(hostile)
    same = [ask(hostile, "mine")] * ITEMS_MAX

    async def honest_calls() -> list[str]:
        return ends(await metering.authorize_batch([ask(honest, f"call-{new_id()}") for _ in range(20)]))

    answers = await asyncio.gather(
        *(metering.authorize_batch(same) for _ in range(8)), *(honest_calls() for _ in range(8))
    )
    taken = await platform.value("SELECT count(*) FROM metering.authorizations")

    assert [answer for answer in answers[8:] if answer != ["ALLOWED"] * 20] == []
    hostile_ends = [end for answer in answers[:8] for end in ends(answer)]  # type: ignore[arg-type]
    assert (hostile_ends.count("ALLOWED"), hostile_ends.count("ALLOWED again")) == (1, 8 * ITEMS_MAX - 1)
    assert taken == 8 * 20 + 1
    assert await held_amount(platform, hostile) == "0.0125"


async def test_bad_items_are_refused_as_single_calls_are_and_stop_no_other(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    bad_asks = [
        admission_pb2.AuthorizeRequest(),
        ask(organization_id, "with space"),
        ask(organization_id, "x" * 5000),
        ask("nobody", "bad-1"),
        ask(organization_id, "bad-2", model="no\x00model"),
        ask(organization_id, "bad-3", client_address="elsewhere"),
        ask(organization_id, "bad-4", required_scopes=["\x00"]),
        ask(organization_id, "bad-5", input_tokens=-3000),
        ask(organization_id, "bad-6", estimate=model_pb2.TokenCounts(input=1)),
        ask(organization_id, "bad-7", service_tier="No Tier"),
    ]
    bad_settlements = [
        admission_pb2.SettleRequest(),
        settlement(organization_id, "\x00"),
        settlement(organization_id.upper() + "0", "bad-1"),
        settlement(organization_id, "bad-2", tokens=model_pb2.TokenCounts(audio_input=-1)),
        settlement(organization_id, "bad-3", total_tokens=3),
        settlement(organization_id, "bad-4", stated_amount={"currency_code": "USD", "value": "-1"}),
    ]
    good = [ask(organization_id, f"good-{number}", endpoint="\x00\ud7ff") for number in range(len(bad_asks))]
    mixed = [one for pair in zip(bad_asks, good, strict=True) for one in pair]
    told = settlement(organization_id, "good-0", error_message="\x00" + "e" * 10_000, labels={"\x00": "x"})

    outcomes = await metering.authorize_batch(mixed)
    settled = await metering.settle_batch([*bad_settlements, told])

    assert ends(outcomes) == ["INVALID_ARGUMENT", "ALLOWED"] * len(bad_asks)
    assert settled_ends(settled) == ["INVALID_ARGUMENT"] * len(bad_settlements) + ["SETTLED"]
    assert list(settled[-1].settled.adjusted_fields) == ["error_message", "labels[\ufffd]"]
    assert len(outcomes[4].operation_id) == 255
    for single, outcome in zip(bad_asks, outcomes[::2], strict=True):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await metering.authorize(single)
        assert (caught.value.code().value[0], caught.value.details()) == (outcome.refused.code, outcome.refused.message)
    for one, settlement_outcome in zip(bad_settlements, settled, strict=False):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await metering.settle(one)
        assert caught.value.details() == settlement_outcome.refused.message


@pytest.mark.own_database
@pytest.mark.parametrize("count", [0, ITEMS_MAX + 1])
async def test_batches_have_1_to_200_items(metering: Metering, organization_id: str, count: int) -> None:
    asks = [ask(organization_id, f"call-{number}") for number in range(count)]
    settlements = [settlement(organization_id, f"call-{number}") for number in range(count)]

    assert await refused(metering.authorize_batch(asks)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert await refused(metering.settle_batch(settlements)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert await metering.charges() == {}


@pytest.mark.own_database
async def test_items_of_a_hostile_tenant_that_cannot_be_stored_fail_alone(
    platform: Platform, metering: Metering
) -> None:
    await plant_poison(platform.admin_url, "metering.authorizations")
    await plant_poison(platform.admin_url, "metering.usage_operations")
    honest, hostile = new_id(), new_id()
    await platform.fund(honest)
    await platform.fund(hostile)
    names = [(honest, f"call-{number}") for number in range(40)]
    for place, sqlstate in ((3, "22003"), (17, "XX000"), (31, "23514")):
        names.insert(place, (hostile, poisoned(sqlstate, place)))

    allowed = await metering.authorize_batch([ask(*name) for name in names])
    settled = await metering.settle_batch([settlement(*name) for name in names])

    good = [organization_id == honest for organization_id, _ in names]
    assert [end == "ALLOWED" for end in ends(allowed)] == good
    assert [end == "SETTLED" for end in settled_ends(settled)] == good
    assert await platform.posted(honest) == 1000 - 40 * Decimal("0.0035")
    assert await metering.findings() == []


async def test_a_tenant_without_money_takes_nothing_from_another_in_the_same_batch(
    platform: Platform, metering: Metering
) -> None:
    rich, poor = new_id(), new_id()
    await platform.fund(rich, "0.05")
    await platform.fund(poor, "0.0125")
    names = [(owner, f"call-{number}") for number in range(4) for owner in (poor, rich)]

    outcomes = await metering.authorize_batch([ask(*name) for name in names])

    told = dict(zip(names, ends(outcomes), strict=True))
    assert [told[rich, f"call-{number}"] for number in range(4)] == ["ALLOWED"] * 4
    assert [told[poor, f"call-{number}"] for number in range(4)] == ["ALLOWED"] + ["INSUFFICIENT_BALANCE"] * 3


@pytest.mark.own_database
async def test_while_billing_is_away_nothing_is_allowed_and_all_usage_is_kept_and_charged_once_later(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    names = [f"call-{number}" for number in range(10)]
    await metering.authorize_batch([ask(organization_id, name) for name in names[:5]])
    await metering.set_price("gpt-4o", price_in="0", price_out="0", organization_id=(free := new_id()))
    await platform.stop_billing()

    held = await metering.authorize_batch([*(ask(organization_id, name) for name in names[5:]), ask(free, "call-1")])
    settled = await metering.settle_batch([settlement(organization_id, name) for name in names])
    await platform.start_billing()
    await platform.settled()
    again = await metering.settle_batch([settlement(organization_id, name) for name in names])

    assert ends(held) == ["DEPENDENCY_UNAVAILABLE"] * 5 + ["ALLOWED"]
    assert settled_ends(settled) == ["PENDING"] * 10
    assert settled_ends(again) == ["SETTLED again"] * 10
    assert await platform.posted(organization_id) == 1 - 10 * Decimal("0.0035")
    assert await held_amount(platform, organization_id) == "0"
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_batches_that_are_cancelled_or_out_of_time_can_be_repeated_and_are_charged_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    asks = [ask(organization_id, f"call-{number}") for number in range(100)]
    settlements = [settlement(organization_id, f"call-{number}") for number in range(100)]
    asked = admission_pb2.BatchAuthorizeRequest(requests=asks)
    settling = admission_pb2.BatchSettleRequest(requests=settlements)

    async def give_up(timeout_s: float) -> grpc.StatusCode:
        try:
            await metering.admission.BatchAuthorize(asked, metadata=metering.gateway, timeout=timeout_s)
            await metering.admission.BatchSettle(settling, metadata=metering.gateway, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    assert await give_up(0.001) is grpc.StatusCode.DEADLINE_EXCEEDED
    for delay_s in (0.002, 0.01, 0.03, 0.08):
        await give_up(delay_s)
        call = metering.admission.BatchSettle(settling, metadata=metering.gateway)
        await asyncio.sleep(delay_s)
        call.cancel()

    # An operation that a batch before is still at work on may have to be asked for again.
    async def settled() -> list[str]:
        return settled_ends(await metering.settle_batch(settlements))

    ends = await eventually(settled, lambda ends: not {"CONFLICT", "DEPENDENCY_UNAVAILABLE"} & set(ends))

    assert all(end.startswith("SETTLED") for end in ends), ends
    await platform.settled()
    assert await platform.posted(organization_id) == 10 - 100 * Decimal("0.0035")
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_batches_and_single_calls_know_each_others_operations(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    single = await metering.authorize(ask(organization_id, "call-1"))
    (batched,) = await metering.authorize_batch([ask(organization_id, "call-1")])
    (settled,) = await metering.settle_batch([settlement(organization_id, "call-1")])
    recorded = await metering.record(usage(organization_id, "call-1"))
    again = await metering.settle(settlement(organization_id, "call-1"))

    assert batched.decided.replayed
    assert batched.decided.hold_id == single.hold_id
    assert (recorded.replayed, again.replayed) == (True, True)
    assert {settled.settled.usage.usage_id, recorded.usage.usage_id} == {again.usage.usage_id}
