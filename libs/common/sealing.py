"""Encrypts what is stored and must not be read in the database, with keys from outside of it: the secrets of endpoints,
what only endpoints of the platform are sent, and the contents of messages.

The file of keys is JSON, `{"<version>": "<hex>"}`, each key of 32 bytes. The highest version encrypts; the others still
decrypt what is older. What is encrypted is bound to where it belongs, so that it cannot be moved to another row.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_VERSION_BYTES: Final = 2
_VERSION_MAX: Final = 2 ** (8 * _VERSION_BYTES) - 1


class InvalidSealingKeys(ValueError):
    """The file is no file of keys."""


class NotReadable(Exception):
    """Something cannot be decrypted: its key is not there, or it was changed."""


class SealingKeys:
    """The keys, by their versions."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}
        self._newest = max(keys)

    @classmethod
    def read(cls, path: Path) -> "SealingKeys":
        """Return the keys in a file.

        Raises:
            InvalidSealingKeys: it is not a file of keys; the message does not repeat what is in it.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            keys = {int(version): bytes.fromhex(text) for version, text in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            raise InvalidSealingKeys("is not a JSON file of versions and keys in hexadecimal") from None
        if not keys or any(len(key) != _KEY_BYTES for key in keys.values()):
            raise InvalidSealingKeys(f"must have at least one key, and each of {_KEY_BYTES} bytes")
        if not all(0 < version <= _VERSION_MAX for version in keys):
            raise InvalidSealingKeys(f"must have versions from 1 to {_VERSION_MAX}")
        return cls(keys)

    def seal(self, plain: bytes, place: str) -> bytes:
        """Encrypt something that belongs to `place`: the version, a nonce, and the text with its tag."""
        nonce = os.urandom(_NONCE_BYTES)
        encrypted = self._ciphers[self._newest].encrypt(nonce, plain, place.encode())
        return self._newest.to_bytes(_VERSION_BYTES, "big") + nonce + encrypted

    def open(self, sealed: bytes, place: str) -> bytes:
        """Decrypt what `seal` has encrypted for this place.

        Raises:
            NotReadable: it cannot be decrypted.
        """
        cipher = self._ciphers.get(version_of(sealed))
        nonce, encrypted = sealed[_VERSION_BYTES:][:_NONCE_BYTES], sealed[_VERSION_BYTES + _NONCE_BYTES :]
        if cipher is None or len(nonce) < _NONCE_BYTES:
            raise NotReadable
        try:
            return cipher.decrypt(nonce, encrypted, place.encode())
        except InvalidTag:
            raise NotReadable from None


def version_of(sealed: bytes) -> int:
    """Return the version of the key that something was encrypted with."""
    return int.from_bytes(sealed[:_VERSION_BYTES], "big")


def place_of_secret(endpoint_id: str) -> str:
    """Return the place of an endpoint's secrets."""
    return f"event_endpoint/{endpoint_id}"


def place_of_data(organization_id: str, subject: str) -> str:
    """Return the place of what an event has for endpoints of the platform alone."""
    return f"event/{organization_id}/{subject}"


def seal_data(keys: SealingKeys | None, organization_id: str, subject: str, data: Mapping[str, str]) -> bytes | None:
    """Encrypt what only endpoints of the platform are sent; None, which leaves it out, where there are no keys."""
    if keys is None:
        return None
    return keys.seal(json.dumps(data).encode(), place_of_data(organization_id, subject))
