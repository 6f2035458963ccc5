"""`tollhouse invoice …`: invoices and credit notes over what accounts were charged."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.message import Message

from libs.cli.failures import WrongUse
from libs.cli.terminal.amounts import parse_amount
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument, ProjectOption
from libs.cli.terminal.output import Output, as_dict, cell
from libs.cli.terminal.times import parse_past
from tollhouse.billing.v1 import invoice_pb2, invoice_pb2_grpc

group = typer.Typer(
    name="invoice", help="Invoices and credit notes over what accounts were charged.", no_args_is_help=True
)
InvoiceArgument = Annotated[str, typer.Argument(help="The document's id.", metavar="INVOICE")]
CurrencyOption = Annotated[str, typer.Option("--currency", help="The unit; needed where there are several accounts.")]
UntilOption = Annotated[
    str,
    typer.Option(
        "--until",
        help="The end of what is covered: a time, or a span back such as 1h; the beginning of the month without it.",
    ),
]
_BILLING: Final = ("billing",)
_COLUMNS: Final = ("invoice_id", "number", "kind", "state", "total", "amount_due", "issue_time", "due_time")
_LINE_COLUMNS: Final = ("line", "kind", "description", "quantities", "from", "until", "amount")


_FORECAST_COLUMNS: Final = ("plan", "usage charge", "from", "until", "used so far", "comes to", "also priced by")


@calling(group, "preview", _BILLING)
async def preview(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    project: ProjectOption = "",
    currency: CurrencyOption = "",
    until: UntilOption = "",
) -> None:
    """Show the invoice that would be issued now; nothing is stored."""
    request = invoice_pb2.PreviewInvoiceRequest(
        organization_id=organization,
        project_id=project,
        currency_code=currency,
        end_time=parse_past(until) if until else None,
    )
    response = await _stub(channels).PreviewInvoice(request)
    forecasts = [as_dict(one) for one in response.usage_forecasts]
    if output.as_json:
        output.json(as_dict(response.invoice) | {"usage_forecasts": forecasts})
        return
    if response.HasField("invoice"):
        _show(output, response.invoice)
    if forecasts:
        output.table(_FORECAST_COLUMNS, [_forecast(one) for one in response.usage_forecasts])


@calling(group, "issue", _BILLING)
async def issue(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    project: ProjectOption = "",
    currency: CurrencyOption = "",
    until: UntilOption = "",
    skip_grace: Annotated[bool, typer.Option("--skip-grace", help="Do not wait for late usage.")] = False,
    request_id: Annotated[str, typer.Option("--request", help="A name, so that a repeat issues nothing more.")] = "",
) -> None:
    """Issue an invoice over what no other covers."""
    request = invoice_pb2.IssueInvoiceRequest(
        organization_id=organization,
        project_id=project,
        currency_code=currency,
        end_time=parse_past(until) if until else None,
        skip_grace=skip_grace,
        request_id=request_id,
    )
    _show(output, (await _stub(channels).IssueInvoice(request)).invoice)


@calling(group, "list", _BILLING)
async def list_invoices(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    number: Annotated[str, typer.Option(help="Only the document of this number.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List an organization's invoices and credit notes, newest first."""
    request = invoice_pb2.ListInvoicesRequest(organization_id=organization, number=number)
    found, more = await listed(_stub(channels).ListInvoices, request, lambda page: page.invoices, limit)
    output.many(found, _COLUMNS, more=more)


@calling(group, "get", _BILLING)
async def get(channels: Channels, output: Output, organization: OrganizationArgument, invoice: InvoiceArgument) -> None:
    """Show one document with its lines."""
    request = invoice_pb2.GetInvoiceRequest(organization_id=organization, invoice_id=invoice)
    _show(output, (await _stub(channels).GetInvoice(request)).invoice)


@calling(group, "void", _BILLING)
async def void(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    invoice: InvoiceArgument,
    reason: Annotated[str, typer.Option(help="Why, as it is printed on the credit note.")],
    yes: YesOption = False,
) -> None:
    """Void an invoice that is not paid, with a credit note over all of it."""
    confirm(f"Void the invoice {invoice}?", yes=yes)
    request = invoice_pb2.VoidInvoiceRequest(organization_id=organization, invoice_id=invoice, reason=reason)
    answer = await _stub(channels).VoidInvoice(request)
    output.one(answer.invoice, credit_note=answer.credit_note.number)


