"""What a token that is shown once looks like, and the digest under which it is known.

A prefix, 43 base62 characters that hold 256 bits, and 6 of a check over all before them. So many bits need no slow hash
and no pepper: whoever reads the digest out of a stolen table cannot find the token.
"""

import hashlib

from services.identity.base62 import CHECK_LENGTH, RANDOM_LENGTH, check_text, random_text


class TokenForm:
    """One kind of token, told by its prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def new(self) -> str:
        """Return a token nobody has seen before."""
        return self.of(random_text())

    def of(self, bits: str) -> str:
        """Return the token that holds these bits, as 43 base62 characters."""
        body = self._prefix + bits
        return body + check_text(body)

    def is_well_formed(self, token: str) -> bool:
        """Tell whether the text has the shape of a token of this kind and its check is right."""
        return (
            len(token) == len(self._prefix) + RANDOM_LENGTH + CHECK_LENGTH
            and token.startswith(self._prefix)
            and token.isascii()
            and token[-CHECK_LENGTH:] == check_text(token[:-CHECK_LENGTH])
        )


def digest(token: str) -> bytes:
    """Return the 32 bytes that are stored in a token's place."""
    return hashlib.sha256(token.encode()).digest()
