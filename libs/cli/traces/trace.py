"""Usage traces: CSV files with the columns TIMESTAMP, ContextTokens and GeneratedTokens, one call per line."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from libs.cli.failures import WrongUse

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TOKENS_MAX: Final = 1_000_000_000
_DIGEST_LENGTH: Final = 16
_PROBLEMS_SHOWN: Final = 10
# The published traces have seven digits of a second, and offsets such as `Z`, `+00`, `+0000` or `+00:00`, or none.
_TIMESTAMP: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}(?::?[0-5]\d)?)?", re.ASCII
)
# Some tools write whole numbers with a fraction of zeros, such as `12.0`.
_WHOLE_NUMBER: Final = re.compile(r"(\d{1,10})(?:\.0{1,20})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One call. Its number is its line in the file, counted from 1 after the header."""

    number: int
    time: datetime
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that is not a call, and the reason."""

    line: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Trace:
    """The content of a trace file, in its order."""

    name: str
    digest: str
    rows: Sequence[Row]
    bad_rows: Sequence[BadRow]

    @property
    def input_tokens(self) -> int:
        return sum(row.input_tokens for row in self.rows)

    @property
    def output_tokens(self) -> int:
        return sum(row.output_tokens for row in self.rows)

    @property
    def start(self) -> datetime:
        return min(row.time for row in self.rows)

    @property
    def end(self) -> datetime:
        return max(row.time for row in self.rows)


def read_trace(path: Path, *, skip_bad_rows: bool) -> Trace:
    """Read and check a whole file.

    Raises:
        WrongUse: it cannot be read, lacks a column, has no rows, or has a bad row that must not be skipped.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WrongUse(f"The trace {path} cannot be read: {error.strerror}.") from None
    # Bytes that are not UTF-8 become U+FFFD, which no column accepts, so that the line is reported as a bad row.
    rows, bad_rows = _rows_of(path, _lines_of(content.decode("utf-8-sig", errors="replace")))
    if bad_rows and not skip_bad_rows:
        raise WrongUse(
            f"{path}, {_summary(bad_rows)}. Nothing was metered. Give --on-bad-row skip to leave such rows out."
        )
    if not rows:
        raise WrongUse(f"{path} has no rows.")
    return Trace(path.name, hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH], rows, bad_rows)


def _summary(bad_rows: Sequence[BadRow]) -> str:
    shown = "; ".join(map(str, bad_rows[:_PROBLEMS_SHOWN]))
    more = len(bad_rows) - _PROBLEMS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _lines_of(text: str) -> Iterator[list[str]]:
    """Yield the fields of each line. Quoted commas are not supported, so a stray quote affects its own line only."""
    for line in text.split("\n"):
        yield [field.strip().removeprefix('"').removesuffix('"') for field in line.split(",")] if line.strip() else []


def _rows_of(path: Path, lines: Iterator[list[str]]) -> tuple[list[Row], list[BadRow]]:
    header = next(lines)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise WrongUse(f"{path} has no column {', '.join(missing)}; its header must name {', '.join(COLUMNS)}.")
    doubled = [name for name in COLUMNS if header.count(name) > 1]
    if doubled:
        raise WrongUse(f"{path} has the column {doubled[0]} twice.")
    places = [header.index(name) for name in COLUMNS]
    rows: list[Row] = []
    bad_rows: list[BadRow] = []
    for line, fields in enumerate(lines, start=2):
        if not fields:
            continue
        try:
            if len(fields) != len(header):
                raise ValueError(f"has {len(fields)} columns instead of {len(header)}")
            rows.append(_row_of(line - 1, *(fields[place] for place in places)))
        except ValueError as error:
            bad_rows.append(BadRow(line, str(error)))
    return rows, bad_rows


def _row_of(number: int, timestamp: str, input_tokens: str, output_tokens: str) -> Row:
    return Row(
        number,
        _time_of(timestamp),
        _tokens_of("ContextTokens", input_tokens),
        _tokens_of("GeneratedTokens", output_tokens),
    )


def _tokens_of(column: str, text: str) -> int:
    match = _WHOLE_NUMBER.fullmatch(text)
    if match is None or int(match[1]) > TOKENS_MAX:
        raise ValueError(f"{column} is not a whole number from 0 to {TOKENS_MAX}: {_shown(text)}")
    return int(match[1])


def _time_of(text: str) -> datetime:
    """Read a time to the microsecond; further digits are dropped, because the database does not store them."""
    match = _TIMESTAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        day, clock, fraction, offset = match.groups()
        microseconds = (fraction or "").ljust(6, "0")[:6]
        return datetime.fromisoformat(f"{day}T{clock}.{microseconds}").replace(tzinfo=_zone(offset)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"TIMESTAMP is not a time such as 2023-11-16 18:15:46.6805900: {_shown(text)}") from None


def _zone(offset: str | None) -> timezone:
    if offset is None or offset == "Z":
        return UTC
    digits = offset[1:].replace(":", "")
    distance = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or "0"))
    return timezone(-distance if offset[0] == "-" else distance)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
