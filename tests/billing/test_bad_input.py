"""Bad input is INVALID_ARGUMENT with every field at fault named, and changes nothing."""

import base64
import json

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from libs.common.ids import new_id
from libs.common.status import field_violations
from tests.billing.support import Ledger, usd
from tollhouse.billing.v1 import account_pb2, charge_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

ORG = new_id()
GOOD = pb.DebitRequest(organization_id=ORG, operation_id="call", amount=usd("1"))

BAD_FIELDS = [
    ({"organization_id": ""}, "organization_id"),
    ({"organization_id": "acme"}, "organization_id"),
    ({"project_id": "not-an-id"}, "project_id"),
    ({"project_id": ORG}, "project_id"),
    ({"operation_id": ""}, "operation_id"),
    ({"operation_id": "a b"}, "operation_id"),
    ({"operation_id": "a\x00"}, "operation_id"),
    ({"operation_id": "ünïcode"}, "operation_id"),
    ({"operation_id": "x" * 256}, "operation_id"),
    ({"amount": None}, "amount"),
    ({"mode": 77}, "mode"),
    ({"metadata": {"": "x"}}, "metadata"),
    ({"metadata": {"k": "x" * 257}}, "metadata"),
    ({"metadata": {"k": "a\x00"}}, "metadata"),
    ({"metadata": {"a\x00": "x"}}, "metadata"),
    ({"metadata": {f"k{n}": "" for n in range(17)}}, "metadata"),
    *(
        ({"amount": Amount(currency_code="USD", value=value)}, "amount.value")
        for value in ("", "0", "0.000", "-1", "NaN", "Infinity", "1e3", "+1", "1.0000000001", "1" + "0" * 15, "\u0661")
    ),
    *(
        ({"amount": Amount(currency_code=code, value="1")}, "amount.currency_code")
        for code in ("", "usd", "U", "US DOLLAR", "X" * 13)
    ),
]


@pytest.mark.parametrize(("change", "field"), BAD_FIELDS)
async def test_bad_field_is_named(ledger: Ledger, change: dict[str, object], field: str) -> None:
    request = pb.DebitRequest()
    request.CopyFrom(GOOD)
    for name, value in change.items():
        request.ClearField(name)  # type: ignore[arg-type]  # the table names real fields.
        if value is not None:
            request.MergeFrom(pb.DebitRequest(**{name: value}))  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.ledger.Debit(request, metadata=ledger.metadata)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert any(name.startswith(field) for name in field_violations(refused.value))


async def test_every_field_at_fault_is_named_at_once(ledger: Ledger) -> None:
    request = pb.DebitRequest(organization_id="x", operation_id="", amount=Amount(currency_code="usd", value="NaN"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.ledger.Debit(request, metadata=ledger.metadata)
    named = field_violations(refused.value)
    assert {"organization_id", "operation_id", "amount.currency_code", "amount.value"} <= set(named)


async def test_faults_that_only_the_parser_sees_are_named_with_the_others(ledger: Ledger) -> None:
    request = pb.DebitRequest(
        organization_id=ORG.upper(), project_id=ORG, amount=Amount(currency_code="usd", value="-1")
    )
    request.mode = 77  # type: ignore[assignment]  # no such mode.
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.ledger.Debit(request, metadata=ledger.metadata)

    named = field_violations(refused.value)
    assert named.keys() == {"project_id", "operation_id", "amount.currency_code", "amount.value", "mode"}
    assert named["amount.value"] == "must be greater than zero"


async def test_item_of_a_batch_names_all_its_faults(ledger: Ledger) -> None:
    request = pb.DebitRequest(organization_id=ORG, project_id=ORG, amount=usd("-1"))
    answer = await ledger.ledger.BatchDebit(pb.BatchDebitRequest(requests=[request]), metadata=ledger.metadata)

    details = error_details_pb2.BadRequest()
    assert any(detail.Unpack(details) for detail in answer.outcomes[0].error.details)
    named = {violation.field for violation in details.field_violations}
    assert named == {"project_id", "operation_id", "amount.value"}


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "abc", "1e999999999", "", "\0", "9" * 200_000])
async def test_amount_that_is_no_number_hides_no_other_fault(ledger: Ledger, value: str) -> None:
    amount = Amount(currency_code="USD", value=value)
    transfer = pb.TransferRequest(organization_id=ORG, amount=amount, source_project_id=ORG, destination_project_id=ORG)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.ledger.Transfer(transfer, metadata=ledger.metadata)

    named = field_violations(refused.value).keys()
    assert named == {"operation_id", "amount.value", "source_project_id", "destination_project_id"}


