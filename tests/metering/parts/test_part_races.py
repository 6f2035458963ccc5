"""Parts, last settlements, crashes and an absent billing in any order: every call is charged what it costs, once."""

import asyncio
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Final

import asyncpg
import grpc
import pytest

from libs.common.database_url import plain_url
from libs.common.ids import new_id
from libs.common.status import reason_of
from tests.metering.parts.support import Call, assert_spent, captured, put_off_charges, settlement_of
from tests.metering.support import Metering, Platform, eventually, settlement
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.metering.v1 import usage_pb2

pytestmark = pytest.mark.own_database

SETTLED: Final = usage_pb2.SETTLEMENT_SETTLED
PENDING: Final = usage_pb2.SETTLEMENT_PENDING
CALLS: Final = 12
PARTS: Final = 8


@pytest.fixture
async def other(platform: Platform, metering: Metering) -> AsyncIterator[Metering]:
    """A second process's worth of metering."""
    second = await platform.start_metering()
    yield second
    # The platform stops the one that it started last.
    await metering.service.stop(0)


async def reason(settling: asyncio.Future[object] | object) -> str:
    """Return why a settlement was refused; empty if it was not."""
    try:
        await settling  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    return ""


def cost_of(read: int, made: int) -> Decimal:
    return (Decimal(read) * Decimal("2.5") + Decimal(made) * 10) / 1_000_000


@pytest.mark.parametrize("seed", range(3))
async def test_parts_and_last_settlements_from_two_servers_at_once_charge_each_call_once(
    platform: Platform, metering: Metering, other: Metering, organization_id: str, seed: int
) -> None:
    chance = random.Random(seed)
    names = [f"call-{number}" for number in range(CALLS)]
    for name in names:
        await Call(metering, organization_id, name).authorize()

    async def settle(name: str, made: int, *, last: bool) -> tuple[str, str]:
        await asyncio.sleep(chance.uniform(0, 0.2))
        server = chance.choice((metering, other))
        call = Call(server, organization_id, name)
        return name, await reason(call.last(1_000, made) if last else call.part(1_000, made))

    sent = [(name, made * 10, False) for name in names for made in range(1, PARTS + 1) for _ in range(2)]
    sent += [(name, 1_000, True) for name in names for _ in range(2)]
    chance.shuffle(sent)
    ends = await asyncio.gather(*(settle(name, made, last=last) for name, made, last in sent))

    assert {end for _, end in ends} <= {"", "BELOW_EARLIER_PART", "ALREADY_SETTLED"}
    recorded = [end for (_, end), (_, _, last) in zip(ends, sent, strict=True) if last]
    assert recorded == [""] * 2 * CALLS
    await assert_spent(platform, organization_id, CALLS * cost_of(1_000, 1_000))
    usages = await platform.value("SELECT count(*) FROM metering.usage_records WHERE captured_before IS NOT NULL")
    assert isinstance(usages, int)
    assert 0 < usages <= CALLS


async def test_the_same_part_sent_many_times_at_once_is_one_part(
    platform: Platform, metering: Metering, other: Metering, organization_id: str
) -> None:
    await Call(metering, organization_id).authorize()
    sent = [Call(server, organization_id).part(1_000, 100) for server in (metering, other) for _ in range(15)]

    answers = await asyncio.gather(*sent)

    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 29
    assert {captured(answer) for answer in answers} == {"0.0035"}
    await Call(other, organization_id).last(1_000, 100)
    await assert_spent(platform, organization_id, Decimal("0.0035"))


