"""Tokens: which are accepted, and that all others are refused (RFC 8725)."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OKPKey

from libs.common.access import Caller, CallerKind
from libs.common.authentication import Authenticator, SigningKey, TrustBundle, TrustedIssuer
from libs.common.errors import Unauthenticated
from tests.support.callers import Callers
from tests.support.clock import FixedClock

AUDIENCE = "billing.tollhouse"


class World:
    """An authenticator, the callers that it trusts, and a clock that both share."""

    def __init__(self, folder: Path) -> None:
        self.clock = FixedClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.callers = Callers(folder, self.clock)
        self.authenticator = Authenticator(self.callers.bundle, audience=AUDIENCE, clock=self.clock)

    def caller(self, token: str) -> Caller:
        return self.authenticator.caller_of(f"Bearer {token}")

    def refused(self, token: str) -> bool:
        try:
            self.caller(token)
        except Unauthenticated:
            return True
        return False

    def signed(self, header: dict[str, object], claims: dict[str, object]) -> str:
        """Return a token of the operators' own key with some of its parts replaced."""
        key = self.callers.operator_key
        now = int(self.clock.now().timestamp())
        full_header = {"alg": "Ed25519", "typ": "caller+jwt", "kid": key.key["kid"], **header}
        full_claims = {
            "iss": key.issuer,
            "sub": key.subject,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 300,
            **claims,
        }
        return jwt.encode(
            {name: value for name, value in full_header.items() if value is not None},
            {name: value for name, value in full_claims.items() if value is not None},
            OKPKey.import_key(key.key),
            algorithms=["Ed25519", "EdDSA"],
        )

    def reason(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as raised:
            self.caller(token)
        assert token not in str(raised.value)
        return raised.value.reason


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_token_of_a_trusted_issuer_names_its_caller(world: World) -> None:
    assert world.caller(world.callers.token(world.callers.operator_key)) == Caller(CallerKind.OPERATOR, "alice")
    assert world.caller(world.callers.token(world.callers.service_keys["metering"])) == Caller(
        CallerKind.SERVICE, "metering"
    )


def test_cached_token_is_refused_once_it_expires(world: World) -> None:
    token = world.callers.token(world.callers.operator_key, lifetime=timedelta(minutes=5))
    world.caller(token)

    world.clock.advance(timedelta(minutes=5, seconds=29))
    assert not world.refused(token)
    world.clock.advance(timedelta(seconds=2))
    assert world.refused(token)


def test_token_for_several_audiences_is_valid_for_each(world: World) -> None:
    assert not world.refused(world.signed({}, {"aud": ["metering.tollhouse", AUDIENCE]}))


@pytest.mark.filterwarnings("ignore:EdDSA")
def test_token_signed_under_either_name_of_the_algorithm_is_accepted(world: World) -> None:
    for name in ("Ed25519", "EdDSA"):
        assert world.caller(world.signed({"alg": name}, {})) == Caller(CallerKind.OPERATOR, "alice")


def test_token_made_by_other_libraries_is_accepted(world: World) -> None:
    """PyJWT and golang-jwt write `EdDSA`, order the claims differently, and sign with the raw key."""
    key = world.callers.operator_key
    private = Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(str(key.key["d"]) + "="))
    now = int(world.clock.now().timestamp())
    header = {"alg": "EdDSA", "kid": key.key["kid"], "typ": "caller+jwt"}
    claims = {"aud": [AUDIENCE], "exp": now + 60, "iat": now, "iss": key.issuer, "sub": key.subject}
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))

    token = f"{signed}.{encode(private.sign(signed.encode()))}"

    assert world.caller(token) == Caller(CallerKind.OPERATOR, "alice")


@pytest.mark.parametrize("name", [None, "EdDSA", "Ed25519"])
def test_key_of_the_trust_bundle_may_name_its_algorithm_either_way(world: World, name: str | None) -> None:
    bundle = world.callers.bundle.model_copy(deep=True)
    for issuer in bundle.issuers:
        issuer.keys = [{**key, **({"alg": name} if name else {})} for key in issuer.keys]

    authenticator = Authenticator(bundle, audience=AUDIENCE, clock=world.clock)

    assert authenticator.caller_of(f"Bearer {world.signed({}, {})}").name == "alice"


