"""A limit holds exactly, and an operation is allocated once, whatever happens at once and whatever breaks off."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime, timedelta
from typing import Final

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info, reason_of
from services.metering.quota.domain import Window
from tests.metering.allocations.support import (
    ADJUST_ONLY,
    BEST_EFFORT,
    Limits,
    allocate,
    allocated,
    assert_counters_are_allocations,
    at_the_start_of_a_minute,
    request_of,
    standing,
    state,
    stub,
    total,
)
from tests.metering.support import Metering, Platform, eventually
from tests.support.clock import ShiftedClock
from tollhouse.metering.v1 import quota_pb2 as pb

pytestmark = pytest.mark.own_database

PROCESSES: Final = 4


@pytest.fixture
async def servers(platform: Platform, metering: Metering) -> AsyncIterator[list[Metering]]:
    """Four processes' worth of metering."""
    others = [await platform.start_metering() for _ in range(PROCESSES - 1)]
    yield [metering, *others]
    # The platform stops the one that it started last.
    for server in (metering, *others[:-1]):
        await server.service.stop(0)


async def outcome(call: Awaitable[pb.AllocateQuotaResponse]) -> str:
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    return "replayed" if answer.replayed else "allocated" if answer.allocated else "refused"


async def test_thousand_at_once_against_five_hundred_from_four_processes_take_exactly_five_hundred(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "500", name="hot")
    await limits.set(organization_id, "600", name="wide", window=Window.DAY)

    outcomes = await asyncio.gather(
        *(outcome(allocate(servers[n % PROCESSES], organization_id, {"requests": "1"})) for n in range(1_000))
    )

    assert Counter(outcomes) == {"allocated": 500, "refused": 500}
    assert await state(servers[0], organization_id, "hot") == ("500", "0", "0")
    assert await state(servers[1], organization_id, "wide") == ("500", "0", "100")
    await assert_counters_are_allocations(platform)