async def test_part_and_usage_are_charged_once_though_the_process_ends_before_billing_is_asked(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    call = Call(metering, organization_id)
    await call.authorize()
    await platform.stop_billing()
    part = await call.part(1_000, 100)
    assert (part.usage.settlement, captured(part), part.HasField("balance")) == (PENDING, "0.0035", False)
    assert (await call.part(1_000, 100)).usage.settlement == PENDING
    await platform.stop_metering()

    call.metering = await platform.start_metering()
    last = await call.last(1_000, 200)
    assert (last.usage.settlement, captured(last)) == (PENDING, "0.0045")
    await platform.stop_metering()
    await platform.start_billing()
    call.metering = await platform.start_metering()
    await assert_spent(platform, organization_id, Decimal("0.0045"))
    assert (await call.part(1_000, 100)).usage.settlement == SETTLED
    assert (await call.hold(platform)).state == ledger_pb2.HOLD_STATE_CAPTURED


async def test_last_settlement_that_reaches_billing_before_the_parts_leaves_them_their_charges(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    call = Call(metering, organization_id)
    await call.authorize()
    await platform.stop_billing()
    await call.part(1_000, 100)
    await call.part(1_000, 200)
    call.metering = await put_off_charges(platform)
    await platform.start_billing()
    await call.last(1_000, 300)
    await eventually(lambda: call.hold(platform), lambda hold: hold.state == ledger_pb2.HOLD_STATE_CAPTURED)
    assert Decimal(100) - await platform.posted(organization_id) == Decimal("0.001")

    await platform.execute("UPDATE metering.outbox SET next_attempt_time = now()")
    await assert_spent(platform, organization_id, Decimal("0.0055"))


async def test_part_whose_confirmation_was_lost_is_not_charged_twice(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    held, never_held = Call(metering, organization_id), Call(metering, organization_id, "never-held")
    await held.authorize()
    await never_held.authorize(model="free")
    await held.part(1_000, 100)
    assert captured(await never_held.part(1_000, 100)) == "0.0035"
    await platform.settled()
    await platform.execute(
        "INSERT INTO metering.outbox (organization_id, operation_id, kind, state, amount, currency_code, description,"
        " attempt_count, next_attempt_time, create_time, hold_operation_id)"
        " SELECT organization_id, part_id, 'CAPTURE', 'PENDING', amount, currency_code, model, 0, now(), now(),"
        " operation_id FROM metering.settlement_parts"
    )
    await platform.settled()

    await held.last(1_000, 100)
    await never_held.last(1_000, 100)
    await assert_spent(platform, organization_id, Decimal("0.007"))


async def test_connections_that_break_lose_and_double_no_part(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    calls = [Call(metering, organization_id, f"call-{number}") for number in range(6)]
    for call in calls:
        await call.authorize()

    async def break_connections() -> int:
        connection = await asyncpg.connect(plain_url(platform.admin_url))
        broken = 0
        for _ in range(15):
            await asyncio.sleep(random.uniform(0.02, 0.2))
            broken += await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = 'tollhouse_metering'"
            )
        await connection.close()
        return broken

    async def insist(call: Call, made: int, *, last: bool) -> None:
        async def settle() -> str:
            return await reason(call.settle(1_000, made, last=last))

        end = await eventually(settle, lambda end: end in ("", "BELOW_EARLIER_PART"))
        assert not (last and end)

    breaking = asyncio.create_task(break_connections())
    made = 0
    while not breaking.done():
        made += 1
        await asyncio.gather(*(insist(call, made, last=False) for call in calls))
    assert await breaking > 0
    await asyncio.gather(*(insist(call, 100_000, last=True) for call in calls))
    await assert_spent(platform, organization_id, 6 * cost_of(1_000, 100_000))


async def test_a_call_with_many_parts_holds_up_no_other_settlement_of_its_batch(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """Finals of calls in parts, plain ones, repeats and contradictions share a batch; each has its own outcome."""
    for number in range(20):
        call = Call(metering, organization_id, f"call-{number}")
        await call.authorize()
        if number % 2:
            await call.part(1_000, 100)
    batch = [settlement(organization_id, f"call-{number}") for number in range(20)]
    batch += [settlement_of(organization_id, "call-1", 1_000, 100, last=True), settlement(new_id(), "call-1")]
    batch[3].tokens.output = 99

    outcomes = await metering.settle_batch(batch)

    ends = [one.settled.usage.cost.value if one.HasField("settled") else "refused" for one in outcomes]
    # One says less than its part, and one is of an organization that nobody knows.
    assert ends == ["refused" if place in (3, 21) else "0.0035" for place in range(22)]
    assert [one.settled.HasField("captured_amount") for one in outcomes[:20]] == [
        bool(number % 2) and number != 3 for number in range(20)
    ]
    await Call(metering, organization_id, "call-3").last(1_000, 100)
    await platform.settled()
    assert Decimal(100) - await platform.posted(organization_id) == 20 * Decimal("0.0035")
    assert await metering.findings() == []
