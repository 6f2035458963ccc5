"""Memoizes decoded VerifyApiKey requests by their bytes: callers mostly send the same bytes again for the same key.

Only what the request asks is kept, not the answer: whether the key may be used is decided on every call.
"""

import secrets
import sys
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_QUESTIONS_MAX: Final = 65_536
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Question:
    """A decoded request: the cache's digest of the key, and the scopes, model, revision and address to check."""

    digest: bytes
    required_scopes: tuple[str, ...]
    model: str
    min_revision: int
    client_address: str


class Questions:
    """Valid requests by a keyed digest of their bytes, because the bytes hold secrets; the key is random in each
    process."""

    __slots__ = ("_asked", "_key")

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._asked: OrderedDict[bytes, Question] = OrderedDict()

    def find(self, data: bytes) -> Question | None:
        """Return the decoded request for bytes that were seen before."""
        return self._asked.get(blake2b(data, key=self._key, digest_size=_DIGEST_BYTES).digest())

    def remember(self, data: bytes, question: Question) -> None:
        """Keep a decoded request; the oldest is dropped when there are too many."""
        digest = blake2b(data, key=self._key, digest_size=_DIGEST_BYTES).digest()
        self._asked[digest] = question
        if len(self._asked) > _QUESTIONS_MAX:
            self._asked.popitem(last=False)


def question_of(
    digest: bytes, required_scopes: Iterable[str], model: str, min_revision: int, client_address: str
) -> Question:
    """Return a decoded request with interned texts: many requests name the same models and scopes."""
    return Question(digest, tuple(map(sys.intern, required_scopes)), sys.intern(model), min_revision, client_address)
