"""InvoiceService over gRPC."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

import grpc
from google.api.httpbody_pb2 import HttpBody

from libs.common.clock import Clock
from libs.common.errors import NotFound
from libs.common.pages import that_fit
from libs.common.repeats.parsing import repeatable
from libs.common.timestamps import render_time
from libs.common.validation import Reader
from services.billing import errors, invoice_errors
from services.billing.invoice.corrections import Corrections
from services.billing.invoice.domain import Document, UsageForecast
from services.billing.invoice.invoices import Invoices
from services.billing.invoice.links import Links, Target
from services.billing.invoice.parsing import (
    check_reason,
    currency_of,
    read_credited,
    read_issuer,
    read_kind,
    read_paid_by,
    read_recipient,
    read_state,
    read_wanted,
)
from services.billing.invoice.parties import Parties
from services.billing.invoice.printing.printer import Format, Printer
from services.billing.invoice.rendering import render_document, render_forecast, render_issuer, render_recipient
from tollhouse.billing.v1 import invoice_pb2 as pb
from tollhouse.billing.v1 import invoice_pb2_grpc as rpc

_Context = grpc.aio.ServicerContext
Forecasting: TypeAlias = Callable[[str], Awaitable[Sequence[UsageForecast]]]
"""Tells what the usage charges of an organization's periods under way would come to."""
_FORMATS: Final = {pb.INVOICE_FORMAT_PDF: Format.PDF}


