"""Reads the entries of the list `models` of a YAML document one by one, from the parser's events.

Scalars stay the text they were written as: numbers are not converted, and `yes` does not become a boolean. Aliases are
not resolved, because a few lines of them can expand to more text than fits into memory.
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import yaml

from services.metering.model.document import (
    DEPTH_MAX,
    ENTRY_BYTES_MAX,
    Entry,
    Flawed,
    Unreadable,
    Value,
    check_text,
    shown,
)

_LIST: Final = "models"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_PARSER_DEPTH_MAX: Final = 1_000
# libyaml rejects a document with the escape of a lone surrogate; the pure Python parser accepts it, but is about twenty
# times slower. Up to this size a document that libyaml rejects for it is parsed again by the slow parser, within
# seconds, so that only the entry with the escape is skipped.
_SLOW_PARSER_BYTES_MAX: Final = 4_000_000
_INVALID_ESCAPE: Final = "invalid Unicode character escape"


class _Events(Protocol):
    def get_event(self) -> yaml.Event: ...


_Parser: TypeAlias = Callable[[bytes], _Events]
# PyYAML has the fast parser only if it was built with libyaml.
_FAST_PARSER: Final[_Parser] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_entries(document: bytes) -> list[Entry]:
    """Return the entries of the list `models`, each named by its `model_id`, in the order of the document.

    Raises:
        Unreadable: the document is not YAML, or has no such list.
    """
    try:
        return _read(document, _FAST_PARSER)
    except Unreadable as error:
        if _INVALID_ESCAPE not in str(error) or len(document) > _SLOW_PARSER_BYTES_MAX:
            raise
        return _read(document, yaml.SafeLoader)


def _read(document: bytes, parser: _Parser) -> list[Entry]:
    try:
        return _Reader(parser(document)).entries()
    except (yaml.YAMLError, UnicodeError) as error:
        raise Unreadable(f"is not YAML: {_problem(error)}") from None


def _problem(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{problem} in line {mark.line + 1}" if mark is not None and problem else "it cannot be decoded"


class _Reader:
    """Reads the events of a document once."""

    def __init__(self, events: _Events) -> None:
        self._events = events
        self._depth = 0
        # The first flaw and the amount of text of the entry that is being read.
        self._flaw = ""
        self._text_bytes = 0

    def entries(self) -> list[Entry]:
        self._next()  # The start of the stream; the next event is the start of the document.
        if isinstance(self._next(), yaml.StreamEndEvent) or not isinstance(self._next(), yaml.MappingStartEvent):
            raise Unreadable(f"has no list `{_LIST}`")
        found: list[Entry] | None = None
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            if not (isinstance(key, yaml.ScalarEvent) and key.value == _LIST):
                self._skip(key)
                self._skip(self._next())
                continue
            if found is not None:
                raise Unreadable(f"has the list `{_LIST}` twice")
            if not isinstance(self._next(), yaml.SequenceStartEvent):
                raise Unreadable(f"has no list `{_LIST}`")
            found = self._items()
        self._next()  # The end of the document.
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise Unreadable("holds more than one YAML document")
        if found is None:
            raise Unreadable(f"has no list `{_LIST}`")
        return found

    def _items(self) -> list[Entry]:
        items: list[Entry] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            self._flaw, self._text_bytes = "", 0
            value = self._value(event, 0)
            name = value.get("model_id") if isinstance(value, dict) else None
            items.append(Entry(name if isinstance(name, str) else "", value, self._flaw))
        return items

    def _value(self, event: yaml.Event, depth: int) -> Value:
        """Return the value that begins with the event. A flaw is noted and reading goes on, to find the name."""
        if getattr(event, "tag", None) not in (None, "!"):
            self._note("has a YAML tag, which is not supported")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.AliasEvent):
            self._note("has a YAML alias, which is not supported")
            return None
        if depth == DEPTH_MAX:
            self._note(f"is nested more than {DEPTH_MAX} deep")
            self._skip(event)
            return None
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Value] = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                items.append(self._value(item, depth + 1))
            return items
        return self._mapping(depth)

    def _mapping(self, depth: int) -> dict[str, Value]:
        pairs: dict[str, Value] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if not isinstance(key, str):
                self._note("has a key that is not a text")
                key = ""
            if key in pairs:
                self._note(f"has the key {shown(key)} twice")
            pairs[key] = self._value(self._next(), depth + 1)
        return pairs

    def _scalar(self, event: yaml.ScalarEvent) -> str | None:
        text: str = event.value
        self._text_bytes += len(text)
        if self._text_bytes > ENTRY_BYTES_MAX:
            self._note(f"is larger than {ENTRY_BYTES_MAX} bytes")
            return None
        try:
            check_text(text)
        except Flawed as flaw:
            self._note(str(flaw))
        # Only a plain scalar can be null; a quoted one is always text.
        return None if text in _NULLS and event.implicit[0] else text

    def _note(self, flaw: str) -> None:
        self._flaw = self._flaw or flaw

    def _next(self) -> yaml.Event:
        event = self._events.get_event()
        if isinstance(event, yaml.CollectionStartEvent):
            self._depth += 1
            if self._depth > _PARSER_DEPTH_MAX:
                raise Unreadable(f"is nested more than {_PARSER_DEPTH_MAX} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            self._depth -= 1
        return event

    def _skip(self, event: yaml.Event) -> None:
        """Skip the value that begins with the event."""
        outside = self._depth - isinstance(event, yaml.CollectionStartEvent)
        while self._depth > outside:
            self._next()
