"""The invoice of one organization of the demonstration."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from rich.console import Console

from libs.cli.terminal.connection import Channels
from libs.cli.traces.funding import CURRENCY
from libs.cli.traces.population import Organization
from libs.common.timestamps import render_time
from tollhouse.billing.v1 import invoice_pb2, invoice_pb2_grpc


@dataclass(frozen=True, slots=True)
class Invoiced:
    """What an invoice has."""

    name: str
    number: str
    used: Decimal
    """The sum of its lines of usage."""
    total: Decimal


async def invoice(channels: Channels, organization: Organization) -> Invoiced:
    """Issue an invoice over all that an organization was charged, of an issuer of the demonstration."""
    stub = invoice_pb2_grpc.InvoiceServiceStub(channels.billing)
    issuer = invoice_pb2.InvoiceIssuer(party=invoice_pb2.InvoiceParty(name="Tollhouse"), prefix="DEMO-")
    await stub.SetInvoiceIssuer(invoice_pb2.SetInvoiceIssuerRequest(issuer=issuer))
    recipient = invoice_pb2.InvoiceRecipient(party=invoice_pb2.InvoiceParty(name=organization.name))
    await stub.SetInvoiceRecipient(
        invoice_pb2.SetInvoiceRecipientRequest(organization_id=organization.organization_id, recipient=recipient)
    )
    request = invoice_pb2.IssueInvoiceRequest(
        organization_id=organization.organization_id,
        currency_code=CURRENCY,
        end_time=render_time(datetime.now(UTC)),
    )
    issued = (await stub.IssueInvoice(request)).invoice
    usage = [line for line in issued.lines if line.kind == invoice_pb2.INVOICE_LINE_KIND_USAGE]
    used = sum((Decimal(line.amount.value) for line in usage), Decimal(0))
    return Invoiced(organization.name, issued.number, used, Decimal(issued.total.value))


def print_invoice(console: Console, invoiced: Invoiced) -> None:
    """Print the number of the invoice and what it comes to."""
    total, used = (f"{value:f} {CURRENCY}" for value in (invoiced.total, invoiced.used))
    console.print(f"Invoice {invoiced.number} of {invoiced.name}: {total}, of which usage {used}.", soft_wrap=True)
