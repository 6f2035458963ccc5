"""Every movement and every hold says who made it, in every answer and listing, also when another caller repeats it."""

import asyncio
from collections.abc import Awaitable

import grpc
import pytest

from tests.billing.support import Ledger, organization, refusal, usd
from tests.support.callers import Callers, Metadata, bearer
from tests.support.sharded import execute_in_shards, value_over_shards
from tollhouse.billing.v1 import account_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb

ALICE, BOB, METERING = "operator:alice", "operator:bob", "service:metering"


@pytest.fixture
def everybody(callers: Callers) -> dict[str, Metadata]:
    return {
        ALICE: callers.operator(),
        BOB: bearer(callers.token(callers.operator_key, subject=BOB)),
        METERING: callers.service("metering"),
    }


def _debit(org: str, name: str, **fields: object) -> pb.DebitRequest:
    return pb.DebitRequest(organization_id=org, operation_id=name, amount=usd("1"), **fields)  # type: ignore[arg-type]


async def test_each_answer_and_listing_says_who_moved_the_money(ledger: Ledger, everybody: dict[str, Metadata]) -> None:
    org, stub = organization(), ledger.ledger
    top_up = pb.CreditRequest(organization_id=org, operation_id="top-up", amount=usd("100"))
    credited = await stub.Credit(top_up, metadata=everybody[BOB])
    debited = await stub.Debit(_debit(org, "debit"), metadata=everybody[METERING])
    hold = pb.CreateHoldRequest(organization_id=org, operation_id="call", amount=usd("2"))
    placed = await stub.CreateHold(hold, metadata=everybody[ALICE])
    capture = pb.CaptureHoldRequest(organization_id=org, operation_id="call", amount=usd("1"))
    captured = await stub.CaptureHold(capture, metadata=everybody[METERING])
    undo = pb.ReverseTransactionRequest(
        organization_id=org, operation_id="undo", transaction_id=debited.transaction.transaction_id
    )
    reversed_ = await stub.ReverseTransaction(undo, metadata=everybody[BOB])
    move = pb.TransferRequest(
        organization_id=org, operation_id="move", amount=usd("1"), destination_project_id=organization()
    )
    moved = await stub.Transfer(move, metadata=everybody[ALICE])

    answered = [a.transaction.actor for a in (credited, debited, captured, reversed_, moved)]
    assert answered == [BOB, METERING, METERING, BOB, ALICE]
    assert placed.hold.actor == ALICE
    listed = await stub.ListTransactions(pb.ListTransactionsRequest(organization_id=org), metadata=everybody[ALICE])
    assert [transaction.actor for transaction in reversed(listed.transactions)] == answered
    for transaction in listed.transactions:
        found = pb.GetTransactionRequest(organization_id=org, transaction_id=transaction.transaction_id)
        assert (await stub.GetTransaction(found, metadata=everybody[BOB])).transaction == transaction
    statement = account_pb2.GetStatementRequest(organization_id=org, account_id=credited.transaction.account_id)
    entries = (await ledger.accounts.GetStatement(statement, metadata=everybody[BOB])).entries
    assert [entry.actor for entry in entries] == answered
    statement.account_id = moved.transaction.counter_account_id
    assert [
        entry.actor for entry in (await ledger.accounts.GetStatement(statement, metadata=everybody[BOB])).entries
    ] == [ALICE]
    holds = (await stub.ListHolds(pb.ListHoldsRequest(organization_id=org), metadata=everybody[BOB])).holds
    read = await stub.GetHold(pb.GetHoldRequest(organization_id=org, operation_id="call"), metadata=everybody[BOB])
    assert [one.actor for one in (*holds, read.hold)] == [ALICE, ALICE]


async def test_repeat_by_another_caller_answers_with_the_first_actor(
    ledger: Ledger, everybody: dict[str, Metadata]
) -> None:
    org, stub = organization(), ledger.ledger
    await ledger.credit(org, "top-up", "100")
    hold = pb.CreateHoldRequest(organization_id=org, operation_id="call", amount=usd("2"))
    batch = pb.BatchDebitRequest(requests=[_debit(org, "a"), _debit(org, "b"), _debit(org, "a")])
    for caller, replayed in ((BOB, False), (METERING, True)):
        metadata = everybody[caller]
        answer = await stub.Debit(_debit(org, "debit"), metadata=metadata)
        assert (answer.transaction.actor, answer.replayed) == (BOB, replayed)
        placed = await stub.CreateHold(hold, metadata=metadata)
        assert (placed.hold.actor, placed.replayed) == (BOB, replayed)
        outcomes = (await stub.BatchDebit(batch, metadata=metadata)).outcomes
        assert [outcome.response.transaction.actor for outcome in outcomes] == [BOB] * 3


