"""Random texts that people may copy, and the check that tells a mistyped or made-up one without asking the database."""

import secrets
import zlib
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
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
    return _digits(int.from_bytes(random_bytes), RANDOM_LENGTH)


def check_text(body: str) -> str:
    """Return the 6 characters that follow a text, so that a slip in it shows."""
    return _digits(zlib.crc32(body.encode()), CHECK_LENGTH)


def _digits(number: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
