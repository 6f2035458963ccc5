"""What is held for calls that give no maximum, as the organization's policy says, against worked numbers.

Their 1,000 input tokens cost 0.0025 dollars, and each 1,000 output tokens 0.01. A model whose maximum is not known is
held for with 4,096 output tokens: 0.0025 + 0.04096.
"""

import asyncio
import time
from decimal import Decimal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.admission.policies import FRESH_FOR_S, Policies
from services.metering.admission.policy import DEFAULT
from services.metering.clients.organizations import Organizations
from tests.metering.policy_calls import FIXED, MODEL_MAX, cap, fix, open_ask, updated
from tests.metering.support import Metering, Platform, eventually, refused, settlement
from tests.metering.test_batch_admission import ALLOWED, ask, ends, held_amount
from tests.support.clock import FixedClock
from tests.support.sharded import execute_in_shards
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import admission_pb2, model_pb2

WORST = "0.04346"


async def held(platform: Platform, organization_id: str, request: admission_pb2.AuthorizeRequest) -> tuple[str, int]:
    """Authorize a call; return what is held for it and for how many output tokens."""
    before = Decimal(await held_amount(platform, organization_id))
    answer = await platform.metering.authorize(request)
    assert answer.decision == ALLOWED
    assert Decimal(await held_amount(platform, organization_id)) - before == Decimal(answer.held_amount.value)
    return answer.held_amount.value, answer.max_output_tokens


@pytest.fixture
async def funded(platform: Platform, organization_id: str) -> str:
    await platform.fund(organization_id, "100")
    return organization_id


async def test_without_a_policy_the_maximum_of_the_model_is_held(
    platform: Platform, metering: Metering, funded: str
) -> None:
    await metering.add_model("small", max_output_tokens=200)
    await metering.set_price("small")

    assert await held(platform, funded, open_ask(funded, "unknown")) == (WORST, 4096)
    assert await held(platform, funded, open_ask(funded, "known", model="small")) == ("0.0045", 200)


@pytest.mark.parametrize(("tokens", "amount", "authorized"), [(500, "0.0075", 500), (9_999, WORST, 4096)])
async def test_cap_holds_for_so_many_tokens_or_the_maximum_of_the_model(
    platform: Platform, metering: Metering, funded: str, tokens: int, amount: str, authorized: int
) -> None:
    await cap(metering, funded, tokens)

    assert await held(platform, funded, open_ask(funded, "call-1")) == (amount, authorized)
    settled = await metering.settle(settlement(funded, "call-1", tokens=model_pb2.TokenCounts(input=1000, output=4096)))
    assert (settled.usage.cost.value, await held_amount(platform, funded)) == (WORST, "0")
    assert await platform.posted(funded) == 100 - Decimal(WORST)
    assert await metering.findings() == []


@pytest.mark.parametrize(("value", "amount"), [("0.01", "0.01"), ("0.000000001", "0.000000001"), ("7", WORST)])
async def test_fixed_holds_that_amount_or_the_most_that_the_call_costs(
    platform: Platform, metering: Metering, funded: str, value: str, amount: str
) -> None:
    await fix(metering, funded, value)

    assert await held(platform, funded, open_ask(funded, "call-1")) == (amount, 4096)
    settled = await metering.settle(settlement(funded, "call-1"))
    overrun = max(Decimal("0.0035") - Decimal(amount), Decimal(0))
    assert (Decimal(settled.overrun_amount.value), settled.usage.cost.value) == (overrun, "0.0035")
    assert await metering.findings() == []


async def test_fixed_in_another_currency_than_the_price_holds_the_maximum(
    platform: Platform, metering: Metering, funded: str
) -> None:
    amount = Amount(currency_code="EUR", value="0.01")
    await updated(metering, funded, output_hold=FIXED, fixed_amount=amount)

    assert await held(platform, funded, open_ask(funded, "call-1")) == (WORST, 4096)


