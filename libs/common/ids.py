"""Identifiers: UUID version 7 (RFC 9562), made here because Postgres makes them only from version 18 on.

They sort by the time they were made, which keeps new index entries side by side. They are not secret.
"""

import hashlib
import os
import re
import time
from datetime import datetime
from typing import Final
from uuid import UUID

NIL: Final = "00000000-0000-0000-0000-000000000000"
"""The lowest id. It is nobody's."""
MAX: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""The highest id. It is nobody's, either."""
AFTER_TEXT: Final = "\U0010ffff"
"""Comes after every id that a caller may choose."""
_RESERVE: Final = 256
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME_SHIFT: Final = 80
_DIGITS_EACH: Final = 20
_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
"""The digit that carries the variant's two bits keeps two random ones."""


class _Randomness:
    """Random digits read from the operating system many ids at a time: one system call per id would be expensive."""

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0
        os.register_at_fork(after_in_child=self._discard)

    def _discard(self) -> None:
        self._digits, self._at = "", 0

    def take(self) -> str:
        if self._at >= len(self._digits):
            self._digits, self._at = os.urandom(_DIGITS_EACH // 2 * _RESERVE).hex(), 0
        at = self._at
        self._at = at + _DIGITS_EACH
        return self._digits[at : at + _DIGITS_EACH]


_randomness = _Randomness()


def new_id() -> str:
    """Return a new UUIDv7 as 36 characters of lower-case text."""
    return _version_7(time.time_ns() // 1_000_000, _randomness.take())


def is_id(text: str) -> bool:
    """Tell whether the text is a UUID in its canonical lower-case form."""
    return _ID.fullmatch(text) is not None


def first_id_of(moment: datetime) -> str:
    """Return an id that is no higher than any that `new_id` makes at a moment or later."""
    return lowest_id_at(max(int(moment.timestamp() * 1000), 0))


def lowest_id_at(time_ms: int) -> str:
    """Return the lowest UUID of any kind that begins with a time, in milliseconds after 1970."""
    return str(UUID(int=time_ms << _TIME_SHIFT))


def highest_id_at(time_ms: int) -> str:
    """Return the highest UUID of any kind that begins with a time, in milliseconds after 1970."""
    return str(UUID(int=((time_ms + 1) << _TIME_SHIFT) - 1))


def time_ms_of(any_id: str) -> int:
    """Return the time with which a UUID begins, in milliseconds after 1970; any number, if it is not of version 7."""
    return UUID(any_id).int >> _TIME_SHIFT


def id_of_digest(text: str) -> str:
    """Return a UUID of version 8 (RFC 9562) made of a digest of a text: the same text always has the same id."""
    digest = bytearray(hashlib.blake2b(text.encode(), digest_size=16).digest())
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(digest)))


def id_at(moment: datetime, text: str) -> str:
    """Return a UUIDv7 of a moment, whose random part is a digest of a text: the same both, the same id."""
    digest = hashlib.blake2b(text.encode(), digest_size=_DIGITS_EACH // 2).hexdigest()
    return _version_7(int(moment.timestamp() * 1000), digest)


def _version_7(time_ms: int, digits: str) -> str:
    """Return the UUIDv7 of a time in milliseconds after 1970, with the hexadecimal digits as its random part."""
    time_digits = f"{time_ms:012x}"
    return f"{time_digits[:8]}-{time_digits[8:]}-7{digits[:3]}-{_VARIANT[digits[3]]}{digits[4:7]}-{digits[7:19]}"
