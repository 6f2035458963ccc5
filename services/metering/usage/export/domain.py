"""What an export is asked for, where it is, and what its file adds up to."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal
from operator import itemgetter
from typing import Final, NamedTuple

from services.metering.model.units import TOKEN_CLASS_UNITS
from services.metering.usage.export.columns import PLACES
from services.metering.usage.export.store import Key, Row, Written
from services.metering.usage.store import Filters

VERSION: Final = 1
"""The version of the columns and of the manifest."""
KeyTexts = tuple[str, str]
"""The occur_time and the id of a row's usage, as the file has them."""
_EXACT: Final = Context(prec=200)
_DECIMALS: Final = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal)
"""Made once: `json.loads` makes one for each text that it reads with such functions."""
_NO_DIGEST: Final = bytes(32)
_REQUESTS: Final = PLACES["request_count"]
_QUANTITIES: Final = PLACES["quantities"]
_COST: Final = PLACES["cost"]
_CURRENCY: Final = PLACES["currency_code"]
_PROVIDER_COST: Final = PLACES["provider_cost"]
_PROVIDER_CURRENCY: Final = PLACES["provider_currency_code"]
_CHARGED: Final = PLACES["charged_amount"]
_MOVEMENTS: Final = PLACES["movements"]
_TOKENS: Final = tuple((unit, PLACES[unit]) for unit in TOKEN_CLASS_UNITS.values())


class Span(NamedTuple):
    """A range of time, and until when rows may have been written."""

    start_time: datetime
    end_time: datetime
    as_of_time: datetime


class Asked(NamedTuple):
    """What is to be exported."""

    organization_id: str
    """Empty for several."""
    organization_ids: Sequence[str]
    """Those, sorted; all where none is named."""
    span: Span
    filters: Filters
    written: Written
    """As what its rows are read."""


class Place(NamedTuple):
    """Where a file goes on: after the usage of a key, without the first rows of the next one."""

    organization_id: str = ""
    """Empty at the beginning of a file."""
    after: Key | None = None
    """None where nothing of the organization is sent yet. Further organizations follow it."""
    sent: int = 0
    """How many rows of the next usage are sent: corrected usage has several."""


@dataclass(slots=True)
class Totals:
    """What the rows of a file add up to, from its beginning to some row."""

    rows: int = 0
    size: int = 0
    """In bytes."""
    digest: bytes = _NO_DIGEST
    requests: int = 0
    unpriced: int = 0
    quantities: dict[str, Decimal] = field(default_factory=dict)
    costs: dict[str, Decimal] = field(default_factory=dict)
    provider_costs: dict[str, Decimal] = field(default_factory=dict)
    charges: dict[str, Decimal] = field(default_factory=dict)

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Add what rows say. Equal amounts are counted first, since most usage costs one of few amounts."""
        for unit, place in _TOKENS:
            count = sum(map(_whole(place), rows))
            if count:
                _add(self.quantities, unit, Decimal(count))
        self.requests += sum(map(_whole(_REQUESTS), rows))
        for sums, place, currency in self._amounts:
            for (amount, currency_code), count in Counter(map(itemgetter(place, currency), rows)).items():
                if amount is not None:
                    _add(sums, currency_code, _EXACT.multiply(Decimal(amount), Decimal(count)))
                elif place == _COST:
                    self.unpriced += count
        for row in rows:
            if row[_QUANTITIES] is not None:
                for unit, value in read_numbers(row[_QUANTITIES]).items():
                    _add(self.quantities, unit, value)
            if row[_MOVEMENTS] is not None:
                for movement in _DECIMALS.decode(row[_MOVEMENTS]):
                    _add(self.charges, movement["currency_code"], movement["amount"])

    @property
    def _amounts(self) -> tuple[tuple[dict[str, Decimal], int, int], ...]:
        """Where each column of amounts is summed, with its place and that of its currency."""
        return (
            (self.costs, _COST, _CURRENCY),
            (self.provider_costs, _PROVIDER_COST, _PROVIDER_CURRENCY),
            (self.charges, _CHARGED, _CURRENCY),
        )

    def add_text(self, text: bytes, rows: int) -> None:
        """Add whole lines of the file, and how many rows they are."""
        self.rows += rows
        self.size += len(text)
        digest, sha256 = self.digest, hashlib.sha256
        for line in io.BytesIO(text):
            digest = sha256(digest + line).digest()
        self.digest = digest

    @property
    def sums(self) -> tuple[Mapping[str, Decimal], ...]:
        """All that is summed by a unit or a currency."""
        return self.quantities, self.costs, self.provider_costs, self.charges


def _whole(place: int) -> Callable[[Row], int]:
    """Return what reads a column of whole numbers that is never absent."""
    return itemgetter(place)


def _add(sums: dict[str, Decimal], name: object, value: Decimal) -> None:
    sums[str(name)] = _EXACT.add(sums.get(str(name), Decimal(0)), value)


def read_numbers(text: str) -> dict[str, Decimal]:
    """Return the numbers of a JSON object, exactly."""
    numbers: dict[str, Decimal] = _DECIMALS.decode(text)
    return numbers


def place_after(place: Place, rows: Sequence[Row], count: int, key_of: Callable[[Row], KeyTexts]) -> Place:
    """Return the place after the first `count` rows of those that follow a place; more follow these."""
    following = key_of(rows[count])
    sent = 0
    while sent < count and key_of(rows[count - 1 - sent]) == following:
        sent += 1
    if sent == count:
        return place._replace(sent=place.sent + sent)
    occur_time, usage_id = key_of(rows[count - 1 - sent])
    return Place(place.organization_id, (datetime.fromisoformat(occur_time), usage_id), sent)
