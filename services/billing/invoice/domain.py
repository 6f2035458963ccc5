"""Invoices and credit notes as data, and the rules on their amounts. Nothing here reads or writes anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from enum import StrEnum
from typing import Final, Protocol

ZERO: Final = Decimal(0)
_DIGITS_MAX: Final = 60
"""More than any amount or product of an amount and a tax rate has."""
_MINOR_DIGITS_DEFAULT: Final = 2
_MINOR_DIGITS: Final = {
    **dict.fromkeys(
        (
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}


class DocumentKind(StrEnum):
    """What a document is."""

    INVOICE = "INVOICE"
    CREDIT_NOTE = "CREDIT_NOTE"


class State(StrEnum):
    """Where a document is in its life."""

    DRAFT = "DRAFT"
    ISSUED = "ISSUED"
    PAID = "PAID"
    VOID = "VOID"
    UNCOLLECTIBLE = "UNCOLLECTIBLE"


class LineKind(StrEnum):
    """What a line is about."""

    USAGE = "USAGE"
    SUBSCRIPTION = "SUBSCRIPTION"
    CHARGE = "CHARGE"
    CORRECTION = "CORRECTION"


@dataclass(frozen=True, slots=True)
class Party:
    """A person or company on a document, as it is printed."""

    name: str = ""
    address_lines: tuple[str, ...] = ()
    tax_ids: tuple[str, ...] = ()
    email: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who issues invoices, and how."""

    party: Party
    prefix: str
    due_days: int
    grace_days: int
    language: str
    footer: str
    revision: int = 0
    automatic_since: datetime | None = None
    """Since when invoices are issued by themselves; None where they are not."""

    @property
    def etag(self) -> str:
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class Recipient:
    """To whom an organization's invoices go, and what is theirs alone."""

    party: Party = Party()
    prefix: str = ""
    tax_percent: str = ""
    tax_place: str = ""
    tax_note: str = ""
    language: str = ""
    by_hand: bool = False
    """Whether their invoices are issued by hand alone."""
    revision: int = 0

    @property
    def etag(self) -> str:
        return str(self.revision) if self.revision else ""


@dataclass(frozen=True, slots=True)
class Tax:
    """The tax on a document: at which rate, in percent, and where. Without a rate there is none."""

    percent: str = ""
    place: str = ""
    note: str = ""


class TaxSource(Protocol):
    """Says which tax is on an invoice. Whatever computes taxes one day is another one."""

    def __call__(self, recipient: Recipient, currency_code: str, subtotal: Decimal, moment: datetime) -> Tax:
        """Return the tax on what an invoice that is issued now comes to before tax."""


def recipients_tax(recipient: Recipient, currency_code: str, subtotal: Decimal, moment: datetime) -> Tax:
    """Return the tax that an operator has set for the recipient."""
    return Tax(recipient.tax_percent, recipient.tax_place, recipient.tax_note)


@dataclass(frozen=True, slots=True)
class UsageForecast:
    """What a usage charge of a period under way would come to, were the period over now."""

    subscription_id: str
    plan_code: str
    usage_charge_code: str
    name: str
    unit: str
    quantity: Decimal
    currency_code: str
    amount: Decimal
    start: datetime
    end: datetime
    priced_models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """How much of one unit was used, and the rates of the price version for it."""

    unit: str
    value: Decimal
    rates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a document."""

    number: int
    kind: LineKind
    description: str
    start_time: datetime
    end_time: datetime
    amount: Decimal
    quantities: tuple[Quantity, ...] = ()
    model: str = ""
    service_tier: str = ""
    price_version_id: str = ""
    movement_count: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    subscription_id: str = ""
    plan_code: str = ""
    time_zone: str = ""
    """That of the subscription, by which its days are printed; empty for UTC."""
    corrects_line: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What an invoice adds to what was covered before.

    Covered before are the movements up to `after_sequence` that belong to the time before `from_time`; after it those
    up to `to_sequence` that belong to the time before `to_time`. Neither bound ever falls.
    """

    after_sequence: int
    from_time: datetime | None
    to_sequence: int
    to_time: datetime
    first_sequence: int
    """No movement before this one is in the step."""

    def covers(self, sequence: int, belongs_to: datetime) -> bool:
        """Return whether a movement is in the step."""
        if sequence > self.to_sequence or belongs_to >= self.to_time:
            return False
        return sequence > self.after_sequence or self.from_time is None or belongs_to >= self.from_time


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a document comes to. Those of a credit note are what is credited."""

    subtotal: Decimal
    tax: Decimal
    credits_applied: Decimal = ZERO
    credited: Decimal = ZERO
    """What credit notes have credited of the total."""

    @property
    def total(self) -> Decimal:
        return self.subtotal + self.tax

    @property
    def due(self) -> Decimal:
        """What was left to pay when it was issued."""
        return max(self.total - self.credits_applied, ZERO)

    @property
    def left(self) -> Decimal:
        """What is left to pay of it after its credit notes."""
        return max(self.due - max(self.credited, ZERO), ZERO)


@dataclass(frozen=True, slots=True)
class Document:
    """An invoice or a credit note."""

    organization_id: str
    invoice_id: str
    kind: DocumentKind
    state: State
    number: str
    account_id: str
    project_id: str | None
    currency_code: str
    lines: tuple[Line, ...]
    amounts: Amounts
    tax: Tax
    issuer: Party
    recipient: Party
    language: str
    footer: str
    issue_time: datetime
    state_time: datetime
    due_time: datetime | None
    actor: str
    step: Step | None = None
    """None for a credit note."""
    credits_used: Mapping[str, Decimal] = field(default_factory=dict)
    """By kind of grant."""
    payment_id: str | None = None
    operation_id: str | None = None
    corrects_invoice_id: str | None = None
    corrects_number: str = ""
    reason: str = ""
    replaces: tuple[str, ...] = ()
    """The voided invoices whose movements this one covers again."""


def month_after(moment: datetime) -> datetime:
    """Return the beginning of the month of UTC after a moment's."""
    moment = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (moment + timedelta(days=31)).replace(day=1)


