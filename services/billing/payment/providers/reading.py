"""Reads the JSON that a provider sends. What is not of the documented type makes the whole of it unreadable.

Errors name the field and never its value: the value may be anything, of any size, or of the payer.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias

from services.billing.payment.provider import Reference, ReferenceKind, Unreadable

Json: TypeAlias = Mapping[str, object]

_ID_CHARS_MAX: Final = 255
_TEXT_CHARS_MAX: Final = 2_048
_UNITS_MAX: Final = 10**15
"""More minor units than any payment has; an amount of so many still fits into what the ledger stores."""
_SECONDS_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""


def read_document(body: bytes) -> Json:
    """Return the object that a body holds."""
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable("The body is no JSON.") from None
    return as_object(read, "")


def as_object(value: object, name: str) -> Json:
    """Return a value that must be an object."""
    if not isinstance(value, dict):
        raise Unreadable(f"{name or 'The body'} is no object.")
    return value


def child(document: Json, name: str) -> Json:
    """Return the object in a field; it must be there."""
    return as_object(document.get(name), name)


def optional_child(document: Json, name: str) -> Json:
    """Return the object in a field; an empty one where the field is missing, null, or an empty list.

    Lemon Squeezy writes an object without fields as `[]`.
    """
    value = document.get(name)
    return {} if value is None or value == [] else as_object(value, name)


def items(document: Json, name: str) -> Sequence[Json]:
    """Return the objects of a list; none where the field is missing or null."""
    value = document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Unreadable(f"{name} is no list.")
    return [as_object(one, name) for one in value]


def text(document: Json, name: str) -> str:
    """Return a text that must be there: printable, and short."""
    value = document.get(name)
    if not isinstance(value, str) or not value or len(value) > _TEXT_CHARS_MAX or not value.isprintable():
        raise Unreadable(f"{name} is no text, or not a printable one of at most {_TEXT_CHARS_MAX} characters.")
    return value


def optional_text(document: Json, name: str) -> str | None:
    """Return a text, or None where the field is missing, null or empty."""
    return None if document.get(name) in (None, "") else text(document, name)


def external_id(document: Json, name: str) -> str:
    """Return an id of the provider, which is a text or a whole number."""
    value = document.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) <= _UNITS_MAX else None
    return checked_id(value, name)


def checked_id(value: object, name: str) -> str:
    """Return an id: 1 to 255 visible ASCII characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= _ID_CHARS_MAX:
        raise Unreadable(f"{name} is no id.")
    if not _is_visible(value):
        raise Unreadable(f"{name} is no id.")
    return value


def optional_id(document: Json, name: str) -> str | None:
    """Return an id, or None where the field is missing, null or empty.

    Stripe puts the whole object in the place of its id where it was asked to; then the id is the object's.
    """
    value = document.get(name)
    if isinstance(value, dict):
        return external_id(value, "id")
    return None if value in (None, "") else external_id(document, name)


def our_id(document: Json, name: str) -> str | None:
    """Return an id of ours that the provider carries for us, or None.

    Whoever sells other things in the same store may have a field of this name, so whatever is no id is none of ours.
    """
    value = document.get(name)
    return value if isinstance(value, str) and len(value) <= _ID_CHARS_MAX and _is_visible(value) else None


def flag(document: Json, name: str) -> bool:
    """Return a truth that must be there."""
    value = document.get(name)
    if not isinstance(value, bool):
        raise Unreadable(f"{name} is neither true nor false.")
    return value


def whole(document: Json, name: str) -> int:
    """Return a whole number that must be there, of minor units."""
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _UNITS_MAX:
        raise Unreadable(f"{name} is no whole number from 0 to {_UNITS_MAX}.")
    return value


def optional_whole(document: Json, name: str) -> int | None:
    """Return a whole number, or None where the field is missing or null."""
    return None if document.get(name) is None else whole(document, name)


def seconds(document: Json, name: str) -> datetime:
    """Return a time that is written as seconds since 1970."""
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _SECONDS_MAX:
        raise Unreadable(f"{name} is no time.")
    return datetime.fromtimestamp(value, UTC)


def optional_seconds(document: Json, name: str) -> datetime | None:
    """Return a time written as seconds since 1970, or None where the field is missing or null."""
    return None if document.get(name) is None else seconds(document, name)


def moment(document: Json, name: str) -> datetime:
    """Return a time that is written as in ISO 8601, with its zone."""
    value = document.get(name)
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
        if read is not None and read.tzinfo is not None:
            return read.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Unreadable(f"{name} is no time.")


def optional_moment(document: Json, name: str) -> datetime | None:
    """Return a time written as in ISO 8601, or None where the field is missing or null."""
    return None if document.get(name) is None else moment(document, name)


def currency(document: Json) -> str:
    """Return the code in the field `currency`, in capitals."""
    code = text(document, "currency").upper()
    if len(code) != 3 or not code.isascii() or not code.isalpha():
        raise Unreadable("currency is no currency.")
    return code


def references(named: Mapping[ReferenceKind, str | None]) -> tuple[Reference, ...]:
    """Return the references to the objects whose ids are given."""
    return tuple(Reference(kind, found) for kind, found in named.items() if found is not None)


def _is_visible(value: str) -> bool:
    return bool(value) and all("!" <= character <= "~" for character in value)
