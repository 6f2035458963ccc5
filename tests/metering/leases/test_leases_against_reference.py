"""Leases that are acquired, settled, shuffled, repeated, late and forgotten do what a plain reference model says."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Final, TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from libs.common.ids import new_id
from libs.common.status import reason_of
from tests.metering.allocations.support import BEST_EFFORT, NORMAL, Limits, state
from tests.metering.leases.processes import servers_of
from tests.metering.leases.support import (
    COST,
    acquire,
    assert_consistent,
    balance,
    left,
    outcomes,
    reason,
    settle,
    taken,
)
from tests.metering.support import Metering, Platform, eventually, usage
from tests.support.clock import ShiftedClock

pytestmark = [pytest.mark.shards, pytest.mark.filterwarnings("ignore:Do not use the `random` module")]

_T = TypeVar("_T")
FUNDS: Final = Decimal("0.1")
REQUESTS: Final = Decimal(20)
TTL: Final = timedelta(seconds=20)
LEASE: Final = st.sampled_from([f"lease-{number}" for number in range(6)])
SERVER: Final = st.integers(0, 1)
USAGES: Final = st.lists(st.sampled_from([f"call-{number}" for number in range(14)]), max_size=6)


@dataclass
class Lease:
    """A lease of the reference."""

    requests: Decimal
    money: Decimal
    mode: int
    asked: tuple[int, str]
    end: timedelta
    used: int = 0
    reserved: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    is_settled: bool = False
    is_lapsed: bool = False
    is_declined: bool = False

    @property
    def is_open(self) -> bool:
        return not (self.is_settled or self.is_lapsed or self.is_declined)


@dataclass
class Model:
    """What an organization has: one limit of requests, some money, leases and usages."""

    now: timedelta = timedelta(0)
    leases: dict[str, Lease] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)

    @property
    def reserved(self) -> Decimal:
        return sum((one.reserved for one in self.leases.values() if one.is_open), Decimal(0))

    @property
    def held(self) -> Decimal:
        return sum((one.held for one in self.leases.values() if one.is_open), Decimal(0))

    @property
    def posted(self) -> Decimal:
        return FUNDS - len(self.recorded) * COST

    def acquire(self, name: str, requests: int, money: str, mode: int) -> tuple[object, ...]:
        before = self.leases.get(name)
        if before is not None:
            if (before.asked, before.mode) != ((requests, money), mode):
                return ("OPERATION_ID_REUSED",)
            if before.is_declined:
                return ("INSUFFICIENT_BALANCE",)
            return ("ok", before.requests, before.money) if before.is_open else ("AUTHORIZATION_ENDED",)
        rest = max(REQUESTS - len(self.recorded) - self.reserved, Decimal(0))
        given = Decimal(requests)
        if given > rest:
            # Money has no limit, so BEST_EFFORT always has something to give.
            if mode == NORMAL:
                return ("LIMIT_EXCEEDED",)
            given = rest
        lease = Lease(given, Decimal(money), mode, (requests, money), self.now + TTL)
        self.leases[name] = lease
        if lease.money > self.posted - self.held:
            lease.is_declined = True
            return ("INSUFFICIENT_BALANCE",)
        lease.reserved, lease.held = lease.requests, lease.money
        return ("ok", lease.requests, lease.money)

    def settle(self, name: str, usages: list[str], final: bool) -> tuple[object, ...]:
        lease = self.leases.get(name)
        if lease is None:
            return ("NOT_FOUND",)
        told = []
        for one in usages:
            told.append("replayed" if one in self.recorded else "recorded")
            if one not in self.recorded:
                self.recorded.add(one)
                lease.used += 1
                lease.reserved = max(lease.reserved - 1, Decimal(0))
                lease.held = max(lease.held - COST, Decimal(0))
        if final and lease.is_open:
            lease.is_settled = True
        if lease.is_declined:
            return (told, {})
        spent = lease.used * COST
        amounts = {
            "requests": (Decimal(lease.used), max(lease.requests - lease.used, Decimal(0))),
            "USD": (spent, max(lease.money - spent, Decimal(0))),
        }
        return (told, amounts)

    def wait(self, time: timedelta) -> None:
        self.now += time
        for lease in self.leases.values():
            if lease.is_open and lease.end <= self.now:
                lease.is_lapsed = True


class LeaseMachine(RuleBasedStateMachine):
    """Sends everything to one of two servers and to the reference, and compares answers, counters and money."""

    loop: asyncio.AbstractEventLoop
    platform: Platform
    limits: Limits
    clock: ShiftedClock
    servers: list[Metering]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.organization_id = new_id()
        self.run(self.limits.set(self.organization_id, str(REQUESTS), name="requests"))
        self.run(self.platform.fund(self.organization_id, str(FUNDS)))

    def run(self, call: Coroutine[object, object, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(60)

    @rule(
        name=LEASE,
        requests=st.sampled_from([1, 5, 12, 30]),
        money=st.sampled_from(["0.004", "0.03", "0.06"]),
        mode=st.sampled_from([NORMAL, BEST_EFFORT]),
        server=SERVER,
    )
    def acquire(self, name: str, requests: int, money: str, mode: int, server: int) -> None:
        async def call() -> tuple[object, ...]:
            amounts = {"requests": str(requests), "USD": money}
            answer = await acquire(
                self.servers[server], self.organization_id, amounts, name, mode=mode, ttl_s=TTL.total_seconds()
            )
            if not answer.acquired:
                return (reason(answer.denial),)
            given = taken(answer)
            return ("ok", Decimal(given["requests"]), Decimal(given["USD"]))

        expected = self.model.acquire(name, requests, money, mode)
        assert self.run(_answer(call())) == expected

    @rule(name=LEASE, usages=USAGES, final=st.sampled_from([False, False, True]), server=SERVER)
    def settle(self, name: str, usages: list[str], final: bool, server: int) -> None:
        async def call() -> tuple[object, ...]:
            sent = [usage(self.organization_id, one) for one in usages]
            answer = await settle(self.servers[server], self.organization_id, name, sent, final=final)
            amounts = {key: (Decimal(used), Decimal(rest)) for key, (used, rest, _) in left(answer).items()}
            return (outcomes(answer), amounts)

        expected = self.model.settle(name, usages, final)
        assert self.run(_answer(call())) == expected

    @rule(seconds=st.sampled_from([7, 21]))
    def wait(self, seconds: int) -> None:
        """Let time pass; what has ended then is given back by the processes' own sweeps."""
        self.clock.advance(timedelta(seconds=seconds))
        self.model.wait(timedelta(seconds=seconds))
        expected = (str(len(self.model.recorded)), str(self.model.reserved))

        async def given_back() -> None:
            await eventually(
                lambda: state(self.servers[0], self.organization_id, "requests"), lambda one: one[:2] == expected
            )

        self.run(given_back())

    @invariant()
    def counters_and_money_agree(self) -> None:
        used, reserved, _ = self.run(state(self.servers[1], self.organization_id, "requests"))
        assert (Decimal(used), Decimal(reserved)) == (Decimal(len(self.model.recorded)), self.model.reserved)
        posted, held, available = self.run(balance(self.platform, self.organization_id))
        assert (posted, held) == (self.model.posted, self.model.held)
        assert available == posted - held


async def _answer(call: Coroutine[object, object, tuple[object, ...]]) -> tuple[object, ...]:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return (reason_of(error),)


async def test_leases_do_what_the_reference_says(platform: Platform, limits: Limits, clock: ShiftedClock) -> None:
    running = asyncio.get_running_loop()
    async with servers_of(platform, 2) as found:

        class Machine(LeaseMachine):
            loop = running

        Machine.platform, Machine.limits, Machine.clock, Machine.servers = platform, limits, clock, found
        chosen = settings(
            max_examples=15,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=chosen)
        await assert_consistent(platform)