@calling(group, "credit", _BILLING)
async def credit(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    invoice: InvoiceArgument,
    reason: Annotated[str, typer.Option(help="Why, as it is printed on the credit note.")],
    line: Annotated[
        list[str] | None,
        typer.Option(help="A line by its number, such as 2, or a part of it, such as 2=1.50USD; may be repeated."),
    ] = None,
    request_id: Annotated[str, typer.Option("--request", help="A name, so that a repeat credits nothing more.")] = "",
    yes: YesOption = False,
) -> None:
    """Issue a credit note over lines of an invoice, or over all that is left of it."""
    confirm(f"Credit {'lines' if line else 'all that is left'} of the invoice {invoice}?", yes=yes)
    request = invoice_pb2.CreateCreditNoteRequest(
        organization_id=organization,
        invoice_id=invoice,
        reason=reason,
        lines=[_credited(text) for text in line or ()],
        request_id=request_id,
    )
    answer = await _stub(channels).CreateCreditNote(request)
    output.one(answer.credit_note, credited=cell(answer.invoice, "credited"))


@calling(group, "paid", _BILLING)
async def paid(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    invoice: InvoiceArgument,
    payment: Annotated[str, typer.Option(help="The id of the payment that paid it.")] = "",
    operation: Annotated[str, typer.Option(help="The operation id of the movement that paid it.")] = "",
) -> None:
    """Say by which payment or which movement an invoice is paid."""
    request = invoice_pb2.SetInvoicePaidRequest(
        organization_id=organization, invoice_id=invoice, payment_id=payment, operation_id=operation
    )
    output.one((await _stub(channels).SetInvoicePaid(request)).invoice)


@calling(group, "uncollectible", _BILLING)
async def uncollectible(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    invoice: InvoiceArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    yes: YesOption = False,
) -> None:
    """Say that an invoice will not be paid. It can be paid, credited or voided later all the same."""
    confirm(f"Give up the invoice {invoice}?", yes=yes)
    request = invoice_pb2.SetInvoiceUncollectibleRequest(
        organization_id=organization, invoice_id=invoice, reason=reason
    )
    output.one((await _stub(channels).SetInvoiceUncollectible(request)).invoice)


@calling(group, "render", _BILLING)
async def render(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    invoice: InvoiceArgument,
    pdf: Annotated[bool, typer.Option("--pdf", help="As a PDF instead of a page of HTML.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file to write; standard output without it.")] = None,
) -> None:
    """Write a document as a page of HTML or as a PDF."""
    form = invoice_pb2.INVOICE_FORMAT_PDF if pdf else invoice_pb2.INVOICE_FORMAT_HTML
    request = invoice_pb2.RenderInvoiceRequest(organization_id=organization, invoice_id=invoice, format=form)
    document = (await _stub(channels).RenderInvoice(request)).document
    if out is None:
        sys.stdout.buffer.write(document.data)
        return
    try:
        out.write_bytes(document.data)
    except OSError as error:
        raise WrongUse(f"{out} cannot be written: {error.strerror}.") from None
    output.remark(f"{out}: {len(document.data)} bytes of {document.content_type}")


@calling(group, "issuer", _BILLING)
async def issuer(
    channels: Channels,
    output: Output,
    name: Annotated[str, typer.Option(help="The issuer's name; without it the issuer is only shown.")] = "",
    prefix: Annotated[str, typer.Option(help="What numbers begin with; not ending in a digit.")] = "INV-",
    address: Annotated[list[str] | None, typer.Option(help="A line of the address; may be repeated.")] = None,
    tax_id: Annotated[list[str] | None, typer.Option(help="A tax id; may be repeated.")] = None,
    due_days: Annotated[int, typer.Option(help="In how many days an invoice is due.", min=0, max=365)] = 14,
    grace_days: Annotated[int, typer.Option(help="How many days late usage is waited for.", min=0, max=35)] = 0,
    language: Annotated[str, typer.Option(help="The language of documents: en, de, fr or es.")] = "en",
    footer: Annotated[str, typer.Option(help="What is printed below the total.")] = "",
    automatic: Annotated[bool, typer.Option(help="Issue the invoices of each month by themselves.")] = False,
) -> None:
    """Show who issues invoices, or set it as a whole."""
    if not name:
        output.one((await _stub(channels).GetInvoiceIssuer(invoice_pb2.GetInvoiceIssuerRequest())).issuer)
        return
    party = invoice_pb2.InvoiceParty(name=name, address_lines=address or (), tax_ids=tax_id or ())
    request = invoice_pb2.SetInvoiceIssuerRequest(
        issuer=invoice_pb2.InvoiceIssuer(
            party=party,
            prefix=prefix,
            due_days=due_days,
            grace_days=grace_days,
            language=language,
            footer=footer,
            automatic=automatic,
        )
    )
    output.one((await _stub(channels).SetInvoiceIssuer(request)).issuer)