def test_key_of_another_curve_or_algorithm_is_refused_at_start(world: World) -> None:
    for key in (
        OKPKey.generate_key("Ed448", {"kid": "k"}),
        OKPKey.generate_key("Ed25519", {"kid": "k", "alg": "none"}),
    ):
        public: dict[str, str | list[str]] = {name: str(value) for name, value in key.as_dict(private=False).items()}
        bundle = TrustBundle(issuers=[TrustedIssuer(issuer="other.test", subjects=["operator:*"], keys=[public])])

        with pytest.raises(ValueError, match="not an Ed25519 key"):
            Authenticator(bundle, audience=AUDIENCE, clock=world.clock)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_scheme_is_read_in_any_case(world: World, scheme: str) -> None:
    token = world.callers.token(world.callers.operator_key)

    for _ in range(2):
        assert world.authenticator.caller_of(f"{scheme} {token}") == Caller(CallerKind.OPERATOR, "alice")


def test_refusal_of_a_correctly_signed_token_says_what_is_wrong(world: World) -> None:
    now = int(world.clock.now().timestamp())

    assert world.reason(world.signed({}, {"exp": now - 31})) == "TOKEN_EXPIRED"
    assert world.reason(world.signed({}, {"exp": -(10**30)})) == "TOKEN_EXPIRED"
    assert world.reason(world.signed({}, {"nbf": now + 31})) == "TOKEN_NOT_YET_VALID"
    assert world.reason(world.signed({}, {"iat": now + 10**30})) == "TOKEN_NOT_YET_VALID"
    assert world.reason(world.signed({}, {"aud": "metering.tollhouse"})) == "WRONG_AUDIENCE"
    assert world.reason(world.signed({"typ": "JWT"}, {})) == "WRONG_TOKEN_TYPE"


def test_refusal_of_any_other_token_does_not_say_what_is_wrong(world: World) -> None:
    expired: dict[str, object] = {"exp": 0}
    header, claims, signature = world.signed({}, expired).split(".")

    assert world.reason(f"{header}.{claims}.{signature[::-1]}") == "UNAUTHENTICATED"
    assert world.reason(world.signed({}, {**expired, "sub": "service:metering"})) == "UNAUTHENTICATED"
    assert world.reason(world.signed({}, {**expired, "iss": "nobody"})) == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "metering.tollhouse"},
        {"aud": None},
        {"aud": []},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"sub": "service:metering"},
        {"sub": "operator:"},
        {"sub": "root"},
        {"iss": "nobody"},
        {"iss": None},
        {"exp": 0},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"iat": 4102444800},
        {"nbf": 4102444800},
    ],
    ids=str,
)
def test_wrong_or_missing_claim_is_refused(world: World, claims: dict[str, object]) -> None:
    assert world.refused(world.signed({}, claims))


@pytest.mark.parametrize(
    "header", [{"typ": None}, {"typ": "JWT"}, {"kid": None}, {"kid": "../operators.test"}], ids=str
)
def test_wrong_or_missing_header_is_refused(world: World, header: dict[str, object]) -> None:
    assert world.refused(world.signed(header, {}))


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def test_unsigned_token_is_refused(world: World) -> None:
    header, claims, _ = world.callers.token(world.callers.operator_key).split(".")
    none = encode(json.dumps({"alg": "none", "typ": "caller+jwt", "kid": "operators.test"}).encode())

    assert world.refused(f"{none}.{claims}.")
    assert world.refused(f"{header}.{claims}.")


def test_public_key_used_as_a_shared_secret_is_refused(world: World) -> None:
    claims = world.callers.token(world.callers.operator_key).split(".")[1]
    public = str(world.callers.operator_key.key["x"]).encode()
    header = encode(json.dumps({"alg": "HS256", "typ": "caller+jwt", "kid": "operators.test"}).encode())
    signature = encode(hmac.digest(public, f"{header}.{claims}".encode(), hashlib.sha256))

    assert world.refused(f"{header}.{claims}.{signature}")


def test_key_of_one_issuer_does_not_sign_for_another(world: World) -> None:
    stranger = SigningKey.generate(issuer="operators.test", subject="operator:mallory")

    assert world.refused(world.callers.token(stranger))


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é.é.é", "x" * 5000, "." * 4000, "e30.e30.e30"])
def test_garbage_is_refused(world: World, token: str) -> None:
    assert world.refused(token)


def test_other_schemes_are_refused(world: World) -> None:
    token = world.callers.token(world.callers.operator_key)

    for authorization in (token, f"Basic {token}", f"bearer{token}", f"bearer\t{token}", f"Bearer: {token}"):
        with pytest.raises(Unauthenticated):
            world.authenticator.caller_of(authorization)


def test_service_renews_its_token_before_it_expires(world: World) -> None:
    source = world.callers.token_source("metering")
    first = source.token_for(AUDIENCE)

    assert source.token_for(AUDIENCE) == first
    world.clock.advance(timedelta(minutes=3))
    assert source.token_for(AUDIENCE) != first
    assert not world.refused(first)
