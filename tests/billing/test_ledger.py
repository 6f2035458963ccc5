"""Every command of the ledger: what it does, what refuses it, and what a repeat answers."""

import asyncio

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info_in
from tests.billing.support import Ledger, organization, refusal, until_answered, usd
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
EXISTS = grpc.StatusCode.ALREADY_EXISTS


async def test_debit_takes_from_what_was_credited(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "12.50")
    answer = await ledger.debit(org, "call-1", "2.500000001", description="a call", metadata={"model": "m"})
    assert answer.transaction.sequence == 2
    assert answer.transaction.amount == usd("2.500000001")
    assert answer.transaction.metadata == {"model": "m"}
    assert answer.balance.posted == answer.balance.available == usd("9.999999999")
    assert not answer.replayed
    assert not answer.transaction.overdrawn


async def test_debit_repeated_with_same_operation_id_charges_once(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    first = await ledger.debit(org, "call", "4", metadata={"a": "b"})
    await ledger.debit(org, "other", "1")
    again = await ledger.debit(org, "call", "4.000", metadata={"a": "b"})
    assert again.replayed
    assert again.transaction == first.transaction
    assert again.balance == first.balance


async def test_every_operation_id_of_a_batch_is_its_own(ledger: Ledger) -> None:
    """The statement for accounts that were written before takes ids as one text: none may end another there."""
    org = organization()
    ids = ["NULL", '"', "\\", '\\"', "'", "','", ",", "{", "}", "{}", '","', "a,b", '{"a"}', "$1", "plain"]
    await ledger.credit(org, "top-up", "100")
    first = await asyncio.gather(*(ledger.debit(org, id_, f"0.{place:02}1") for place, id_ in enumerate(ids)))
    again = await asyncio.gather(*(ledger.debit(org, id_, f"0.{place:02}1") for place, id_ in enumerate(ids)))
    assert [answer.transaction for answer in again] == [answer.transaction for answer in first]
    assert [answer.transaction.operation_id for answer in first] == ids
    assert all(answer.replayed for answer in again)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"value": "5"}, "amount"),
        ({"mode": pb.DEBIT_MODE_MUST_POST}, "mode"),
        ({"description": "other"}, "description"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"project_id": new_id()}, "project_id"),
    ],
)
async def test_debit_repeated_with_another_body_is_refused(ledger: Ledger, change: dict[str, str], field: str) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    await ledger.debit(org, "call", "4")
    fields = {"value": "4", **change}
    code, reason, facts = await refusal(ledger.debit(org, "call", **fields))
    assert (code, reason, facts["field"]) == (EXISTS, "OPERATION_ID_REUSED", field)
    assert (await ledger.debit(org, "call", "4")).balance.posted == usd("6")


