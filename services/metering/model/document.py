"""The entries of a document that lists models: a name with plain values, or with the reason it is unusable."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Value = str | bool | None | list["Value"] | dict[str, "Value"]
"""A value of a document. A number stays the text it was written as, so nothing is computed before it is checked."""

NUMBER: Final = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,3})?")
"""A number whose digits are bounded before anything is computed with it, because of numbers such as `1e999999999`."""
DEPTH_MAX: Final = 32
ENTRY_BYTES_MAX: Final = 1_000_000
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class Unreadable(Exception):
    """The document as a whole cannot be read; the text says why."""


class Flawed(Exception):
    """One entry cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a document: its value, or the flaw for which it cannot be used."""

    name: str
    value: Value
    flaw: str = ""


def check_text(text: str) -> None:
    """Raise Flawed for a text with NUL or a lone surrogate, which neither Postgres nor a proto message can hold."""
    found = _UNSTORABLE.search(text)
    if found is not None:
        raise Flawed(f"has a text with U+{ord(found[0]):04X}")


def check_texts(value: Value) -> None:
    """Raise Flawed where any text of the value cannot be stored. The value is at most DEPTH_MAX deep."""
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, list):
        for item in value:
            check_texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key)
            check_texts(item)


def without_repeats(pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Return the pairs as a mapping; raise Flawed where a key stands twice."""
    result: dict[str, Value] = {}
    for key, value in pairs:
        if key in result:
            raise Flawed(f"has the key {shown(key)} twice")
        result[key] = value
    return result


def shown(text: str, length_max: int = 64) -> str:
    """Return a text cut to a length, with NUL and lone surrogates replaced, for a response."""
    cut = text if len(text) <= length_max else text[: length_max - 1] + "…"
    return _UNSTORABLE.sub("\ufffd", cut)
