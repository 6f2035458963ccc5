"""Settlements, lapses and dying processes in any order: each reservation goes once, and each usage counts once."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.database_url import plain_url
from libs.common.ids import new_id
from services.metering.quota import counter_store
from services.metering.quota.domain import Window
from tests.metering.leases.processes import process
from tests.metering.limits.settling import ZERO, Limits, limits_of, of, processes, settling
from tests.metering.support import Metering, Platform, eventually, usage

TOKENS = of("total_tokens", Window.DAY)
CONCURRENT = of("concurrent_calls", Window.NONE)

pytestmark = [pytest.mark.own_database, pytest.mark.usefixtures("patient_locks"), pytest.mark.shards]


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as found:
        yield found


@pytest.mark.parametrize("seed", range(3))
async def test_settlements_and_lapses_at_once_give_each_reservation_back_once(
    platform: Platform, limits: Limits, organization_id: str, seed: int
) -> None:
    chance = random.Random(seed)
    used, calls = await limits.set(organization_id, TOKENS), await limits.set(organization_id, CONCURRENT)
    names = [f"call-{number}" for number in range(60)]
    for name in names:
        await limits.authorize(organization_id, name, {used: 100, calls: 1})

    async with processes(platform, 2) as servers:

        async def settle(name: str) -> None:
            await asyncio.sleep(chance.uniform(0, 0.3))
            await chance.choice(servers).settle(settling(organization_id, name, 30))

        at_once = asyncio.Semaphore(4)

        async def give_back(some: list[str]) -> None:
            await asyncio.sleep(chance.uniform(0, 0.3))
            async with at_once:
                await limits.give_back(organization_id, some)

        lapses = [chance.sample(names, 7) for _ in range(20)]
        await asyncio.gather(*map(settle, names * 2), *map(give_back, lapses))

    assert await limits.counted(organization_id, used) == (60 * 30, ZERO)
    assert await limits.counted(organization_id, calls) == (ZERO, ZERO)


@pytest.mark.parametrize("settles_first", [True, False])
async def test_either_order_of_a_settlement_and_a_lapse_under_the_same_locks_gives_back_once(
    platform: Platform,
    metering: Metering,
    limits: Limits,
    organization_id: str,
    settles_first: bool,
) -> None:
    used = await limits.set(organization_id, TOKENS)
    (place,) = await limits.authorize(organization_id, "call-1", {used: 100})
    key = (organization_id, place.counter.counter_id)
    settle = metering.settle(settling(organization_id, "call-1", 30))
    give_back = limits.give_back(organization_id, ["call-1"])
    async with limits.database(organization_id).raw_transaction() as connection:
        # Both wait for the counter then, in this order.
        await counter_store.lock(connection, [key])
        tasks = []
        for waiting, call in enumerate((settle, give_back) if settles_first else (give_back, settle), start=1):
            tasks.append(asyncio.create_task(_run(call)))
            await _until_waiting(platform, waiting)
    await asyncio.gather(*tasks)
    assert await limits.counted(organization_id, used) == (30, ZERO)


async def test_call_authorized_while_its_usage_is_recorded_keeps_no_reservation(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS)
    (place,) = await limits.authorize(organization_id, "other", {used: 1})
    key = (organization_id, place.counter.counter_id)
    async with limits.database(organization_id).raw_transaction() as connection:
        await counter_store.lock(connection, [key])
        recording = asyncio.create_task(metering.record(usage(organization_id, "call-1")))
        await _until_waiting(platform, 1)
        # What the recording has not seen when it began.
        change = {key: counter_store.Change(ZERO, Decimal(50))}
        await counter_store.add(connection, change)
        await connection.execute(
            "INSERT INTO authorizations (organization_id, operation_id, fingerprint, model, input_tokens,"
            " max_output_tokens, hold_ttl_ms, price_version_id, currency_code, amount, create_time, counters, reserved)"
            " SELECT organization_id, 'call-1', '', model, 0, 0, 0, price_version_id, currency_code, 0, create_time,"
            " counters, ARRAY[50]::numeric[] FROM authorizations WHERE organization_id = $1 AND operation_id = 'other'",
            organization_id,
        )
    await recording
    assert await limits.counted(organization_id, used) == (1_100, 1)


@pytest.mark.parametrize("point", ["limit_counters", "lapse_checks"])
@pytest.mark.parametrize("last", [False, True])
async def test_settlement_whose_connection_dies_between_its_statements_counts_once(
    platform: Platform,
    metering: Metering,
    limits: Limits,
    organization_id: str,
    point: str,
    last: bool,
) -> None:
    """The usage is written, and the settlement waits for the counters or for what looks for lapses."""
    used = await limits.set(organization_id, TOKENS)
    await limits.authorize(organization_id, "call-1", {used: 100})
    if last:
        await metering.settle(settling(organization_id, "call-1", 10, final=False))
    lock = f"SELECT FROM {point} WHERE organization_id = $1 FOR UPDATE"
    async with limits.database(organization_id).raw_transaction() as connection:
        await connection.execute(lock, organization_id)
        settlement = asyncio.create_task(_outcome(metering.settle(settling(organization_id, "call-1", 30))))
        await _until_waiting(platform, 1, terminate=True)
    await settlement
    await metering.settle(settling(organization_id, "call-1", 30))

    assert await limits.counted(organization_id, used) == (30, ZERO)
    assert await platform.value("SELECT count(*) FROM metering.lapse_checks") == 0


@pytest.mark.timeout(60)
async def test_process_killed_while_it_counts_leaves_nothing_of_a_settlement_which_counts_once_when_repeated(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, TOKENS)
    await limits.authorize(organization_id, "call-1", {used: 100})
    lock = "SELECT FROM limit_counters WHERE organization_id = $1 FOR UPDATE"
    async with process(platform) as (server, pid), limits.database(organization_id).raw_transaction() as connection:
        await connection.execute(lock, organization_id)
        settlement = asyncio.create_task(_outcome(server.settle(settling(organization_id, "call-1", 30))))
        await _until_waiting(platform, 1)
        os.kill(pid, signal.SIGKILL)
        assert isinstance(await settlement, grpc.aio.AioRpcError)
        assert await limits.counted(organization_id, used) == (ZERO, 100)
    await metering.settle(settling(organization_id, "call-1", 30))
    assert await limits.counted(organization_id, used) == (30, ZERO)


@dataclass
class Call:
    """What happens to a call; amounts are in tokens."""

    reserved: int | None
    """None where it is not authorized."""
    used: int
    days_ago: int
    """When it was authorized, or else when it occurred."""
    settles: bool
    lapses: bool


CALL = st.builds(
    Call,
    reserved=st.none() | st.integers(0, 50),
    used=st.integers(1, 60),
    days_ago=st.integers(0, 1),
    settles=st.booleans(),
    lapses=st.booleans(),
)


async def test_shuffled_repeated_and_rebatched_settlements_end_in_the_counters_of_a_plain_model(
    platform: Platform, limits: Limits
) -> None:
    loop = asyncio.get_running_loop()
    async with processes(platform, 2) as servers:

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(calls=st.lists(CALL, min_size=1, max_size=12), seed=st.integers(0, 2**32))
        def run(calls: list[Call], seed: int) -> None:
            done = _deliver(limits, servers, calls, random.Random(seed))
            asyncio.run_coroutine_threadsafe(done, loop).result(60)

        await asyncio.to_thread(run)


async def _deliver(limits: Limits, servers: list[Metering], calls: list[Call], chance: random.Random) -> None:
    """Send what happens to calls in some order, again and again, in some batches, to both servers at once."""
    organization_id = new_id()
    used = await limits.set(organization_id, TOKENS)
    now = datetime.now(UTC)
    moments = [now - timedelta(days=call.days_ago) for call in calls]
    for number, call in enumerate(calls):
        if call.reserved is not None:
            await limits.authorize(organization_id, f"call-{number}", {used: call.reserved}, at=moments[number])
    sent = []
    for number, call in enumerate(calls):
        if call.settles:
            request = settling(organization_id, f"call-{number}", call.used)
            request.occur_time.FromDatetime(moments[number])
            sent += [request] * chance.randint(1, 3)
    chance.shuffle(sent)
    steps: list[Coroutine[object, object, object]] = []
    while sent:
        size = chance.randint(1, 8)
        steps.append(chance.choice(servers).settle_batch(sent[:size]))
        sent = sent[size:]
    lapsed = [f"call-{number}" for number, call in enumerate(calls) if call.lapses]
    steps += [limits.give_back(organization_id, lapsed) for _ in range(2) if lapsed]
    chance.shuffle(steps)
    while steps:
        together = chance.randint(1, 4)
        await asyncio.gather(*steps[:together])
        steps = steps[together:]

    expected: dict[datetime, Decimal] = {}
    reserved = ZERO
    for call, moment in zip(calls, moments, strict=True):
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        if call.settles or call.reserved is not None:
            expected[day] = expected.get(day, ZERO) + (call.used if call.settles else 0)
        if call.reserved is not None and not call.settles and not call.lapses:
            reserved += call.reserved
    assert await limits.windows(organization_id, used) == expected
    assert (await limits.counted(organization_id, used))[1] == reserved


async def _run(call: Coroutine[object, object, object]) -> None:
    await call


async def _outcome(call: Awaitable[object]) -> object:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error


async def _until_waiting(platform: Platform, count: int, *, terminate: bool = False) -> None:
    """Return when so many statements wait for a lock; end their sessions if told so."""
    query = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        await eventually(lambda: connection.fetchval(f"SELECT count(*) {query}"), lambda found: found >= count)
        if terminate:
            await connection.execute(f"SELECT pg_terminate_backend(pid) {query}")
    finally:
        await connection.close()
