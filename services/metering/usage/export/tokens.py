"""Resume tokens: where a file goes on, and what it adds up to until there."""

import base64
import json
import zlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import is_id
from libs.common.timestamps import EPOCH, micros_of, moment_of
from services.metering.usage.export.domain import Place, Span, Totals
from services.metering.usage.export.store import Key
from services.metering.usage_errors import TooManyTotals

TOKEN_MAX: Final = 65_536
_TEXT_MAX: Final = 1_000_000
_NUMBER_MAX: Final = 10**15
_MICROS_MAX: Final = micros_of(datetime(9999, 1, 1, tzinfo=EPOCH.tzinfo))
_NAME_MAX: Final = 64
_MALFORMED: Final = (ValueError, TypeError, AttributeError, InvalidOperation, RecursionError)


def write_token(fingerprint: str, span: Span, place: Place, totals: Totals) -> str:
    """Return a token; it is good for the request with this fingerprint alone.

    Raises:
        TooManyTotals: there are too many units and currencies.
    """
    after = None if place.after is None else [micros_of(place.after[0]), place.after[1]]
    values = [
        fingerprint,
        [micros_of(moment) for moment in span],
        [place.organization_id, after, place.sent],
        [totals.rows, totals.size, totals.requests, totals.unpriced, totals.digest.hex()],
        [{name: str(value) for name, value in sums.items()} for sums in totals.sums],
    ]
    text = json.dumps(values, separators=(",", ":")).encode()
    token = base64.urlsafe_b64encode(zlib.compress(text, 1)).decode()
    if len(token) > TOKEN_MAX or len(text) > _TEXT_MAX:
        raise TooManyTotals
    return token


def read_token(token: str, fingerprint: str) -> tuple[Span, Place, Totals]:
    """Return what a token says.

    Raises:
        InvalidArgument: it is not one of ours, or of another request.
    """
    try:
        packed = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(packed, _TEXT_MAX)
        if not unpacking.eof:
            raise ValueError("not whole")
        own, span, place, counts, sums = json.loads(text)
        if own != fingerprint:
            raise ValueError("another request")
        return Span(*map(_moment, span)), _place(*place), _totals(counts, sums)
    except (*_MALFORMED, zlib.error) as error:
        raise InvalidArgument([FieldViolation("resume_token", "is not a token of this export")]) from error


def _number(value: object, largest: int = _NUMBER_MAX) -> int:
    if type(value) is not int or not -largest <= value <= largest:
        raise ValueError("no number")
    return value


def _moment(value: object) -> datetime:
    micros = _number(value, _MICROS_MAX)
    if micros < 0:
        raise ValueError("no time")
    return moment_of(micros)


def _place(organization_id: str, after: Sequence[object] | None, sent: object) -> Place:
    if organization_id and not is_id(organization_id):
        raise ValueError("no organization")
    key: Key | None = None
    if after is not None:
        moment, usage_id = after
        if not isinstance(usage_id, str) or not is_id(usage_id):
            raise ValueError("no usage")
        key = _moment(moment), usage_id
    return Place(organization_id, key, _number(sent))


def _totals(counts: Sequence[object], sums: Sequence[dict[str, str]]) -> Totals:
    *numbers, digest = counts
    rows, size, requests, unpriced = map(_number, numbers)
    quantities, costs, provider_costs, charges = map(_sums, sums)
    return Totals(rows, size, _digest(digest), requests, unpriced, quantities, costs, provider_costs, charges)


def _digest(text: object) -> bytes:
    digest = bytes.fromhex(str(text))
    if len(digest) != len(Totals().digest):
        raise ValueError("no digest")
    return digest


def _sums(sums: dict[str, str]) -> dict[str, Decimal]:
    found = {name: Decimal(value) for name, value in sums.items()}
    if not all(value.is_finite() and abs(value.adjusted()) < _NAME_MAX for value in found.values()):
        raise ValueError("no sums")
    if not all(name.isascii() and name.isprintable() and len(name) <= _NAME_MAX for name in found):
        raise ValueError("no names")
    return found
