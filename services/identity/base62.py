"""Random tokens in base62, and a checksum that detects mistyped or made-up ones without a database read."""

import secrets
import zlib
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_RANDOM_BYTES: Final = 32
RANDOM_LENGTH: Final = 43
"""How many characters hold 256 bits."""
CHECK_LENGTH: Final = 6
"""How many characters hold a CRC-32."""


def random_text() -> str:
    """Return 43 characters that hold 256 bits from the operating system's random source."""
    return text_of(secrets.token_bytes(_RANDOM_BYTES))


def text_of(random_bytes: bytes) -> str:
    """Return the 43 characters that hold 32 bytes."""
    number = int.from_bytes(random_bytes)
    digits: list[str] = []
    for _ in range(RANDOM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def check_text(body: str) -> str:
    """Return the 6 characters of checksum that follow a token.

    Two characters are computed at a time, because every key that is not in the cache is checked.
    """
    rest, low = divmod(zlib.crc32(body.encode()), len(_PAIRS))
    high, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]
