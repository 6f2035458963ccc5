"""Calls of InvoiceService for tests, each of one line."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.timestamps import render_time
from tests.billing.support import Ledger
from tollhouse.billing.v1 import invoice_pb2 as pb

ISSUER = pb.InvoiceIssuer(
    party=pb.InvoiceParty(name="Tollhouse Inc.", address_lines=["1 Bridge Road", "Springfield"], tax_ids=["XX 1"]),
    prefix="INV-",
    due_days=14,
)


NOW = "now"


def at(day: str) -> Timestamp | None:
    """A moment of UTC, such as `2026-09-01`; `now`; or none for an empty text."""
    if day == NOW:
        return render_time(datetime.now(UTC))
    return render_time(datetime.fromisoformat(day).replace(tzinfo=UTC)) if day else None


async def set_issuer(ledger: Ledger, prefix: str = "INV-", **fields: object) -> pb.InvoiceIssuer:
    issuer = pb.InvoiceIssuer(party=ISSUER.party, prefix=prefix, **fields)  # type: ignore[arg-type]
    request = pb.SetInvoiceIssuerRequest(issuer=issuer)
    return (await ledger.invoices.SetInvoiceIssuer(request, metadata=ledger.metadata, timeout=20)).issuer


async def set_recipient(ledger: Ledger, org: str, **fields: object) -> pb.InvoiceRecipient:
    recipient = pb.InvoiceRecipient(**fields)  # type: ignore[arg-type]
    request = pb.SetInvoiceRecipientRequest(organization_id=org, recipient=recipient)
    return (await ledger.invoices.SetInvoiceRecipient(request, metadata=ledger.metadata, timeout=20)).recipient


async def issue(ledger: Ledger, org: str, end: str = "", **fields: object) -> pb.Invoice:
    return (await issue_answer(ledger, org, end, **fields)).invoice


async def issue_answer(ledger: Ledger, org: str, end: str = "", **fields: object) -> pb.IssueInvoiceResponse:
    request = pb.IssueInvoiceRequest(organization_id=org, end_time=at(end), **fields)  # type: ignore[arg-type]
    return await ledger.invoices.IssueInvoice(request, metadata=ledger.metadata, timeout=20)


async def preview(ledger: Ledger, org: str, end: str = "", **fields: object) -> pb.Invoice:
    request = pb.PreviewInvoiceRequest(organization_id=org, end_time=at(end), **fields)  # type: ignore[arg-type]
    return (await ledger.invoices.PreviewInvoice(request, metadata=ledger.metadata, timeout=20)).invoice


async def get(ledger: Ledger, org: str, invoice_id: str) -> pb.Invoice:
    request = pb.GetInvoiceRequest(organization_id=org, invoice_id=invoice_id)
    return (await ledger.invoices.GetInvoice(request, metadata=ledger.metadata, timeout=20)).invoice


async def list_all(ledger: Ledger, org: str, **fields: object) -> list[pb.Invoice]:
    """All of an organization's documents, the oldest first, read in short pages."""
    request = pb.ListInvoicesRequest(organization_id=org, page_size=2, **fields)  # type: ignore[arg-type]
    found: list[pb.Invoice] = []
    while True:
        page = await ledger.invoices.ListInvoices(request, metadata=ledger.metadata, timeout=20)
        found += page.invoices
        if not page.next_page_token:
            return found[::-1]
        request.page_token = page.next_page_token


async def void(ledger: Ledger, invoice: pb.Invoice, reason: str = "a wrong address") -> pb.VoidInvoiceResponse:
    request = pb.VoidInvoiceRequest(
        organization_id=invoice.organization_id, invoice_id=invoice.invoice_id, reason=reason
    )
    return await ledger.invoices.VoidInvoice(request, metadata=ledger.metadata, timeout=20)


async def credit(
    ledger: Ledger, invoice: pb.Invoice, *lines: pb.CreditedLine, **fields: str
) -> pb.CreateCreditNoteResponse:
    request = pb.CreateCreditNoteRequest(
        organization_id=invoice.organization_id,
        invoice_id=invoice.invoice_id,
        reason="a complaint",
        lines=lines,
        **fields,
    )
    return await ledger.invoices.CreateCreditNote(request, metadata=ledger.metadata, timeout=20)


async def set_paid(ledger: Ledger, invoice: pb.Invoice, **by: str) -> pb.Invoice:
    request = pb.SetInvoicePaidRequest(organization_id=invoice.organization_id, invoice_id=invoice.invoice_id, **by)
    return (await ledger.invoices.SetInvoicePaid(request, metadata=ledger.metadata, timeout=20)).invoice


async def set_uncollectible(ledger: Ledger, invoice: pb.Invoice, reason: str) -> pb.Invoice:
    request = pb.SetInvoiceUncollectibleRequest(
        organization_id=invoice.organization_id, invoice_id=invoice.invoice_id, reason=reason
    )
    return (await ledger.invoices.SetInvoiceUncollectible(request, metadata=ledger.metadata, timeout=20)).invoice


async def rendered(ledger: Ledger, invoice: pb.Invoice, form: pb.InvoiceFormat.ValueType) -> bytes:
    request = pb.RenderInvoiceRequest(
        organization_id=invoice.organization_id, invoice_id=invoice.invoice_id, format=form
    )
    return (await ledger.invoices.RenderInvoice(request, metadata=ledger.metadata, timeout=20)).document.data
