"""The form of secrets, and the digests under which they are stored.

A secret is `th_live_` or `th_test_`, 43 base62 characters with 256 random bits, and a CRC-32 of all that as 6 base62
characters. Scanners find leaked secrets by this form, and the checksum rejects mistyped and made-up ones without a
database read. The secrets are random enough for a fast keyed hash; the key of the hash (the pepper) is not in the
database, so a stolen table cannot be used to verify guesses.
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
"""The prefix of every secret made here, and of no imported one."""
_PREFIX_LENGTH: Final = 8
SECRET_LENGTH: Final = _PREFIX_LENGTH + RANDOM_LENGTH + CHECK_LENGTH
KEY_MAX_LENGTH: Final = 512
"""The longest secret that is looked up, in characters: imported ones may be longer than those made here."""
_MEMORY_KEY_BYTES: Final = 32
_PEPPER_MIN_BYTES: Final = 32
_LOOKS_LIKE_SECRET: Final = re.compile(r"th_(live|test)_[0-9A-Za-z]+")
_IMPORTED: Final = b"sha256:"
"""Separates digests of imported digests from digests of secrets: no secret begins like this."""


def new_secret(*, live: bool) -> str:
    """Return a secret with 256 bits from the operating system's random source."""
    body = (_LIVE_PREFIX if live else _TEST_PREFIX) + random_text()
    return body + check_text(body)


def is_well_formed(key: str) -> bool:
    """Return whether the text has the form of a secret and its checksum is right."""
    return (
        len(key) == SECRET_LENGTH
        and key.startswith(KEY_PREFIXES)
        and key.isascii()
        and key[_PREFIX_LENGTH:].isalnum()
        and key[-CHECK_LENGTH:] == check_text(key[:-CHECK_LENGTH])
    )


def plain_digest(key: str) -> bytes:
    """Return the plain SHA-256 digest, which other systems store of their secrets."""
    return hashlib.sha256(key.encode()).digest()


def without_secrets(text: str) -> str:
    """Return the text with everything that looks like a secret replaced by `***`."""
    return _LOOKS_LIKE_SECRET.sub("***", text)


def visible_parts(secret: str) -> tuple[str, str]:
    """Return the first and last characters of a secret, by which people recognise it."""
    return secret[:12], secret[-4:]


class MemoryDigests:
    """Digests by which this process caches presented keys; the cache holds no secrets.

    They cost a tenth of a peppered digest, and are worthless outside of the process.
    """

    __slots__ = ("_key",)

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_MEMORY_KEY_BYTES)

    def digest(self, key: str) -> bytes:
        """Return the digest of a presented key."""
        return hashlib.blake2b(key.encode(), key=self._key, digest_size=32).digest()


class InvalidPeppers(Exception):
    """The pepper file cannot be used. The message never contains any of its content."""


class Peppers:
    """The peppers by version. The highest is used for new digests; older ones still match digests made with them."""

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
        """Return the digest of a secret under the current pepper."""
        return hmac.digest(self._current, key.encode(), "sha256")

    def older_digests(self, key: str) -> dict[bytes, int]:
        """Return the digests of a secret under the older peppers, with the versions of these."""
        return {hmac.digest(pepper, key.encode(), "sha256"): version for version, pepper in self._older}

    def imported_digest(self, plain: bytes) -> bytes:
        """Return the digest that is stored of an imported secret, from its plain digest."""
        return hmac.digest(self._current, _IMPORTED + plain, "sha256")

    def all_digests(self, key: str) -> tuple[bytes, ...]:
        """Return the digests under all peppers of a secret made here, the current one first."""
        return (self.digest(key), *self.older_digests(key))

    def all_imported_digests(self, plain: bytes) -> tuple[bytes, ...]:
        """Return the digests under all peppers of an imported secret, the current one first."""
        older = (hmac.digest(pepper, _IMPORTED + plain, "sha256") for _, pepper in self._older)
        return (self.imported_digest(plain), *older)


def digest_of(secret: str, peppers: Peppers) -> Digest:
    """Return what is stored of a secret made here."""
    prefix, suffix = visible_parts(secret)
    return Digest(peppers.digest(secret), peppers.current_version, prefix, suffix)
