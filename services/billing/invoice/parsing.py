"""Reads requests of InvoiceService. Each function says what annotations cannot."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from libs.common.amount import parse_amount
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_optional_time
from services.billing.invoice.collection import Wanted
from services.billing.invoice.domain import DocumentKind, Issuer, Party, Recipient, State
from tollhouse.billing.v1 import invoice_pb2 as pb

_KINDS: Final = {pb.InvoiceKind.Value(f"INVOICE_KIND_{kind}"): kind for kind in DocumentKind}
_STATES: Final = {pb.InvoiceState.Value(f"INVOICE_STATE_{state}"): state for state in State}
_PERCENT_MAX: Final = 100


def read_wanted(request: pb.PreviewInvoiceRequest | pb.IssueInvoiceRequest) -> Wanted:
    """Return which invoice is wanted."""
    if request.project_id and request.project_id.lower() == request.organization_id.lower():
        raise InvalidArgument([FieldViolation("project_id", "must not be the organization's own id")])
    end_time = parse_optional_time("end_time", request.end_time, present=request.HasField("end_time"))
    return Wanted(request.organization_id.lower(), request.project_id.lower() or None, request.currency_code, end_time)


def read_kind(kind: pb.InvoiceKind.ValueType) -> DocumentKind | None:
    return _KINDS.get(kind)


def read_state(state: pb.InvoiceState.ValueType) -> State | None:
    return _STATES.get(state)


def check_reason(
    request: pb.VoidInvoiceRequest | pb.CreateCreditNoteRequest | pb.SetInvoiceUncollectibleRequest,
) -> None:
    """Check that the reason says something."""
    if violations := _reason_flaws(request.reason):
        raise InvalidArgument(violations)


def _reason_flaws(reason: str) -> list[FieldViolation]:
    return [] if reason.strip() else [FieldViolation("reason", "must not be blank")]


def read_credited(request: pb.CreateCreditNoteRequest) -> Mapping[int, Decimal | None]:
    """Return what is to be credited, by the number of the line: None for all that is left of it."""
    violations = _reason_flaws(request.reason)
    wanted: dict[int, Decimal | None] = {}
    for place, line in enumerate(request.lines):
        if line.line_number in wanted:
            violations.append(FieldViolation(f"lines[{place}].line_number", "is named twice"))
        wanted[line.line_number] = None
        if line.HasField("amount"):
            wanted[line.line_number] = parse_amount(f"lines[{place}].amount", line.amount, violations)
    codes = {line.amount.currency_code for line in request.lines if line.HasField("amount")}
    if len(codes) > 1:
        violations.append(FieldViolation("lines", "name several currencies"))
    if violations:
        raise InvalidArgument(violations)
    return wanted


def currency_of(request: pb.CreateCreditNoteRequest) -> str:
    """Return the unit in which amounts are named; empty where none is."""
    return next((line.amount.currency_code for line in request.lines if line.HasField("amount")), "")


def read_paid_by(request: pb.SetInvoicePaidRequest) -> tuple[str | None, str | None]:
    """Return the payment or the operation by which an invoice is paid."""
    if bool(request.payment_id) == bool(request.operation_id):
        raise InvalidArgument([FieldViolation("payment_id", "must be set if, and only if, operation_id is not")])
    return request.payment_id.lower() or None, request.operation_id or None


def read_issuer(request: pb.SetInvoiceIssuerRequest) -> Issuer:
    """Return the issuer."""
    issuer = request.issuer
    if not issuer.party.name.strip():
        raise InvalidArgument([FieldViolation("issuer.party.name", "must not be blank")])
    return Issuer(
        party=_party(issuer.party),
        prefix=issuer.prefix,
        due_days=issuer.due_days,
        grace_days=issuer.grace_days,
        language=issuer.language or "en",
        footer=issuer.footer,
    )


def read_recipient(request: pb.SetInvoiceRecipientRequest) -> Recipient:
    """Return the recipient."""
    recipient = request.recipient
    if _number(recipient.tax_percent) > _PERCENT_MAX:
        raise InvalidArgument([FieldViolation("recipient.tax_percent", f"must be at most {_PERCENT_MAX}")])
    return Recipient(
        party=_party(recipient.party),
        prefix=recipient.prefix,
        tax_percent=recipient.tax_percent,
        tax_place=recipient.tax_place,
        tax_note=recipient.tax_note,
        language=recipient.language,
        by_hand=recipient.by_hand,
    )


def _number(text: str) -> Decimal:
    """Return a number of a few digits; of text that its annotation refuses, zero."""
    is_number = text.isascii() and text.replace(".", "", 1).isdigit()
    return Decimal(text) if is_number and len(text) <= len("100.0000") else Decimal(0)


def _party(party: pb.InvoiceParty) -> Party:
    return Party(party.name, tuple(party.address_lines), tuple(party.tax_ids), party.email)
