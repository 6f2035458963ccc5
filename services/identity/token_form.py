"""The form of refresh tokens and invitation tokens, and the digest that is stored of them.

A token is a prefix, 43 base62 characters with 256 random bits, and a checksum of 6 characters over all that. With so
many random bits neither a slow hash nor a pepper is needed: nobody finds a token from the digest in a stolen table.
"""

import hashlib

from services.identity.base62 import CHECK_LENGTH, RANDOM_LENGTH, check_text, random_text


class TokenForm:
    """A kind of token, with its prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def new(self) -> str:
        """Return a new random token."""
        return self.of(random_text())

    def of(self, bits: str) -> str:
        """Return the token with these random bits, given as 43 base62 characters."""
        body = self._prefix + bits
        return body + check_text(body)

    def is_well_formed(self, token: str) -> bool:
        """Return whether the text has the form of this kind of token and its checksum is right."""
        return (
            len(token) == len(self._prefix) + RANDOM_LENGTH + CHECK_LENGTH
            and token.startswith(self._prefix)
            and token.isascii()
            and token[-CHECK_LENGTH:] == check_text(token[:-CHECK_LENGTH])
        )


def digest(token: str) -> bytes:
    """Return the 32 bytes that are stored instead of a token."""
    return hashlib.sha256(token.encode()).digest()
