"""An invoice covers each movement once, equals the ledger, and has the next number."""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from services.billing.invoice.collection import Collected, Collection, Wanted
from tests.billing.invoice_calls import (
    NOW,
    credit,
    get,
    issue,
    issue_answer,
    list_all,
    preview,
    rendered,
    set_issuer,
    set_paid,
    set_recipient,
    void,
)
from tests.billing.subscription_calls import Subscriptions, add_plan
from tests.billing.support import BillingServer, Ledger, balance_of, funded, organization, refusal, usd
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import invoice_pb2 as pb
from tollhouse.billing.v1 import ledger_pb2

SEPTEMBER = datetime(2026, 9, 2, 8, 0, tzinfo=UTC)


async def charged(ledger: Ledger, *amounts: str, funds: str = "1000") -> str:
    """An organization with money and charges."""
    org = await funded(ledger, funds, hold=None)
    for number, amount in enumerate(amounts):
        await ledger.debit(org, f"charge-{number}", amount, description=f"thing {number}")
    return org


async def test_invoice_covers_what_was_charged_and_equals_the_ledger(timed: Ledger, clock: FixedClock) -> None:
    clock.set(datetime(2026, 8, 20, tzinfo=UTC))
    await set_issuer(timed)
    org = await charged(timed, "12.5", "0.000000001", "7")
    draft_clock = datetime(2026, 9, 2, tzinfo=UTC)
    clock.set(draft_clock)
    draft = await preview(timed, org)
    issued = await issue(timed, org)
    assert (draft.state, draft.number, draft.invoice_id) == (pb.INVOICE_STATE_DRAFT, "", "")
    assert issued.number == "INV-000001"
    assert issued.subtotal.value == draft.subtotal.value == "19.500000001"
    assert [line.amount.value for line in issued.lines] == ["12.5", "0.000000001", "7"]
    assert sum(Decimal(line.amount.value) for line in issued.lines) == 1000 - Decimal(
        (await balance_of(timed, org)).posted.value
    )
    assert (issued.credits_applied.value, issued.amount_due.value) == ("19.500000001", "0")
    assert issued.due_time.seconds - issued.issue_time.seconds == 0
    assert await get(timed, org, issued.invoice_id) == issued


async def test_period_of_a_subscription_has_the_days_of_its_zone(timed: Ledger, clock: FixedClock) -> None:
    clock.set(datetime(2026, 8, 31, 15, tzinfo=UTC))  # Midnight in Tokyo.
    await set_issuer(timed)
    org, plan = await funded(timed, "1000", hold=None), f"zoned-{new_id()}"
    await add_plan(timed, plan, price="30")
    await Subscriptions(timed).create(org, plan, time_zone="Asia/Tokyo")
    clock.set(datetime(2026, 10, 2, tzinfo=UTC))
    (line,) = (issued := await issue(timed, org)).lines
    assert (line.start_time.ToDatetime(UTC), line.plan_code) == (datetime(2026, 8, 31, 15, tzinfo=UTC), plan)
    page = (await rendered(timed, issued, pb.INVOICE_FORMAT_HTML)).decode()
    assert re.search("2026-09-01 .{1,10} 2026-10-01", page)


async def test_nothing_is_billed_twice_and_what_comes_later_is_on_the_next(timed: Ledger, clock: FixedClock) -> None:
    clock.set(datetime(2026, 8, 31, 23, tzinfo=UTC))
    await set_issuer(timed)
    org = await charged(timed, "10")
    clock.set(SEPTEMBER)
    await timed.debit(org, "in-september", "5")
    august = await issue(timed, org)
    assert await refusal(issue(timed, org)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NOTHING_TO_INVOICE",
        {"end_time": "2026-09-01T00:00:00Z"},
    )
    clock.set(datetime(2026, 10, 1, tzinfo=UTC))
    september = await issue(timed, org)
    assert (august.subtotal.value, september.subtotal.value) == ("10", "5")
    assert (september.after_sequence, september.start_time) == (august.to_sequence, august.end_time)
    code, reason, _ = await refusal(issue(timed, org, "2026-08-31"))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVOICE_ENDS_TOO_EARLY")


