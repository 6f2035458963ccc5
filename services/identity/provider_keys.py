"""The public keys of OpenID Connect providers: found through the discovery document, cached and refreshed.

The HTTP client is the standard library's, in threads of its own: it fetches a few small documents an hour, and what it
must not do matters more than what it can. It follows no redirects, speaks https only (http only to this machine), and
limits the size and the time of every answer.
"""

import asyncio
import json
import re
import ssl
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from libs.common.clock import Clock
from libs.common.errors import Unavailable

_log = structlog.get_logger("provider keys")

FRESH_FOR: Final = timedelta(hours=1)
"""How long cached keys are used without a refresh."""
USABLE_FOR: Final = timedelta(hours=24)
"""How long cached keys are used while the provider cannot be reached."""
PAUSE: Final = timedelta(seconds=10)
"""The minimum time between two fetches, so that tokens with made-up key ids cannot make us flood the provider."""
FETCH_WITHIN_S: Final = 4.0
_WAIT_WITHIN_S: Final = 2.0
_DOCUMENT_MAX_BYTES: Final = 512 * 1024
_TOKEN_REFUSED: Final = (401, 403)
_THREADS: Final = 4
_CHUNK_BYTES: Final = 16 * 1024
_KEYS_MAX: Final = 100
_RSA_BITS: Final = range(2048, 8193)
# Addresses for people of any Entra tenant; the tokens name the issuer of the person's own tenant.
_MANY_TENANTS: Final = re.compile(
    r"https://(login\.microsoftonline\.com|sts\.windows\.net)/(common|organizations)(/|$)"
)
_DISCOVERY: Final = "/.well-known/openid-configuration"
# The members of a public key; all other members of a JWK are ignored.
_PUBLIC_MEMBERS: Final = frozenset({"kty", "n", "e", "crv", "x", "y"})
_KEY_TYPES: Final[Mapping[str, type[RSAKey] | type[ECKey] | type[OKPKey]]] = {
    "RSA": RSAKey,
    "EC": ECKey,
    "OKP": OKPKey,
}
# The type of key, and the curve if there is one, that each algorithm needs.
_KIND_OF_KEY: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
_SAME_ALGORITHM: Final = {"Ed25519": "EdDSA"}
"""Two names of one algorithm: RFC 9864 introduced `Ed25519` for what `EdDSA` is used for."""

Fetch = Callable[[str], Awaitable[object]]


class UnusableAnswer(Exception):
    """The provider could not be reached, or answered with something other than a document."""


class TokenRefused(UnusableAnswer):
    """The provider does not accept the token that the request carried."""


class UnusableProvider(UnusableAnswer):
    """The provider answered, and what it answered can never be used with the issuer that is configured."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of a provider, and what it may be used for."""

    key_id: str
    kind: tuple[str, str]
    algorithm: str
    """The only algorithm the key may be used with; empty when the provider names none."""
    key: RSAKey | ECKey | OKPKey

    def fits(self, algorithm: str) -> bool:
        if self.kind != _KIND_OF_KEY.get(algorithm):
            return False
        return not self.algorithm or older_name(self.algorithm) == older_name(algorithm)


def older_name(algorithm: str) -> str:
    """Return the one name by which an algorithm of two names is compared."""
    return _SAME_ALGORITHM.get(algorithm, algorithm)


class ProviderKeys:
    """The cached keys of one provider. Concurrent callers share one fetch."""

    def __init__(self, issuer: str, fetch: Fetch, clock: Clock) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._now = clock.now
        self._keys: tuple[PublicKey, ...] = ()
        self._fetch_time: datetime | None = None
        self._attempt_time: datetime | None = None
        self._attempt_failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        """Return the key a token names, or the only one for its algorithm when the token names none.

        Raises:
            Unavailable: the provider cannot be reached, and what is known of its keys is too old or too little.
        """
        key = self._known(key_id, algorithm)
        if key is None or not self._younger_than(FRESH_FOR):
            await self._refresh()
            key = self._known(key_id, algorithm)
        if not self._younger_than(USABLE_FOR) or (key is None and self._attempt_failed):
            raise Unavailable(dependency="identity provider")
        return key

    def _known(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        fitting = [key for key in self._keys if key.fits(algorithm) and key_id in (None, key.key_id)]
        return fitting[0] if len(fitting) == 1 or (fitting and key_id) else None

    def _younger_than(self, age: timedelta) -> bool:
        return self._fetch_time is not None and self._now() - self._fetch_time < age

    async def _refresh(self) -> None:
        if self._fetching is None:
            now = self._now()
            if self._attempt_time is not None and now - self._attempt_time < PAUSE:
                return
            self._attempt_time = now
            self._fetching = asyncio.create_task(self._fetch_keys())
        # The fetch is shared, so one caller's cancellation must not cancel it.
        await asyncio.shield(self._fetching)

    async def _fetch_keys(self) -> None:
        try:
            async with asyncio.timeout(FETCH_WITHIN_S):
                keys = await fetch_provider_keys(self._issuer, self._fetch)
        except (UnusableAnswer, TimeoutError) as error:
            self._attempt_failed = True
            _log.warning("the keys of an identity provider could not be fetched", issuer=self._issuer, why=str(error))
        else:
            self._attempt_failed = False
            self._keys, self._fetch_time = keys, self._now()
        finally:
            self._fetching = None


async def fetch_provider_keys(issuer: str, fetch: Fetch) -> tuple[PublicKey, ...]:
    """Fetch the discovery document of an issuer, and the keys it names.

    Raises:
        UnusableProvider: what it answers belongs to another issuer, or holds no usable key.
        UnusableAnswer: it cannot be reached, or answers with no document.
    """
    discovery_address = issuer.rstrip("/") + _DISCOVERY
    keys_address = _keys_address(issuer, await fetch(discovery_address))
    return read_keys(await fetch(keys_address))


class DocumentFetcher:
    """Fetches JSON documents in threads of its own, so that a provider that hangs delays nothing else."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="provider-keys")

    async def fetch(self, address: str, *, bearer: str = "", ca_file: Path | None = None) -> object:
        """Return the document. `bearer` is a token to present; `ca_file` replaces the system's certificates.

        Raises:
            TokenRefused: the other side does not accept the token.
            UnusableAnswer: there is none to be had, or it is no JSON.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, _fetch_json, address, bearer, ca_file)

    async def close(self) -> None:
        """Accept no more requests; those that run end by their time limit."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def address_problem(address: str) -> str | None:
    """Return why an address must not be fetched, or None."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is not an address"
    if not host or parts.username is not None or parts.fragment or not address.isprintable() or " " in address:
        return "is not the plain address of a document"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        return "must begin with https://"
    return None


