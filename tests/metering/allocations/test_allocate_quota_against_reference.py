"""Allocations in every mode, through two servers, answer and count as a plain reference model does."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, TypeVar

import grpc
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from libs.common.ids import new_id
from libs.common.status import reason_of
from services.metering.quota.domain import Enforcement, Scope, Window
from tests.metering.allocations.support import (
    ADJUST_ONLY,
    BEST_EFFORT,
    CHECK_ONLY,
    NORMAL,
    Limits,
    allocate,
    allocated,
    assert_counters_are_allocations,
    release,
)
from tests.metering.support import Metering, Platform
from tollhouse.metering.v1 import quota_pb2 as pb

_T = TypeVar("_T")
ADA: Final = new_id()
OPERATIONS: Final = st.sampled_from([f"op-{number}" for number in range(8)])
MODES: Final = st.sampled_from([NORMAL, BEST_EFFORT, CHECK_ONLY, ADJUST_ONLY])
USERS: Final = st.sampled_from(["", ADA])
SERVER: Final = st.integers(0, 1)
# Few values, so that limits are met exactly, exceeded, and asked for nothing.
AMOUNTS: Final = st.dictionaries(
    st.sampled_from(["requests", "items", "concurrent_calls", "USD", "pages", "credits"]),
    st.sampled_from(["0", "1", "2", "3", "5"]),
    min_size=1,
)


@dataclass(frozen=True)
class Rule:
    """A limit of the reference."""

    name: str
    metric: str
    maximum: Decimal | None
    hard: bool = True
    each_user: bool = False
    counts: bool = True
    """Whether calls add up."""
    step: Decimal = Decimal(1)

    def holds_for(self, user: str) -> bool:
        return not self.each_user or bool(user)


RULES: Final = (
    Rule("all", "requests", Decimal(12)),
    Rule("user", "requests", Decimal("7.5"), each_user=True),
    Rule("soft", "requests", Decimal(2), hard=False),
    Rule("items", "items", Decimal(9)),
    Rule("each", "items", Decimal(3), counts=False),
    Rule("places", "concurrent_calls", Decimal(4)),
    Rule("money", "USD", Decimal("6.25"), step=Decimal("0.000000001")),
    Rule("any", "pages", None),
    Rule("none", "credits", Decimal(0)),
)


async def set_rules(limits: Limits, organization_id: str) -> None:
    for one in RULES:
        await limits.set(
            organization_id,
            None if one.maximum is None else str(one.maximum),
            "spend" if one.metric == "USD" else one.metric,
            name=one.name,
            currency_code="USD" if one.metric == "USD" else "",
            window=Window.LIFETIME if one.counts else Window.CALL,
            scope=Scope.USER if one.each_user else Scope.ORGANIZATION,
            enforcement=Enforcement.HARD if one.hard else Enforcement.SOFT,
        )


Fields = tuple[tuple[tuple[str, str], ...], int, str]
Answered = tuple[bool, dict[str, Decimal], bool]


@dataclass
class Reference:
    """What has been allocated, by plain arithmetic."""

    counted: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    stored: dict[str, tuple[Fields, dict[str, Decimal], str]] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)

    def left(self, one: Rule) -> Decimal | None:
        return None if one.maximum is None else max(one.maximum - self.counted[one.name], Decimal(0))

    def allows(self, one: Rule, value: Decimal) -> bool:
        rest = self.left(one)
        return rest is None or (one.maximum != 0 and value <= rest)

    def allocate(self, operation: str, fields: Fields) -> str | Answered:
        amounts, mode, user = fields
        asked = {metric: Decimal(value) for metric, value in amounts}
        if mode != CHECK_ONLY and operation in self.stored:
            before, granted, _ = self.stored[operation]
            return (True, granted, True) if before == fields else "OPERATION_ID_REUSED"
        rules = [one for one in RULES if one.hard and one.holds_for(user) and one.metric in asked]
        fits = all(self.allows(one, asked[one.metric]) for one in rules)
        if mode == CHECK_ONLY:
            return fits, {}, False
        if not fits and mode == BEST_EFFORT:
            for one in rules:
                rest = self.left(one)
                if rest is not None:
                    asked[one.metric] = min(asked[one.metric], rest // one.step * one.step)
            fits = any(value > 0 for value in asked.values())
        if not fits and mode != ADJUST_ONLY:
            return False, {}, False
        self.stored[operation] = fields, asked, user
        self.count(asked, user, 1)
        return True, asked, False

    def release(self, operation: str) -> str | bool:
        if operation not in self.stored:
            return "NOT_FOUND"
        _, granted, user = self.stored[operation]
        places = granted.get("concurrent_calls", Decimal(0))
        if not places:
            return False
        if operation in self.released:
            return True
        self.released.add(operation)
        self.count({"concurrent_calls": places}, user, -1)
        return False

    def count(self, amounts: dict[str, Decimal], user: str, sign: int) -> None:
        for one in RULES:
            if one.counts and one.metric in amounts and one.holds_for(user):
                self.counted[one.name] += sign * amounts[one.metric]


class AllocationsMachine(RuleBasedStateMachine):
    """Sends every request to one of the servers and to the reference, and compares answers and counters."""

    loop: asyncio.AbstractEventLoop
    limits: Limits
    servers: tuple[Metering, Metering]

    def __init__(self) -> None:
        super().__init__()
        self.reference = Reference()
        self.organization_id = new_id()
        self.run(set_rules(self.limits, self.organization_id))

    def run(self, call: Coroutine[object, object, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(60)

    @rule(operation=OPERATIONS, amounts=AMOUNTS, mode=MODES, user=USERS, server=SERVER)
    def allocate(self, operation: str, amounts: dict[str, str], mode: int, user: str, server: int) -> None:
        self.send(operation, (tuple(amounts.items()), mode, user), server)

    @rule(operation=OPERATIONS, server=SERVER)
    def repeat(self, operation: str, server: int) -> None:
        if operation in self.reference.stored:
            self.send(operation, self.reference.stored[operation][0], server)

    @rule(operation=OPERATIONS, server=SERVER)
    def release(self, operation: str, server: int) -> None:
        async def call() -> str | bool:
            try:
                answer = await release(self.servers[server], self.organization_id, operation)
            except grpc.aio.AioRpcError as error:
                return str(reason_of(error))
            assert not answer.lapsed
            return answer.replayed

        assert self.run(call()) == self.reference.release(operation)

    def send(self, operation: str, fields: Fields, server: int) -> None:
        amounts, mode, user = fields

        async def call() -> str | Answered:
            try:
                answer = await allocate(
                    self.servers[server],
                    self.organization_id,
                    dict(amounts),
                    operation,
                    mode=pb.AllocationMode.ValueType(mode),
                    user_id=user,
                )
            except grpc.aio.AioRpcError as error:
                return str(reason_of(error))
            taken = {metric: Decimal(value) for metric, value in allocated(answer).items()}
            assert (answer.limits[0].needed != "") == (not answer.allocated)
            return answer.allocated, taken, answer.replayed

        assert self.run(call()) == self.reference.allocate(operation, fields)

    @invariant()
    def limits_agree(self) -> None:
        async def call() -> dict[str, Decimal]:
            answer = await allocate(
                self.servers[0], self.organization_id, {"products": "0"}, mode=CHECK_ONLY, user_id=ADA
            )
            return {one.name: Decimal(one.used) + Decimal(one.reserved) for one in answer.limits}

        assert self.run(call()) == {one.name: self.reference.counted[one.name] for one in RULES}


async def test_allocations_do_what_the_reference_says(platform: Platform, metering: Metering, limits: Limits) -> None:
    second = await platform.start_metering()
    running = asyncio.get_running_loop()

    class Machine(AllocationsMachine):
        loop = running

    Machine.limits, Machine.servers = limits, (metering, second)
    chosen = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    try:
        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=chosen)
        await assert_counters_are_allocations(platform)
    finally:
        await metering.service.stop(0)