async def test_issue_waits_for_the_days_of_grace(timed: Ledger, clock: FixedClock) -> None:
    clock.set(datetime(2026, 8, 31, tzinfo=UTC))
    await set_issuer(timed, grace_days=3)
    org = await charged(timed, "10")
    clock.set(datetime(2026, 9, 3, 23, tzinfo=UTC))
    code, reason, facts = await refusal(issue(timed, org))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GRACE_NOT_OVER")
    assert facts == {"issue_from_time": "2026-09-04T00:00:00Z"}
    clock.set(datetime(2026, 9, 4, tzinfo=UTC))
    assert (await issue(timed, org)).number == "INV-000001"
    other = await charged(timed, "1")
    clock.set(datetime(2026, 9, 5, tzinfo=UTC))
    assert (await refusal(issue(timed, other, "2026-09-05")))[1] == "GRACE_NOT_OVER"
    assert (await issue(timed, other, "2026-09-05", skip_grace=True)).total.value == "1"


@pytest.mark.shards
async def test_numbers_have_no_gap_whatever_fails_and_whoever_issues_at_once(ledger: Ledger) -> None:
    await set_issuer(ledger, prefix="GAP-")
    organizations = [await charged(ledger, "3") for _ in range(12)]
    issued = await asyncio.gather(
        *(issue(ledger, org, NOW) for org in organizations for _ in range(2)), return_exceptions=True
    )
    numbers = [one.number for one in issued if isinstance(one, pb.Invoice)]
    refused = [one for one in issued if isinstance(one, grpc.aio.AioRpcError)]
    assert sorted(numbers) == [f"GAP-{number:06}" for number in range(1, 13)]
    assert len(refused) == 12
    assert {one.code() for one in refused} <= {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED}
    assert await ledger.findings() == []


async def test_repeat_gives_the_same_invoice_and_another_body_is_refused(ledger: Ledger) -> None:
    await set_issuer(ledger, prefix="REP-")
    org = await charged(ledger, "3")
    end = datetime.now(UTC).isoformat()[:26]
    answers = await asyncio.gather(*(issue_answer(ledger, org, end, request_id="bill-1") for _ in range(5)))
    assert Counter(answer.replayed for answer in answers) == {False: 1, True: 4}
    assert len({answer.invoice.SerializeToString(deterministic=True) for answer in answers}) == 1
    code, reason, facts = await refusal(issue_answer(ledger, org, end, request_id="bill-1", skip_grace=True))
    assert (code, reason, facts["field"]) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "skip_grace")


async def test_voided_movements_are_on_the_next_invoice_once(ledger: Ledger) -> None:
    await set_issuer(ledger, prefix="VOID-")
    org = await charged(ledger, "3", "4")
    first = await issue(ledger, org, NOW)
    answer = await void(ledger, first)
    assert (answer.invoice.state, answer.invoice.credited.value) == (pb.INVOICE_STATE_VOID, "7")
    assert answer.credit_note.corrects_number == first.number
    assert answer.credit_note.total.value == "7"
    assert await void(ledger, first) == answer
    await ledger.debit(org, "later", "5")
    second = await issue(ledger, org, NOW)
    assert second.subtotal.value == "12"
    assert list(second.replaces_invoice_ids) == [first.invoice_id]
    await void(ledger, second)
    third = await issue(ledger, org, NOW)
    assert third.subtotal.value == "12"
    assert sorted(third.replaces_invoice_ids) == sorted([first.invoice_id, second.invoice_id])
    assert (await refusal(issue(ledger, org, NOW)))[1] == "NOTHING_TO_INVOICE"
    assert [one.number for one in await list_all(ledger, org)] == [f"VOID-{number:06}" for number in range(1, 6)]


async def test_charge_is_invoiced_whatever_its_metadata_says(ledger: Ledger) -> None:
    await set_issuer(ledger, prefix="META-")
    org = await funded(ledger, "100", hold=None)
    await ledger.debit(org, "charge", "7", metadata={"credit_note_id": new_id()})
    await ledger.credit(
        org, "back", "2", source=ledger_pb2.CREDIT_SOURCE_ADJUSTMENT, metadata={"credit_note_id": new_id()}
    )
    assert (await issue(ledger, org, NOW)).subtotal.value == "7"


