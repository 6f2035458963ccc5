"""What a refresh token looks like, and the one it is exchanged for.

The token that follows on a keyed exchange is derived from the token before it, the key and a secret that stays out of
the database: the same exchange gives the same token again, and nothing has to be kept that would.
"""

from typing import Final

from services.identity.api_key.secret import Peppers
from services.identity.base62 import text_of
from services.identity.token_form import TokenForm, digest

FORM: Final = TokenForm("th_refresh_")


def derived_token(peppers: Peppers, token: str, request_id: str) -> str:
    """Return the token that one is exchanged for under a request id."""
    return FORM.of(text_of(peppers.digest(_exchange(token, request_id))))


def find_derived_token(peppers: Peppers, token: str, request_id: str, successor_digest: bytes) -> str | None:
    """Return the token this one was exchanged for under the request id, or None where that was another exchange."""
    text = _exchange(token, request_id)
    for digest_of_exchange in (peppers.digest(text), *peppers.older_digests(text)):
        successor = FORM.of(text_of(digest_of_exchange))
        if digest(successor) == successor_digest:
            return successor
    return None


def _exchange(token: str, request_id: str) -> str:
    return f"exchange of a refresh token\n{token}\n{request_id}"