@calling(group, "recipient", _BILLING)
async def recipient(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    name: Annotated[str | None, typer.Option(help="The recipient's name.")] = None,
    address: Annotated[list[str] | None, typer.Option(help="A line of the address; may be repeated.")] = None,
    tax_id: Annotated[list[str] | None, typer.Option(help="A tax id; may be repeated.")] = None,
    email: Annotated[str | None, typer.Option(help="An address of mail, as it is printed.")] = None,
    prefix: Annotated[str | None, typer.Option(help="What their numbers begin with.")] = None,
    tax_percent: Annotated[str | None, typer.Option(help="The tax rate in percent, such as 19.")] = None,
    tax_place: Annotated[str | None, typer.Option(help="Where the tax is owed, such as DE.")] = None,
    tax_note: Annotated[str | None, typer.Option(help="What is printed beside the tax.")] = None,
    language: Annotated[str | None, typer.Option(help="The language of their documents: en, de, fr or es.")] = None,
    by_hand: Annotated[
        bool | None, typer.Option("--by-hand/--automatic", help="Whether their invoices are issued by hand alone.")
    ] = None,
) -> None:
    """Show to whom an organization's invoices are addressed, or change what is given and leave the rest."""
    stub = _stub(channels)
    known = (
        await stub.GetInvoiceRecipient(invoice_pb2.GetInvoiceRecipientRequest(organization_id=organization))
    ).recipient
    party = {"name": name, "email": email, "address_lines": address, "tax_ids": tax_id}
    fields = {
        "prefix": prefix,
        "tax_percent": tax_percent,
        "tax_place": tax_place,
        "tax_note": tax_note,
        "language": language,
        "by_hand": by_hand,
    }
    if all(value is None for value in (*party.values(), *fields.values())):
        output.one(known)
        return
    _change(known.party, party)
    _change(known, fields)
    request = invoice_pb2.SetInvoiceRecipientRequest(organization_id=organization, recipient=known)
    output.one((await stub.SetInvoiceRecipient(request)).recipient)


def _change(message: Message, values: Mapping[str, str | bool | list[str] | None]) -> None:
    """Set what is given, and leave the rest."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in given:
        message.ClearField(name)
    message.MergeFrom(type(message)(**given))


def _credited(text: str) -> invoice_pb2.CreditedLine:
    found = re.fullmatch(r"([0-9]{1,9})(?:=(.+))?", text, re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no number of a line, with or without an amount such as 2=1.50USD")
    number, amount = found.groups()
    return invoice_pb2.CreditedLine(line_number=int(number), amount=parse_amount(amount) if amount else None)


def _stub(channels: Channels) -> invoice_pb2_grpc.InvoiceServiceStub:
    return invoice_pb2_grpc.InvoiceServiceStub(channels.billing)


def _show(output: Output, invoice: invoice_pb2.Invoice) -> None:
    """Show a document: what it comes to, and its lines."""
    if output.as_json:
        output.json(as_dict(invoice))
        return
    names = ("invoice_id", "number", "kind", "state", "issue_time", "due_time", "start_time", "end_time")
    sums = ("subtotal", "tax", "total", "credits_applied", "amount_due", "credited")
    for name in (*names, *sums, "corrects_number", "reason", "invoice_url"):
        if text := cell(invoice, name):
            output.line(f"{name.replace('_', ' '):<18} {text}")
    output.table(_LINE_COLUMNS, [_row(line) for line in invoice.lines])


def _forecast(one: invoice_pb2.UsageForecast) -> list[str]:
    names = ("plan_code", "usage_charge_code", "start_time", "end_time")
    used = f"{one.quantity} {one.unit}"
    return [*(cell(one, name) for name in names), used, cell(one, "amount"), ", ".join(one.priced_models)]


def _row(line: invoice_pb2.InvoiceLine) -> list[str]:
    quantities = ", ".join(f"{one.value} {one.unit}" for one in line.quantities)
    times = [cell(line, name) for name in ("start_time", "end_time")]
    return [str(line.line_number), cell(line, "kind"), line.description, quantities, *times, cell(line, "amount")]
