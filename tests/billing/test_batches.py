"""Each item of a batch has its own outcome: a malformed one is refused by itself, and the others are decided."""

from collections.abc import Sequence

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tests.billing.support import Ledger, organization, usd
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

pytestmark = pytest.mark.shards

HOSTILE = ("a\0b", "", "x" * 100_000, "a b", "\x7f", "é")


def _fields(status: status_pb2.Status) -> list[str]:
    for detail in status.details:
        found = error_details_pb2.BadRequest()
        if detail.Unpack(found):
            return [violation.field for violation in found.field_violations]
    return []


def _refusals(
    outcomes: Sequence[pb.DebitOutcome] | Sequence[pb.CreateHoldOutcome] | Sequence[pb.CaptureHoldOutcome],
) -> list[set[str]]:
    """The fields at fault of each outcome; none for an answer."""
    for outcome in outcomes:
        if outcome.HasField("error"):
            assert outcome.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    return [set(_fields(outcome.error)) for outcome in outcomes]


def _debit(org: str, operation_id: str, value: str = "1") -> pb.DebitRequest:
    return pb.DebitRequest(organization_id=org, operation_id=operation_id, amount=usd(value))


async def test_malformed_debit_fails_alone_and_names_its_fields(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    bad = pb.DebitRequest(organization_id="acme", operation_id="bad", amount=Amount(currency_code="usd", value="NaN"))
    requests = [bad, _debit(org, "a"), _debit(org, "zero", "0"), pb.DebitRequest(), _debit(org, "b")]

    batch = pb.BatchDebitRequest(requests=requests)
    outcomes = (await ledger.ledger.BatchDebit(batch, metadata=ledger.metadata)).outcomes

    named = _refusals(outcomes)
    assert named[0] == {"organization_id", "amount.currency_code", "amount.value"}
    assert named[2:4] == [{"amount.value"}, {"organization_id", "operation_id", "amount"}]
    assert [outcome.response.transaction.sequence for outcome in outcomes] == [0, 2, 0, 0, 3]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: ascii(text[:4]))
async def test_hostile_operation_id_fails_no_other_item(ledger: Ledger, hostile: str) -> None:
    org, other = organization(), organization()
    for tenant in (org, other):
        await ledger.credit(tenant, "top-up", "10")
    holds = [
        pb.CreateHoldRequest(organization_id=tenant, operation_id=name, amount=usd("1"), ttl=Duration(seconds=60))
        for tenant, name in ((org, "call"), (other, hostile))
    ]
    captures = [
        pb.CaptureHoldRequest(organization_id=tenant, operation_id=name, amount=usd("1"))
        for tenant, name in ((other, hostile), (org, "call"))
    ]
    debits = [_debit(other, hostile), _debit(org, "debit")]

    held = await ledger.ledger.BatchCreateHold(pb.BatchCreateHoldRequest(requests=holds), metadata=ledger.metadata)
    captured = await ledger.ledger.BatchCaptureHold(
        pb.BatchCaptureHoldRequest(requests=captures), metadata=ledger.metadata
    )
    debited = await ledger.ledger.BatchDebit(pb.BatchDebitRequest(requests=debits), metadata=ledger.metadata)

    assert _refusals(held.outcomes) == [set(), {"operation_id"}]
    assert _refusals(captured.outcomes) == [{"operation_id"}, set()]
    assert _refusals(debited.outcomes) == [{"operation_id"}, set()]


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if text], ids=lambda text: ascii(text[:4]))
async def test_hostile_part_id_fails_no_other_item(ledger: Ledger, hostile: str) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    await ledger.hold(org, "call", "5")
    parts = [
        pb.CaptureHoldRequest(organization_id=org, operation_id="call", part_id=part_id, amount=usd("1"))
        for part_id in ("call/1", hostile, "call", "call/2", "")
    ]
    parts[1].amount.value = "-1"

    captured = await ledger.ledger.BatchCaptureHold(
        pb.BatchCaptureHoldRequest(requests=parts), metadata=ledger.metadata
    )

    assert _refusals(captured.outcomes) == [set(), {"part_id", "amount.value"}, {"part_id"}, set(), set()]
    assert captured.outcomes[4].response.balance.posted == usd("7")


