"""Calls settled in parts, through two servers, answer and charge as a plain reference model does."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from libs.common.status import reason_of
from tests.metering.parts.support import Call, add_models, settlement_of
from tests.metering.support import Metering, Platform
from tests.metering.test_admission import ask
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import usage_pb2

pytestmark = pytest.mark.shards

_T = TypeVar("_T")

FUNDS: Final = Decimal(1_000_000)
OPERATIONS: Final = st.sampled_from(["call-1", "call-2", "call-3"])
# Few values, so that repeats and smaller ones are common; input is cheaper above 2,000.
READ: Final = st.sampled_from([500, 2_000, 2_001, 4_000])
MADE: Final = st.sampled_from([0, 10, 1_000])
MODEL: Final = st.sampled_from(["tiered", "tiered", "tiered", "tiered", "mini"])
SERVER: Final = st.integers(0, 1)

Used = tuple[str, int, int]
"""Model, input tokens and output tokens since the call began."""


def cost(used: Used) -> Decimal:
    model, read, made = used
    if model == "mini":
        return Decimal(read + made) / 10_000_000
    return Decimal("0.5") + (Decimal(read) * (5 if read <= 2_000 else 1) + Decimal(made) * 10) / 1_000_000


def least(used: Used) -> Decimal:
    """What the call costs if it ends where input is cheapest."""
    model, read, made = used
    return cost(used) if model == "mini" else Decimal("0.5") + (Decimal(read) + Decimal(made) * 10) / 1_000_000


@dataclass
class Known:
    """What is known of one operation."""

    authorized: bool = False
    cancelled: bool = False
    parts: dict[Used, Decimal] = field(default_factory=dict)
    """What was captured after each."""
    recorded: Used | None = None

    @property
    def captured(self) -> Decimal:
        return list(self.parts.values())[-1] if self.parts else Decimal(0)

    @property
    def charged(self) -> Decimal:
        return self.captured if self.recorded is None else cost(self.recorded)

    def contradicts(self, used: Used) -> bool:
        if not self.parts:
            return False
        before = list(self.parts)[-1]
        return before[0] != used[0] or before[1] > used[1] or before[2] > used[2]

    def part(self, used: Used) -> tuple[object, ...]:
        if not self.authorized:
            return ("NOT_FOUND",)
        if used in self.parts:
            return ("ok", self.parts[used], True)
        if self.recorded is not None:
            return ("ALREADY_SETTLED",)
        if self.cancelled:
            return ("AUTHORIZATION_NOT_OPEN",)
        if self.contradicts(used):
            return ("BELOW_EARLIER_PART",)
        self.parts[used] = max(least(used), self.captured)
        return ("ok", self.captured, False)

    def last(self, used: Used) -> tuple[object, ...]:
        if self.recorded is not None:
            return ("ok", cost(used), True) if self.recorded == used else ("OPERATION_ID_REUSED",)
        if self.contradicts(used):
            return ("BELOW_EARLIER_PART",)
        self.recorded = used
        return ("ok", cost(used), False)

    def cancel(self) -> tuple[object, ...]:
        if not self.authorized:
            return ("NOT_FOUND",)
        if self.recorded is not None or self.parts:
            return ("ALREADY_SETTLED",)
        self.cancelled = True
        return ("ok",)

    def authorize(self) -> tuple[object, ...]:
        repeated, self.authorized = self.authorized, True
        return ("denied",) if repeated and (self.cancelled or self.recorded is not None) else ("ok",)


class PartsMachine(RuleBasedStateMachine):
    """Sends every call to one of the servers and to the reference, and compares answers and balances."""

    loop: asyncio.AbstractEventLoop
    platform: Platform
    servers: tuple[Metering, Metering]

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Known] = {}
        self.organization_id = self.run(self.new_organization())

    async def new_organization(self) -> str:
        organization_id, _ = await self.platform.identity.create_organization()
        await self.platform.fund(organization_id, str(FUNDS))
        return organization_id

    def run(self, call: Coroutine[object, object, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(60)

    def real(self, call: Coroutine[object, object, tuple[object, ...]]) -> tuple[object, ...]:
        async def answer() -> tuple[object, ...]:
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                return (reason_of(error),)

        return self.run(answer())

    def of(self, operation: str) -> Known:
        return self.known.setdefault(operation, Known())

    @rule(operation=OPERATIONS, server=SERVER)
    def authorize(self, operation: str, server: int) -> None:
        async def call() -> tuple[object, ...]:
            request = ask(self.organization_id, operation, model="tiered")
            answer = await self.servers[server].authorize(request)
            return ("ok",) if answer.decision == pb.DECISION_ALLOWED else ("denied",)

        assert self.real(call()) == self.of(operation).authorize()

    @rule(operation=OPERATIONS, read=READ, made=MADE, model=MODEL, server=SERVER)
    def part(self, operation: str, read: int, made: int, model: str, server: int) -> None:
        async def call() -> tuple[object, ...]:
            answer = await Call(self.servers[server], self.organization_id, operation).part(read, made, model=model)
            assert answer.replayed or answer.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
            return ("ok", Decimal(answer.captured_amount.value), answer.replayed)

        # A call with a model that it was not authorized for is still one of these.
        assert self.real(call()) == self.of(operation).part((model, read, made))

    @rule(operation=OPERATIONS, read=READ, made=MADE, model=MODEL, server=SERVER, settles=st.booleans())
    def last(self, operation: str, read: int, made: int, model: str, server: int, settles: bool) -> None:
        metering, known = self.servers[server], self.of(operation)

        async def call() -> tuple[object, ...]:
            request = settlement_of(self.organization_id, operation, read, made, last=True, model=model)
            if settles:
                answer = await metering.settle(request)
                assert answer.HasField("captured_amount") == bool(known.parts)
                if known.parts:
                    assert answer.captured_amount == answer.usage.cost
                return ("ok", Decimal(answer.usage.cost.value), answer.replayed)
            plain = usage_pb2.RecordUsageRequest.FromString(request.SerializeToString())
            recorded = await metering.record(plain)
            return ("ok", Decimal(recorded.usage.cost.value), recorded.replayed)

        assert self.real(call()) == known.last((model, read, made))

    @rule(operation=OPERATIONS, server=SERVER)
    def cancel(self, operation: str, server: int) -> None:
        async def call() -> tuple[object, ...]:
            await Call(self.servers[server], self.organization_id, operation).cancel()
            return ("ok",)

        assert self.real(call()) == self.of(operation).cancel()

    @invariant()
    def charges_agree(self) -> None:
        expected = FUNDS - sum((known.charged for known in self.known.values()), Decimal(0))
        assert self.run(self.platform.posted(self.organization_id)) == expected


async def test_calls_in_parts_do_what_the_reference_says(platform: Platform, metering: Metering) -> None:
    await platform.start_identity()
    await add_models(metering)
    second = await platform.start_metering()
    running = asyncio.get_running_loop()

    class Machine(PartsMachine):
        loop = running

    Machine.platform, Machine.servers = platform, (metering, second)
    chosen = settings(
        max_examples=15,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=chosen)
        await platform.settled()
        assert await platform.verify() == []
    finally:
        await metering.service.stop(0)
