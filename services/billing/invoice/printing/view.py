"""What is printed of a document: texts alone, the same for every format."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.time_zones import find_zone
from services.billing.invoice.domain import Document, DocumentKind, Line, LineKind, Party, State, minor_digits
from services.billing.invoice.printing.words import WORDS

_DAY: Final = "%Y-%m-%d"


@dataclass(frozen=True, slots=True)
class PrintedQuantity:
    """How much of a unit, and the rates for it."""

    unit: str
    value: str
    rates: str


@dataclass(frozen=True, slots=True)
class PrintedLine:
    """One line."""

    number: int
    description: str
    details: str
    quantities: tuple[PrintedQuantity, ...]
    amount: str


@dataclass(frozen=True, slots=True)
class PrintedParty:
    """Who issues it, or to whom it goes."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Printed:
    """A document, as it is printed."""

    words: Mapping[str, str]
    language: str
    title: str
    stamp: str
    """What is across it: that it is a draft, void or paid; empty for nothing."""
    issuer: PrintedParty
    recipient: PrintedParty
    facts: tuple[tuple[str, str], ...]
    lines: tuple[PrintedLine, ...]
    sums: tuple[tuple[str, str], ...]
    total: tuple[str, str]
    after_total: tuple[tuple[str, str], ...]
    footer: str

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def printed(document: Document) -> Printed:
    """Return what is printed of a document."""
    words = WORDS.get(document.language, WORDS["en"])
    is_note = document.kind is DocumentKind.CREDIT_NOTE
    code, amounts = document.currency_code, document.amounts
    title = words["credit_note" if is_note else "invoice"]
    tax = " ".join(part for part in (words["tax"], _percent(document.tax.percent), document.tax.place) if part)
    sums = [(words["subtotal"], money(code, amounts.subtotal))]
    if document.tax.percent or document.tax.place or document.tax.note:
        sums.append((f"{tax} {document.tax.note}".strip(), money(code, amounts.tax)))
    after = [] if is_note else _after_total(document, words)
    return Printed(
        words=words,
        language=document.language,
        title=title,
        stamp=_stamp(document, words),
        issuer=_party(document.issuer, words),
        recipient=_party(replace(document.recipient, name=document.recipient.name or document.organization_id), words),
        facts=tuple(_facts(document, words)),
        lines=tuple(_line(code, line, words) for line in document.lines),
        sums=tuple(sums),
        total=(words["total"], money(code, amounts.total)),
        after_total=tuple(after),
        footer=document.footer,
    )


def money(currency_code: str, value: Decimal) -> str:
    """Return an amount with its unit, with thin spaces between thousands and no digit lost."""
    text = format_amount(value)
    whole, _, fraction = text.lstrip("-").partition(".")
    fraction = fraction.ljust(minor_digits(currency_code), "0")
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    # What keeps thousands together also keeps an amount on one line.
    grouped = f"{int(whole):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{sign}{grouped}{f'.{fraction}' if fraction else ''}\N{NO-BREAK SPACE}{currency_code}"


def _after_total(document: Document, words: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what is told of the payment of an invoice."""
    code, amounts = document.currency_code, document.amounts
    told = []
    if amounts.credits_applied > 0:
        told.append((words["credits_applied"], money(code, -amounts.credits_applied)))
        told += [
            (f"{words['credits_used']} ({kind.lower()})", money(code, value))
            for kind, value in sorted(document.credits_used.items())
        ]
    told.append((words["amount_due"], money(code, amounts.due)))
    return told


def _stamp(document: Document, words: Mapping[str, str]) -> str:
    stamps = {State.DRAFT: words["draft"], State.VOID: words["void"], State.PAID: words["paid"]}
    return stamps.get(document.state, "")


def _facts(document: Document, words: Mapping[str, str]) -> list[tuple[str, str]]:
    facts = [(words["number"], document.number or words["draft"]), (words["date"], _day(document.issue_time))]
    if document.due_time is not None:
        facts.append((words["due"], _day(document.due_time)))
    if document.step is not None:
        start = "" if document.step.from_time is None else _day(document.step.from_time)
        facts.append((words["period"], f"{start} {words['until']} {_day(document.step.to_time)}".strip()))
    if document.corrects_number:
        facts.append((words["corrects"], document.corrects_number))
    if document.reason and document.kind is DocumentKind.CREDIT_NOTE:
        facts.append((words["reason"], document.reason))
    return facts


def _party(party: Party, words: Mapping[str, str]) -> PrintedParty:
    tax_ids = [f"{words['tax_id']}: {tax_id}" for tax_id in party.tax_ids]
    return PrintedParty(party.name, (*party.address_lines, *tax_ids, *([party.email] if party.email else [])))


def _line(currency_code: str, line: Line, words: Mapping[str, str]) -> PrintedLine:
    zone = find_zone(line.time_zone) or UTC
    first, last = _day(line.start_time, zone), _day(line.end_time, zone)
    period = first if first == last else f"{first} {words['until']} {last}"
    names = {
        LineKind.USAGE: line.model or line.description or words["usage"],
        LineKind.SUBSCRIPTION: f"{words['subscription']} {line.plan_code}".strip(),
        LineKind.CHARGE: line.description or words["charge"],
        LineKind.CORRECTION: ": ".join(part for part in (words["correction"], line.description) if part),
    }
    tier = line.service_tier if line.service_tier not in ("", "standard") else ""
    reason = line.description if line.kind is LineKind.SUBSCRIPTION else ""
    return PrintedLine(
        number=line.number,
        description=names[line.kind],
        details=" · ".join(part for part in (period, tier, reason) if part),
        quantities=tuple(
            PrintedQuantity(one.unit, f"{one.value:,f}".replace(",", "\N{NARROW NO-BREAK SPACE}"), "; ".join(one.rates))
            for one in line.quantities
        ),
        amount=money(currency_code, line.amount),
    )


def _percent(percent: str) -> str:
    return f"{percent}\N{NO-BREAK SPACE}%" if percent else ""


def _day(moment: datetime, zone: tzinfo = UTC) -> str:
    return moment.astimezone(zone).strftime(_DAY)
