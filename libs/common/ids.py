"""Identifiers: UUID version 7 (RFC 9562), made here because Postgres makes them only from version 18 on.

They sort by the time they were made, which keeps new index entries side by side. They are never secrets.
"""

import os
import re
import time
from uuid import UUID

_RESERVE = 256
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Randomness:
    """Random bytes read from the operating system many ids at a time: a system call per id would be dear."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._discard)

    def _discard(self) -> None:
        self._bytes, self._at = b"", 0

    def take(self) -> int:
        if self._at >= len(self._bytes):
            self._bytes, self._at = os.urandom(10 * _RESERVE), 0
        at = self._at
        self._at = at + 10
        return int.from_bytes(self._bytes[at : at + 10])


_randomness = _Randomness()
_VERSION_AND_VARIANT = (0x7 << 76) | (0x2 << 62)
_RANDOM_BITS = ((1 << 12) - 1) << 64 | ((1 << 62) - 1)


def new_uuid() -> UUID:
    """Return a new UUIDv7."""
    value = (time.time_ns() // 1_000_000) << 80 | _VERSION_AND_VARIANT | (_randomness.take() & _RANDOM_BITS)
    return UUID(int=value)


def new_id() -> str:
    """Return a new UUIDv7 as 36 characters of lower-case text."""
    value = (time.time_ns() // 1_000_000) << 80 | _VERSION_AND_VARIANT | (_randomness.take() & _RANDOM_BITS)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_id(text: str) -> bool:
    """Tell whether the text is a UUID in its canonical lower-case form."""
    return _ID.fullmatch(text) is not None
