"""The forms of a file: rows as lines of text."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from services.metering.usage.export.columns import NAMES
from services.metering.usage.export.domain import KeyTexts
from services.metering.usage.export.store import LINE, Row

BYTE_ORDER_MARK: Final = "\ufeff".encode()
CSV_TYPE: Final = "text/csv; charset=utf-8"
JSON_TYPE: Final = "application/jsonl; charset=utf-8"
_line_of: Final = itemgetter(LINE)


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
    key_of: Callable[[Row], KeyTexts]


def csv_lines(rows: Sequence[Sequence[object]]) -> bytes:
    """Return rows as lines of CSV by RFC 4180; None is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()


def csv_form(*, byte_order_mark: bool) -> Form:
    head = csv_lines([NAMES])
    return Form(CSV_TYPE, BYTE_ORDER_MARK + head if byte_order_mark else head, _made_lines, _key_in_csv)


def json_form() -> Form:
    return Form(JSON_TYPE, b"", _made_lines, _key_in_json)


def _made_lines(rows: Sequence[Row]) -> Lines:
    """Return the lines that Postgres made."""
    return Lines(b"".join(map(_line_of, rows)), len(rows))


def _key_in_csv(row: Row) -> KeyTexts:
    """The first cells are words, which are never in quotes."""
    _, occur_time, usage_id, _ = _line_of(row).decode().split(",", 3)
    return occur_time, usage_id


def _key_in_json(row: Row) -> KeyTexts:
    values = json.loads(_line_of(row))
    return values["occur_time"], values["usage_id"]