async def test_limit_that_two_fit_into_lets_two_of_fifty_at_once_through_and_the_other_counts_two(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    """Acceptance case 18."""
    await limits.set(organization_id, "100", name="a")
    await limits.set(organization_id, "2", name="b")

    outcomes = await asyncio.gather(
        *(outcome(allocate(servers[n % PROCESSES], organization_id, {"requests": "1"})) for n in range(50))
    )

    assert Counter(outcomes) == {"allocated": 2, "refused": 48}
    assert (await state(servers[0], organization_id, "a"))[0] == "2"
    await assert_counters_are_allocations(platform)


async def test_best_effort_at_once_gives_everything_that_is_left_and_no_more(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "100", name="hundred")

    answers = await asyncio.gather(
        *(allocate(servers[n % PROCESSES], organization_id, {"requests": "7"}, mode=BEST_EFFORT) for n in range(40))
    )

    given = [int(allocated(answer).get("requests", "0")) for answer in answers]
    assert sum(given) == 100
    assert Counter(given) == {7: 14, 2: 1, 0: 25}
    await assert_counters_are_allocations(platform)


async def test_sliding_window_holds_while_its_steps_go_by(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "60", name="minute", window=Window.MINUTE, sliding=True)

    async def send(server: Metering) -> list[str]:
        outcomes = []
        for _ in range(60):
            outcomes.append(await outcome(allocate(server, organization_id, {"requests": "1"})))
            await asyncio.sleep(0.03)
        return outcomes

    outcomes = await asyncio.gather(*(send(servers[n % PROCESSES]) for n in range(8)))

    assert Counter(one for each in outcomes for one in each) == {"allocated": 60, "refused": 420}
    await assert_counters_are_allocations(platform)


async def test_allocation_that_waits_while_a_sliding_window_moves_counts_in_the_later_step(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    await limits.set(organization_id, "10", name="ten", window=Window.MINUTE, sliding=True)
    await allocate(metering, organization_id, {"requests": "1"})

    async with limits.shards.of(organization_id).raw_transaction() as connection:
        await connection.execute("SELECT FROM limit_counters FOR UPDATE")
        waiting = asyncio.ensure_future(allocate(metering, organization_id, {"requests": "1"}))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        clock.advance(timedelta(seconds=5))
        moved = clock.now()

    assert (await waiting).allocated
    latest = await platform.value("SELECT max(window_start) FROM metering.limit_counters WHERE used > 0")
    assert isinstance(latest, datetime)
    assert latest > moved - timedelta(seconds=1)


@pytest.mark.parametrize("is_limited", [True, False])
async def test_same_operation_at_once_from_four_processes_takes_once(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str, is_limited: bool
) -> None:
    if is_limited:
        await limits.set(organization_id, "30", name="thirty")
    for server in servers:
        # It knows the limits now, so that all of them meet in the database.
        await allocate(server, organization_id, {"requests": "0"})
    names = [f"same-{number}" for number in range(30)]

    async def send(name: str) -> list[str]:
        return await asyncio.gather(
            *(outcome(allocate(server, organization_id, {"requests": "1"}, name)) for server in servers for _ in (1, 2))
        )

    outcomes = await asyncio.gather(*map(send, names))

    assert {tuple(sorted(each)) for each in outcomes} == {("allocated", *["replayed"] * (2 * PROCESSES - 1))}
    stored = "SELECT count(*) FROM metering.quota_allocations WHERE operation_id LIKE 'same-%'"
    assert await platform.value(stored) == len(names)
    assert await total(platform) == ("30" if is_limited else "0")
    await assert_counters_are_allocations(platform)


async def test_same_operation_at_once_with_other_fields_takes_one_of_them(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "100", name="hundred")

    outcomes = await asyncio.gather(
        *(
            outcome(allocate(servers[n % PROCESSES], organization_id, {"requests": str(n // 8 + 1)}, "same"))
            for n in range(40)
        )
    )

    assert Counter(outcomes) == {"allocated": 1, "replayed": 7, "OPERATION_ID_REUSED": 32}
    await assert_counters_are_allocations(platform)


async def test_repeat_gets_the_stored_answer_and_the_limits_as_they_are_now(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "10", name="ten")
    amounts = {"requests": "8", "USD": "1.50"}
    first = await allocate(metering, organization_id, amounts, "op", mode=BEST_EFFORT)
    await allocate(metering, organization_id, {"requests": "2"})

    again = await allocate(metering, organization_id, amounts | {"USD": "1.5"}, "op", mode=BEST_EFFORT)

    assert (again.allocated, again.replayed) == (True, True)
    assert again.allocated_amounts == first.allocated_amounts
    assert (standing(first, "ten"), standing(again, "ten")) == (("8", "0", "2"), ("10", "0", "0"))


async def test_refusal_is_not_stored(metering: Metering, limits: Limits, organization_id: str) -> None:
    await limits.set(organization_id, "1", name="one")

    assert not (await allocate(metering, organization_id, {"requests": "2"}, "op")).allocated
    other = await allocate(metering, organization_id, {"requests": "1"}, "op")
    assert (other.allocated, other.replayed) == (True, False)


async def test_operation_id_with_other_fields_is_refused_and_the_field_is_named(
    metering: Metering, organization_id: str
) -> None:
    some_id = new_id()
    request = request_of(organization_id, {"requests": "1", "concurrent_calls": "1"}, "op")
    await stub(metering).AllocateQuota(request, metadata=metering.gateway)
    changes: dict[str, dict[str, object]] = {
        **{
            name: {name: some_id}
            for name in ("project_id", "user_id", "service_account_id", "api_key_id", "subscription_id")
        },
        "amounts": {"amounts": [pb.QuotaAmount(metric="items", value="1")]},
        "mode": {"mode": ADJUST_ONLY},
        "model": {"model": "gpt-4o"},
        "provider": {"provider": "x"},
        "labels": {"labels": {"a": "b"}},
        "lease_ttl": {"lease_ttl": timedelta(seconds=601)},
    }
    for field, change in changes.items():
        other = pb.AllocateQuotaRequest()
        other.CopyFrom(request)
        other.MergeFrom(pb.AllocateQuotaRequest(**change))  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub(metering).AllocateQuota(other, metadata=metering.gateway)
        assert reason_of(error.value) == "OPERATION_ID_REUSED"
        info = error_info(error.value)
        assert info is not None
        assert info.metadata["field"] == field

    # What is said in other words is the same request.
    request.lease_ttl.FromTimedelta(timedelta(minutes=10))
    request.mode = pb.ALLOCATION_MODE_UNSPECIFIED
    request.organization_id = request.organization_id.upper()
    request.amounts[0].value = "1.000"
    assert (await stub(metering).AllocateQuota(request, metadata=metering.gateway)).replayed


async def test_call_that_breaks_off_is_allocated_once_when_it_is_repeated(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "1000", name="thousand")
    names = [f"op-{number}" for number in range(60)]

    async def break_off(number: int, name: str) -> None:
        call = stub(metering).AllocateQuota(
            request_of(organization_id, {"requests": "1"}, name),
            metadata=metering.gateway,
            timeout=0.001 if number % 2 else 30,
        )
        if number % 2 == 0:
            await asyncio.sleep(number / 10_000)
            call.cancel()
        try:
            await call
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass

    await asyncio.gather(*(break_off(number, name) for number, name in enumerate(names)))
    answers = await asyncio.gather(*(allocate(metering, organization_id, {"requests": "1"}, name) for name in names))

    assert all(answer.allocated for answer in answers)
    assert await state(metering, organization_id, "thousand") == ("60", "0", "940")
    await assert_counters_are_allocations(platform)


async def test_allocations_go_on_after_the_connections_to_the_database_were_cut(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    clock.advance(at_the_start_of_a_minute(clock))
    await limits.set(organization_id, "100", name="hundred")
    names = [f"op-{number}" for number in range(200)]

    async def keep_trying(name: str) -> str:
        return await eventually(
            lambda: outcome(allocate(metering, organization_id, {"requests": "1"}, name)),
            lambda found: found in ("allocated", "refused", "replayed"),
        )

    async def cut() -> None:
        for _ in range(5):
            await asyncio.sleep(0.05)
            await platform.value(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'tollhouse_metering'"
                " AND datname = current_database()"
            )

    outcomes, _ = await asyncio.gather(asyncio.gather(*(keep_trying(name) for name in names)), cut())

    counted = Counter(outcomes)
    assert counted["allocated"] + counted["replayed"] == 100
    assert counted["refused"] == 100
    assert (await state(metering, organization_id, "hundred"))[0] == "100"
    await assert_counters_are_allocations(platform)