def template_problem(issuer: str) -> str | None:
    """Return why an issuer cannot be the `iss` of a token, because it stands for many tenants; otherwise None."""
    if not ("{" in issuer or "}" in issuer or _MANY_TENANTS.match(issuer)):
        return None
    return (
        f"the issuer {issuer[:200]!r} stands for many tenants and is never the `iss` of a token;"
        " name that of one tenant, such as https://login.microsoftonline.com/<tenant id>/v2.0"
    )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(document: object) -> tuple[PublicKey, ...]:
    """Return the usable keys of a JWK set (RFC 7517); keys of unsupported kinds are ignored, as it requires.

    Raises:
        UnusableProvider: it is no JWK set, or holds no key that can be used.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise UnusableProvider("the address of its keys (`jwks_uri`) answers with something other than a JWK set")
    if len(listed) > _KEYS_MAX:
        raise UnusableProvider(f"its JWK set holds more than {_KEYS_MAX} keys")
    keys = tuple(key for key in map(_read_key, listed) if key is not None)
    if not keys:
        raise UnusableProvider(
            "its JWK set holds no usable key; it must publish well-formed RSA (at least 2048 bits), EC or Ed25519 keys"
        )
    return keys


def _read_key(jwk: object) -> PublicKey | None:
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    public: dict[str, str | list[str]] = {name: _text(jwk.get(name)) for name in _PUBLIC_MEMBERS if name in jwk}
    kind = _text(jwk.get("kty"))
    key_type = _KEY_TYPES.get(kind)
    if key_type is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Warnings about short keys, which are ignored below.
            key = key_type.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAKey) and key.public_key.key_size not in _RSA_BITS:
        return None
    return PublicKey(
        key_id=_text(jwk.get("kid")),
        kind=(kind, "" if isinstance(key, RSAKey) else _text(jwk.get("crv"))),
        algorithm=_text(jwk.get("alg")),
        key=key,
    )


def _keys_address(issuer: str, document: object) -> str:
    """Return the address of the keys in the discovery document of an issuer."""
    named = document.get("issuer") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(named, str):
        raise UnusableProvider(f"{issuer}{_DISCOVERY} answers with something other than a discovery document")
    if named != issuer:
        other = (
            f"its discovery document names another issuer, {named[:200]!r}; configure the issuer as it is named there"
        )
        raise UnusableProvider(template_problem(named) or other)
    address = document.get("jwks_uri")
    if not isinstance(address, str) or address_problem(address) is not None:
        raise UnusableProvider("its discovery document names no address of keys that may be fetched")
    if urlsplit(issuer).scheme == "https" != urlsplit(address).scheme:
        raise UnusableProvider("its discovery document leads from https to http")
    return address


def _fetch_json(address: str, bearer: str, ca_file: Path | None) -> object:
    problem = address_problem(address)
    if problem is not None:
        raise UnusableAnswer(f"the address {problem}")
    try:
        return json.loads(_read(address, time.monotonic() + FETCH_WITHIN_S, bearer, ca_file))
    except HTTPError as error:
        with error:
            if bearer and error.code in _TOKEN_REFUSED:
                raise TokenRefused("the token is refused") from None
            raise UnusableAnswer(f"HTTP status {error.code}") from None
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        # The text of such an error may contain what the other side sent.
        raise UnusableAnswer(type(error).__name__) from None


def _read(address: str, until_s: float, bearer: str, ca_file: Path | None) -> bytes:
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
    request = Request(address, headers=headers)  # noqa: S310 -- the scheme was checked.
    content = bytearray()
    with _opener(address, ca_file).open(request, timeout=_WAIT_WITHIN_S) as response:
        while chunk := response.read1(_CHUNK_BYTES):
            content += chunk
            if len(content) > _DOCUMENT_MAX_BYTES:
                raise ValueError("too large")
            if time.monotonic() > until_s:
                raise TimeoutError
    return bytes(content)


def _opener(address: str, ca_file: Path | None) -> OpenerDirector:
    """Return an opener that speaks only HTTP and treats a redirect as an error."""
    https = HTTPSHandler(context=ssl.create_default_context(cafile=ca_file))
    handlers: Iterable[object] = (HTTPHandler(), https, HTTPDefaultErrorHandler(), HTTPErrorProcessor())
    opener = OpenerDirector()
    for handler in handlers:
        opener.add_handler(handler)  # type: ignore[arg-type]
    if not is_loopback(urlsplit(address).hostname or ""):
        opener.add_handler(ProxyHandler())
    return opener


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
