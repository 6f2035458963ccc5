"""Credit notes stay within their invoice, events are told once, and bad input changes nothing."""

import asyncio
import json
from decimal import Decimal

import asyncpg
import grpc
import pytest

from libs.common.database_url import plain_url
from libs.common.ids import new_id
from tests.billing.invoice_calls import (
    NOW,
    at,
    credit,
    issue,
    set_issuer,
    set_paid,
    set_recipient,
    set_uncollectible,
    void,
)
from tests.billing.support import BillingServer, Ledger, funded, organization, refusal, usd
from tests.support.sharded import in_shard_of
from tollhouse.billing.v1 import invoice_pb2 as pb
from tollhouse.billing.v1 import payment_pb2
from tollhouse.common.v1.amount_pb2 import Amount

BAD = "\x00"


async def invoiced(ledger: Ledger, *amounts: str, percent: str = "") -> pb.Invoice:
    """An invoice with a line for each amount."""
    await set_issuer(ledger)
    org = await funded(ledger, "1000", hold=None)
    await set_recipient(ledger, org, tax_percent=percent)
    for number, amount in enumerate(amounts):
        await ledger.debit(org, f"charge-{number}", amount, description=f"thing {number}")
    return await issue(ledger, org, NOW)


async def test_four_credit_notes_add_up_to_the_invoice_and_a_fifth_is_refused(ledger: Ledger) -> None:
    """Acceptance case 6."""
    invoice = await invoiced(ledger, "68.33", "68.33", "57.50", "85.00", percent="20")
    assert (invoice.tax.amount.value, invoice.total.value) == ("55.83", "334.99")
    notes = [await credit(ledger, invoice, pb.CreditedLine(line_number=number)) for number in (1, 2, 3, 4)]
    assert sum(Decimal(one.credit_note.total.value) for one in notes) == Decimal("334.99")
    assert notes[-1].invoice.credited.value == "334.99"
    for lines in ((), (pb.CreditedLine(line_number=1, amount=usd("0.01")),)):
        code, reason, _ = await refusal(credit(ledger, invoice, *lines))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CREDIT_EXCEEDS_INVOICE")
    assert (await refusal(void(ledger, invoice)))[1] == "INVOICE_HAS_CREDIT_NOTES"


