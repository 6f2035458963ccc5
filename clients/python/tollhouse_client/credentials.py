"""Who calls: an API key, a token made elsewhere, or the key file of a service identity, which signs tokens.

None of them shows its secret in its representation.
"""

import base64
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

TOKEN_LIFETIME_S: Final = 300
_TOKEN_TYPE: Final = "caller+jwt"  # noqa: S105 -- the name of a token type (RFC 8725, 3.11), not a secret.
_API_KEY: Final = "TOLLHOUSE_API_KEY"
_TOKEN: Final = "TOLLHOUSE_TOKEN"  # noqa: S105 -- the name of a variable.
_SIGNING_KEY_FILE: Final = "TOLLHOUSE_SIGNING_KEY_FILE"


class Credentials(Protocol):
    """Gives the secret that is sent with each call as `authorization: Bearer …`."""

    def bearer(self, audience: str) -> str:
        """Return the secret for a service, such as `billing.tollhouse`. Called for each RPC, so it must be quick."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key of Tollhouse, such as that of a platform's service account."""

    secret: str = field(repr=False)

    def bearer(self, audience: str) -> str:
        del audience
        return self.secret


@dataclass(frozen=True, slots=True)
class Token:
    """A token that something else has signed; or a function that returns the present one for an audience."""

    token: str | Callable[[str], str] = field(repr=False)

    def bearer(self, audience: str) -> str:
        return self.token if isinstance(self.token, str) else self.token(audience)


class SigningKey:
    """The Ed25519 key of a service identity. It signs a token for each service, good for five minutes.

    Needs the `cryptography` package, which the extra `signing` installs.
    """

    def __init__(self, issuer: str, subject: str, key_id: str, private_key: bytes) -> None:
        """`private_key` has the 32 bytes of the key.

        Raises:
            ValueError: it is not a key.
            ImportError: the package `cryptography` is missing.
        """
        # It is imported here because only this kind of credentials needs it.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._sign = Ed25519PrivateKey.from_private_bytes(private_key).sign
        self._issuer, self._subject, self._key_id = issuer, subject, key_id
        self._tokens: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"SigningKey(issuer={self._issuer!r}, subject={self._subject!r})"

    @classmethod
    def read(cls, path: str | Path) -> "SigningKey":
        """Read the file that `tollhouse gateway create` writes.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not such a file. The message has nothing of its contents.
        """
        try:
            document = json.loads(Path(path).read_bytes())
            key = document["key"]
            return cls(str(document["issuer"]), str(document["subject"]), str(key["kid"]), _decoded(key["d"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is not a signing key file of Tollhouse.") from None

    def bearer(self, audience: str) -> str:
        token, renew_s = self._tokens.get(audience, ("", 0.0))
        now_s = time.time()
        # A clock that was put back makes a new token, too.
        if not renew_s - TOKEN_LIFETIME_S < now_s < renew_s:
            token = self._signed(audience, int(now_s))
            self._tokens[audience] = (token, now_s + TOKEN_LIFETIME_S / 2)
        return token

    def _signed(self, audience: str, now_s: int) -> str:
        header = {"alg": "Ed25519", "typ": _TOKEN_TYPE, "kid": self._key_id}
        claims = {"iss": self._issuer, "sub": self._subject, "aud": [audience], "iat": now_s}
        claims["exp"] = now_s + TOKEN_LIFETIME_S
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        return f"{signed}.{_encoded(self._sign(signed.encode()))}"


def credentials_from_environment() -> Credentials | None:
    """Return the credentials that the environment names; None where it names none.

    Raises:
        ValueError: it names several, or the file is not a key.
        OSError: the key file cannot be read.
    """
    named = [name for name in (_API_KEY, _TOKEN, _SIGNING_KEY_FILE) if os.environ.get(name)]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} are both set: which of them is meant?")
    if not named:
        return None
    value = os.environ[named[0]]
    if named[0] == _API_KEY:
        return ApiKey(value)
    return Token(value) if named[0] == _TOKEN else SigningKey.read(value)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
