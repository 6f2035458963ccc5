"""What is stored of a document beside its columns: JSON with amounts and times as text."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from libs.common.amount import format_amount
from services.billing.invoice.domain import Document, Issuer, Line, LineKind, Party, Quantity, Recipient, Tax

_SEPARATORS: Final = (",", ":")
_Json = dict[str, Any]


class Stored(NamedTuple):
    """The parts of a document that have no column."""

    lines: tuple[Line, ...]
    tax: Tax
    issuer: Party
    recipient: Party
    language: str
    footer: str
    credits_used: dict[str, Decimal]
    corrects_number: str


def document_json(document: Document) -> str:
    """Return what is stored of a document beside its columns."""
    return json.dumps(
        {
            "lines": list(map(_line_json, document.lines)),
            "tax": [document.tax.percent, document.tax.place, document.tax.note],
            "issuer": party_json(document.issuer),
            "recipient": party_json(document.recipient),
            "language": document.language,
            "footer": document.footer,
            "credits_used": amounts_json(document.credits_used),
            "corrects_number": document.corrects_number,
        },
        separators=_SEPARATORS,
    )


def document_of_json(text: str) -> Stored:
    """Return the stored parts of a document, which may lack its lines.

    Raises:
        KeyError, ValueError: it is nothing that `document_json` has written.
    """
    stored: _Json = json.loads(text)
    return Stored(
        tuple(_line(number, one) for number, one in enumerate(stored.get("lines", ()), start=1)),
        Tax(*stored["tax"]),
        party_of_json(stored["issuer"]),
        party_of_json(stored["recipient"]),
        stored["language"],
        stored["footer"],
        amounts_of_json(stored["credits_used"]),
        stored["corrects_number"],
    )


def amounts_json(amounts: Mapping[str, Decimal]) -> dict[str, str]:
    return {name: format_amount(value) for name, value in amounts.items()}


def amounts_of_json(stored: Mapping[str, str]) -> dict[str, Decimal]:
    return {name: Decimal(value) for name, value in stored.items()}


def party_json(party: Party) -> _Json:
    return {
        "name": party.name,
        "address_lines": list(party.address_lines),
        "tax_ids": list(party.tax_ids),
        "email": party.email,
    }


def party_of_json(stored: _Json) -> Party:
    return Party(stored["name"], tuple(stored["address_lines"]), tuple(stored["tax_ids"]), stored["email"])


def issuer_json(issuer: Issuer) -> str:
    """Return what is stored of an issuer beside its revision."""
    return json.dumps(
        {
            "party": party_json(issuer.party),
            "prefix": issuer.prefix,
            "due_days": issuer.due_days,
            "grace_days": issuer.grace_days,
            "language": issuer.language,
            "footer": issuer.footer,
            **({} if issuer.automatic_since is None else {"automatic_since": _time_json(issuer.automatic_since)}),
        },
        separators=_SEPARATORS,
    )


def issuer_of_json(text: str, revision: int) -> Issuer:
    stored: _Json = json.loads(text)
    party, since = party_of_json(stored.pop("party")), stored.pop("automatic_since", None)
    automatic_since = None if since is None else datetime.fromisoformat(since)
    return Issuer(party=party, revision=revision, automatic_since=automatic_since, **stored)


def recipient_json(recipient: Recipient) -> str:
    """Return what is stored of a recipient beside its revision."""
    return json.dumps(
        {
            "party": party_json(recipient.party),
            "prefix": recipient.prefix,
            "tax_percent": recipient.tax_percent,
            "tax_place": recipient.tax_place,
            "tax_note": recipient.tax_note,
            "language": recipient.language,
            # Left out where it is not so: the version before does not know it.
            **({"by_hand": True} if recipient.by_hand else {}),
        },
        separators=_SEPARATORS,
    )


def recipient_of_json(text: str, revision: int) -> Recipient:
    stored: _Json = json.loads(text)
    party = party_of_json(stored.pop("party"))
    return Recipient(party=party, revision=revision, **stored)


def _line_json(line: Line) -> _Json:
    """Return a line without its number, and without what is empty."""
    stored: _Json = {
        "kind": line.kind.value,
        "description": line.description,
        "times": [_time_json(line.start_time), _time_json(line.end_time)],
        "amount": format_amount(line.amount),
        "quantities": [[one.unit, format_amount(one.value), list(one.rates)] for one in line.quantities],
        "movements": [line.movement_count, line.first_sequence, line.last_sequence],
        "model": line.model,
        "service_tier": line.service_tier,
        "price_version_id": line.price_version_id,
        "subscription_id": line.subscription_id,
        "plan_code": line.plan_code,
        "time_zone": line.time_zone,
        "corrects_line": line.corrects_line,
    }
    return {name: value for name, value in stored.items() if value or name == "description"}


def _line(number: int, stored: _Json) -> Line:
    count, first, last = stored["movements"]
    return Line(
        number=number,
        kind=LineKind(stored["kind"]),
        description=stored["description"],
        start_time=datetime.fromisoformat(stored["times"][0]),
        end_time=datetime.fromisoformat(stored["times"][1]),
        amount=Decimal(stored["amount"]),
        quantities=tuple(
            Quantity(unit, Decimal(value), tuple(rates)) for unit, value, rates in stored.get("quantities", ())
        ),
        model=stored.get("model", ""),
        service_tier=stored.get("service_tier", ""),
        price_version_id=stored.get("price_version_id", ""),
        movement_count=count,
        first_sequence=first,
        last_sequence=last,
        subscription_id=stored.get("subscription_id", ""),
        plan_code=stored.get("plan_code", ""),
        time_zone=stored.get("time_zone", ""),
        corrects_line=stored.get("corrects_line", 0),
    )


def _time_json(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
