"""Callers' tokens: short-lived JWTs signed with Ed25519 (RFC 8037, RFC 9864), checked as RFC 8725 advises.

A token needs the one algorithm, an explicit type, the exact issuer and audience, and a known key id; an issuer may name
only the subjects the trust bundle gives it. Verified tokens are cached until they expire, because checking a signature
costs more than the rest of a call.

The algorithm has two names: `Ed25519` (RFC 9864), which our own tokens carry, and the older `EdDSA` (RFC 8037), which
most libraries write. Both are accepted, with keys of the curve Ed25519 only.

The trust bundle may be replaced while the process runs. What was cached under the old one is then forgotten.
"""

import base64
import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey
from pydantic import BaseModel, ConfigDict, Field

from libs.common.access import Caller, CallerKind
from libs.common.clock import Clock
from libs.common.errors import TokenExpired, TokenNotYetValid, Unauthenticated, WrongAudience, WrongTokenType
from libs.common.ids import is_id

ALGORITHM: Final = "Ed25519"
_ALGORITHM_NAMES: Final = [ALGORITHM, "EdDSA"]
_KEY_TYPE: Final = "OKP"
_CURVE: Final = "Ed25519"
TOKEN_TYPE: Final = "caller+jwt"  # noqa: S105 -- the name of a token type (RFC 8725, 3.11), not a secret.
TOKEN_MAX_LENGTH: Final = 4096
LEEWAY_S: Final = 30
SERVICE_TOKEN_LIFETIME: Final = timedelta(minutes=5)
_REMEMBERED_MAX: Final = 4096
_TIME_MAX_S: Final = 253_370_764_800.0  # The beginning of the year 9999, for tokens that never expire.
_SCHEME: Final = "bearer "
RETIRE_TIME: Final = "retire_time"
"""The member of a key in the trust bundle that says from when on the key is not accepted, as RFC 3339 text."""
_NOT_IN_JWK: Final = frozenset({"alg", RETIRE_TIME})


class TrustedIssuer(BaseModel):
    """Who may sign, for which subjects, and with which public keys. A key may have a `RETIRE_TIME`."""

    model_config = ConfigDict(extra="forbid")

    issuer: str = Field(min_length=1)
    subjects: list[str] = Field(min_length=1)
    keys: list[dict[str, str | list[str]]] = Field(min_length=1)


class TrustBundle(BaseModel):
    """All issuers whose tokens are accepted; read from a JSON file.

    A subject is `service:<name>`, `operator:<name>` or `user:<id>`; a trailing `*` stands for any rest.
    """

    model_config = ConfigDict(extra="forbid")

    issuers: list[TrustedIssuer]

    @classmethod
    def read(cls, path: Path) -> "TrustBundle":
        return cls.model_validate_json(path.read_bytes())


