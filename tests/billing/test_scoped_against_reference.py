"""Grants for users and models, through gRPC, are as the plain model says, for sequences of commands by Hypothesis."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from libs.common.ids import new_id
from libs.common.shards import Shards
from libs.common.status import reason_of
from services.billing.ledger.engine import Engine
from services.billing.ledger.refills import Rollover, refill
from tests.billing.grant_reference import KINDS, NEVER
from tests.billing.scoped_reference import OTHER, Held, Lot, ScopedReference
from tests.billing.support import BillingServer, Ledger, balance_of, organization
from tests.billing.test_grants_against_reference import whole
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import credit_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb

pytestmark = pytest.mark.shards

_T = TypeVar("_T")
UNITS = st.integers(1, 9)
ANNA, BERT = new_id(), new_id()
USERS = st.sampled_from(["", ANNA, BERT])
MODELS = st.sampled_from(["", "m"])
DAY = Duration(seconds=86_400)
STEP = timedelta(minutes=1)
"""An hour of the model. Holds last a day, which is longer than all sequences of commands together."""
MODES = {
    "GUARDED": pb.DEBIT_MODE_GUARDED,
    "MUST_POST": pb.DEBIT_MODE_MUST_POST,
    "BEST_EFFORT": pb.DEBIT_MODE_BEST_EFFORT,
}


class ScopedMachine(RuleBasedStateMachine):
    """Sends every command to the ledger, enters it in the model, and compares everything after each step."""

    loop: asyncio.AbstractEventLoop
    ledger: Ledger
    engine: Engine
    clock: FixedClock

    def __init__(self) -> None:
        super().__init__()
        self.model = ScopedReference()
        self.org = organization()
        self.began: datetime = self.clock.now()
        self.ids: dict[str, str] = {}
        self.charges: list[tuple[str, str, list[str]]] = []
        self.last: tuple[str, list[str]] | None = None
        # The account is entered grant by grant from its first scoped grant on. This one never begins.
        self.made(self.ledger.grant(self.org, "far", "1", user_id=new_id(), effective_time=self.at(20_000)))

    def real(self, call: Coroutine[object, object, _T]) -> _T | str:
        async def answer() -> _T | str:
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                return reason_of(error) or error.code().name

        return asyncio.run_coroutine_threadsafe(answer(), self.loop).result(30)

    def made(self, call: Coroutine[object, object, _T]) -> _T:
        answer = self.real(call)
        assert not isinstance(answer, str), answer
        return answer

    def at(self, hour: int) -> Timestamp | None:
        if hour == NEVER:
            return None
        message = Timestamp()
        message.FromDatetime(self.began + hour * STEP)
        return message

    def named(self, kind: str) -> str:
        return f"{kind}-{self.model.next_number()}"

    def charged(self, name: str, transaction: pb.Transaction, sources: list[str]) -> None:
        self.charges.append((name, transaction.transaction_id, sources))
        self.last = name, list(sources)

    @rule(units=UNITS)
    def top_up(self, units: int) -> None:
        self.made(self.ledger.credit(self.org, self.named("credit"), str(units)))
        self.model.settle()
        self.model.other += units

    @rule(units=UNITS, user=USERS, model=MODELS, mode=st.sampled_from(sorted(MODES)))
    def debit(self, units: int, user: str, model: str, mode: str) -> None:
        name = self.named("debit")
        call = self.ledger.debit(self.org, name, str(units), mode=MODES[mode], user_id=user, model=model)
        answer = self.real(call)
        self.model.settle()
        left = self.model.available(user, model)
        if mode == "GUARDED" and units > left:
            assert answer == "INSUFFICIENT_BALANCE"
            return
        assert not isinstance(answer, str), answer
        taken = units if mode != "BEST_EFFORT" else min(units, max(left, 0))
        assert whole(answer.posted_amount.value) == taken
        assert answer.transaction.overdrawn == (taken > max(left, 0))
        self.charged(name, answer.transaction, self.model.use(user, model, taken))
        assert whole(answer.balance.available.value) == self.model.available("", "")

    @rule(data=st.data())
    def reverse(self, data: st.DataObject) -> None:
        some = [charge for charge in self.charges if charge[2]]
        if not some:
            return
        _, transaction_id, sources = data.draw(st.sampled_from(some))
        back = data.draw(st.integers(1, len(sources)))
        name = self.named("reversal")
        self.made(self.ledger.reverse(self.org, name, transaction_id, str(back)))
        self.model.settle()
        self.last = name, self.model.give_back(sources, back)
        self.model.settle()

    @rule(
        units=UNITS,
        user=USERS,
        model=MODELS,
        priority=st.integers(0, 1),
        kind=st.sampled_from(KINDS),
        begins=st.integers(0, 2),
        lasts=st.integers(1, 4) | st.none(),
    )
    def grant(
        self, units: int, user: str, model: str, priority: int, kind: str, begins: int, lasts: int | None
    ) -> None:
        starts = self.model.now + begins
        ends = NEVER if lasts is None else starts + lasts
        name = self.named("grant")
        call = self.ledger.grant(
            self.org,
            name,
            str(units),
            priority=priority,
            kind=credit_pb2.GrantKind.Value(f"GRANT_KIND_{kind}"),
            effective_time=self.at(starts),
            expire_time=self.at(ends),
            user_id=user,
            model=model,
        )
        self.ids[name] = self.made(call).grant.grant_id
        self.model.settle()
        self.model.lots[name] = Lot(
            name, user, model, kind, priority, units, starts, ends, self.model.counter, ends, rest=units
        )
        self.model.settle()

    @rule(user=USERS, begins=st.integers(-1, 2), limit=st.integers(5, 8))
    def refill(self, user: str, begins: int, limit: int) -> None:
        name = self.named("refill")
        starts = max(self.model.now + begins, 0)
        command = refill(
            organization_id=self.org,
            operation_id=name,
            currency_code="USD",
            amount=Decimal(5),
            priority=1,
            period_start=self.began + starts * STEP,
            period_end=self.began + (starts + 3) * STEP,
            rollover=Rollover.UP_TO,
            rollover_max=Decimal(limit),
            source_reference="subscription/1",
            user_id=user or None,
            actor="service:billing",
        )
        self.ids[name] = self.made(self.engine.grant(command)).grant.grant_id
        self.model.settle()
        self.model.lots[name] = Lot(
            name, user, "", "INCLUDED", 1, 5, starts, NEVER, self.model.counter, NEVER, limit=limit, rest=5
        )
        self.model.settle()

    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        if not self.ids:
            return
        name = data.draw(st.sampled_from(sorted(self.ids)))
        answer = self.real(self.ledger.void(self.org, self.ids[name]))
        self.model.settle()
        lot = self.model.lots[name]
        if lot.voided:
            assert not isinstance(answer, str)
            assert whole(answer.voided_amount.value) == 0
            return
        if lot.begun and not lot.rest:
            assert answer == "GRANT_ENDED"
            return
        assert not isinstance(answer, str), answer
        lot.voided, before = True, lot.expired
        if not lot.begun:
            lot.rest, lot.expired, lot.ends = 0, lot.amount, self.model.now
            assert whole(answer.voided_amount.value) == lot.amount
            return
        lot.ends = self.model.now
        self.model.settle()
        assert whole(answer.voided_amount.value) == lot.expired - before

    @rule(units=UNITS, user=USERS, model=MODELS)
    def hold(self, units: int, user: str, model: str) -> None:
        name = self.named("hold")
        answer = self.real(self.ledger.hold(self.org, name, str(units), ttl=DAY, user_id=user, model=model))
        self.model.settle()
        if units > self.model.available(user, model):
            assert answer == "INSUFFICIENT_BALANCE"
            return
        assert not isinstance(answer, str), answer
        held = Held(user, model, 0)
        self.model.holds[name] = held
        self.model.reserve(held, units)

    @rule(data=st.data(), captured=st.none() | st.integers(0, 11))
    def end_hold(self, data: st.DataObject, captured: int | None) -> None:
        if not self.model.holds:
            return
        name = data.draw(st.sampled_from(sorted(self.model.holds)))
        if captured is None:
            self.made(self.ledger.release(self.org, name))
            self.model.settle()
            del self.model.holds[name]
        else:
            answer = self.made(self.ledger.capture(self.org, name, str(captured)))
            self.model.settle()
            self.charged(name, answer.transaction, self.model.capture(self.model.holds[name], captured, last=True))
            del self.model.holds[name]
        self.model.settle()

    @rule(data=st.data(), captured=st.integers(1, 6))
    def capture_a_part(self, data: st.DataObject, captured: int) -> None:
        if not self.model.holds:
            return
        name, part = data.draw(st.sampled_from(sorted(self.model.holds))), self.named("part")
        answer = self.made(self.ledger.capture(self.org, name, str(captured), part_id=part))
        self.model.settle()
        self.charged(part, answer.transaction, self.model.capture(self.model.holds[name], captured, last=False))
        self.model.settle()

    @rule(hours=st.integers(1, 2))
    def wait(self, hours: int) -> None:
        self.model.now += hours
        self.clock.advance(hours * STEP)

    @invariant()
    def everything_agrees(self) -> None:
        self.model.settle()

        async def read() -> tuple[object, ...]:
            balance = await balance_of(self.ledger, self.org)
            listed = await self.ledger.grants(self.org)
            hers = await self.ledger.credit_summary(self.org, user_id=ANNA, model="m")
            names = {grant.grant_id: grant.operation_id for grant in listed}
            used: Counter[str] = Counter()
            if self.last is not None:
                explained = await self.ledger.explain(self.org, self.last[0])
                used.update({names[use.grant_id]: whole(use.amount.value) for use in explained.uses})
                used[OTHER] += whole(explained.other_amount.value)
            return (
                (whole(balance.posted.value), whole(balance.held.value), whole(balance.scoped.value or "0")),
                (whole(balance.available.value), whole(hers.balance.available.value)),
                {g.operation_id: (whole(g.remaining_amount.value), whole(g.expired_amount.value)) for g in listed[1:]},
                +used,
            )

        expected = (
            (self.model.posted, self.model.held, self.model.scoped()),
            (self.model.available("", ""), self.model.available(ANNA, "m")),
            {lot.name: (lot.rest, lot.expired) for lot in self.model.lots.values()},
            Counter(self.last[1]) if self.last is not None else Counter(),
        )
        assert self.made(read()) == expected


async def test_scoped_grants_are_what_the_reference_says(server: BillingServer, billing_shards: Shards) -> None:
    clock = FixedClock()
    async with server.start(clock, sweep_every_s=3600) as ledger:
        running, live_ledger = asyncio.get_running_loop(), ledger

        class Machine(ScopedMachine):
            loop = running

        Machine.ledger, Machine.clock = live_ledger, clock
        Machine.engine = Engine(billing_shards, clock)
        chosen = settings(
            max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        )
        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=chosen)
        assert [finding for finding in await ledger.findings() if "begin_and_end" not in finding] == []