def automatic_end(since: datetime, last: datetime | None) -> datetime:
    """Return the end of the month whose invoices are the next to be issued by themselves.

    It is the first that ends after they have been issued so, and each later month comes after the one before it.
    """
    return month_after(since if last is None else max(since, last))


def minor_digits(currency_code: str) -> int:
    """Return how many fraction digits the smallest coin of a currency has; 2 for the units of the platform."""
    return _MINOR_DIGITS.get(currency_code, _MINOR_DIGITS_DEFAULT)


def tax_on(net: Decimal, percent: str, currency_code: str) -> Decimal:
    """Return the tax on an amount, rounded once, half to even, to the smallest coin of the currency."""
    if not percent:
        return ZERO
    with localcontext() as context:
        context.prec = _DIGITS_MAX
        exact = net * Decimal(percent) / 100
        return exact.quantize(Decimal(1).scaleb(-minor_digits(currency_code)), rounding=ROUND_HALF_EVEN)


def credits_applied(subtotal: Decimal, balance: Decimal, askable: Decimal) -> Decimal:
    """Return how much of an invoice was paid from the account's balance.

    `balance` is the account's after the invoice's movements, without those that are left to later invoices. What came
    in has paid earlier charges first, so what is below zero is of the last ones. `askable` is what the invoice adds to
    what was covered before, and what the voided invoices that it replaces had asked for: what these had paid from the
    balance stays paid. No state of an invoice matters, so it does not matter when one is said to be paid.
    """
    if subtotal <= 0:
        return subtotal
    return subtotal - max(min(-balance, askable, subtotal), ZERO)


class CreditExceedsLine(Exception):
    """More is to be credited than is left of a line."""

    def __init__(self, line_number: int, left: Decimal) -> None:
        self.line_number = line_number
        self.left = left
        super().__init__(line_number, left)


def credit_lines(
    lines: Sequence[Line], credited: Mapping[int, Decimal], wanted: Mapping[int, Decimal | None]
) -> tuple[Line, ...]:
    """Return the lines of a credit note.

    `credited` is what earlier notes have credited of each line, by its number, and `wanted` what is to be credited:
    None for all that is left of the line. Nothing wanted stands for all that is left of every line. A line of which
    nothing is left cannot be credited.

    Raises:
        KeyError: the invoice has no such line.
        CreditExceedsLine: less is left of a line, or nothing.
    """
    by_number = {line.number: line for line in lines}
    if not wanted:
        wanted = {line.number: None for line in lines if line.amount - credited.get(line.number, ZERO)}
    found: list[Line] = []
    for number, amount in sorted(wanted.items()):
        line = by_number[number]
        left = line.amount - credited.get(number, ZERO)
        value = left if amount is None else amount
        if not left or abs(value) > abs(left) or (value < 0) != (left < 0):
            raise CreditExceedsLine(number, left)
        found.append(
            replace(
                line,
                number=len(found) + 1,
                amount=value,
                quantities=(),
                movement_count=0,
                first_sequence=0,
                last_sequence=0,
                corrects_line=number,
            )
        )
    return tuple(found)


def is_within(whole: Decimal, part: Decimal) -> bool:
    """Return whether what is credited lies between nothing and all of an invoice, which may be negative."""
    return min(whole, ZERO) <= part <= max(whole, ZERO)


def credit_amounts(invoice: Document, credited_net: Decimal, note_net: Decimal) -> Amounts:
    """Return what a credit note comes to after notes that came to `credited_net` before tax.

    Its tax is the difference between the tax on all that is credited with it and without it. So all the notes together
    credit what the tax on the same amounts is, and the last of them leaves nothing.
    """

    def tax_of(net: Decimal) -> Decimal:
        if net == invoice.amounts.subtotal:
            return invoice.amounts.tax
        return tax_on(net, invoice.tax.percent, invoice.currency_code)

    return Amounts(note_net, tax_of(credited_net + note_net) - tax_of(credited_net))
