"""Lines of a file as Python writes them of the columns: what the lines that Postgres makes must be, byte by byte."""

import csv
import io
import json
from collections.abc import Sequence

from services.metering.usage.export.columns import COLUMNS, PLACES, Kind
from services.metering.usage.export.store import Row

_FORMULAS = ("'", "=", "+", "-", "@", "\t", "\r", "\n")


def csv_of(rows: Sequence[Row], *, guarded: bool) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow([column.name for column in COLUMNS])
    for row in rows:
        cells = [row[PLACES[column.name]] for column in COLUMNS]
        if guarded:
            cells = [
                f"'{cell}" if column.kind is Kind.TEXT and str(cell or "").startswith(_FORMULAS) else cell
                for column, cell in zip(COLUMNS, cells, strict=True)
            ]
        writer.writerow(cells)
    return buffer.getvalue().encode()


def json_lines_of(rows: Sequence[Row]) -> bytes:
    lines = []
    for row in rows:
        cells = [(column, row[PLACES[column.name]]) for column in COLUMNS]
        fields = [f'"{column.name}":{_json(column.kind, cell)}' for column, cell in cells if cell is not None]
        lines.append(f"{{{','.join(fields)}}}\n")
    return "".join(lines).encode()


def _json(kind: Kind, cell: object) -> str:
    return json.dumps(cell, ensure_ascii=False) if kind in (Kind.WORD, Kind.TEXT) else str(cell)
