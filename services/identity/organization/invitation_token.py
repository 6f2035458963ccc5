"""What the token of an invitation looks like, and the digest under which it is known.

`th_invite_`, 43 base62 characters that hold 256 random bits, and 6 of a check over all before them. So much chance
needs no slow hash and no pepper: whoever reads the digest out of a stolen table cannot find the token.
"""

import hashlib
from typing import Final

from services.identity.base62 import CHECK_LENGTH, RANDOM_LENGTH, check_text, random_text

_PREFIX: Final = "th_invite_"
_LENGTH: Final = len(_PREFIX) + RANDOM_LENGTH + CHECK_LENGTH


def new_token() -> str:
    """Return a token nobody has seen before."""
    body = _PREFIX + random_text()
    return body + check_text(body)


def is_well_formed(token: str) -> bool:
    """Tell whether the text has the shape of a token and its check is right."""
    return (
        len(token) == _LENGTH
        and token.startswith(_PREFIX)
        and token.isascii()
        and token[-CHECK_LENGTH:] == check_text(token[:-CHECK_LENGTH])
    )


def digest(token: str) -> bytes:
    """Return the 32 bytes that are stored in the token's place."""
    return hashlib.sha256(token.encode()).digest()
