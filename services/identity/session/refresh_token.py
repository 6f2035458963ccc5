"""What a refresh token looks like, the digest under which it is known, and the one it is exchanged for.

`th_refresh_`, 43 base62 characters that hold 256 bits, and 6 of a check over all before them. So many bits need no slow
hash and no pepper. The token that follows on a keyed exchange is derived from the token before it, the key and a secret
that stays out of the database: the same exchange gives the same token again, and nothing has to be kept that would.
"""

import hashlib
from typing import Final

from services.identity.api_key.secret import Peppers
from services.identity.base62 import CHECK_LENGTH, RANDOM_LENGTH, check_text, random_text, text_of

_PREFIX: Final = "th_refresh_"
_LENGTH: Final = len(_PREFIX) + RANDOM_LENGTH + CHECK_LENGTH


def new_token() -> str:
    """Return a token nobody has seen before."""
    return _with_check(_PREFIX + random_text())


def derived_token(peppers: Peppers, token: str, request_id: str) -> str:
    """Return the token that one is exchanged for under a request id."""
    return _with_check(_PREFIX + text_of(peppers.digest(_exchange(token, request_id))))


def find_derived_token(peppers: Peppers, token: str, request_id: str, successor_digest: bytes) -> str | None:
    """Return the token this one was exchanged for under the request id, or None where that was another exchange."""
    text = _exchange(token, request_id)
    for digest_of_exchange in (peppers.digest(text), *peppers.older_digests(text)):
        successor = _with_check(_PREFIX + text_of(digest_of_exchange))
        if digest(successor) == successor_digest:
            return successor
    return None


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


def _exchange(token: str, request_id: str) -> str:
    return f"exchange of a refresh token\n{token}\n{request_id}"


def _with_check(body: str) -> str:
    return body + check_text(body)
