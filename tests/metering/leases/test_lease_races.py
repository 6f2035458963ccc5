"""Limits and money hold exactly, whatever is acquired, settled and ended at once, through four processes."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import reason_of
from services.metering.quota.domain import Scope
from tests.metering.allocations.support import BEST_EFFORT, Limits, allocate, state
from tests.metering.leases.processes import servers_of
from tests.metering.leases.support import (
    COST,
    acquire,
    assert_consistent,
    balance,
    outcomes,
    settle,
    taken,
)
from tests.metering.support import Metering, Platform, eventually, settlement, usage
from tests.metering.test_admission import ask
from tests.support.clock import ShiftedClock
from tollhouse.metering.v1 import lease_pb2 as pb

PROCESSES: Final = 4

pytestmark = [pytest.mark.timeout(120), pytest.mark.shards]


@pytest.fixture
async def servers(platform: Platform) -> AsyncIterator[list[Metering]]:
    async with servers_of(platform, PROCESSES) as found:
        yield found


async def _acquired(call: Awaitable[pb.AcquireLeaseResponse]) -> str:
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    return "replayed" if answer.acquired and answer.replayed else "acquired" if answer.acquired else "refused"


async def test_leases_at_once_take_everything_that_limits_leave_and_no_more(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "1000")
    await limits.set(organization_id, "500", name="requests")

    answers = await asyncio.gather(
        *(
            acquire(servers[n % PROCESSES], organization_id, {"requests": "7", "USD": "1"}, mode=BEST_EFFORT)
            for n in range(120)
        )
    )

    given = [int(taken(answer)["requests"]) for answer in answers if answer.acquired]
    assert sum(given) == 500
    assert await state(servers[0], organization_id, "requests") == ("0", "500", "0")
    # Where nothing is left of requests, BEST_EFFORT still takes the money.
    held = sum(Decimal(answer.held_amount.value) for answer in answers if answer.acquired)
    assert (await balance(platform, organization_id))[1] == held
    await assert_consistent(platform)


async def test_leases_at_once_hold_no_more_than_is_available(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "1000", name="requests")

    got = await asyncio.gather(
        *(
            _acquired(acquire(servers[n % PROCESSES], organization_id, {"requests": "1", "USD": "0.3"}))
            for n in range(60)
        )
    )

    assert Counter(got) == {"acquired": 33, "refused": 27}
    assert await balance(platform, organization_id) == (Decimal(10), Decimal("9.9"), Decimal("0.1"))
    assert await state(servers[0], organization_id, "requests") == ("0", "33", "967")
    await assert_consistent(platform)


async def test_same_lease_at_once_from_four_processes_is_acquired_once(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "100", name="requests")

    got = await asyncio.gather(
        *(
            _acquired(acquire(servers[n % PROCESSES], organization_id, {"requests": "10", "USD": "1"}, f"s{n % 5}"))
            for n in range(40)
        )
    )

    assert Counter(got) == {"acquired": 5, "replayed": 35}
    assert await state(servers[0], organization_id, "requests") == ("0", "50", "50")
    assert (await balance(platform, organization_id))[1] == 5


async def test_shuffled_repeated_and_rebatched_settlements_at_once_end_in_the_same_counters_and_money(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "100")
    await limits.set(organization_id, "1000", name="requests")
    await limits.set(organization_id, "1000000", "total_tokens", name="tokens")
    await limits.set(organization_id, "50", "spend", currency_code="USD", name="money")
    for name in ("first", "second"):
        await acquire(servers[0], organization_id, {"requests": "50", "USD": "0.1"}, name)
    chance = random.Random(11)
    usages = [usage(organization_id, f"call-{number}", user_id=new_id()) for number in range(60)]
    sent = [one for one in usages for _ in range(3)]
    chance.shuffle(sent)
    calls = []
    while sent:
        size = chance.randint(1, 12)
        final = chance.random() < 0.2
        lease = chance.choice(["first", "second"])
        calls.append(settle(chance.choice(servers), organization_id, lease, sent[:size], final=final))
        sent = sent[size:]

    answers = await asyncio.gather(*calls)
    for name in ("first", "second"):
        await settle(servers[1], organization_id, name)

    told = Counter(one for answer in answers for one in outcomes(answer))
    assert told == {"recorded": 60, "replayed": 120}
    assert await state(servers[0], organization_id, "requests") == ("60", "0", "940")
    assert (await state(servers[0], organization_id, "tokens"))[:2] == ("66000", "0")
    assert (await state(servers[0], organization_id, "money"))[:2] == ("0.21", "0")
    await platform.settled()
    assert await balance(platform, organization_id) == (100 - 60 * COST, Decimal(0), 100 - 60 * COST)
    await assert_consistent(platform)


async def _at_once(
    platform: Platform, servers: Sequence[Metering], organization_id: str, number: int, user_id: str
) -> None:
    """Do everything that counts in limits, once."""
    server = servers[number % PROCESSES]
    lease_id = f"slice-{number}"
    await asyncio.gather(
        acquire(server, organization_id, {"requests": "5", "USD": "0.05"}, lease_id, ttl_s=5 if number % 3 else 60),
        allocate(server, organization_id, {"requests": "1", "concurrent_calls": "1"}, lease_ttl=None),
        server.authorize(ask(organization_id, f"call-{number}")),
        server.record(usage(organization_id, user_id=user_id)),
    )
    usages = [usage(organization_id, f"{lease_id}-{n}", user_id=user_id) for n in range(3)]
    await asyncio.gather(
        settle(server, organization_id, lease_id, usages, final=bool(number % 2)),
        settle(servers[(number + 1) % PROCESSES], organization_id, lease_id, usages[::-1], final=False),
        server.settle(settlement(organization_id, f"call-{number}")),
    )


async def test_everything_at_once_ends_without_deadlocks_in_exact_counters(
    platform: Platform, servers: list[Metering], limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    user_id = new_id()
    await platform.fund(organization_id, "100")
    for name, metric in (("requests", "requests"), ("places", "concurrent_calls"), ("tokens", "total_tokens")):
        await limits.set(organization_id, "10000000", metric, name=name)
    await limits.set(organization_id, "10000", name="each", scope=Scope.USER)
    await limits.set(organization_id, "1000", "spend", currency_code="USD", name="money")

    work = asyncio.gather(*(_at_once(platform, servers, organization_id, number, user_id) for number in range(24)))
    for _ in range(6):
        await asyncio.sleep(0.4)
        clock.advance(timedelta(seconds=3))
    await work
    clock.advance(timedelta(seconds=1000))

    # 24 each of allocations, authorized calls and recorded ones, and three usages of each lease.
    await eventually(lambda: state(servers[0], organization_id, "requests"), lambda one: one[:2] == ("144", "0"))
    await platform.settled()
    assert (await balance(platform, organization_id))[0] == 100 - 120 * COST
    assert (await state(servers[0], organization_id, "money"))[:2] == ("0.42", "0")
    await eventually(lambda: platform.value("SELECT count(*) FROM metering.quota_leases"), lambda found: found == 0)
    await assert_consistent(platform)
