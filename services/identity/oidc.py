"""Verifies ID tokens of OpenID Connect providers (OpenID Connect Core 1.0), checked as RFC 8725 advises.

A token is accepted when a configured issuer signed it, with an algorithm and a kind of key that are configured for the
issuer, for one of our client ids, and when it is valid now. Keys that the token itself points to (`jku`, `x5u`, `jwk`)
are never used.
"""

import hmac
import json
import re
import warnings
from base64 import urlsafe_b64decode
from binascii import Error as InvalidBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

import structlog
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jws import JWSRegistry
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from libs.common.clock import Clock
from services.identity.email_address import folded_email
from services.identity.errors import InvalidIdToken
from services.identity.provider_keys import Fetch, ProviderKeys, address_problem, older_name, template_problem
from services.identity.text import has_harmful, without_harmful

_log = structlog.get_logger("id tokens")

TOKEN_MAX_LENGTH: Final = 8192
LEEWAY_S: Final = 30
_SUBJECT_MAX: Final = 255
_FULL_NAME_MAX: Final = 255
_PICTURE_URL_MAX: Final = 2048
_PICTURE_URL: Final = re.compile(r"https?://\S+")
_GOOGLE: Final = "https://accounts.google.com"
# Google uses two names for its issuer and documents that both must be accepted.
_OTHER_NAMES: Final = {_GOOGLE: "accounts.google.com"}

# Only algorithms with a public key: with `none` or a shared secret, anybody who knows the public key could sign.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
ClientId = Annotated[str, StringConstraints(min_length=1, max_length=255)]

ProviderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]