class SigningKey(BaseModel):
    """A private key file: the issuer and subject it signs for, and the key as a JWK (RFC 7517)."""

    model_config = ConfigDict(extra="forbid")

    issuer: str
    subject: str
    key: dict[str, str | list[str]] = Field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        return cls.model_validate_json(path.read_bytes())

    @classmethod
    def generate(cls, *, issuer: str, subject: str, key_id: str | None = None) -> "SigningKey":
        """Make a key pair. An issuer that may have several keys gives each a `key_id` of its own."""
        key = OKPKey.generate_key("Ed25519", {"kid": key_id or issuer, "use": "sig"}, auto_kid=False)
        return cls(issuer=issuer, subject=subject, key={n: str(v) for n, v in key.as_dict(private=True).items()})

    def write(self, path: Path) -> None:
        """Write the file, readable by its owner only."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(self.model_dump()))

    def trusted(self, subjects: list[str] | None = None) -> TrustedIssuer:
        """Return the public key as an entry of a trust bundle."""
        public = OKPKey.import_key(self.key).as_dict(private=False)
        return TrustedIssuer(
            issuer=self.issuer, subjects=subjects or [self.subject], keys=[{n: str(v) for n, v in public.items()}]
        )


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class _VerifyingKey:
    key: OKPKey
    retire_s: float
    """When the key ceases to be accepted, in seconds since 1970; infinite where it does not."""


@dataclass(frozen=True, slots=True)
class _Trust:
    """A trust bundle, prepared for lookups."""

    issuers: Mapping[str, TrustedIssuer]
    keys: Mapping[tuple[str, str], _VerifyingKey]

    @classmethod
    def of(cls, bundle: TrustBundle) -> "_Trust":
        """Read a bundle; raises ValueError where a key cannot be used, or an issuer or key id stands in it twice."""
        issuers: dict[str, TrustedIssuer] = {}
        keys: dict[tuple[str, str], _VerifyingKey] = {}
        for trusted in bundle.issuers:
            if trusted.issuer in issuers:
                raise ValueError(f"The issuer {trusted.issuer} is twice in the trust bundle.")
            issuers[trusted.issuer] = trusted
            for key in trusted.keys:
                place = trusted.issuer, str(key.get("kid", ""))
                if not place[1] or place in keys:
                    raise ValueError(f"A key of {trusted.issuer} in the trust bundle has no key id of its own.")
                keys[place] = _verifying_key(key)
        return cls(issuers, keys)


class Authenticator:
    """Turns the `authorization` metadata of a call into a verified caller."""

    def __init__(self, bundle: TrustBundle, *, audience: str, clock: Clock) -> None:
        self._audience = audience
        self._now = clock.now
        self._trust = _Trust.of(bundle)
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self.bundles = 1
        """How many bundles were trusted so far; while it stays the same, no issuer and no key has gone."""

    def trust(self, bundle: TrustBundle) -> None:
        """Trust this bundle from now on instead of the one before.

        Raises:
            ValueError: a key of the bundle cannot be used. The one before stays in force.
        """
        self._trust = _Trust.of(bundle)
        self._remembered.clear()
        self.bundles += 1

    def require_trusted(self, authorization: str) -> None:
        """Raise Unauthenticated unless a token is one that a trusted issuer signed, whatever its times and audience.

        It is asked about the token of a stream: a token need only be good when the stream begins, but its issuer must
        stay trusted.
        """
        try:
            self._genuine(authorization[len(_SCHEME) :], self._now().timestamp())
        except (JoseError, LookupError, ValueError, TypeError, RecursionError):
            raise Unauthenticated from None

    def caller_of(self, authorization: str) -> Caller:
        """Return who is calling.

        Raises:
            Unauthenticated: the token proves nothing. A subclass says what is wrong where the token is genuine: it has
                expired, is not valid yet, or is meant for another service.
        """
        now = self._now()
        remembered = self._remembered.get(authorization)
        if remembered is not None:
            if now < remembered.expire_time:
                return remembered.caller
            del self._remembered[authorization]
        remembered = self._verify(authorization, now.timestamp())
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        self._remembered[authorization] = remembered
        return remembered.caller

    def _verify(self, authorization: str, now_s: float) -> _Remembered:
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        if scheme.lower() != _SCHEME or len(token) > TOKEN_MAX_LENGTH:
            raise Unauthenticated
        try:
            header, claims, retire_s = self._genuine(token, now_s)
            caller = _caller_named(str(claims["sub"]), claims.get("sid", ""))
            audience = claims["aud"]
            expire_s = _seconds(claims["exp"]) + LEEWAY_S
            valid_from_s = max(_seconds(claims["iat"]), _seconds(claims.get("nbf", 0)))
        except (JoseError, LookupError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise Unauthenticated from None
        if header.get("typ") != TOKEN_TYPE:
            raise WrongTokenType(token_type=TOKEN_TYPE)
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise WrongAudience(audience=self._audience)
        if valid_from_s > now_s + LEEWAY_S:
            raise TokenNotYetValid(valid_from_time=_time(valid_from_s))
        if not now_s < expire_s:
            raise TokenExpired(expire_time=_time(expire_s - LEEWAY_S))
        return _Remembered(caller, _time(min(expire_s, retire_s)))

    def _genuine(self, token: str, now_s: float) -> tuple[Mapping[str, object], Mapping[str, object], float]:
        """Return header and claims of a token that a trusted issuer signed for a subject it may name, and when the key
        retires."""
        unverified = json.loads(_decode_segment(token.split(".")[1]))
        issuer = self._trust.issuers[unverified["iss"]]
        header = json.loads(_decode_segment(token.split(".")[0]))
        key = self._trust.keys[(issuer.issuer, header["kid"])]
        if now_s >= key.retire_s:
            raise ValueError("retired")
        with warnings.catch_warnings():
            # The library warns of the older name of the algorithm. With a key of this curve it means the same.
            warnings.simplefilter("ignore", SecurityWarning)
            verified = jwt.decode(token, key.key, algorithms=_ALGORITHM_NAMES)
        claims: Mapping[str, object] = verified.claims
        if not any(_covers(pattern, str(claims["sub"])) for pattern in issuer.subjects):
            raise ValueError("subject")
        return verified.header, claims, key.retire_s


def _verifying_key(key: Mapping[str, str | list[str]]) -> _VerifyingKey:
    """Read a public key. A key may name its algorithm, by either name; it is used for this one alone."""
    try:
        verifying = OKPKey.import_key({name: value for name, value in key.items() if name not in _NOT_IN_JWK})
    except (JoseError, LookupError, TypeError) as error:
        raise ValueError(f"The key {key.get('kid')} of the trust bundle cannot be read.") from error
    is_ed25519 = key.get("kty") == _KEY_TYPE and verifying.curve_name == _CURVE
    if not is_ed25519 or key.get("alg", ALGORITHM) not in _ALGORITHM_NAMES:
        raise ValueError(f"The key {key.get('kid')} of the trust bundle is not an Ed25519 key.")
    retire_time = retire_time_of(key)
    return _VerifyingKey(verifying, math.inf if retire_time is None else retire_time.timestamp())


def retire_time_of(key: Mapping[str, str | list[str]]) -> datetime | None:
    """Return from when on a key of the trust bundle is not accepted; raises ValueError where it says no moment."""
    text = key.get(RETIRE_TIME)
    if text is None:
        return None
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError(f"The key {key.get('kid')} of the trust bundle has a {RETIRE_TIME} without a time zone.")
    return moment


def _time(seconds: float) -> datetime:
    """Return a moment since 1970, brought within the calendar."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _TIME_MAX_S), UTC)


