"""Which ID tokens are accepted, and where their keys come from."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey, RSAKey
from pydantic import ValidationError

from libs.common.errors import Unavailable
from services.identity.errors import InvalidIdToken
from services.identity.oidc import TOKEN_MAX_LENGTH, IdTokens, OidcIssuer, VerifiedIdentity
from services.identity.provider_keys import FRESH_FOR, PAUSE, USABLE_FOR, DocumentFetcher
from tests.support.clock import FixedClock
from tests.support.oidc import CLIENT_ID, OidcProvider, open_provider, response

ALGORITHMS = ("RS256", "ES256", "EdDSA")


class Reader:
    """Reads the tokens of one provider."""

    def __init__(self, provider: OidcProvider, clock: FixedClock, fetcher: DocumentFetcher) -> None:
        self.provider = provider
        self.clock = clock
        told = OidcIssuer(provider="acme", issuer=provider.issuer, client_ids=(CLIENT_ID, "mobile"))
        self._id_tokens = IdTokens([told], fetcher.fetch, clock)

    async def read(self, id_token: str, nonce: str = "") -> VerifiedIdentity:
        return await self._id_tokens.verify(id_token, nonce)

    async def refuses(self, id_token: str, nonce: str = "") -> bool:
        try:
            await self.read(id_token, nonce)
        except InvalidIdToken:
            return True
        return False


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    clock, fetcher = FixedClock(), DocumentFetcher()
    async with open_provider(clock) as provider:
        yield Reader(provider, clock, fetcher)
    await fetcher.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_tells_who_its_provider_vouches_for(reader: Reader, algorithm: str) -> None:
    token = reader.provider.token(
        claims={"name": "Ada\nL", "picture": "https://people.test/ada.png"}, algorithm=algorithm
    )
    assert await reader.read(token) == VerifiedIdentity(
        provider="acme",
        subject="1001",
        email="1001@people.test",
        email_verified=True,
        full_name="AdaL",
        picture_url="https://people.test/ada.png",
    )


async def test_token_is_accepted_under_either_name_of_its_algorithm(reader: Reader) -> None:
    own = reader.provider.keys["EdDSA-1"].as_dict(private=True)
    key = OKPKey.import_key({name: value for name, value in own.items() if name != "alg"})
    for name in ("EdDSA", "Ed25519"):
        token = reader.provider.token(algorithm="EdDSA", key=key, header={"alg": name})
        assert (await reader.read(token)).subject == "1001"


async def test_what_a_provider_says_beyond_the_subject_may_be_missing_or_nonsense(reader: Reader) -> None:
    for email in (None, "no address", "a@b", f"{'a' * 250}@people.test", ["a@people.test"], "a\x00@people.test", 7):
        read = await reader.read(
            reader.provider.token(claims={"email": email, "name": 7, "picture": "javascript:alert(1)"})
        )
        assert (read.email, read.email_verified, read.full_name, read.picture_url) == ("", False, "", "")
    for verified in (None, False, "false", 1, "yes"):
        assert not (await reader.read(reader.provider.token(claims={"email_verified": verified}))).email_verified
    assert (await reader.read(reader.provider.token(claims={"email_verified": "true"}))).email_verified


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "somebody-else"},
        {"aud": None},
        {"aud": []},
        {"aud": [CLIENT_ID, "somebody-else"]},
        {"aud": [CLIENT_ID, "somebody-else"], "azp": "somebody-else"},
        {"azp": "somebody-else"},
        {"iss": "https://issuer.test"},
        {"iss": None},
        {"iss": ["http://127.0.0.1"]},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": float("inf")},
        {"iat": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\x00b"},
        {"sub": "\ud800"},
        {"nbf": "\ud800"},
        {"sub": 1001},
    ],
    ids=str,
)
async def test_a_token_with_a_wrong_claim_is_refused(reader: Reader, claims: dict[str, object]) -> None:
    assert await reader.refuses(reader.provider.token(claims=claims))


async def test_a_token_made_for_several_names_one_of_ours_as_the_asker(reader: Reader) -> None:
    token = reader.provider.token(claims={"aud": ["somebody-else", CLIENT_ID], "azp": "mobile"})
    assert (await reader.read(token)).subject == "1001"


@pytest.mark.parametrize(
    ("claim", "seconds", "refused"),
    [
        *(("exp", -29, False), ("exp", -31, True)),
        *(("nbf", 29, False), ("nbf", 31, True)),
        *(("iat", 29, False), ("iat", 31, True)),
    ],
)
async def test_clocks_may_differ_by_half_a_minute(reader: Reader, claim: str, seconds: int, refused: bool) -> None:
    moment = int(reader.clock.now().timestamp()) + seconds
    assert await reader.refuses(reader.provider.token(claims={claim: moment})) is refused


async def test_a_token_must_carry_the_nonce_that_was_asked_for(reader: Reader) -> None:
    token = reader.provider.token(claims={"nonce": "n-1"})
    assert not await reader.refuses(token, "n-1")
    assert not await reader.refuses(token)
    assert await reader.refuses(token, "n-2")
    assert await reader.refuses(reader.provider.token(), "n-1")


async def test_unsigned_tokens_are_refused(reader: Reader) -> None:
    header, payload, _ = reader.provider.token().split(".")
    for algorithm in ("none", "None", "NONE", ""):
        unsigned = urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()).decode().rstrip("=")
        assert await reader.refuses(f"{unsigned}.{payload}.")
    assert await reader.refuses(f"{header}.{payload}.")
    assert await reader.refuses(f"{header}.{payload}.{'A' * 342}")


async def test_the_public_key_is_no_shared_secret(reader: Reader) -> None:
    public = reader.provider.keys["RS256-1"]
    claims = jwt.decode(reader.provider.token(), public, algorithms=["RS256"]).claims
    for secret in (public.as_pem(private=False), public.as_der(private=False)):
        header = {"alg": "HS256", "kid": "RS256-1", "typ": "JWT"}
        forged = jwt.encode(header, claims, OctKey.import_key(urlsafe_b64encode(secret).decode()), algorithms=["HS256"])
        assert await reader.refuses(forged)


async def test_a_key_serves_the_algorithm_it_was_made_for_alone(reader: Reader) -> None:
    token = reader.provider.token(algorithm="ES256", header={"kid": "RS256-1"})
    assert await reader.refuses(token)
    rsa = RSAKey.import_key(reader.provider.keys["RS256-1"].as_pem(private=True))
    assert not await reader.refuses(reader.provider.token(key=rsa))
    assert await reader.refuses(reader.provider.token(key=rsa, header={"alg": "PS256"}))


async def test_a_strangers_signature_is_refused_wherever_its_key_is_said_to_be(reader: Reader) -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "RS256-1"})
    places: tuple[dict[str, object], ...] = (
        {},
        {"jwk": stranger.as_dict(private=False)},
        {"jku": f"{reader.provider.issuer}/elsewhere"},
        {"x5u": f"{reader.provider.issuer}/elsewhere"},
    )
    for where in places:
        assert await reader.refuses(reader.provider.token(key=stranger, header=where))
    assert "/elsewhere" not in reader.provider.fetches


@pytest.mark.parametrize(
    "header",
    [{"typ": "at+jwt"}, {"typ": 7}, {"kid": 7}, {"kid": ""}, {"crit": ["exp"]}, {"kid": "../../etc/passwd"}],
    ids=str,
)
async def test_a_token_with_a_wrong_header_is_refused(reader: Reader, header: dict[str, object]) -> None:
    good_header, payload, signature = reader.provider.token().split(".")
    changed = {"alg": "RS256", "kid": "RS256-1", "typ": "JWT", **header}
    wrong = urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip("=")
    assert await reader.refuses(f"{wrong}.{payload}.{signature}")
    assert not await reader.refuses(f"{good_header}.{payload}.{signature}")


async def test_a_token_without_a_key_id_is_checked_with_the_only_key_there_is(reader: Reader) -> None:
    assert not await reader.refuses(reader.provider.token(header={"kid": None, "typ": None}))
    reader.provider.add_key("RS256", "RS256-2")
    reader.clock.advance(FRESH_FOR)
    assert await reader.refuses(reader.provider.token(header={"kid": None}))


async def test_garbage_is_refused_without_a_word_to_the_provider(reader: Reader) -> None:
    deep = urlsafe_b64encode(("[" * 4000).encode()).decode().rstrip("=")
    for garbage in ("", ".", "..", "...", "a.b.c", "\N{SNOWMAN}.b.c", f"{deep}.{deep}.x", "eyJ9.eyJ9.x", "x" * 5000):
        assert await reader.refuses(garbage)
    assert reader.provider.fetches == {}


async def test_an_oversized_token_is_refused(reader: Reader) -> None:
    assert not await reader.refuses(reader.provider.token(claims={"groups": "x" * 1000}))
    assert await reader.refuses(reader.provider.token(claims={"groups": "x" * TOKEN_MAX_LENGTH}))


async def test_keys_are_fetched_once_and_kept(reader: Reader) -> None:
    tokens = [reader.provider.token(str(number)) for number in range(20)]
    await asyncio.gather(*(reader.read(token) for token in tokens))
    await reader.read(tokens[0])
    assert reader.provider.fetched == 1


async def test_a_rotated_key_is_fetched_and_the_old_one_forgotten(reader: Reader) -> None:
    old = reader.provider.token()
    await reader.read(old)
    reader.provider.rotate()
    reader.clock.advance(PAUSE)
    await reader.read(reader.provider.token())
    assert reader.provider.fetched == 2
    assert await reader.refuses(old)


async def test_a_withdrawn_key_is_believed_for_an_hour_at_most(reader: Reader) -> None:
    old = reader.provider.token()
    await reader.read(old)
    reader.provider.rotate()
    reader.clock.advance(FRESH_FOR - timedelta(seconds=1))
    assert not await reader.refuses(old)
    reader.clock.advance(timedelta(seconds=1))
    assert await reader.refuses(old)


async def test_made_up_key_ids_do_not_flood_the_provider(reader: Reader) -> None:
    await reader.read(reader.provider.token())
    for number in range(10):
        assert await reader.refuses(reader.provider.token(header={"kid": f"made-up-{number}"}))
    assert reader.provider.fetched == 1
    reader.clock.advance(PAUSE)
    assert await reader.refuses(reader.provider.token(header={"kid": "made-up"}))
    assert reader.provider.fetched == 2


async def test_known_keys_outlast_a_provider_that_is_down(reader: Reader) -> None:
    await reader.read(reader.provider.token())
    await reader.provider.stop()
    reader.clock.advance(USABLE_FOR - timedelta(seconds=1))
    assert (await reader.read(reader.provider.token())).subject == "1001"
    with pytest.raises(Unavailable):
        await reader.read(reader.provider.token(header={"kid": "new"}))
    reader.clock.advance(PAUSE)
    with pytest.raises(Unavailable):
        await reader.read(reader.provider.token())
    await reader.provider.start(reader.provider.port)
    reader.clock.advance(PAUSE)
    assert (await reader.read(reader.provider.token())).subject == "1001"


async def test_a_provider_that_was_never_reached_makes_no_token_wrong(reader: Reader) -> None:
    token = reader.provider.token()
    await reader.provider.stop()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await reader.read(token)


async def test_one_who_gives_up_waiting_does_not_end_the_fetch_for_others(reader: Reader) -> None:
    reader.provider.hold = asyncio.Event()
    token = reader.provider.token()
    impatient, patient = (asyncio.create_task(reader.read(token)) for _ in range(2))
    await reader.provider.asked.wait()
    impatient.cancel()
    await asyncio.wait([impatient])
    reader.provider.hold.set()
    assert (await patient).subject == "1001"
    assert reader.provider.fetched == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nnot json",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 600_000 + b"{}",
        b"\x00" * 1000,
        response([]),
        response({"keys": []}),
        response({"keys": [{}] * 101}),
        response(
            {"keys": [7, {"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": ["RSA"]}]}
        ),
        response({}, status="500 Internal Server Error"),
        response({"issuer": "https://issuer.test", "jwks_uri": "https://issuer.test/keys"}),
    ],
    ids=range(12),
)
async def test_a_provider_that_answers_nonsense_counts_as_away(reader: Reader, answer: bytes) -> None:
    reader.provider.answer = lambda _: answer
    with pytest.raises(Unavailable):
        await reader.read(reader.provider.token())


@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "ftp://127.0.0.1/keys", "http://192.0.2.1/keys", "keys", ""])
async def test_keys_are_fetched_over_https_alone(reader: Reader, scheme: str) -> None:
    document = {"issuer": reader.provider.issuer, "jwks_uri": scheme}
    reader.provider.answer = lambda _: response(document)
    with pytest.raises(Unavailable):
        await reader.read(reader.provider.token())


async def test_redirects_are_not_followed(reader: Reader) -> None:
    async with open_provider(reader.clock) as other:
        other.keys = reader.provider.keys
        location = f"Location: {other.issuer}/keys\r\n"
        honest = reader.provider.answer_of

        def redirect(path: str) -> bytes:
            return response({}, status="302 Found", headers=location) if path == "/keys" else honest(path)

        reader.provider.answer = redirect
        with pytest.raises(Unavailable):
            await reader.read(reader.provider.token())
        assert other.fetches == {}


@pytest.mark.parametrize(
    "told",
    [
        {"issuer": "http://accounts.test"},
        {"issuer": "https://user:password@accounts.test"},
        {"issuer": "accounts.test"},
        {"client_ids": []},
        {"client_ids": [""]},
        {"algorithms": []},
        {"algorithms": ["none"]},
        {"algorithms": ["HS256"]},
        {"provider": "Acme Inc."},
        {"secret": "x"},
    ],
    ids=str,
)
def test_issuers_that_could_not_be_trusted_are_refused_at_the_start(told: dict[str, object]) -> None:
    good: dict[str, object] = {"provider": "acme", "issuer": "https://accounts.test", "client_ids": ["a"]}
    assert OidcIssuer.model_validate(good).algorithms == ALGORITHMS
    with pytest.raises(ValidationError):
        OidcIssuer.model_validate(good | told)