async def test_paid_invoice_is_not_voided_and_is_paid_by_one_thing(ledger: Ledger) -> None:
    await set_issuer(ledger, prefix="PAID-")
    org = await charged(ledger, "3")
    invoice = await issue(ledger, org, NOW)
    assert (await refusal(set_paid(ledger, invoice, operation_id="nothing")))[1] == "TRANSACTION_NOT_FOUND"
    paid = await set_paid(ledger, invoice, operation_id="charge-0")
    assert (paid.state, paid.operation_id) == (pb.INVOICE_STATE_PAID, "charge-0")
    assert await set_paid(ledger, invoice, operation_id="charge-0") == paid
    assert (await refusal(set_paid(ledger, invoice, payment_id=new_id())))[1] == "INVOICE_STATE"
    code, reason, facts = await refusal(void(ledger, invoice))
    assert (code, reason, facts["state"]) == (grpc.StatusCode.FAILED_PRECONDITION, "INVOICE_STATE", "PAID")


async def test_organization_sees_nothing_of_another(ledger: Ledger) -> None:
    await set_issuer(ledger, prefix="OWN-")
    org, other = await charged(ledger, "3"), organization()
    invoice = await issue(ledger, org, NOW)
    foreign = pb.Invoice(organization_id=other, invoice_id=invoice.invoice_id)
    for call in (
        get(ledger, other, invoice.invoice_id),
        void(ledger, foreign),
        set_paid(ledger, foreign, payment_id=new_id()),
        rendered(ledger, foreign, pb.INVOICE_FORMAT_HTML),
    ):
        assert (await refusal(call))[0] is grpc.StatusCode.NOT_FOUND
    assert await list_all(ledger, other) == []


async def test_debt_is_due_once_and_balance_pays_the_rest(timed: Ledger, clock: FixedClock) -> None:
    clock.set(datetime(2026, 8, 20, tzinfo=UTC))
    await set_issuer(timed)
    org = await funded(timed, "4", hold=None)
    await timed.debit(org, "work", "10", mode=ledger_pb2.DEBIT_MODE_MUST_POST)
    clock.set(SEPTEMBER)
    first = await issue(timed, org)
    await timed.debit(org, "more", "5", mode=ledger_pb2.DEBIT_MODE_MUST_POST)
    clock.set(datetime(2026, 10, 2, tzinfo=UTC))
    second = await issue(timed, org)
    assert [(one.credits_applied.value, one.amount_due.value) for one in (first, second)] == [("4", "6"), ("0", "5")]
    await timed.credit(org, "transfer", "11")
    await timed.debit(org, "last", "1", mode=ledger_pb2.DEBIT_MODE_MUST_POST)
    await set_paid(timed, first, operation_id="transfer")
    await set_paid(timed, second, operation_id="transfer")
    clock.set(datetime(2026, 11, 2, tzinfo=UTC))
    third = await issue(timed, org)
    assert (third.credits_applied.value, third.amount_due.value) == ("0", "1")


async def test_reversal_is_on_the_next_invoice_and_credit_of_a_credit_note_on_none(
    timed: Ledger, clock: FixedClock
) -> None:
    clock.set(datetime(2026, 8, 20, tzinfo=UTC))
    await set_issuer(timed)
    org = await charged(timed, "10", "6")
    clock.set(SEPTEMBER)
    first = await issue(timed, org)
    charge = (
        await timed.ledger.GetTransaction(
            ledger_pb2.GetTransactionRequest(organization_id=org, operation_id="charge-1"), metadata=timed.metadata
        )
    ).transaction
    await timed.reverse(org, "undo", charge.transaction_id, "2")
    note = (await credit(timed, first, pb.CreditedLine(line_number=1, amount=usd("3")))).credit_note
    await timed.credit(
        org, "back", "3", source=ledger_pb2.CREDIT_SOURCE_ADJUSTMENT, metadata={"credit_note_id": note.invoice_id}
    )
    clock.set(datetime(2026, 10, 2, tzinfo=UTC))
    second = await issue(timed, org)
    assert [(line.kind, line.amount.value) for line in second.lines] == [(pb.INVOICE_LINE_KIND_CORRECTION, "-2")]
    assert (second.total.value, second.amount_due.value) == ("-2", "0")