async def test_batch_of_malformed_items_alone_is_answered(ledger: Ledger) -> None:
    request = pb.BatchDebitRequest(requests=[pb.DebitRequest()] * 200)
    outcomes = (await ledger.ledger.BatchDebit(request, metadata=ledger.metadata)).outcomes
    assert _refusals(outcomes) == [{"organization_id", "operation_id", "amount"}] * 200


async def test_operation_repeated_within_a_batch_is_charged_once(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    requests = [_debit(org, "call"), pb.DebitRequest(), _debit(org, "call"), _debit(org, "call", "2")]
    batch = pb.BatchDebitRequest(requests=requests)
    outcomes = (await ledger.ledger.BatchDebit(batch, metadata=ledger.metadata)).outcomes
    assert [outcome.response.replayed for outcome in outcomes] == [False, False, True, False]
    assert outcomes[3].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]


async def test_each_reversal_of_a_batch_is_decided_by_itself(ledger: Ledger) -> None:
    org, other = organization(), organization()
    for tenant in (org, other):
        await ledger.credit(tenant, "top-up", "10")
        await ledger.debit(tenant, "call", "4")
    transaction_id = (await ledger.debit(org, "named", "1")).transaction.transaction_id

    def undo(
        tenant: str, operation_id: str, reversed_operation_id: str, value: str = "3"
    ) -> pb.ReverseTransactionRequest:
        return pb.ReverseTransactionRequest(
            organization_id=tenant,
            operation_id=operation_id,
            reversed_operation_id=reversed_operation_id,
            amount=usd(value),
        )

    requests = [
        undo(org, "undo-1", "call"),
        undo(other, "undo-1", "call"),
        pb.ReverseTransactionRequest(),
        undo(org, "undo-2", "call"),
        undo(org, "undo-3", "nothing"),
        undo(other, "undo-3", "named"),
        undo(org, "undo-1", "call"),
        undo(org, "undo-1", "call", "2"),
        pb.ReverseTransactionRequest(organization_id=org, operation_id="undo-4", transaction_id=transaction_id),
        undo(org, "a\0b", "call"),
        undo(org, "undo-5", "call", "1"),
    ]
    requests[-1].validate_only = True
    request = pb.BatchReverseTransactionRequest(requests=requests)
    outcomes = (await ledger.ledger.BatchReverseTransaction(request, metadata=ledger.metadata)).outcomes

    assert [_reason(one.error) for one in outcomes] == [
        *("", "", "", "REVERSAL_EXCEEDS_TRANSACTION", "TRANSACTION_NOT_FOUND", "TRANSACTION_NOT_FOUND"),
        *("", "OPERATION_ID_REUSED", "", "", ""),
    ]
    assert set(_fields(outcomes[2].error)) >= {"organization_id", "operation_id", "transaction_id"}
    assert outcomes[0].response.balance.posted == usd("8")
    assert outcomes[0].response.remaining_amount == usd("1")
    assert outcomes[6].response.replayed
    assert not outcomes[0].response.replayed
    assert outcomes[8].response.balance.posted == usd("9")
    assert not outcomes[10].response.transaction.transaction_id
    assert outcomes[1].response.balance.posted == usd("9")
    again = (await ledger.ledger.BatchReverseTransaction(request, metadata=ledger.metadata)).outcomes
    assert [one.response.replayed for one in again[:2]] == [True, True]
    assert await ledger.findings() == []


def _reason(status: status_pb2.Status) -> str:
    for detail in status.details:
        found = error_details_pb2.ErrorInfo()
        if status.code != grpc.StatusCode.INVALID_ARGUMENT.value[0] and detail.Unpack(found):
            return found.reason
    return ""
