"""Reading the JSON of CloudEvents: a body becomes events, each with what is wrong with it by itself."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from libs.common.errors import FieldViolation, InvalidArgument

EVENTS_MAX: Final = 10_000
SINGLE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
EITHER: Final = "application/json"
_NAME_MAX: Final = 64
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class Number(str):
    """A number of a JSON text, as it is written there: nothing is computed with it before its size is known."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a body: any JSON value, in which numbers are of `Number`."""

    value: object
    flaws: Sequence[FieldViolation] = ()
    """What is wrong with its JSON by itself: keys that an object has twice, numbers that JSON does not know."""


def read_events(content_type: str, body: bytes) -> list[Event]:
    """Return the events of a body.

    Raises:
        InvalidArgument: the body is of another content type, no JSON in UTF-8, or holds no event or too many.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (SINGLE, BATCH, EITHER):
        raise _flaw("body.content_type", f"must be {SINGLE}, {BATCH} or {EITHER}")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _flaw("body", f"is not UTF-8: the byte {error.start} is wrong") from None
    at = _after_space(text, 0)
    is_list = text.startswith("[", at)
    if kind == BATCH and not is_list:
        raise _flaw("body", "must be a list of events")
    if kind == SINGLE and is_list:
        raise _flaw("body", f"must be one event; lists are {BATCH}")
    reader = _Reader(text)
    events, end = reader.listed(at) if is_list else reader.one(at)
    if _after_space(text, end) != len(text):
        raise _flaw("body", f"has something behind its end, from the character {end}")
    if not events:
        raise _flaw("body", "has no event")
    return events


class _Reader:
    """Reads the values of a text one by one, so that what is wrong with one does not concern the others."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._flaws: list[FieldViolation] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_int=Number, parse_float=Number, parse_constant=self._constant
        )

    def one(self, at: int) -> tuple[list[Event], int]:
        """Return the event that begins here, and the place behind it."""
        self._flaws = []
        try:
            value, end = self._decoder.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            raise _flaw("body", f"is no JSON at the character {error.pos}: {error.msg[:_NAME_MAX]}") from None
        except RecursionError:
            raise _flaw("body", "is nested too deeply") from None
        return [Event(value, self._flaws)], end

    def listed(self, at: int) -> tuple[list[Event], int]:
        """Return the events of the list that begins here, and the place behind it."""
        events: list[Event] = []
        at = _after_space(self._text, at + 1)
        if self._text.startswith("]", at):
            return events, at + 1
        while True:
            if len(events) == EVENTS_MAX:
                raise _flaw("body", f"must have at most {EVENTS_MAX:,} events")
            found, at = self.one(at)
            events += found
            at = _after_space(self._text, at)
            if self._text.startswith("]", at):
                return events, at + 1
            if not self._text.startswith(",", at):
                raise _flaw("body", f"is no JSON at the character {at}: a list goes on with a comma or ends")
            at = _after_space(self._text, at + 1)

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self._flaws.append(FieldViolation(shown(twice), "is given twice"))
        return found

    def _constant(self, name: str) -> Number:
        self._flaws.append(FieldViolation("data", f"has {name}, which is no number of JSON"))
        return Number(name)


def shown(text: str) -> str:
    """Return a text of an event for an error: short, and without what cannot be shown."""
    plain = "".join(sign if sign.isprintable() and not sign.isspace() else "?" for sign in text[:_NAME_MAX])
    return plain if len(text) <= _NAME_MAX else f"{plain}…"


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # It may be empty.
    return found.end()


def _flaw(field: str, description: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(field, description)])
