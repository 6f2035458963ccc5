"""The refusals of invoices."""

from libs.common.errors import Kind, Refusal


class NothingToInvoice(Refusal):
    """Every movement that belongs to the time is on an invoice, or there is none."""

    kind = Kind.FAILED_PRECONDITION
    reason = "NOTHING_TO_INVOICE"
    template = "The account has no movement before {end_time} that is not on an invoice."
    remedy = "Nothing needs to be done; or send a later end_time."


class InvoiceEndsTooEarly(Refusal):
    """The time of an account's invoices goes forward only."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INVOICE_ENDS_TOO_EARLY"
    template = "An invoice covers the time until {covered_until_time}, which is after {end_time}."
    remedy = "Send an end_time that is not before the end_time of the account's last invoice."


class GraceNotOver(Refusal):
    """Late usage may still come."""

    kind = Kind.FAILED_PRECONDITION
    reason = "GRACE_NOT_OVER"
    template = "Late usage is waited for until {issue_from_time}."
    remedy = "Issue the invoice from then on, or set skip_grace."


class IssuerNotSet(Refusal):
    """An invoice needs somebody who issues it."""

    kind = Kind.FAILED_PRECONDITION
    reason = "ISSUER_NOT_SET"
    template = "Nobody has said who issues invoices."
    remedy = "Set the issuer with SetInvoiceIssuer."


class InvoiceState(Refusal):
    """The state of the document does not allow the change."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INVOICE_STATE"
    template = "The document {number} is {state} and cannot be {change}."
    remedy = "Read the document; docs/invoices.md has the changes that each state allows."


class DoesNotPayInvoice(Refusal):
    """What is to have paid an invoice has not brought enough in its currency, has given it back, or paid others."""

    kind = Kind.FAILED_PRECONDITION
    reason = "DOES_NOT_PAY_INVOICE"
    template = (
        "The {paid_by} {found} and does not pay the invoice {number}: {amount_due} {currency_code} is left to pay."
    )
    remedy = (
        "Name a completed payment, or an operation that credits the account, of which enough is left for the invoice."
    )


class InvoiceHasCreditNotes(Refusal):
    """What was credited in part cannot be voided, since its movements would be charged in full again."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INVOICE_HAS_CREDIT_NOTES"
    template = "The invoice {number} was credited in part."
    remedy = "Credit what is left of it with CreateCreditNote."


class CreditExceedsInvoice(Refusal):
    """Less is left of a line, or of the whole invoice."""

    kind = Kind.FAILED_PRECONDITION
    reason = "CREDIT_EXCEEDS_INVOICE"
    template = "Of line {line_number} of the invoice {number} {left} is left to credit."
    remedy = "Credit at most what is left."


class LinkNotValid(Refusal):
    """The link has expired, or is none of ours."""

    kind = Kind.NOT_FOUND
    reason = "LINK_NOT_VALID"
    template = "The link has expired or is not valid."
    remedy = "Get a new link from whoever sent the invoice."


class PdfNotInstalled(Refusal):
    """What makes PDFs is an extra of the distribution."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PDF_NOT_INSTALLED"
    template = "This installation cannot make PDFs."
    remedy = "Install it where billing runs, with `pip install 'tollhouse[invoices]'`; HTML works without it."


class DocumentTooLarge(Refusal):
    """The document does not fit into an answer. A PDF holds the shapes of each Chinese character that it has."""

    kind = Kind.FAILED_PRECONDITION
    reason = "DOCUMENT_TOO_LARGE"
    template = "The document has {bytes} bytes, and an answer may have {max_bytes}."
    remedy = "Ask for HTML, which is smaller than a PDF, or for the lines with GetInvoice."


class PdfNotPossible(Refusal):
    """The library that makes PDFs cannot lay out a text of the document, of directions and signs mixed oddly."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PDF_NOT_POSSIBLE"
    template = "A text of this document cannot be laid out in a PDF."
    remedy = "Ask for HTML, which shows any text."
