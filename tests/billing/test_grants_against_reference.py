"""Credit grants, through gRPC, are as the plain model says, for sequences of commands made by Hypothesis."""

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import TypeVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from libs.common.status import reason_of
from tests.billing.grant_reference import KINDS, NEVER, GrantReference, Held, Lot
from tests.billing.support import BillingServer, Ledger, organization
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import account_pb2, credit_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb

pytestmark = pytest.mark.own_database

_T = TypeVar("_T")
UNITS = st.integers(1, 12)
DAY = Duration(seconds=86_400)
STEP = timedelta(minutes=1)
"""An hour of the model. Holds last a day, which is longer than all sequences of commands together."""


def whole(value: str) -> int:
    assert float(value) == int(float(value))
    return int(float(value))


class GrantMachine(RuleBasedStateMachine):
    """Sends every command to the ledger, enters it in the model, and compares everything after each step."""

    loop: asyncio.AbstractEventLoop
    ledger: Ledger
    clock: FixedClock

    def __init__(self) -> None:
        super().__init__()
        self.model = GrantReference()
        self.organization_id = organization()
        self.began: datetime = self.clock.now()
        self.ids: dict[str, str] = {}
        self.charges: list[tuple[str, int]] = []

    def real(self, call: Coroutine[object, object, _T]) -> _T | str:
        async def answer() -> _T | str:
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                return reason_of(error) or error.code().name

        return asyncio.run_coroutine_threadsafe(answer(), self.loop).result(30)

    def at(self, hour: int) -> Timestamp | None:
        if hour == NEVER:
            return None
        message = Timestamp()
        message.FromDatetime(self.began + hour * STEP)
        return message

    @rule(units=UNITS)
    def top_up(self, units: int) -> None:
        name = f"credit-{self.model.next_number()}"
        assert not isinstance(self.real(self.ledger.credit(self.organization_id, name, str(units))), str)
        self.model.settle()
        self.model.posted += units

    @rule(units=UNITS)
    def debit(self, units: int) -> None:
        name = f"debit-{self.model.next_number()}"
        call = self.ledger.debit(self.organization_id, name, str(units), mode=pb.DEBIT_MODE_MUST_POST)
        answer = self.real(call)
        assert not isinstance(answer, str)
        self.model.settle()
        self.model.posted -= units
        self.model.net += units
        self.charges.append((answer.transaction.transaction_id, units))

    @rule(data=st.data())
    def reverse(self, data: st.DataObject) -> None:
        if not self.charges:
            return
        transaction_id, units = self.charges.pop(data.draw(st.integers(0, len(self.charges) - 1)))
        back = data.draw(st.integers(1, units))
        name = f"reversal-{self.model.next_number()}"
        call = self.ledger.reverse(self.organization_id, name, transaction_id, str(back))
        assert not isinstance(self.real(call), str)
        self.model.settle()
        self.model.posted += back
        self.model.net -= back

    @rule(
        units=UNITS,
        priority=st.integers(0, 2),
        kind=st.sampled_from(KINDS),
        begins=st.integers(0, 3),
        lasts=st.integers(1, 4) | st.none(),
    )
    def grant(self, units: int, priority: int, kind: str, begins: int, lasts: int | None) -> None:
        starts = self.model.now + begins
        ends = NEVER if lasts is None else starts + lasts
        number = self.model.next_number()
        name = f"grant-{number}"
        call = self.ledger.grant(
            self.organization_id,
            name,
            str(units),
            priority=priority,
            kind=credit_pb2.GrantKind.Value(f"GRANT_KIND_{kind}"),
            effective_time=self.at(starts),
            expire_time=self.at(ends),
        )
        answer = self.real(call)
        assert not isinstance(answer, str)
        self.ids[name] = answer.grant.grant_id
        self.model.settle()
        self.model.lots[name] = Lot(name, kind, priority, units, starts, ends, number, units, first_end=ends)
        self.model.settle()

    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        if not self.ids:
            return
        name = data.draw(st.sampled_from(sorted(self.ids)))
        answer = self.real(self.ledger.void(self.organization_id, self.ids[name]))
        self.model.settle()
        lot = self.model.lots[name]
        if lot.voided:
            assert not isinstance(answer, str)
            assert whole(answer.voided_amount.value) == 0
            return
        left = self.model.rests()[0].get(name, 0)
        if lot.begun and (lot.over or not left):
            assert answer == "GRANT_ENDED"
            return
        assert not isinstance(answer, str)
        lot.voided = True
        if not lot.begun:
            lot.over, lot.expired, lot.rest = True, lot.amount, 0
            assert whole(answer.voided_amount.value) == lot.amount
            return
        self.model.freeze()
        lot.ends = self.model.now
        self.model.ended_at[name] = self.model.next_number()
        before = lot.expired
        self.model.settle()
        assert whole(answer.voided_amount.value) == lot.expired - before

    @rule(units=UNITS)
    def hold(self, units: int) -> None:
        number = self.model.next_number()
        name = f"hold-{number}"
        answer = self.real(self.ledger.hold(self.organization_id, name, str(units), ttl=DAY))
        self.model.settle()
        if isinstance(answer, str):
            assert answer == "INSUFFICIENT_BALANCE"
            assert self.model.posted - self.model.held < units
            return
        assert self.model.posted - self.model.held >= units
        self.model.holds[name] = Held(units, number)

    @rule(data=st.data(), captured=st.none() | st.integers(0, 15))
    def end_hold(self, data: st.DataObject, captured: int | None) -> None:
        if not self.model.holds:
            return
        name = data.draw(st.sampled_from(sorted(self.model.holds)))
        if captured is None:
            assert not isinstance(self.real(self.ledger.release(self.organization_id, name)), str)
        else:
            assert not isinstance(self.real(self.ledger.capture(self.organization_id, name, str(captured))), str)
        self.model.settle()
        del self.model.holds[name]
        self.model.posted -= captured or 0
        self.model.net += captured or 0
        self.model.settle()

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.model.now += hours
        self.clock.advance(hours * STEP)

    @invariant()
    def balances_and_rests_agree(self) -> None:
        self.model.settle()
        if not self.model.counter:
            return

        async def read() -> tuple[int, int, dict[str, tuple[int, int]]]:
            request = account_pb2.GetBalanceRequest(organization_id=self.organization_id)
            try:
                balance = (await self.ledger.accounts.GetBalance(request, metadata=self.ledger.metadata)).balance
            except grpc.aio.AioRpcError:
                return 0, 0, {}
            listed = await self.ledger.grants(self.organization_id)
            return (
                whole(balance.posted.value),
                whole(balance.held.value),
                {g.operation_id: (whole(g.remaining_amount.value), whole(g.expired_amount.value)) for g in listed},
            )

        left, _ = self.model.rests()
        expected = {
            lot.name: (left.get(lot.name, 0) if lot.begun else lot.rest, lot.expired)
            for lot in self.model.lots.values()
        }
        assert self.real(read()) == (self.model.posted, self.model.held, expected)


async def test_grants_are_what_the_reference_says(server: BillingServer) -> None:
    clock = FixedClock()
    async with server.start(clock, sweep_every_s=3600) as ledger:
        running, live_ledger = asyncio.get_running_loop(), ledger

        class Machine(GrantMachine):
            loop = running

        Machine.ledger, Machine.clock = live_ledger, clock
        chosen = settings(
            max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        )
        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=chosen)
        assert [finding for finding in await ledger.findings() if "begin_and_end" not in finding] == []
