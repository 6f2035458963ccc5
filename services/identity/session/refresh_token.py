"""Refresh tokens, and how the successor of one is derived.

With a request id, the successor is derived from the token, the request id and a secret that is not in the database.
Repeating the call gives the same successor, and no token has to be stored for that.
"""

from typing import Final

from services.identity.api_key.secret import Peppers
from services.identity.base62 import text_of
from services.identity.token_form import TokenForm, digest

FORM: Final = TokenForm("th_refresh_")


def derived_token(peppers: Peppers, token: str, request_id: str) -> str:
    """Return the successor of a token for a request id."""
    return FORM.of(text_of(peppers.digest(_exchange(token, request_id))))


def find_derived_token(peppers: Peppers, token: str, request_id: str, successor_digest: bytes) -> str | None:
    """Return the successor of this token for the request id, or None when it was exchanged by another call."""
    text = _exchange(token, request_id)
    for digest_of_exchange in (peppers.digest(text), *peppers.older_digests(text)):
        successor = FORM.of(text_of(digest_of_exchange))
        if digest(successor) == successor_digest:
            return successor
    return None


def _exchange(token: str, request_id: str) -> str:
    return f"exchange of a refresh token\n{token}\n{request_id}"
