"""The ledger, through gRPC, answers as the reference model does, for sequences of commands made by Hypothesis."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, timedelta
from decimal import Decimal
from typing import TypeVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from libs.common.ids import new_id
from libs.common.status import error_info_in, reason_of
from tests.billing.reference import OWN, Answer, Reference
from tests.billing.support import BillingServer, Ledger, organization, usd
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import account_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

_T = TypeVar("_T")

OWNERS = st.sampled_from([OWN, "project"])
CENTS = st.integers(min_value=1, max_value=1_000)
MODES = st.sampled_from(["GUARDED", "MUST_POST", "BEST_EFFORT"])
# Few names, so that repeats, changed repeats and clashes between commands are common.
OPERATIONS = st.sampled_from([f"operation-{number}" for number in range(12)])
PARTS = st.sampled_from([*(f"part-{number}" for number in range(8)), "operation-0", "operation-1"])
CAPTURED_CENTS = st.integers(min_value=0, max_value=1_500)


def _cents(amount: Amount) -> int:
    cents = Decimal(amount.value) * 100
    assert cents == int(cents)
    return int(cents)


def _text(cents: int) -> str:
    return str(Decimal(cents) / 100)


class LedgerMachine(RuleBasedStateMachine):
    """Sends every command to both and compares the answers; after each step, the balances."""

    posted = Bundle("posted")
    held = Bundle("held")
    loop: asyncio.AbstractEventLoop
    ledger: Ledger
    clock: FixedClock

    def __init__(self) -> None:
        super().__init__()
        self.reference = Reference()
        self.organization_id = organization()
        self.projects = {OWN: "", "project": new_id()}
        self.began = self.clock.now()

    def real(self, call: Coroutine[object, object, _T], read: Callable[[_T], Answer]) -> Answer:
        async def answer() -> Answer:
            try:
                return read(await call)
            except grpc.aio.AioRpcError as error:
                return ("refused", reason_of(error) or error.code().name)

        return asyncio.run_coroutine_threadsafe(answer(), self.loop).result(30)

    @rule(target=posted, operation=OPERATIONS, owner=OWNERS, cents=CENTS, mode=MODES)
    def debit(self, operation: str, owner: str, cents: int, mode: str) -> object:
        expected = self.reference.debit(operation, owner, cents, mode)
        call = self.ledger.debit(
            self.organization_id,
            operation,
            _text(cents),
            project_id=self.projects[owner],
            mode=pb.DebitMode.Value(f"DEBIT_MODE_{mode}"),
        )
        assert self.real(call, lambda a: _moved(a.transaction)) == expected
        return operation if expected[0] == "ok" else multiple()

    @rule(target=posted, operation=OPERATIONS, owner=OWNERS, cents=CENTS)
    def credit(self, operation: str, owner: str, cents: int) -> object:
        expected = self.reference.credit(operation, owner, cents)
        call = self.ledger.credit(self.organization_id, operation, _text(cents), project_id=self.projects[owner])
        assert self.real(call, lambda a: _moved(a.transaction)) == expected
        return operation if expected[0] == "ok" else multiple()

    @rule(target=posted, operation=OPERATIONS, source=OWNERS, cents=CENTS)
    def transfer(self, operation: str, source: str, cents: int) -> object:
        destination = "project" if source == OWN else OWN
        expected = self.reference.transfer(operation, source, destination, cents)
        call = self.ledger.transfer(
            self.organization_id, operation, _text(cents), self.projects[source], self.projects[destination]
        )
        assert self.real(call, lambda a: _moved(a.transaction)) == expected
        return operation if expected[0] == "ok" else multiple()

    @rule(target=held, operation=OPERATIONS, owner=OWNERS, cents=CENTS, ttl=st.sampled_from([10, 60]))
    def hold(self, operation: str, owner: str, cents: int, ttl: int) -> object:
        expected = self.reference.hold(operation, owner, cents, ttl)
        call = self.ledger.hold(
            self.organization_id,
            operation,
            _text(cents),
            project_id=self.projects[owner],
            ttl=Duration(seconds=ttl),
        )
        assert self.real(call, lambda a: ("ok", _cents(a.hold.amount))) == expected
        return operation if expected[0] == "ok" else multiple()

    @rule(target=posted, operation=OPERATIONS, cents=CAPTURED_CENTS)
    def capture(self, operation: str, cents: int) -> object:
        expected = self.reference.capture(operation, cents)
        call = self.ledger.capture(self.organization_id, operation, _text(cents))
        assert self.real(call, _captured) == expected
        return operation if expected[0] == "ok" else multiple()

    @rule(target=posted, part=PARTS, operation=held | OPERATIONS, cents=CAPTURED_CENTS)
    def capture_part(self, part: str, operation: str, cents: int) -> object:
        expected = self.reference.part(part, operation, cents)
        call = self.ledger.capture(self.organization_id, operation, _text(cents), part_id=part)
        assert self.real(call, _captured) == expected
        return part if expected[0] == "ok" else multiple()

    @rule(
        target=posted,
        captures=st.lists(st.tuples(held | OPERATIONS, st.just("") | PARTS, CAPTURED_CENTS), min_size=2, max_size=6),
    )
    def capture_together(self, captures: list[tuple[str, str, int]]) -> object:
        expected = [
            self.reference.part(part, operation, cents) if part else self.reference.capture(operation, cents)
            for operation, part, cents in captures
        ]
        requests = [
            pb.CaptureHoldRequest(
                organization_id=self.organization_id, operation_id=operation, part_id=part, amount=usd(_text(cents))
            )
            for operation, part, cents in captures
        ]

        async def call() -> pb.BatchCaptureHoldResponse:
            batch = pb.BatchCaptureHoldRequest(requests=requests)
            return await self.ledger.ledger.BatchCaptureHold(batch, metadata=self.ledger.metadata)

        assert self.real(call(), lambda a: tuple(map(_outcome, a.outcomes))) == tuple(expected)
        done = zip(captures, expected, strict=True)
        return multiple(*(part or operation for (operation, part, _), answer in done if answer[0] == "ok"))

    @rule(operation=held | OPERATIONS, ttl=st.sampled_from([1, 30]), cents=st.none() | CAPTURED_CENTS.filter(bool))
    def extend(self, operation: str, ttl: int, cents: int | None) -> None:
        expected = self.reference.extend(operation, ttl, cents)
        value = None if cents is None else _text(cents)
        call = self.ledger.extend(self.organization_id, operation, value, seconds=ttl)
        assert self.real(call, lambda a: ("ok", _cents(a.hold.amount))) == expected

    @rule(operation=OPERATIONS)
    def release(self, operation: str) -> None:
        expected = self.reference.release(operation)
        call = self.ledger.release(self.organization_id, operation)
        read = lambda a: ("ok", pb.HoldState.Name(a.hold.state).removeprefix("HOLD_STATE_"))  # noqa: E731
        assert self.real(call, read) == expected

    @rule(target=posted, operation=OPERATIONS, original=posted, cents=st.none() | CENTS)
    def reverse(self, operation: str, original: str, cents: int | None) -> object:
        expected = self.reference.reverse(operation, original, cents)

        async def call() -> pb.ReverseTransactionResponse:
            request = pb.GetTransactionRequest(organization_id=self.organization_id, operation_id=original)
            found = await self.ledger.ledger.GetTransaction(request, metadata=self.ledger.metadata)
            value = None if cents is None else _text(cents)
            return await self.ledger.reverse(self.organization_id, operation, found.transaction.transaction_id, value)

        assert self.real(call(), lambda a: _moved(a.transaction)) == expected
        return operation if expected[0] == "ok" else multiple()

    @rule(seconds=st.sampled_from([1, 10, 60]))
    def wait(self, seconds: int) -> None:
        self.reference.now += seconds
        self.clock.advance(timedelta(seconds=seconds))

    @invariant()
    def balances_agree(self) -> None:
        if not self.reference.posted:
            return

        async def accounts() -> account_pb2.ListAccountsResponse:
            request = account_pb2.ListAccountsRequest(organization_id=self.organization_id)
            return await self.ledger.accounts.ListAccounts(request, metadata=self.ledger.metadata)

        expected = tuple(
            sorted(
                (self.projects[owner], cents, self.reference.held(owner), self.reference.sequence[owner])
                for owner, cents in self.reference.posted.items()
            )
        )
        assert self.real(accounts(), _balances) == expected

    @invariant()
    def holds_agree(self) -> None:
        async def holds() -> pb.ListHoldsResponse:
            request = pb.ListHoldsRequest(organization_id=self.organization_id)
            return await self.ledger.ledger.ListHolds(request, metadata=self.ledger.metadata)

        def read(answer: pb.ListHoldsResponse) -> Answer:
            return tuple(
                (
                    *(hold.operation_id, pb.HoldState.Name(hold.state).removeprefix("HOLD_STATE_")),
                    *(_cents(hold.amount), _cents(hold.captured_amount)),
                    (hold.expire_time.ToDatetime(UTC) - self.began).total_seconds(),
                )
                for hold in answer.holds
            )

        # What is stored is not yet tidied where a hold has expired since.
        self.reference.expire()
        expected = tuple(
            (name, hold.state, hold.cents, hold.captured, hold.expires)
            for name, hold in sorted(self.reference.holds.items())
        )
        assert self.real(holds(), read) == expected


def _balances(answer: account_pb2.ListAccountsResponse) -> Answer:
    return tuple(
        sorted(
            (a.project_id, _cents(a.balance.posted), _cents(a.balance.held), a.balance.sequence)
            for a in answer.accounts
        )
    )


def _captured(answer: pb.CaptureHoldResponse) -> Answer:
    return (*_moved(answer.transaction), _cents(answer.released_amount), _cents(answer.overrun_amount))


def _outcome(outcome: pb.CaptureHoldOutcome) -> Answer:
    if outcome.HasField("response"):
        return _captured(outcome.response)
    info = error_info_in(outcome.error)
    return ("refused", info.reason if info else code_pb2.Code.Name(outcome.error.code))


def _moved(transaction: pb.Transaction) -> Answer:
    return (
        "ok",
        _cents(transaction.amount),
        _cents(transaction.balance_after),
        transaction.sequence,
        transaction.overdrawn,
    )


async def test_ledger_does_what_the_reference_says(server: BillingServer) -> None:
    clock = FixedClock()
    async with server.start(clock, sweep_every_s=0.05) as ledger:
        running, live_ledger = asyncio.get_running_loop(), ledger

        class Machine(LedgerMachine):
            loop = running

        Machine.ledger, Machine.clock = live_ledger, clock
        chosen = settings(
            max_examples=30,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=chosen)
        # The clock was moved by hours, so the sweeper has not ended all expired holds yet.
        for _ in range(100):
            if not await ledger.findings():
                break
            await asyncio.sleep(0.05)
        assert await ledger.findings() == []
