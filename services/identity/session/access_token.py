"""Access tokens: signed with the session key, and checked by every service or by whoever reads the public keys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from libs.common.authentication import ALGORITHM, SigningKey, TrustBundle, mint_token
from libs.common.clock import Clock
from libs.common.ids import new_id
from services.identity.errors import SessionsNotConfigured
from services.identity.session.domain import Session

AUDIENCES: Final = ("identity.tollhouse", "billing.tollhouse", "metering.tollhouse")
_KEY_TYPE: Final = "OKP"


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """The public half of a signing key: its id, and its 32 bytes in base64url."""

    key_id: str
    x: str


class AccessTokens:
    """Mints access tokens, if a key to sign them with is configured."""

    def __init__(
        self,
        signing_key: SigningKey | None,
        trusted: Callable[[], TrustBundle],
        clock: Clock,
        *,
        lifetime: timedelta,
    ) -> None:
        """`trusted` returns the trust bundle that is in force."""
        self._signing_key = signing_key
        self._trusted = trusted
        self._clock = clock
        self._lifetime = lifetime

    @property
    def published(self) -> Sequence[PublishedKey]:
        """The public keys that verify access tokens: the key in use, and the others of its issuer in the trust bundle.

        So a key is published before it is first used and after it was last used, as long as services accept it.
        """
        return _published(self._signing_key, self._trusted())

    def require_key(self) -> None:
        """Raise SessionsNotConfigured where there is no key."""
        if self._signing_key is None:
            raise SessionsNotConfigured

    def mint(self, session: Session) -> tuple[str, datetime]:
        """Return a token for a session, and when it expires: at the latest with the session."""
        if self._signing_key is None:
            raise SessionsNotConfigured
        now = self._clock.now()
        lifetime = min(self._lifetime, session.expire_time - now)
        token = mint_token(
            self._signing_key,
            audiences=list(AUDIENCES),
            lifetime=lifetime,
            clock=self._clock,
            subject=f"user:{session.user_id}",
            more_claims={"sid": session.session_id, "jti": new_id()},
        )
        return token, (now + lifetime).replace(microsecond=0)


def key_problem(signing_key: SigningKey) -> str | None:
    """Return why a key cannot sign access tokens, or None."""
    try:
        is_private = OKPKey.import_key(signing_key.key).is_private
    except (JoseError, ValueError, TypeError):
        return "holds no key of the type OKP"
    if not is_private or signing_key.key.get("crv") != ALGORITHM or not signing_key.key.get("kid"):
        return "holds no private Ed25519 key with a key id"
    return None


def _published(signing_key: SigningKey | None, bundle: TrustBundle) -> Sequence[PublishedKey]:
    if signing_key is None:
        return ()
    keys = [key for issuer in bundle.issuers if issuer.issuer == signing_key.issuer for key in issuer.keys]
    published = {
        str(key["kid"]): PublishedKey(str(key["kid"]), str(key["x"]))
        for key in (*keys, signing_key.key)
        if key.get("kty") == _KEY_TYPE and key.get("crv") == ALGORITHM
    }
    return tuple(published.values())
