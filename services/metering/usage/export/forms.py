"""The forms of a file: rows as lines of text."""

import csv
import io
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Final, NamedTuple, cast

from services.metering.usage.export.columns import COLUMNS, NAMES, Kind
from services.metering.usage.export.store import Row

BYTE_ORDER_MARK: Final = "\ufeff".encode()
CSV_TYPE: Final = "text/csv; charset=utf-8"
JSON_TYPE: Final = "application/jsonl; charset=utf-8"


class Lines(NamedTuple):
    """Whole lines of a file, and how many rows of the file they are."""

    text: bytes
    rows: int


class Form(NamedTuple):
    """A form of a file."""

    content_type: str
    head: bytes
    """What is before the first row."""
    lines_of: Callable[[Sequence[Row]], Lines]


def csv_lines(rows: Sequence[Sequence[object]]) -> bytes:
    """Return rows as lines of CSV by RFC 4180; None is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()


def csv_form(*, byte_order_mark: bool) -> Form:
    head = csv_lines([NAMES])
    return Form(CSV_TYPE, BYTE_ORDER_MARK + head if byte_order_mark else head, _csv)


def _csv(rows: Sequence[Row]) -> Lines:
    return Lines(csv_lines(rows), len(rows))


def json_form() -> Form:
    return Form(JSON_TYPE, b"", _json)


def _quoted(value: object) -> str:
    return f'"{value}"'


_WRITERS: Final[dict[Kind, Callable[[object], str]]] = {
    Kind.WORD: _quoted,
    Kind.TEXT: cast("Callable[[object], str]", encode_basestring),
    Kind.NUMBER: str,
    Kind.JSON: str,
    Kind.FLAG: str,
}
_FIELDS: Final = tuple((f'"{column.name}":', _WRITERS[column.kind]) for column in COLUMNS)


def _json(rows: Sequence[Row]) -> Lines:
    lines = []
    for row in rows:
        fields = [name + write(value) for (name, write), value in zip(_FIELDS, row, strict=True) if value is not None]
        lines.append(f"{{{','.join(fields)}}}\n")
    return Lines("".join(lines).encode(), len(rows))