class OidcIssuer(BaseModel):
    """An issuer whose ID tokens are accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: ProviderName
    """The name of the issuer in linked identities, such as `google`. It must never name another issuer: users are found
    by this name and the subject."""
    issuer: Annotated[str, StringConstraints(max_length=2048)]
    """The exact `iss` of its tokens; its discovery document is under this address."""
    client_ids: tuple[ClientId, ...] = Field(min_length=1, max_length=100)
    """The audiences its tokens may have; for Firebase the id of the project."""
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256", "EdDSA"), min_length=1)
    """The algorithms its tokens may be signed with."""
    sign_up: bool = True
    """Whether an identity that is not linked to a user becomes a new user by signing in."""
    link_verified_email: bool = False
    """Whether an identity that is not linked to a user is linked to the user with the same email, if the issuer has
    verified its email and the user's email was verified, too. This trusts the issuer with everybody's account."""

    @model_validator(mode="after")
    def _issuer_can_be_asked(self) -> Self:
        problem = template_problem(self.issuer)
        if problem is None and (address := address_problem(self.issuer)) is not None:
            problem = f"the issuer {address}"
        if problem is not None:
            raise ValueError(f"the OIDC provider `{self.provider}`: {problem}")
        return self


@dataclass(frozen=True, slots=True)
class VerifiedIdentity:
    """An identity that a provider has confirmed. All but provider and subject may be empty."""

    provider: str
    subject: str
    email: str
    email_verified: bool
    full_name: str
    picture_url: str
    username: str = ""


class _Rejected(Exception):
    """Why a token is not accepted; for the log only."""


@dataclass(frozen=True, slots=True)
class _Issuer:
    settings: OidcIssuer
    names: frozenset[str]
    keys: ProviderKeys


class IdTokens:
    """Verifies ID tokens."""

    def __init__(self, issuers: Sequence[OidcIssuer], fetch: Fetch, clock: Clock) -> None:
        self._now = clock.now
        known = [
            _Issuer(settings, frozenset({settings.issuer, _OTHER_NAMES.get(settings.issuer, settings.issuer)}), keys)
            for settings in issuers
            for keys in (ProviderKeys(settings.issuer, fetch, clock),)
        ]
        self._by_name = {name: issuer for issuer in known for name in issuer.names}
        self._by_provider = {issuer.settings.provider: issuer.settings for issuer in known}

    def issuer_of(self, provider: str) -> OidcIssuer:
        """Return the settings of a provider whose token was accepted."""
        return self._by_provider[provider]

    async def verify(self, id_token: str, nonce: str = "") -> VerifiedIdentity:
        """Return the identity in the token. If a nonce is given, the token must carry the same.

        Raises:
            InvalidIdToken: for whatever reason; only the log is told which.
            Unavailable: the issuer's keys cannot be had now.
        """
        provider = ""
        try:
            header, unverified = _open(id_token)
            issuer = self._by_name.get(_text(unverified, "iss"))
            if issuer is None:
                raise _Rejected("unknown issuer")
            provider = issuer.settings.provider
            claims = await self._verify_signature(id_token, header, issuer)
            self._check_claims(claims, issuer.settings, nonce)
            return _identity(provider, claims)
        except _Rejected as rejected:
            _log.info("an ID token was refused", provider=provider, why=str(rejected))
        raise InvalidIdToken

    async def _verify_signature(
        self, id_token: str, header: Mapping[str, object], issuer: _Issuer
    ) -> Mapping[str, object]:
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        used = {older_name(name) for name in issuer.settings.algorithms}
        if not isinstance(algorithm, str) or older_name(algorithm) not in used:
            raise _Rejected("an algorithm the issuer does not use")
        if not isinstance(kind, str) or kind.upper() != "JWT":
            raise _Rejected("a token of another type")
        if "crit" in header or not (key_id is None or (isinstance(key_id, str) and key_id)):
            raise _Rejected("a header that cannot be understood")
        key = await issuer.keys.find(key_id, algorithm)
        if key is None:
            raise _Rejected("unknown key")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # `EdDSA` has a newer name, and goes on being used.
                registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
                return jwt.decode(id_token, key.key, algorithms=[algorithm], registry=registry).claims
        except (JoseError, ValueError, TypeError, RecursionError):
            raise _Rejected("signature") from None

    def _check_claims(self, claims: Mapping[str, object], issuer: OidcIssuer, nonce: str) -> None:
        now_s = self._now().timestamp()
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(one, str) and one in issuer.client_ids for one in audiences):
            raise _Rejected("another audience")
        # A token for several audiences must name the party that requested it; that must be one of ours.
        if ("azp" in claims or len(audiences) > 1) and claims.get("azp") not in issuer.client_ids:
            raise _Rejected("asked for by somebody else")
        if not now_s < _seconds(claims, "exp") + LEEWAY_S:
            raise _Rejected("expired")
        if max(_seconds(claims, "iat"), _seconds(claims, "nbf", 0.0)) > now_s + LEEWAY_S:
            raise _Rejected("not valid yet")
        if nonce and not hmac.compare_digest(_text(claims, "nonce").encode(errors="replace"), nonce.encode()):
            raise _Rejected("another nonce")


def _open(id_token: str) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Return the header and the claims of a token, without checking its signature."""
    if len(id_token) > TOKEN_MAX_LENGTH or not id_token.isascii():
        raise _Rejected("too long, or no token")
    parts = id_token.split(".")
    if len(parts) != 3:
        raise _Rejected("no signed token")
    try:
        header, claims = (json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (ValueError, InvalidBase64, RecursionError):
        raise _Rejected("no token") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _Rejected("no token")
    return header, claims


def _identity(provider: str, claims: Mapping[str, object]) -> VerifiedIdentity:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= _SUBJECT_MAX or has_harmful(subject):
        raise _Rejected("no usable subject")
    email, picture_url = _text(claims, "email"), _text(claims, "picture")
    # A provider's email at a domain of one label is never a real mailbox.
    has_email = folded_email(email) is not None and "." in email.rpartition("@")[2]
    has_picture = len(picture_url) <= _PICTURE_URL_MAX and _PICTURE_URL.fullmatch(picture_url) is not None
    verified = claims.get("email_verified")
    return VerifiedIdentity(
        provider=provider,
        subject=subject,
        email=email if has_email else "",
        # Some providers write the truth as text.
        email_verified=has_email and (verified is True or verified == "true"),
        full_name=without_harmful(_text(claims, "name"))[:_FULL_NAME_MAX],
        picture_url=picture_url if has_picture and not has_harmful(picture_url) else "",
    )


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _seconds(claims: Mapping[str, object], name: str, default: float | None = None) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise _Rejected(f"{name} is no time")
    return value