async def test_grants_used_are_told_by_kind(timed: Ledger, clock: FixedClock) -> None:
    clock.set(datetime(2026, 8, 20, tzinfo=UTC))
    await set_issuer(timed)
    org = await charged(timed)
    await timed.grant(org, "welcome", "3")
    await timed.debit(org, "work", "5")
    clock.set(SEPTEMBER)
    first = await issue(timed, org)
    assert [(one.kind, one.amount.value) for one in first.credits_used] == [("PROMOTIONAL", "3")]
    await timed.debit(org, "more", "1")
    clock.set(datetime(2026, 10, 2, tzinfo=UTC))
    second = await issue(timed, org)
    assert list(second.credits_used) == []
    for voided in (first, second):
        await void(timed, voided)
    again = await issue(timed, org)
    assert [(one.kind, one.amount.value) for one in again.credits_used] == [("PROMOTIONAL", "3")]
    await void(timed, again)
    assert (await issue(timed, org)).credits_used == again.credits_used


async def test_issue_without_an_issuer_is_refused(timed: Ledger, clock: FixedClock) -> None:
    org = await charged(timed, "1")
    clock.set(datetime(2026, 4, 1, tzinfo=UTC))
    assert (await refusal(issue(timed, org)))[1] == "ISSUER_NOT_SET"
    assert (await refusal(issue(timed, organization())))[1] == "ISSUER_NOT_SET"
    await set_issuer(timed)
    assert (await refusal(issue(timed, organization())))[1] == "ACCOUNT_NOT_FOUND"
    assert (await issue(timed, org)).number == "INV-000001"
    assert re.fullmatch(r"INV-\d{6}", (await list_all(timed, org))[0].number)


async def test_own_prefix_has_a_counter_of_its_own(timed: Ledger, clock: FixedClock) -> None:
    await set_issuer(timed)
    first, second = await charged(timed, "1"), await charged(timed, "2")
    await set_recipient(timed, second, prefix="ACME-", tax_percent="20", tax_place="AT")
    clock.set(datetime(2026, 4, 1, tzinfo=UTC))
    assert (await issue(timed, first)).number == "INV-000001"
    taxed = await issue(timed, second)
    assert (taxed.number, taxed.tax.amount, taxed.total) == ("ACME-000001", usd("0.4"), usd("2.4"))


async def test_stale_etag_changes_nothing(ledger: Ledger) -> None:
    org = organization()
    first = await set_recipient(ledger, org, party=pb.InvoiceParty(name="A"))
    second = await set_recipient(ledger, org, party=pb.InvoiceParty(name="B"), etag=first.etag)
    assert first.etag != second.etag
    assert (await refusal(set_recipient(ledger, org, party=pb.InvoiceParty(name="C"), etag=first.etag)))[
        1
    ] == "STALE_ETAG"


async def test_issue_during_no_metering_is_refused_where_usage_was_charged(
    server: BillingServer, callers: Callers
) -> None:
    async with server.start() as ledger:
        await set_issuer(ledger)
        org = await charged(ledger, "1")
        metering = Ledger(ledger.channel, lambda: callers.service("metering"))
        await metering.debit(org, "used", "2", metadata={"source": "metering"})
        code, reason, facts = await refusal(issue(ledger, org, NOW))
        assert (code, reason, facts) == (
            grpc.StatusCode.UNAVAILABLE,
            "DEPENDENCY_UNAVAILABLE",
            {"dependency": "metering"},
        )
        assert await list_all(ledger, org) == []


async def test_issue_that_is_overtaken_by_its_repeat_and_a_later_invoice_gives_the_stored_answer(
    timed: Ledger, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_issuer(timed)
    org = await charged(timed, "1")
    overtaken, collect = False, Collection.collect
    first: list[pb.Invoice] = []

    async def collect_late(collection: Collection, wanted: Wanted) -> Collected:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            first.append(await issue(timed, org, "2026-03-15T12:30", request_id="one"))
            clock.advance(timedelta(hours=1))
            await timed.debit(org, "later", "1")
            clock.advance(timedelta(hours=1))
            await issue(timed, org, "2026-03-15T14:30")
        return await collect(collection, wanted)

    clock.advance(timedelta(hours=1))
    monkeypatch.setattr(Collection, "collect", collect_late)
    answer = await issue_answer(timed, org, "2026-03-15T12:30", request_id="one")
    assert (answer.replayed, answer.invoice.number) == (True, first[0].number)