async def test_decline_is_final_for_its_operation_id(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    await ledger.hold(org, "held", "4")
    first = await refusal(ledger.debit(org, "call", "7"))
    assert first[:2] == (PRECONDITION, "INSUFFICIENT_BALANCE")
    facts = first[2]
    assert (facts["posted"], facts["held"], facts["available"], facts["needed"]) == ("10", "4", "6", "7")
    assert facts["earliest_release_time"]
    await ledger.credit(org, "more", "100")
    assert await refusal(ledger.debit(org, "call", "7")) == first
    changed = await refusal(ledger.debit(org, "call", "8"))
    assert (changed[1], changed[2]["field"]) == ("OPERATION_ID_REUSED", "amount")
    assert (await ledger.debit(org, "new-call", "7")).balance.posted == usd("103")


async def test_must_post_goes_beyond_the_limit_and_blocks_new_work(ledger: Ledger) -> None:
    org = organization()
    answer = await ledger.debit(org, "done", "3", mode=pb.DEBIT_MODE_MUST_POST)
    assert answer.transaction.overdrawn
    assert answer.balance.available == usd("-3")
    assert (await refusal(ledger.hold(org, "next", "0.1")))[1] == "INSUFFICIENT_BALANCE"


async def test_best_effort_takes_what_is_left_which_may_be_nothing(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "2")
    first = await ledger.debit(org, "a", "5", mode=pb.DEBIT_MODE_BEST_EFFORT)
    second = await ledger.debit(org, "b", "5", mode=pb.DEBIT_MODE_BEST_EFFORT)
    assert (first.posted_amount, second.posted_amount) == (usd("2"), usd("0"))
    await ledger.credit(org, "more", "9")
    again = await ledger.debit(org, "b", "5", mode=pb.DEBIT_MODE_BEST_EFFORT)
    assert again.replayed
    assert again.posted_amount == usd("0")


async def test_validate_only_changes_nothing(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "5")
    asked = await ledger.debit(org, "call", "4", validate_only=True)
    assert asked.balance.posted == usd("1")
    assert asked.transaction.transaction_id == ""
    assert (await refusal(ledger.debit(org, "call", "6", validate_only=True)))[1] == "INSUFFICIENT_BALANCE"
    done = await ledger.debit(org, "call", "5")
    assert not done.replayed
    assert done.transaction.sequence == 2


async def test_projects_account_is_charged_if_it_has_one_else_its_organizations(ledger: Ledger) -> None:
    org, project = organization(), new_id()
    await ledger.credit(org, "top-up", "10")
    before = await ledger.debit(org, "a", "1", project_id=project)
    moved = await ledger.transfer(org, "allocate", "4", "", project)
    after = await ledger.debit(org, "b", "1", project_id=project)
    assert before.balance.posted == usd("9")
    assert after.balance.posted == usd("3")
    assert (moved.source_balance.posted, moved.destination_balance.posted) == (usd("5"), usd("4"))
    again = await ledger.transfer(org, "allocate", "4", "", project)
    assert again.replayed
    assert again.transaction == moved.transaction
    assert again.destination_balance.posted == usd("4")
    changed = await refusal(ledger.transfer(org, "allocate", "4", project, ""))
    assert (changed[1], changed[2]["field"]) == ("OPERATION_ID_REUSED", "source_project_id")


async def test_transfer_needs_a_source_with_enough(ledger: Ledger) -> None:
    org, project = organization(), new_id()
    assert (await refusal(ledger.transfer(org, "t", "1", project, "")))[1] == "ACCOUNT_NOT_FOUND"
    await ledger.credit(org, "top-up", "1")
    assert (await refusal(ledger.transfer(org, "t2", "2", "", project)))[1] == "INSUFFICIENT_BALANCE"
    assert (await ledger.debit(org, "a", "1", project_id=project)).balance.posted == usd("0")


async def test_another_currency_needs_an_account_of_its_own(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "1")
    eur = Amount(currency_code="EUR", value="1")
    request = pb.DebitRequest(organization_id=org, operation_id="x", amount=eur)
    code, reason, facts = await refusal(ledger.ledger.Debit(request, metadata=ledger.metadata))
    assert (code, reason, facts["account_currency_code"]) == (PRECONDITION, "CURRENCY_MISMATCH", "USD")


async def test_capture_charges_the_work_and_gives_back_the_rest(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    held = await ledger.hold(org, "call", "4")
    assert (held.balance.held, held.balance.available) == (usd("4"), usd("6"))
    assert (await ledger.hold(org, "call", "4")).replayed
    captured = await ledger.capture(org, "call", "1.5")
    assert (captured.released_amount, captured.overrun_amount) == (usd("2.5"), usd("0"))
    assert (captured.balance.posted, captured.balance.held) == (usd("8.5"), usd("0"))
    again = await ledger.capture(org, "call", "1.5")
    assert again.replayed
    assert again.transaction == captured.transaction
    assert again.released_amount == usd("2.5")
    assert (await refusal(ledger.capture(org, "call", "2")))[2]["field"] == "amount"
    assert (await refusal(ledger.debit(org, "call", "1.5")))[2]["field"] == "kind"
    assert (await refusal(ledger.release(org, "call")))[1] == "HOLD_ENDED"


async def test_capture_above_the_hold_overdraws_rather_than_declines(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "5")
    await ledger.hold(org, "call", "5")
    captured = await ledger.capture(org, "call", "7")
    assert captured.overrun_amount == usd("2")
    assert captured.transaction.overdrawn
    assert captured.balance.available == usd("-2")


async def test_release_gives_back_once_and_late_work_is_still_charged(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "5")
    await ledger.hold(org, "call", "5")
    released = await ledger.release(org, "call")
    assert released.released_amount == usd("5")
    assert released.balance.held == usd("0")
    assert (await ledger.release(org, "call")).replayed
    captured = await ledger.capture(org, "call", "1")
    assert captured.overrun_amount == usd("1")
    assert captured.balance.posted == usd("4")
    assert (await refusal(ledger.capture(org, "never", "1")))[1] == "HOLD_NOT_FOUND"


async def test_reversals_never_exceed_the_transaction(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    debit = await ledger.debit(org, "call", "6")
    original = debit.transaction.transaction_id
    part = await ledger.reverse(org, "undo-1", original, "2")
    assert part.balance.posted == usd("6")
    assert part.remaining_amount == usd("4")
    over = await refusal(ledger.reverse(org, "undo-2", original, "5"))
    assert over[1] == "REVERSAL_EXCEEDS_TRANSACTION"
    assert over[2]["remaining"] == "4"
    rest = await ledger.reverse(org, "undo-3", original)
    assert rest.balance.posted == usd("10")
    assert (await ledger.reverse(org, "undo-3", original)).replayed
    final = await refusal(ledger.reverse(org, "undo-4", rest.transaction.transaction_id))
    assert final[1] == "REVERSAL_OF_REVERSAL"
    assert (await refusal(ledger.reverse(org, "undo-5", new_id())))[1] == "TRANSACTION_NOT_FOUND"
    foreign = await refusal(ledger.reverse(organization(), "undo-6", original))
    assert foreign[1] == "TRANSACTION_NOT_FOUND"
    found = await ledger.ledger.GetTransaction(
        pb.GetTransactionRequest(organization_id=org, operation_id="call"), metadata=ledger.metadata
    )
    assert found.reversed_amount == usd("6")
    assert found.transaction == debit.transaction


async def test_reversed_transfer_moves_the_money_back(ledger: Ledger) -> None:
    org, project = organization(), new_id()
    await ledger.credit(org, "top-up", "10")
    moved = await ledger.transfer(org, "allocate", "4", "", project)
    await ledger.debit(org, "spent", "3", project_id=project)
    undone = await ledger.reverse(org, "undo", moved.transaction.transaction_id)
    assert undone.balance.posted == usd("10")
    assert undone.transaction.overdrawn


@pytest.mark.shards
async def test_batch_decides_in_order_with_an_outcome_per_item(ledger: Ledger) -> None:
    org, other = organization(), organization()
    await ledger.credit(org, "top-up", "5")

    def item(operation_id: str, value: str, organization_id: str = org) -> pb.DebitRequest:
        return pb.DebitRequest(organization_id=organization_id, operation_id=operation_id, amount=usd(value))

    items = [item("a", "3"), item("a", "3"), item("b", "3"), item("c", "1", other), item("a", "4"), item("d", "2")]
    answer = await ledger.ledger.BatchDebit(pb.BatchDebitRequest(requests=items), metadata=ledger.metadata)
    reasons = [error_info_in(o.error).reason if o.HasField("error") else "" for o in answer.outcomes]  # type: ignore[union-attr]
    assert reasons == ["", "", "INSUFFICIENT_BALANCE", "INSUFFICIENT_BALANCE", "OPERATION_ID_REUSED", ""]
    assert [o.response.replayed for o in answer.outcomes][:2] == [False, True]
    assert answer.outcomes[5].response.balance.posted == usd("0")
    holds = [pb.CreateHoldRequest(organization_id=org, operation_id=f"h{n}", amount=usd("1")) for n in range(2)]
    held = await ledger.ledger.BatchCreateHold(pb.BatchCreateHoldRequest(requests=holds), metadata=ledger.metadata)
    assert all(o.HasField("error") for o in held.outcomes)
    await ledger.credit(org, "more", "1.5")
    holds = [pb.CreateHoldRequest(organization_id=org, operation_id=f"g{n}", amount=usd("1")) for n in range(2)]
    held = await ledger.ledger.BatchCreateHold(pb.BatchCreateHoldRequest(requests=holds), metadata=ledger.metadata)
    assert [o.WhichOneof("outcome") for o in held.outcomes] == ["response", "error"]
    captures = [pb.CaptureHoldRequest(organization_id=org, operation_id=f"g{n}", amount=usd("1")) for n in range(2)]
    done = await ledger.ledger.BatchCaptureHold(pb.BatchCaptureHoldRequest(requests=captures), metadata=ledger.metadata)
    assert [o.WhichOneof("outcome") for o in done.outcomes] == ["response", "error"]


@pytest.mark.shards
async def test_ten_thousand_concurrent_debits_post_exactly_what_there_are_funds_for(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "7000")
    ids = [f"call-{n}" for n in range(9000)] + [f"call-{n}" for n in range(1000)]

    async def charge(operation_id: str) -> tuple[str, bool]:
        try:
            answer = await until_answered(lambda: ledger.debit(org, operation_id, "1"))
        except grpc.aio.AioRpcError as error:
            if error.code() is not PRECONDITION:
                raise
            return "", False
        return answer.transaction.transaction_id, not answer.replayed

    answers = await asyncio.gather(*map(charge, ids))
    assert len({transaction_id for transaction_id, _ in answers if transaction_id}) == 7000
    assert sum(new for _, new in answers) == 7000
    last = await ledger.credit(org, "end", "1")
    assert last.balance.posted == usd("1")
    assert last.transaction.sequence == 7002
