"""Reads exported files of every form back, row by row, and adds them up anew: nothing here is shared with metering."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from pathlib import Path
from typing import Final, NamedTuple

from libs.cli.exports.parquet import read_parquet
from libs.cli.failures import CommandFailed

CSV: Final = "csv"
JSON_LINES: Final = "jsonl"
FOCUS: Final = "focus"
PARQUET: Final = "parquet"
FORMS: Final = (CSV, JSON_LINES, PARQUET, FOCUS)
_EXACT: Final = Context(prec=200)
_FIELD_MAX: Final = 10_000_000
_TOKENS: Final = "_tokens"
NOT_EXPORTED: Final = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a row or a manifest raises that no export has written."""
_Sums = dict[str, Decimal]
_Row = Mapping[str, object]


class Movement(NamedTuple):
    """What a row asks billing to move, below zero where it gives something back."""

    organization_id: str
    operation_id: str
    amount: Decimal
    currency_code: str


@dataclass(slots=True)
class Sums:
    """What the rows of a file add up to. Of FOCUS only the rows and what they ask of billing are comparable."""

    form: str
    rows: int = 0
    requests: int = 0
    unpriced: int = 0
    recorded: int = 0
    """Rows of usage as it was recorded, without those of corrections."""
    recorded_costs: _Sums = field(default_factory=dict)
    quantities: _Sums = field(default_factory=dict)
    costs: _Sums = field(default_factory=dict)
    provider_costs: _Sums = field(default_factory=dict)
    charges: _Sums = field(default_factory=dict)

    def add(self, row: _Row, movements: list[Movement]) -> None:
        self.rows += 1
        for one in movements:
            _add(self.charges, one.currency_code, one.amount)
        if self.form == FOCUS:
            return
        self.requests += int(str(row["request_count"]))
        is_recorded = not _is_there(row.get("correction_number"))
        self.recorded += is_recorded
        if _is_there(row.get("cost")):
            _add(self.costs, str(row["currency_code"]), _number(row["cost"]))
            if is_recorded:
                _add(self.recorded_costs, str(row["currency_code"]), _number(row["cost"]))
        else:
            self.unpriced += 1
        if _is_there(row.get("provider_cost")):
            _add(self.provider_costs, str(row["provider_currency_code"]), _number(row["provider_cost"]))
        for name, value in row.items():
            if name.endswith(_TOKENS) and _is_there(value) and value not in ("0", 0):
                _add(self.quantities, name, _number(value))
        if _is_there(row.get("quantities")):
            for unit, value in _document(row["quantities"]).items():
                _add(self.quantities, unit, _number(value))

    def as_manifest(self) -> dict[str, object]:
        """Return them by the names of the manifest."""
        compared: dict[str, object] = {"row_count": self.rows, "charges": _sorted(self.charges)}
        if self.form != FOCUS:
            compared |= {
                "request_count": self.requests,
                "unpriced_count": self.unpriced,
                "quantities": _sorted(self.quantities),
                "costs": _sorted(self.costs),
                "provider_costs": _sorted(self.provider_costs),
            }
        return compared


def sums_in(manifest: Mapping[str, object], form: str) -> dict[str, object]:
    """Return what a manifest says of the rows, as `Sums.as_manifest` does.

    Raises:
        NOT_EXPORTED: it is no manifest.
    """
    counts: dict[str, object] = {
        name: int(str(manifest.get(name, 0))) for name in ("row_count", "request_count", "unpriced_count")
    }
    for name in ("quantities", "costs", "provider_costs", "charges"):
        key = "unit" if name == "quantities" else "currency_code"
        listed = manifest.get(name, [])
        if not isinstance(listed, list):
            raise TypeError(f"{name} are no list")
        counts[name] = {one[key]: _text(Decimal(one["value"])) for one in listed}
    known = Sums(form).as_manifest()
    return {name: value for name, value in counts.items() if name in known}


def rows_of(file: Path, form: str) -> Iterator[_Row]:
    """Yield the rows of a file.

    Raises:
        CommandFailed: it is no file of this form.
    """
    try:
        if form == PARQUET:
            yield from read_parquet(file)
        elif form == JSON_LINES:
            with file.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    yield json.loads(line, parse_float=Decimal)
        else:
            csv.field_size_limit(_FIELD_MAX)
            with file.open(encoding="utf-8-sig", newline="") as opened:
                yield from csv.DictReader(opened, strict=True)
    except (ValueError, csv.Error, RecursionError) as error:
        raise CommandFailed(f"{file} cannot be read as {form}: {error}") from None


def movements_of(row: _Row, form: str, *, guarded: bool) -> list[Movement]:
    """Return what a row asks billing to move."""
    names = ("organization_id", "operation_id", "currency_code", "charged_amount", "movements")
    if form == FOCUS:
        names = ("BillingAccountId", "x_OperationId", "BillingCurrency", "x_ChargedAmount", "x_Movements")
    organization_id, operation_id, currency, charged, moved = (row.get(name) for name in names)
    payer = str(organization_id)
    found: list[Movement] = []
    if _is_there(charged):
        own = str(operation_id).removeprefix("'") if guarded else str(operation_id)
        found.append(Movement(payer, own, _number(charged), str(currency)))
    if _is_there(moved):
        for one in _list(moved):
            amount = _number(one["amount"])
            found.append(Movement(payer, str(one["operation_id"]), amount, str(one["currency_code"])))
    return [one for one in found if one.amount]


def digest_of(file: Path) -> str:
    """Return the digest over the lines of a file, as a manifest has it."""
    digest = bytes(32)
    with file.open("rb") as lines:
        for line in lines:
            digest = hashlib.sha256(digest + line).digest()
    return digest.hex()


def _is_there(value: object) -> bool:
    return value is not None and value != ""


def _number(value: object) -> Decimal:
    return Decimal(str(value))


def _document(value: object) -> dict[str, object]:
    return json.loads(value, parse_float=Decimal) if isinstance(value, str) else value  # type: ignore[return-value]


def _list(value: object) -> list[dict[str, object]]:
    return json.loads(value, parse_float=Decimal) if isinstance(value, str) else value  # type: ignore[return-value]


def _add(sums: _Sums, name: str, value: Decimal) -> None:
    sums[name] = _EXACT.add(sums.get(name, Decimal(0)), value)


def _sorted(sums: _Sums) -> dict[str, str]:
    return {name: _text(value) for name, value in sorted(sums.items())}


def _text(value: Decimal) -> str:
    return f"{value.normalize(_EXACT):f}" if value else "0"