async def test_accounts_name_all_faults_at_once(ledger: Ledger) -> None:
    opening = account_pb2.OpenAccountRequest(
        organization_id=ORG, project_id=ORG, currency_code="usd", overdraft_limit=usd("-1")
    )
    change = account_pb2.UpdateAccountRequest(organization_id="x")
    balance = account_pb2.GetBalanceRequest(organization_id="x", account_id=ORG, project_id=ORG)
    expected = {"currency_code", "overdraft_limit.value", "project_id"}
    for call, fields in (
        (ledger.accounts.OpenAccount(opening, metadata=ledger.metadata), expected),
        (
            ledger.accounts.UpdateAccount(change, metadata=ledger.metadata),
            {"organization_id", "account", "update_mask"},
        ),
        (ledger.accounts.GetBalance(balance, metadata=ledger.metadata), {"organization_id", "project_id"}),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert fields <= field_violations(refused.value).keys()


@pytest.mark.parametrize("count", [0, 201])
async def test_batch_outside_its_limits_is_refused(ledger: Ledger, count: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.ledger.BatchDebit(pb.BatchDebitRequest(requests=[GOOD] * count), metadata=ledger.metadata)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "requests" in field_violations(refused.value)


async def test_transfer_to_itself_and_negative_capture_are_refused(ledger: Ledger) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.transfer(ORG, "t", "1", "", "")
    assert list(field_violations(refused.value)) == ["destination_project_id"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.capture(ORG, "c", "-1")
    assert list(field_violations(refused.value)) == ["amount.value"]


@pytest.mark.parametrize("key", [[], ["x\0"], ["\ud800"], ["'; --"], ["-1"], ["9" * 40], ["a", "b", "c"]], ids=str)
async def test_forged_page_token_is_refused_or_leads_to_a_page(ledger: Ledger, key: list[str]) -> None:
    account_id = (await ledger.credit(ORG, "top-up", "1")).transaction.account_id

    def token(fingerprint: str) -> str:
        return base64.urlsafe_b64encode(json.dumps([fingerprint, *key]).encode()).decode()

    holds = pb.ListHoldsRequest(organization_id=ORG, page_token=token(f"holds/{ORG}/None/None"))
    moved = pb.ListTransactionsRequest(organization_id=ORG, page_token=token(f"transactions/{ORG}/None/None/None/None"))
    accounts = account_pb2.ListAccountsRequest(organization_id=ORG, page_token=token(f"accounts/{ORG}/None"))
    statement = account_pb2.GetStatementRequest(
        organization_id=ORG, account_id=account_id, page_token=token(f"statement/{ORG}/{account_id}/None/None")
    )
    charges = charge_pb2.ListChargesRequest(page_token=token("charges/None"))
    calls = (
        ledger.ledger.ListHolds(holds, metadata=ledger.metadata),
        ledger.ledger.ListTransactions(moved, metadata=ledger.metadata),
        ledger.accounts.ListAccounts(accounts, metadata=ledger.metadata),
        ledger.accounts.GetStatement(statement, metadata=ledger.metadata),
        ledger.charge.ListCharges(charges, metadata=ledger.metadata),
    )
    refused = []
    for call in calls:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            refused.append((error.code(), list(field_violations(error))))
    assert refused == [(grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])] * len(refused)
    assert len(refused) >= 3


async def test_page_token_of_another_list_is_refused(ledger: Ledger) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.ledger.ListHolds(
            pb.ListHoldsRequest(organization_id=ORG, page_token="abc"), metadata=ledger.metadata
        )
    assert list(field_violations(refused.value)) == ["page_token"]


@pytest.mark.parametrize("operation_id", ["_x", "-x", "abc+/==", "Root=1-6789", "{uuid}", "!" * 255])
async def test_operation_id_of_any_visible_ascii_is_charged_and_found(ledger: Ledger, operation_id: str) -> None:
    organization_id = new_id()

    await ledger.debit(organization_id, operation_id, "1", mode=pb.DEBIT_MODE_MUST_POST)

    request = pb.GetTransactionRequest(organization_id=organization_id, operation_id=operation_id)
    found = await ledger.ledger.GetTransaction(request, metadata=ledger.metadata)
    assert found.transaction.operation_id == operation_id


@pytest.mark.parametrize(
    ("sent", "stored"),
    [("x" * 257, "x" * 255 + "…"), ("a\x00b", "a\ufffdb"), ("x" * 200_000, "x" * 255 + "…")],
    ids=ascii,
)
async def test_description_of_a_charge_is_cut_and_never_refused(ledger: Ledger, sent: str, stored: str) -> None:
    organization_id = new_id()
    await ledger.credit(organization_id, "top-up", "10")

    charged = await ledger.debit(organization_id, "debit", "1", description=sent)
    repeated = await ledger.debit(organization_id, "debit", "1", description=sent)
    held = await ledger.hold(organization_id, "hold", "1", description=sent)
    captured = await ledger.ledger.CaptureHold(
        pb.CaptureHoldRequest(organization_id=organization_id, operation_id="hold", amount=usd("1"), description=sent),
        metadata=ledger.metadata,
    )

    descriptions = [charged.transaction.description, held.hold.description, captured.transaction.description]
    assert descriptions == [stored] * 3
    assert repeated.replayed
    assert await ledger.findings() == []


async def test_description_of_what_people_do_by_hand_is_refused_by_name(ledger: Ledger) -> None:
    for description in ("x" * 257, "a\x00b"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ledger.credit(ORG, "top-up", "10", description=description)
        assert list(field_violations(refused.value)) == ["description"]


@pytest.mark.parametrize(("change", "field"), [({"value": "2"}, "amount"), ({"description": "other"}, "description")])
async def test_reused_operation_id_is_refused_in_a_sentence(ledger: Ledger, change: dict[str, str], field: str) -> None:
    organization_id = new_id()
    await ledger.credit(organization_id, "top-up", "1")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.credit(organization_id, "top-up", **{"value": "1"} | change)

    assert refused.value.details() == f"The operation id top-up was used before by a request that differs in {field}."


async def test_both_times_of_a_period_are_named_when_both_are_wrong(ledger: Ledger) -> None:
    account_id = (await ledger.credit(ORG, "top-up", "1")).transaction.account_id
    never = Timestamp(seconds=-1)
    statement = account_pb2.GetStatementRequest(
        organization_id=ORG, account_id=account_id, start_time=never, end_time=never
    )
    listed = pb.ListTransactionsRequest(organization_id=ORG, start_time=never, end_time=never)
    for call in (
        ledger.accounts.GetStatement(statement, metadata=ledger.metadata),
        ledger.ledger.ListTransactions(listed, metadata=ledger.metadata),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert list(field_violations(refused.value)) == ["start_time", "end_time"]
