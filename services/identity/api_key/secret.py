"""What a secret looks like, and the digest under which it is known.

`th_live_` or `th_test_`, 43 base62 characters that hold 256 random bits, and 6 base62 characters of a CRC-32 over all
before them. A scanner finds leaked secrets by their shape, and what was mistyped or made up is turned away by the check
without a look at the database. Secrets are random enough that a fast keyed hash protects them; the key of the hash (the
pepper) stays out of the database, so a stolen table verifies nothing.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from libs.common.callers import KEY_PREFIXES
from services.identity.api_key.domain import Digest
from services.identity.base62 import CHECK_LENGTH, RANDOM_LENGTH, check_text, random_text

_LIVE_PREFIX, _TEST_PREFIX = KEY_PREFIXES
OWN_PREFIX: Final = "th_"
"""Begins every secret made here, and none that was imported."""
_PREFIX_LENGTH: Final = 8
SECRET_LENGTH: Final = _PREFIX_LENGTH + RANDOM_LENGTH + CHECK_LENGTH
KEY_MAX_LENGTH: Final = 512
"""The longest secret that is looked up, in characters: imported ones may be longer than those made here."""
_MEMORY_KEY_BYTES: Final = 32
_PEPPER_MIN_BYTES: Final = 32
_LOOKS_LIKE_SECRET: Final = re.compile(r"th_(live|test)_[0-9A-Za-z]+")
_IMPORTED: Final = b"sha256:"
"""Keeps digests of digests apart from digests of secrets, none of which begins so."""


def new_secret(*, live: bool) -> str:
    """Return a secret with 256 bits from the operating system's random source."""
    body = (_LIVE_PREFIX if live else _TEST_PREFIX) + random_text()
    return body + check_text(body)


def is_well_formed(key: str) -> bool:
    """Tell whether the text has the shape of a secret and its check is right."""
    return (
        len(key) == SECRET_LENGTH
        and key.startswith(KEY_PREFIXES)
        and key.isascii()
        and key[_PREFIX_LENGTH:].isalnum()
        and key[-CHECK_LENGTH:] == check_text(key[:-CHECK_LENGTH])
    )


def plain_digest(key: str) -> bytes:
    """Return the SHA-256 digest under which other systems know their secrets."""
    return hashlib.sha256(key.encode()).digest()


def without_secrets(text: str) -> str:
    """Return a text with whatever looks like a secret made here blotted out."""
    return _LOOKS_LIKE_SECRET.sub("***", text)


def visible_parts(secret: str) -> tuple[str, str]:
    """Return the beginning and the end by which people recognise a secret."""
    return secret[:12], secret[-4:]


class MemoryDigests:
    """Digests under which this process alone remembers what it was shown: the whole key decides, and none is kept.

    They cost a tenth of a pepper's digest, and come to nothing when the process ends.
    """

    __slots__ = ("_key",)

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_MEMORY_KEY_BYTES)

    def digest(self, key: str) -> bytes:
        """Return the digest of the exact bytes presented."""
        return hashlib.blake2b(key.encode(), key=self._key, digest_size=32).digest()


class InvalidPeppers(Exception):
    """The pepper file cannot be used. The message never repeats what is in it."""


class Peppers:
    """The keys of the digests, by version. The highest is current; older ones still recognise what they digested."""

    __slots__ = ("_current", "_older", "current_version")

    def __init__(self, peppers: Mapping[int, bytes]) -> None:
        if not peppers:
            raise InvalidPeppers("holds no pepper")
        if any(len(pepper) < _PEPPER_MIN_BYTES for pepper in peppers.values()):
            raise InvalidPeppers(f"holds a pepper of fewer than {_PEPPER_MIN_BYTES} bytes")
        versions = sorted(peppers, reverse=True)
        self.current_version = versions[0]
        self._current = peppers[versions[0]]
        self._older = tuple((version, peppers[version]) for version in versions[1:])

    @classmethod
    def read(cls, path: Path) -> "Peppers":
        """Read the JSON file `{"<version>": "<hex>"}`.

        Raises:
            InvalidPeppers: the file is not that, or a pepper is too short.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            peppers = {int(version): bytes.fromhex(pepper) for version, pepper in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            raise InvalidPeppers('is not a JSON object of the form {"<version>": "<hex>"}') from None
        if any(version < 1 for version in peppers):
            raise InvalidPeppers("holds a version below 1")
        return cls(peppers)

    def digest(self, key: str) -> bytes:
        """Return the digest of the exact bytes presented, under the current pepper."""
        return hmac.digest(self._current, key.encode(), "sha256")

    def older_digests(self, key: str) -> dict[bytes, int]:
        """Return the digests a secret may still be stored under, with the versions of their peppers."""
        return {hmac.digest(pepper, key.encode(), "sha256"): version for version, pepper in self._older}

    def imported_digest(self, plain: bytes) -> bytes:
        """Return what is stored of an imported secret, of which only the plain digest is known."""
        return hmac.digest(self._current, _IMPORTED + plain, "sha256")

    def all_digests(self, key: str) -> tuple[bytes, ...]:
        """Return everything a secret made here may be stored under, the current pepper's first."""
        return (self.digest(key), *self.older_digests(key))

    def all_imported_digests(self, plain: bytes) -> tuple[bytes, ...]:
        """Return everything an imported secret may be stored under, the current pepper's first."""
        older = (hmac.digest(pepper, _IMPORTED + plain, "sha256") for _, pepper in self._older)
        return (self.imported_digest(plain), *older)


def digest_of(secret: str, peppers: Peppers) -> Digest:
    """Return what is stored of a secret that was made here."""
    prefix, suffix = visible_parts(secret)
    return Digest(peppers.digest(secret), peppers.current_version, prefix, suffix)