async def test_credits_at_once_are_never_above_the_line_and_a_repeat_credits_nothing_more(ledger: Ledger) -> None:
    invoice = await invoiced(ledger, "10")
    line = pb.CreditedLine(line_number=1, amount=usd("4"))
    answers = await asyncio.gather(*(credit(ledger, invoice, line) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(answer, pb.CreateCreditNoteResponse) for answer in answers) == 2
    last = pb.CreditedLine(line_number=1, amount=usd("2"))
    one, again = [await credit(ledger, invoice, last, request_id="last") for _ in range(2)]
    assert (one.replayed, again.replayed) == (False, True)
    assert one.credit_note == again.credit_note
    code, reason, _ = await refusal(credit(ledger, one.credit_note))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVOICE_STATE")


async def test_credit_of_what_the_invoice_has_not_is_refused(ledger: Ledger) -> None:
    invoice = await invoiced(ledger, "10")
    euros = pb.CreditedLine(line_number=1, amount=Amount(currency_code="EUR", value="1"))
    assert (await refusal(credit(ledger, invoice, euros)))[1] == "CURRENCY_MISMATCH"
    for wrong in (
        (pb.CreditedLine(line_number=2),),
        (pb.CreditedLine(line_number=1), pb.CreditedLine(line_number=1)),
        (pb.CreditedLine(line_number=1, amount=usd("0")),),
        (pb.CreditedLine(line_number=0),),
    ):
        assert (await refusal(credit(ledger, invoice, *wrong)))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_invoice_that_is_given_up_can_still_be_credited_paid_and_voided(ledger: Ledger) -> None:
    first = await invoiced(ledger, "10")
    given_up, again = [await set_uncollectible(ledger, first, reason) for reason in ("moved away", "something else")]
    assert (given_up.state, given_up.reason) == (pb.INVOICE_STATE_UNCOLLECTIBLE, "moved away")
    assert again == given_up
    note = await credit(ledger, first, pb.CreditedLine(line_number=1, amount=usd("4")))
    assert note.invoice.state == pb.INVOICE_STATE_UNCOLLECTIBLE
    paid = await set_paid(ledger, first, operation_id="charge-0")
    assert paid.state == pb.INVOICE_STATE_PAID
    code, reason, _ = await refusal(set_uncollectible(ledger, first, "too late"))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVOICE_STATE")
    second = await invoiced(ledger, "3")
    await set_uncollectible(ledger, second, "moved away")
    assert (await void(ledger, second)).invoice.state == pb.INVOICE_STATE_VOID
    for stranger in (note.credit_note, second):
        assert (await refusal(set_uncollectible(ledger, stranger, "no")))[1] == "INVOICE_STATE"


async def test_events_of_an_invoice_are_told_once_in_the_transaction(
    server: BillingServer, database_admin_url: str
) -> None:
    async with server.start() as ledger:
        invoice = await invoiced(ledger, "10")
        await set_paid(ledger, invoice, operation_id="charge-0")
        await set_paid(ledger, invoice, operation_id="charge-0")
        org = invoice.organization_id
        await ledger.debit(org, "more", "3")
        second = await issue(ledger, org, NOW)
        note = (await void(ledger, second)).credit_note
        await void(ledger, second)
        await ledger.debit(org, "last", "5")
        third = await issue(ledger, org, NOW)
        line = pb.CreditedLine(line_number=1, amount=usd("2"))
        part, repeat = [(await credit(ledger, third, line, request_id="part")).credit_note for _ in range(2)]
        for _ in range(2):
            await set_uncollectible(ledger, third, "gone")
    statement = in_shard_of(
        org, "SELECT subject, type, data::text FROM billing.events WHERE organization_id = $1 ORDER BY event_id"
    )
    connection = await asyncpg.connect(plain_url(database_admin_url))
    told = [(row[0], row[1], json.loads(row[2])) for row in await connection.fetch(statement, org)]
    await connection.close()
    assert [(subject, what) for subject, what, _ in told] == [
        (f"invoice/{invoice.invoice_id}", "tollhouse.invoice.issued"),
        (f"invoice/{invoice.invoice_id}", "tollhouse.invoice.paid"),
        (f"invoice/{second.invoice_id}", "tollhouse.invoice.issued"),
        (f"invoice/{second.invoice_id}", "tollhouse.invoice.voided"),
        (f"invoice/{third.invoice_id}", "tollhouse.invoice.issued"),
        (f"invoice/{third.invoice_id}", "tollhouse.invoice.credited"),
        (f"invoice/{third.invoice_id}", "tollhouse.invoice.uncollectible"),
    ]
    assert told[0][2]["number"] == invoice.number
    assert told[1][2]["operation_id"] == "charge-0"
    assert told[3][2]["credit_note_number"] == note.number
    credited, given_up = told[5][2], told[6][2]
    assert (credited["credit_note_number"], credited["credit_note_total"]) == (part.number, "2")
    assert part == repeat
    assert (credited["total"], credited["reason"], given_up["total"], given_up["reason"]) == (
        *("8", "a complaint"),
        *("8", "gone"),
    )


@pytest.mark.parametrize("bad", [BAD, "x" * 1_000_000])
async def test_bad_text_is_refused_by_name_in_every_field(ledger: Ledger, bad: str) -> None:
    org, party = organization(), pb.InvoiceParty(name="A")
    issuers = (
        pb.InvoiceIssuer(party=pb.InvoiceParty(name=bad), prefix="A-"),
        pb.InvoiceIssuer(party=pb.InvoiceParty(name="A", address_lines=[bad]), prefix="A-"),
        pb.InvoiceIssuer(party=pb.InvoiceParty(name="A", tax_ids=[bad], email=bad), prefix="A-"),
        pb.InvoiceIssuer(party=party, prefix=bad),
        pb.InvoiceIssuer(party=party, prefix="A-", footer=bad),
        pb.InvoiceIssuer(party=party, prefix="A-", language=bad),
        pb.InvoiceIssuer(party=party, prefix="A1"),
        pb.InvoiceIssuer(party=pb.InvoiceParty(name=" "), prefix="A-"),
    )
    calls = [
        ledger.invoices.SetInvoiceIssuer(pb.SetInvoiceIssuerRequest(issuer=one), metadata=ledger.metadata)
        for one in issuers
    ]
    recipients = (
        pb.InvoiceRecipient(tax_percent="101"),
        pb.InvoiceRecipient(tax_percent="1e1"),
        pb.InvoiceRecipient(tax_percent=bad),
        pb.InvoiceRecipient(tax_place=bad),
        pb.InvoiceRecipient(tax_note=bad),
    )
    calls += [
        ledger.invoices.SetInvoiceRecipient(  # type: ignore[misc]
            pb.SetInvoiceRecipientRequest(organization_id=org, recipient=one), metadata=ledger.metadata
        )
        for one in recipients
    ]
    for call in calls:
        assert (await refusal(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_times_and_names_that_cannot_be_are_refused(ledger: Ledger) -> None:
    await set_issuer(ledger)
    org = await funded(ledger, hold=None)
    requests = (
        pb.IssueInvoiceRequest(organization_id=org, end_time=at("2900-01-01")),
        pb.IssueInvoiceRequest(organization_id=org, project_id=org),
        pb.IssueInvoiceRequest(organization_id="x"),
        pb.IssueInvoiceRequest(organization_id=org, currency_code="usd"),
        pb.IssueInvoiceRequest(organization_id=org, request_id="with space"),
    )
    for request in requests:
        call = ledger.invoices.IssueInvoice(request, metadata=ledger.metadata)
        assert (await refusal(call))[0] is grpc.StatusCode.INVALID_ARGUMENT, request
    missing = pb.Invoice(organization_id=org, invoice_id=new_id())
    assert (await refusal(set_paid(ledger, missing)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refusal(void(ledger, missing)))[0] is grpc.StatusCode.NOT_FOUND
    assert (await refusal(void(ledger, missing, reason="  ")))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_invoice_is_paid_by_money_of_its_organization_and_currency_alone(ledger: Ledger) -> None:
    await set_issuer(ledger, prefix="PAYS-")
    invoice = await invoiced(ledger, "3")
    org, other = invoice.organization_id, organization()
    foreign, euros = await paid(ledger, other, "3", "USD"), await paid(ledger, org, "3", "EUR")
    returned, dollars = await paid(ledger, org, "3", "USD"), await paid(ledger, org, "3", "USD")
    request = payment_pb2.RefundPaymentRequest(
        organization_id=org, payment_id=returned, request_id="back", reason="not theirs"
    )
    await ledger.payments.RefundPayment(request, metadata=ledger.metadata, timeout=20)
    for missing in (new_id(), foreign):
        assert (await refusal(set_paid(ledger, invoice, payment_id=missing)))[:2] == (
            grpc.StatusCode.NOT_FOUND,
            "NOT_FOUND",
        )
    for wrong in ({"payment_id": euros}, {"payment_id": returned}, {"operation_id": f"payment/{euros}/0"}):
        assert (await refusal(set_paid(ledger, invoice, **wrong)))[1] == "DOES_NOT_PAY_INVOICE"
    assert (await set_paid(ledger, invoice, payment_id=dollars)).state == pb.INVOICE_STATE_PAID


async def paid(ledger: Ledger, org: str, value: str, currency_code: str) -> str:
    """A payment of an organization, completed."""
    request = payment_pb2.RecordPaymentRequest(
        organization_id=org,
        operation_id=new_id(),
        type=payment_pb2.PAYMENT_TYPE_TOP_UP,
        amount=Amount(currency_code=currency_code, value=value),
        method=payment_pb2.PAYMENT_METHOD_BANK_TRANSFER,
        reason="statement",
    )
    answer = await ledger.payments.RecordPayment(request, metadata=ledger.metadata, timeout=20)
    return answer.payment.payment_id
