"""The output of commands: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Final, TypeVar

import typer
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from tollhouse.common.v1.amount_pb2 import Amount

# Lines that go to a file or another program are not wrapped.
_WIDTH_OF_A_FILE: Final = 1_000
_NOT_SHOWN: Final = "\ufffd"
"""What stands for control characters, which a terminal would obey."""
_FOR_PROGRAMS_ALONE: Final = frozenset({"etag"})
_M = TypeVar("_M", bound=Message)


class Output:
    """Prints results on standard output and remarks on standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)

    @property
    def draws(self) -> bool:
        """Whether charts are drawn: in a terminal, for people."""
        return not self.as_json and sys.stdout.isatty()

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self._console.width

    def one(self, message: Message, **besides: str) -> None:
        """Print all fields of a message, and further values beside them."""
        if self.as_json:
            self.json(as_dict(message) | besides)
            return
        rows = {
            name: cell(message, name) for name in message.DESCRIPTOR.fields_by_name if name not in _FOR_PROGRAMS_ALONE
        }
        self._fields(rows | besides)

    def many(self, messages: Sequence[Message], columns: Sequence[str], *, more: bool) -> None:
        """Print a table with a row for each message and some of its fields; as JSON, all fields."""
        self.many_as(messages, columns, lambda message: [cell(message, name) for name in columns], more=more)

    def many_as(
        self, messages: Sequence[_M], columns: Sequence[str], row: Callable[[_M], Sequence[str]], *, more: bool
    ) -> None:
        """Print a table with the row that is made of each message; as JSON, all fields."""
        self.many_rows(messages, columns, lambda message: [row(message)], more=more)

    def many_rows(
        self,
        messages: Sequence[_M],
        columns: Sequence[str],
        rows: Callable[[_M], Sequence[Sequence[str]]],
        *,
        more: bool,
    ) -> None:
        """Print a table with the rows that are made of each message; as JSON, all fields."""
        if self.as_json:
            self.json([as_dict(message) for message in messages])
        else:
            self.table(columns, [row for message in messages for row in rows(message)])
        if more:
            self.remark("There are more. Give a higher --limit to list them.")

    def row(self, message: _M, row: Callable[[_M], Sequence[str]]) -> None:
        """Print one more row, which is made of a message, below a table; as JSON, all fields of the message."""
        if self.as_json:
            self.json(as_dict(message))
        else:
            self.line(" ".join(row(message)))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns; one below the other where a terminal is too narrow for their words, such as ids."""
        table = Table(box=None, pad_edge=False)
        for name in columns:
            table.add_column(_heading(name), overflow="fold")
        for row in rows:
            table.add_row(*map(shown, row))
        unlimited = self._console.options.update(width=_WIDTH_OF_A_FILE)
        if not rows or self._console.measure(table, options=unlimited).minimum <= self.width:
            self._console.print(table, markup=False)
            return
        for number, row in enumerate(rows):
            if number:
                self.line("")
            self._fields(dict(zip(columns, row, strict=True)))

    def _fields(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            if value:
                self.line(f"{_heading(name):<24} {value}")

    def clear(self) -> None:
        """Clear the terminal for what is printed next. Elsewhere nothing is cleared."""
        if not self.as_json and sys.stdout.isatty():
            self._console.clear()

    def line(self, text: str) -> None:
        self._console.print(shown(text), markup=False, soft_wrap=True)

    def json(self, document: object) -> None:
        typer.echo(json.dumps(document, indent=2))

    def remark(self, text: str) -> None:
        """Print a remark on standard error."""
        typer.echo(shown(text), err=True)


def as_dict(message: Message) -> dict[str, object]:
    """Return all fields of a message under their names in the proto."""
    fields: dict[str, object] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


def cell(message: Message, name: str) -> str:
    """Return one field as text for people; empty where it is unset."""
    field: FieldDescriptor = message.DESCRIPTOR.fields_by_name[name]  # type: ignore[assignment]  # it is of both types.
    if field.has_presence and not message.HasField(name):
        return ""
    value: object = getattr(message, name)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={value[key]}" for key in sorted(value))
    if field.is_repeated and isinstance(value, Sequence):
        return ", ".join(_text(field, one) for one in value)
    return _text(field, value)


def amount_text(amount: Amount) -> str:
    """Return an amount as `12.5 USD`; empty where it has neither."""
    return f"{amount.value} {amount.currency_code}".strip()


def _text(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, Timestamp):
        return value.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field.enum_type is not None and isinstance(value, int):
        return _enum_text(field, value)
    if isinstance(value, Amount):
        return amount_text(value)
    if isinstance(value, Message):
        return ", ".join(f"{part.name} {_text(part, one)}" for part, one in value.ListFields())
    if isinstance(value, str):
        return value
    return str(value) if value != 0 else ""


def shown(text: str) -> str:
    """Return text as a terminal may have it, whoever wrote it: a control character in it would be obeyed."""
    return "".join(one if one.isprintable() or one == "\n" else _NOT_SHOWN for one in text)


def _enum_text(field: FieldDescriptor, number: int) -> str:
    """Return the value's name without the prefix of its enum; empty for UNSPECIFIED."""
    enum = field.enum_type
    known = enum.values_by_number.get(number) if enum else None
    if enum is None or known is None:
        return str(number)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return known.name.removeprefix(prefix).lower() if number else ""


def _heading(name: str) -> str:
    return name.replace("_", " ")
