"""Reads the entries of a large JSON object one by one.

Only the outermost object is split here, by scanning for strings and brackets; each entry is then parsed by itself. So
an entry that is nested too deep, is too large or has a duplicate key is skipped alone, and besides the document only
one parsed entry is in memory.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

from services.metering.model.document import (
    DEPTH_MAX,
    ENTRY_BYTES_MAX,
    Entry,
    Flawed,
    Unreadable,
    Value,
    check_texts,
    shown,
    without_repeats,
)

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb'[^\s,{}\[\]"]++')
# Everything up to the next bracket, with whole strings skipped.
_UP_TO_BRACKET: Final = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.DOTALL)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def json_entries(document: bytes) -> Iterator[Entry]:
    """Yield the entries of the outermost object, in the order of the document.

    Raises:
        Unreadable: the document is not a JSON object.
    """
    position = _after_space(document, len(_BYTE_ORDER_MARK) if document.startswith(_BYTE_ORDER_MARK) else 0)
    if document[position : position + 1] != b"{":
        raise Unreadable("is not a JSON object of models")
    position = _after_space(document, position + 1)
    if document[position : position + 1] == b"}":
        _check_end(document, position + 1)
        return
    while True:
        key = _STRING.match(document, position)
        if key is None:
            raise Unreadable(f"is not JSON: a name is missing at byte {position}")
        position = _after_space(document, key.end())
        if document[position : position + 1] != b":":
            raise Unreadable(f"is not JSON: a colon is missing at byte {position}")
        start = _after_space(document, position + 1)
        end, depth = _end_of_value(document, start)
        yield _entry(key[0], document[start:end], depth)
        position = _after_space(document, end)
        separator = document[position : position + 1]
        if separator == b"}":
            _check_end(document, position + 1)
            return
        if separator != b",":
            raise Unreadable(f"is not JSON: a comma is missing at byte {position}")
        position = _after_space(document, position + 1)


def _check_end(document: bytes, position: int) -> None:
    if _after_space(document, position) != len(document):
        raise Unreadable("is not JSON: something follows the object of models")


def _after_space(document: bytes, position: int) -> int:
    found = _SPACE.match(document, position)
    return found.end() if found else position


def _end_of_value(document: bytes, start: int) -> tuple[int, int]:
    """Return where a value ends, and how deep it is nested."""
    if document[start : start + 1] not in (b"{", b"["):
        scalar = _STRING.match(document, start) or _SCALAR.match(document, start)
        if scalar is None:
            raise Unreadable(f"is not JSON: a value is missing at byte {start}")
        return scalar.end(), 0
    position, depth, deepest = start, 0, 0
    while True:
        bracket = document[position : position + 1]
        if bracket in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return position + 1, deepest
        else:
            raise Unreadable(f"is not JSON: the value at byte {start} does not end")
        found = _UP_TO_BRACKET.match(document, position + 1)
        position = found.end() if found else position + 1


def _entry(raw_name: bytes, raw: bytes, depth: int) -> Entry:
    name = _name(raw_name)
    try:
        if depth > DEPTH_MAX:
            raise Flawed(f"is nested more than {DEPTH_MAX} deep")
        if len(raw) > ENTRY_BYTES_MAX:
            raise Flawed(f"is larger than {ENTRY_BYTES_MAX} bytes")
        return Entry(name, _parse(raw))
    except Flawed as flaw:
        return Entry(name, None, str(flaw))
    except UnicodeDecodeError:
        return Entry(name, None, "is not UTF-8")
    except ValueError:
        raise Unreadable(f"is not JSON: the value of {shown(name)} is malformed") from None


def _name(raw: bytes) -> str:
    try:
        name: str = json.loads(raw.decode(errors="replace"), strict=False)
    except ValueError:
        raise Unreadable(f"is not JSON: the name {shown(raw.decode(errors='replace'))} is malformed") from None
    return name


def _parse(raw: bytes) -> Value:
    # strict=False accepts raw control characters, so that a raw NUL makes one entry unusable and not the document.
    value: Value = json.loads(
        raw.decode(),
        strict=False,
        parse_float=str,
        parse_int=str,
        parse_constant=str,
        object_pairs_hook=without_repeats,
    )
    # NUL and lone surrogates can only come from an escape or a raw NUL, which most entries do not have.
    if b"\\u" in raw or b"\0" in raw:
        check_texts(value)
    return value