class InvoiceServicer(rpc.InvoiceServiceServicer):
    """Parses and renders what the use cases of invoices do."""

    def __init__(
        self,
        invoices: Invoices,
        corrections: Corrections,
        parties: Parties,
        printer: Printer,
        links: Links | None,
        clock: Clock,
        forecasts: Forecasting,
    ) -> None:
        """`links` is None where the installation has no secret for links."""
        self._invoices = invoices
        self._corrections = corrections
        self._parties = parties
        self._printer = printer
        self._links = links
        self._clock = clock
        self._forecasts = forecasts

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "PreviewInvoice": read_wanted,
            "IssueInvoice": read_wanted,
            "VoidInvoice": check_reason,
            "CreateCreditNote": read_credited,
            "SetInvoicePaid": read_paid_by,
            "SetInvoiceUncollectible": check_reason,
            "SetInvoiceIssuer": read_issuer,
            "SetInvoiceRecipient": read_recipient,
        }

    async def PreviewInvoice(self, request: pb.PreviewInvoiceRequest, context: _Context) -> pb.PreviewInvoiceResponse:
        wanted = read_wanted(request)
        forecasts = [] if wanted.project_id else await self._forecasts(wanted.organization_id)
        forecasts = [one for one in forecasts if wanted.currency_code in ("", one.currency_code)]
        try:
            draft = render_document(await self._invoices.preview(wanted))
        except (invoice_errors.NothingToInvoice, errors.AccountNotFound):
            if not forecasts:
                raise
            draft = None
        return pb.PreviewInvoiceResponse(invoice=draft, usage_forecasts=map(render_forecast, forecasts))

    async def IssueInvoice(self, request: pb.IssueInvoiceRequest, context: _Context) -> pb.IssueInvoiceResponse:
        answer, replayed = await self._invoices.issue(
            read_wanted(request),
            repeatable(request.request_id, "IssueInvoice", request),
            lambda issued: pb.IssueInvoiceResponse(invoice=render_document(issued)).SerializeToString(),
            skip_grace=request.skip_grace,
        )
        response = pb.IssueInvoiceResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def GetInvoice(self, request: pb.GetInvoiceRequest, context: _Context) -> pb.GetInvoiceResponse:
        document = await self._invoices.get(request.organization_id.lower(), request.invoice_id.lower())
        message = render_document(document)
        if self._links is not None:
            target = Target(document.organization_id, document.invoice_id)
            message.invoice_url, expires = self._links.url(target, self._clock.now())
            message.invoice_url_expire_time.CopyFrom(render_time(expires))
        return pb.GetInvoiceResponse(invoice=message)

    async def ListInvoices(self, request: pb.ListInvoicesRequest, context: _Context) -> pb.ListInvoicesResponse:
        documents, token = await self._invoices.page(
            request.organization_id.lower(),
            kind=read_kind(request.kind),
            state=read_state(request.state),
            number=request.number,
            size=request.page_size,
            page_token=request.page_token,
            fitting=lambda found: len(that_fit(render_document(one, with_lines=False) for one in found)),
        )
        rendered = [render_document(document, with_lines=False) for document in documents]
        return pb.ListInvoicesResponse(invoices=rendered, next_page_token=token)

    async def VoidInvoice(self, request: pb.VoidInvoiceRequest, context: _Context) -> pb.VoidInvoiceResponse:
        check_reason(request)
        voided, note = await self._corrections.void(
            request.organization_id.lower(), request.invoice_id.lower(), request.reason
        )
        return pb.VoidInvoiceResponse(invoice=render_document(voided), credit_note=render_document(note))

    async def CreateCreditNote(
        self, request: pb.CreateCreditNoteRequest, context: _Context
    ) -> pb.CreateCreditNoteResponse:
        def render(note: Document, invoice: Document) -> bytes:
            return pb.CreateCreditNoteResponse(
                credit_note=render_document(note), invoice=render_document(invoice, with_lines=False)
            ).SerializeToString()

        wanted = read_credited(request)
        key = request.organization_id.lower(), request.invoice_id.lower()
        code = currency_of(request)
        if code:
            invoice = await self._invoices.get(*key)
            if code != invoice.currency_code:
                raise errors.CurrencyMismatch(currency_code=code, account_currency_code=invoice.currency_code)
        answer, replayed = await self._corrections.credit(
            *key, wanted, request.reason, repeatable(request.request_id, "CreateCreditNote", request), render
        )
        response = pb.CreateCreditNoteResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def SetInvoicePaid(self, request: pb.SetInvoicePaidRequest, context: _Context) -> pb.SetInvoicePaidResponse:
        paid = await self._corrections.set_paid(
            request.organization_id.lower(), request.invoice_id.lower(), *read_paid_by(request)
        )
        return pb.SetInvoicePaidResponse(invoice=render_document(paid, with_lines=False))

    async def SetInvoiceUncollectible(
        self, request: pb.SetInvoiceUncollectibleRequest, context: _Context
    ) -> pb.SetInvoiceUncollectibleResponse:
        check_reason(request)
        document = await self._corrections.set_uncollectible(
            request.organization_id.lower(), request.invoice_id.lower(), request.reason
        )
        return pb.SetInvoiceUncollectibleResponse(invoice=render_document(document, with_lines=False))

    async def RenderInvoice(self, request: pb.RenderInvoiceRequest, context: _Context) -> pb.RenderInvoiceResponse:
        document = await self._invoices.get(request.organization_id.lower(), request.invoice_id.lower())
        return pb.RenderInvoiceResponse(document=await self._print(document, request.format))

    async def OpenInvoiceLink(
        self, request: pb.OpenInvoiceLinkRequest, context: _Context
    ) -> pb.OpenInvoiceLinkResponse:
        if self._links is None:
            raise invoice_errors.LinkNotValid
        target = self._links.read_link(request.link, self._clock.now())
        try:
            document = await self._invoices.get(*target)
        except NotFound:
            raise invoice_errors.LinkNotValid from None
        return pb.OpenInvoiceLinkResponse(document=await self._print(document, request.format))

    async def _print(self, document: Document, form: pb.InvoiceFormat.ValueType) -> HttpBody:
        page = await self._printer.print(document, _FORMATS.get(form, Format.HTML))
        return HttpBody(content_type=page.content_type, data=page.data)

    async def GetInvoiceIssuer(
        self, request: pb.GetInvoiceIssuerRequest, context: _Context
    ) -> pb.GetInvoiceIssuerResponse:
        return pb.GetInvoiceIssuerResponse(issuer=render_issuer(await self._parties.issuer()))

    async def SetInvoiceIssuer(
        self, request: pb.SetInvoiceIssuerRequest, context: _Context
    ) -> pb.SetInvoiceIssuerResponse:
        wanted = request.issuer
        issuer = await self._parties.set_issuer(read_issuer(request), wanted.etag, automatic=wanted.automatic)
        return pb.SetInvoiceIssuerResponse(issuer=render_issuer(issuer))

    async def GetInvoiceRecipient(
        self, request: pb.GetInvoiceRecipientRequest, context: _Context
    ) -> pb.GetInvoiceRecipientResponse:
        recipient = await self._parties.recipient(request.organization_id.lower())
        return pb.GetInvoiceRecipientResponse(recipient=render_recipient(recipient))

    async def SetInvoiceRecipient(
        self, request: pb.SetInvoiceRecipientRequest, context: _Context
    ) -> pb.SetInvoiceRecipientResponse:
        recipient = await self._parties.set_recipient(
            request.organization_id.lower(), read_recipient(request), request.recipient.etag
        )
        return pb.SetInvoiceRecipientResponse(recipient=render_recipient(recipient))