async def test_callers_in_one_batch_are_told_apart(ledger: Ledger, everybody: dict[str, Metadata]) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "1000")
    calls = [(f"{caller}/{number}", caller) for number in range(40) for caller in everybody]
    answers = await asyncio.gather(
        *(ledger.ledger.Debit(_debit(org, name), metadata=everybody[caller]) for name, caller in calls)
    )
    assert [answer.transaction.actor for answer in answers] == [caller for _, caller in calls]
    request = pb.ListTransactionsRequest(organization_id=org, page_size=1000)
    listed = (await ledger.ledger.ListTransactions(request, metadata=ledger.metadata)).transactions
    stored = {transaction.operation_id: transaction.actor for transaction in listed if transaction.kind == 1}
    assert stored == dict(calls)


async def test_decline_keeps_who_asked(ledger: Ledger, everybody: dict[str, Metadata], database_admin_url: str) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "0.5")
    for caller in (BOB, ALICE):
        assert (await refusal(ledger.ledger.Debit(_debit(org, "call"), metadata=everybody[caller])))[1] == (
            "INSUFFICIENT_BALANCE"
        )
    assert await value_over_shards(database_admin_url, "SELECT actor FROM billing.declines") == BOB


async def test_rows_from_before_actors_were_recorded_have_none(ledger: Ledger, database_admin_url: str) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    await ledger.debit(org, "call", "1")
    await ledger.hold(org, "held", "1")
    await execute_in_shards(database_admin_url, "UPDATE billing.transactions SET actor = NULL")
    await execute_in_shards(database_admin_url, "UPDATE billing.holds SET actor = NULL")
    assert (await ledger.debit(org, "call", "1")).transaction.actor == ""
    assert (await ledger.hold(org, "held", "1")).hold.actor == ""
    listed = await ledger.ledger.ListTransactions(
        pb.ListTransactionsRequest(organization_id=org), metadata=ledger.metadata
    )
    assert {transaction.actor for transaction in listed.transactions} == {""}


async def test_only_metering_marks_a_movement_as_usage(ledger: Ledger, everybody: dict[str, Metadata]) -> None:
    """What is marked so is on the invoice as usage, and `verify` looks for it in metering."""
    org, metadata = organization(), {"source": "metering"}
    metering = Ledger(ledger.channel, lambda: everybody[METERING])
    await ledger.credit(org, "top-up", "10", metadata={"source": "support"})
    await ledger.hold(org, "call", "1")
    undo = pb.ReverseTransactionRequest(
        organization_id=org, operation_id="d", reversed_operation_id="top-up", metadata=metadata
    )
    move = pb.TransferRequest(
        organization_id=org,
        operation_id="g",
        amount=usd(1),
        destination_project_id=organization(),
        metadata=metadata,
    )
    moves: dict[str, Awaitable[object]] = {
        "credit": ledger.credit(org, "a", "1", metadata=metadata),
        "debit": ledger.debit(org, "b", "1", metadata=metadata),
        "hold": ledger.hold(org, "c", "1", metadata=metadata),
        "capture": ledger.capture(org, "call", "1", metadata=metadata),
        "reversal": ledger.ledger.ReverseTransaction(undo, metadata=ledger.metadata),
        "transfer": ledger.ledger.Transfer(move, metadata=ledger.metadata),
    }
    for name, moving in moves.items():
        code, _, _ = await refusal(moving)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, name
    batch = pb.BatchDebitRequest(requests=[_debit(org, "e", metadata=metadata), _debit(org, "f")])
    marked, plain = (await ledger.ledger.BatchDebit(batch, metadata=ledger.metadata)).outcomes
    assert (marked.WhichOneof("outcome"), plain.WhichOneof("outcome")) == ("error", "response")
    assert (await metering.capture(org, "call", "1", metadata=metadata)).transaction.metadata == metadata