def _decode_segment(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _seconds(claim: object) -> float:
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        raise TypeError("not a number of seconds")
    if not math.isfinite(claim):
        raise ValueError("not a time")
    return float(claim)


def _covers(pattern: str, subject: str) -> bool:
    if pattern.endswith("*"):
        return subject.startswith(pattern[:-1]) and len(subject) >= len(pattern)
    return subject == pattern


def _caller_named(subject: str, session_id: object) -> Caller:
    """Return the caller a subject names. A user's token must name a session, which must last when it is used."""
    kind, _, name = subject.partition(":")
    if kind == CallerKind.OPERATOR.value and name:
        return Caller(CallerKind.OPERATOR, name)
    if kind == CallerKind.SERVICE.value and name:
        return Caller(CallerKind.SERVICE, name)
    if kind == CallerKind.USER.value and is_id(name) and isinstance(session_id, str) and is_id(session_id):
        return Caller(CallerKind.USER, name, session_id=session_id)
    raise Unauthenticated


def mint_token(
    signing_key: SigningKey,
    *,
    audiences: list[str],
    lifetime: timedelta,
    clock: Clock,
    subject: str | None = None,
    more_claims: Mapping[str, str] | None = None,
) -> str:
    """Return a token for the audiences, such as `billing.tollhouse`, good for `lifetime` from now.

    A user's token says in `more_claims` which session it belongs to: `{"sid": session_id}`.
    """
    now = clock.now()
    claims = {
        "iss": signing_key.issuer,
        "sub": subject or signing_key.subject,
        "aud": audiences,
        "iat": int(now.timestamp()),
        "exp": int((now + lifetime).timestamp()),
        **(more_claims or {}),
    }
    header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": signing_key.key["kid"]}
    return jwt.encode(header, claims, OKPKey.import_key(signing_key.key), algorithms=[ALGORITHM])


class TokenSource:
    """Tokens with which a service calls its peers: one per audience, renewed at half their life."""

    def __init__(self, signing_key: SigningKey, clock: Clock) -> None:
        self._signing_key = signing_key
        self._clock = clock
        self._tokens: dict[str, tuple[str, float]] = {}

    def token_for(self, audience: str) -> str:
        now_s = self._clock.now().timestamp()
        token, renew_s = self._tokens.get(audience, ("", 0.0))
        if now_s >= renew_s:
            token = mint_token(
                self._signing_key, audiences=[audience], lifetime=SERVICE_TOKEN_LIFETIME, clock=self._clock
            )
            self._tokens[audience] = (token, now_s + SERVICE_TOKEN_LIFETIME.total_seconds() / 2)
        return token
