"""Questions that were asked before: a caller who verifies a key again mostly does so in the same bytes.

What is remembered is what the bytes ask, not what was answered: whether the key may be used is decided on every call.
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
    """What a request asks: about which key, by the digest under which memory knows it, and for what use of it."""

    digest: bytes
    required_scopes: tuple[str, ...]
    model: str
    min_revision: int
    client_address: str


class Questions:
    """Requests that were found valid, by digests that only this process can make: they hold secrets."""

    __slots__ = ("_asked", "_key")

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._asked: OrderedDict[bytes, Question] = OrderedDict()

    def find(self, data: bytes) -> Question | None:
        """Return what a request asks that came as these bytes before."""
        return self._asked.get(blake2b(data, key=self._key, digest_size=_DIGEST_BYTES).digest())

    def remember(self, data: bytes, question: Question) -> None:
        """Keep what these bytes ask; the oldest goes when there are too many."""
        digest = blake2b(data, key=self._key, digest_size=_DIGEST_BYTES).digest()
        self._asked[digest] = question
        if len(self._asked) > _QUESTIONS_MAX:
            self._asked.popitem(last=False)


def question_of(
    digest: bytes, required_scopes: Iterable[str], model: str, min_revision: int, client_address: str
) -> Question:
    """Return a question that shares its texts with others: many ask about the same models."""
    return Question(digest, tuple(map(sys.intern, required_scopes)), sys.intern(model), min_revision, client_address)