@pytest.mark.parametrize("policy", [cap, fix])
async def test_calls_with_a_maximum_or_an_estimate_are_held_for_whatever_the_policy_says(
    platform: Platform, metering: Metering, funded: str, policy: object
) -> None:
    await (cap(metering, funded, 10) if policy is cap else fix(metering, funded, "0.001"))
    estimate = open_ask(funded, "estimated", estimate=model_pb2.TokenCounts(input=1000, output=2000))
    estimate.ClearField("input_tokens")

    assert await held(platform, funded, ask(funded, "maximum")) == ("0.0125", 1000)
    assert await held(platform, funded, ask(funded, "none", max_output_tokens=0)) == ("0.0025", 0)
    assert await held(platform, funded, estimate) == ("0.0225", 2000)


@pytest.mark.own_database
@pytest.mark.parametrize("policy", [cap, fix])
async def test_model_that_costs_nothing_needs_no_hold_and_no_money(
    platform: Platform, metering: Metering, organization_id: str, policy: object
) -> None:
    await (cap(metering, organization_id, 10) if policy is cap else fix(metering, organization_id, "5"))
    await metering.add_model("free")
    await metering.set_price("free", price_in="0", price_out="0")

    answer = await metering.authorize(open_ask(organization_id, "call-1", model="free"))

    assert (answer.decision, answer.hold_id, answer.held_amount.value) == (ALLOWED, "", "0")


async def test_batch_holds_by_the_policy_of_each_organization(platform: Platform, metering: Metering) -> None:
    organizations = [new_id() for _ in range(9)]
    for number, organization_id in enumerate(organizations):
        await platform.fund(organization_id, "1")
        if number % 3:
            await (cap(metering, organization_id, 500) if number % 3 == 1 else fix(metering, organization_id, "0.01"))

    outcomes = await metering.authorize_batch([open_ask(one, f"call-{n}") for n in (1, 2) for one in organizations])

    assert [outcome.decided.held_amount.value for outcome in outcomes] == [WORST, "0.0075", "0.01"] * 6
    assert [outcome.decided.max_output_tokens for outcome in outcomes] == [4096, 500, 4096] * 6


async def test_repeat_after_a_change_of_the_policy_answers_the_first_decision(
    platform: Platform, metering: Metering, funded: str
) -> None:
    first = await metering.authorize(open_ask(funded, "by-maximum"))
    await cap(metering, funded, 500)
    capped = await metering.authorize(open_ask(funded, "by-cap"))
    first_again = await metering.authorize(open_ask(funded, "by-maximum"))
    await cap(metering, funded, 700)
    capped_again = await metering.authorize(open_ask(funded, "by-cap"))
    await fix(metering, funded, "0.01")
    fixed = await metering.authorize(open_ask(funded, "by-amount"))
    batch = await metering.authorize_batch([open_ask(funded, f"by-{name}") for name in ("maximum", "cap", "amount")])

    for before, after in ((first, first_again), (capped, capped_again)):
        assert (before.replayed, after.replayed) == (False, True)
        after.replayed = False
        assert before == after
    assert ends(batch) == ["ALLOWED again"] * 3
    assert [one.decided.held_amount for one in batch] == [one.held_amount for one in (first, capped, fixed)]
    assert [one.decided.hold_id for one in batch] == [one.hold_id for one in (first, capped, fixed)]
    assert await held_amount(platform, funded) == "0.06096"


async def test_repeat_that_differs_is_refused_by_the_field_that_differs_whatever_the_policy_says(
    platform: Platform, metering: Metering, funded: str
) -> None:
    await cap(metering, funded, 500)
    await metering.authorize(open_ask(funded, "call-1"))
    await cap(metering, funded, 700)

    for fields, field in (({"input_tokens": 1001}, "input_tokens"), ({"hold_ttl": Duration(seconds=9)}, "hold_ttl")):
        with pytest.raises(grpc.aio.AioRpcError, match=f"differs in {field}"):
            await metering.authorize(open_ask(funded, "call-1", **fields))
    await metering.authorize(ask(funded, "call-2"))
    with pytest.raises(grpc.aio.AioRpcError, match="differs in max_output_tokens"):
        await metering.authorize(open_ask(funded, "call-2"))


