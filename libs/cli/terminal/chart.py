"""Bars in a terminal: one line for each row, readable without colours and in 80 columns."""

import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size

WIDTH_MAX: Final = 80
ROWS_MAX: Final = 60
"""The most rows that are drawn. The table above the chart has all of them."""
_LABEL_MAX: Final = 28
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


class Bar(NamedTuple):
    """A row of a chart."""

    label: str
    value: Decimal
    text: str
    """The value as it is shown."""


def bars(rows: Sequence[Bar], *, width: int = WIDTH_MAX, blocks: bool | None = None) -> list[str]:
    """Return the lines of a chart: a label, a bar and the value of each row, at most as wide as asked.

    The longest bar stands for the largest value; what is above zero has a bar, and what is below zero has none.
    `blocks` says whether the terminal can show block characters; `#` stands for them otherwise.
    """
    if blocks is None:
        blocks = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    drawn = rows[:ROWS_MAX]
    if not drawn:
        return []
    width = min(width, WIDTH_MAX)
    labels = min(_LABEL_MAX, max(cell_len(row.label) for row in drawn))
    values = min(width // 3, max(len(row.text) for row in drawn))
    room = max(4, width - labels - values - 2)
    largest = max(row.value for row in drawn)
    lines = [
        f"{set_cell_size(row.label, labels)} {_bar(row.value, largest, room, blocks=blocks)} {row.text:>{values}}"
        for row in drawn
    ]
    if len(rows) > len(drawn):
        lines.append(f"and {len(rows) - len(drawn)} more, which the chart leaves out")
    return lines


def _bar(value: Decimal, largest: Decimal, room: int, *, blocks: bool) -> str:
    if value <= 0:
        return " " * room
    eighths = max(1, int(value * room * 8 / largest))
    whole, rest = divmod(eighths, 8)
    if blocks:
        return f"{_EIGHTHS[8] * whole}{_EIGHTHS[rest] if rest else ''}".ljust(room)
    return ("#" * max(1, whole)).ljust(room)
