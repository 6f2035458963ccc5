"""Renders documents, issuers and recipients as messages."""

from typing import Final

from libs.common.amount import format_amount, render_amount
from libs.common.timestamps import render_optional_time, render_time
from services.billing.invoice.domain import (
    Document,
    DocumentKind,
    Issuer,
    Line,
    LineKind,
    Party,
    Recipient,
    State,
    UsageForecast,
)
from tollhouse.billing.v1 import invoice_pb2 as pb

_KINDS: Final = {kind: pb.InvoiceKind.Value(f"INVOICE_KIND_{kind}") for kind in DocumentKind}
_STATES: Final = {state: pb.InvoiceState.Value(f"INVOICE_STATE_{state}") for state in State}
_LINE_KINDS: Final = {kind: pb.InvoiceLineKind.Value(f"INVOICE_LINE_KIND_{kind}") for kind in LineKind}


def render_forecast(forecast: UsageForecast) -> pb.UsageForecast:
    return pb.UsageForecast(
        subscription_id=forecast.subscription_id,
        plan_code=forecast.plan_code,
        usage_charge_code=forecast.usage_charge_code,
        name=forecast.name,
        unit=forecast.unit,
        quantity=format_amount(forecast.quantity),
        amount=render_amount(forecast.currency_code, forecast.amount),
        start_time=render_time(forecast.start),
        end_time=render_time(forecast.end),
        priced_models=forecast.priced_models,
    )


def render_document(document: Document, *, with_lines: bool = True) -> pb.Invoice:
    code, amounts = document.currency_code, document.amounts
    is_draft = document.state is State.DRAFT
    message = pb.Invoice(
        invoice_id="" if is_draft else document.invoice_id,
        organization_id=document.organization_id,
        kind=_KINDS[document.kind],
        number=document.number,
        state=_STATES[document.state],
        account_id=document.account_id,
        project_id=document.project_id or "",
        currency_code=code,
        lines=[_line(code, line) for line in document.lines] if with_lines else (),
        subtotal=render_amount(code, amounts.subtotal),
        tax=pb.InvoiceTax(
            percent=document.tax.percent,
            place=document.tax.place,
            note=document.tax.note,
            amount=render_amount(code, amounts.tax),
        ),
        total=render_amount(code, amounts.total),
        credits_used=[
            pb.InvoiceCredits(kind=kind, amount=render_amount(code, value))
            for kind, value in sorted(document.credits_used.items())
        ],
        issuer=_party(document.issuer),
        recipient=_party(document.recipient),
        language=document.language,
        footer=document.footer,
        payment_id=document.payment_id or "",
        operation_id=document.operation_id or "",
        corrects_invoice_id=document.corrects_invoice_id or "",
        corrects_number=document.corrects_number,
        reason=document.reason,
        replaces_invoice_ids=document.replaces,
        actor="" if is_draft else document.actor,
    )
    if not is_draft:
        message.issue_time.CopyFrom(render_time(document.issue_time))
        message.state_time.CopyFrom(render_time(document.state_time))
        if document.due_time is not None:
            message.due_time.CopyFrom(render_time(document.due_time))
    if document.step is not None:
        _fill_step(message, document)
    return message


def _fill_step(message: pb.Invoice, document: Document) -> None:
    """Fill in what an invoice has and a credit note has not."""
    step, code, amounts = document.step, document.currency_code, document.amounts
    assert step is not None
    if step.from_time is not None:
        message.start_time.CopyFrom(render_time(step.from_time))
    message.end_time.CopyFrom(render_time(step.to_time))
    message.after_sequence, message.to_sequence = step.after_sequence, step.to_sequence
    message.credits_applied.CopyFrom(render_amount(code, amounts.credits_applied))
    message.amount_due.CopyFrom(render_amount(code, amounts.due))
    message.credited.CopyFrom(render_amount(code, amounts.credited))


def _line(currency_code: str, line: Line) -> pb.InvoiceLine:
    return pb.InvoiceLine(
        line_number=line.number,
        kind=_LINE_KINDS[line.kind],
        description=line.description,
        start_time=render_time(line.start_time),
        end_time=render_time(line.end_time),
        amount=render_amount(currency_code, line.amount),
        quantities=[
            pb.InvoiceQuantity(unit=one.unit, value=format_amount(one.value), rates=one.rates)
            for one in line.quantities
        ],
        model=line.model,
        service_tier=line.service_tier,
        price_version_id=line.price_version_id,
        movement_count=line.movement_count,
        first_sequence=line.first_sequence,
        last_sequence=line.last_sequence,
        subscription_id=line.subscription_id,
        plan_code=line.plan_code,
        corrects_line_number=line.corrects_line,
    )


def _party(party: Party) -> pb.InvoiceParty:
    return pb.InvoiceParty(name=party.name, address_lines=party.address_lines, tax_ids=party.tax_ids, email=party.email)


def render_issuer(issuer: Issuer) -> pb.InvoiceIssuer:
    return pb.InvoiceIssuer(
        party=_party(issuer.party),
        prefix=issuer.prefix,
        due_days=issuer.due_days,
        grace_days=issuer.grace_days,
        language=issuer.language,
        footer=issuer.footer,
        automatic=issuer.automatic_since is not None,
        automatic_since_time=render_optional_time(issuer.automatic_since),
        etag=issuer.etag,
    )


def render_recipient(recipient: Recipient) -> pb.InvoiceRecipient:
    return pb.InvoiceRecipient(
        party=_party(recipient.party),
        prefix=recipient.prefix,
        tax_percent=recipient.tax_percent,
        tax_place=recipient.tax_place,
        tax_note=recipient.tax_note,
        language=recipient.language,
        etag=recipient.etag,
        by_hand=recipient.by_hand,
    )