async def test_authorization_stored_before_there_were_policies_is_recognised(
    platform: Platform, metering: Metering, funded: str
) -> None:
    explicit = await metering.authorize(open_ask(funded, "call-1", max_output_tokens=4096))
    await cap(metering, funded, 500)

    # The digest of a call without a maximum has always been that of one with the maximum of its model.
    again = await metering.authorize(open_ask(funded, "call-1"))

    assert (again.replayed, again.hold_id, again.max_output_tokens) == (True, explicit.hold_id, 4096)


@pytest.mark.own_database
async def test_calls_whose_policy_cannot_be_read_fail_and_no_others(platform: Platform, metering: Metering) -> None:
    organizations = [new_id() for _ in range(4)]
    for organization_id in organizations:
        await platform.fund(organization_id, "1")
    await platform.execute("ALTER TABLE metering.admission_policies RENAME COLUMN revision TO away")
    asked = [open_ask(organizations[0], "open"), ask(organizations[0], "maximum"), open_ask(organizations[1], "open")]

    outcomes = await metering.authorize_batch([*asked, ask(organizations[2], "maximum")])
    alone = await refused(metering.authorize(open_ask(organizations[3], "open")))
    await platform.execute("ALTER TABLE metering.admission_policies RENAME COLUMN away TO revision")

    assert ends(outcomes) == ["DEPENDENCY_UNAVAILABLE", "ALLOWED", "DEPENDENCY_UNAVAILABLE", "ALLOWED"]
    assert alone == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert await platform.value("SELECT count(*) FROM metering.authorizations WHERE operation_id = 'open'") == 0
    assert ends(await metering.authorize_batch(asked)) == ["ALLOWED", "ALLOWED again", "ALLOWED"]


@pytest.mark.own_database
async def test_change_by_another_process_holds_within_five_seconds(platform: Platform, funded: str) -> None:
    here, first_service = platform.metering, platform.metering_service
    assert first_service is not None
    there = await platform.start_metering()
    try:
        await here.authorize(open_ask(funded, "before"))
        await cap(there, funded, 500)
        changed_s = time.monotonic()
        asks = iter(range(10_000))

        async def authorized() -> int:
            return (await here.authorize(open_ask(funded, f"call-{next(asks)}"))).max_output_tokens

        await eventually(authorized, lambda tokens: tokens == 500)
        assert time.monotonic() - changed_s < FRESH_FOR_S + 1
    finally:
        await first_service.stop(0)


async def test_own_change_holds_at_once(metering: Metering, funded: str) -> None:
    for tokens in (500, 600, 700):
        await cap(metering, funded, tokens)
        answer = await metering.authorize(open_ask(funded, f"call-{tokens}"))
        assert answer.max_output_tokens == tokens
    await updated(metering, funded, output_hold=MODEL_MAX, output_tokens_cap=0)
    assert (await metering.authorize(open_ask(funded, "call"))).max_output_tokens == 4096


async def test_policies_are_cached_within_a_bound_and_read_once_for_all_who_wait(
    metering_shards: Shards, database_admin_url: str
) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        policies = Policies(metering_shards, Organizations(channel), FixedClock(), known_max=50)
        named = [new_id() for _ in range(200)]
        assert await policies.of(named) == dict.fromkeys(named, DEFAULT)
        assert len(policies._known) == 50
        cached = list(policies._known)
        await execute_in_shards(database_admin_url, "ALTER TABLE metering.admission_policies RENAME TO away")
        answers = await asyncio.gather(*(policies.of([one]) for one in cached * 2))
        assert [answer[one] for answer, one in zip(answers, cached * 2, strict=True)] == [DEFAULT] * 100
        assert policies._reading == {}
