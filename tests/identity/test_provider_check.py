"""Identity providers whose settings can never work are refused by name at start; unreachable ones are retried."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.identity.oidc import IdTokens, OidcIssuer
from services.identity.provider_check import provider_problems
from services.identity.provider_keys import DocumentFetcher
from tests.identity.support import identity_settings
from tests.support.callers import Callers
from tests.support.oidc import CLIENT_ID, OidcProvider, open_provider, response

ENTRA = "https://login.microsoftonline.com/{tenantid}/v2.0"
MALFORMED = {"keys": [{"kty": "RSA", "kid": "1", "n": "AQAB", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "!"}]}


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    async with open_provider() as running:
        yield running


@pytest.fixture
async def fetcher() -> AsyncIterator[DocumentFetcher]:
    fetcher = DocumentFetcher()
    yield fetcher
    await fetcher.close()


def _issuer(provider: OidcProvider, **told: object) -> OidcIssuer:
    return OidcIssuer.model_validate(
        {"provider": "acme", "issuer": provider.issuer, "client_ids": (CLIENT_ID,), **told}
    )


def _with(provider: OidcProvider, **documents: object) -> Callable[[str], bytes]:
    """Serve these documents in place of the discovery document or the keys."""
    paths = {"discovery": "/.well-known/openid-configuration", "keys": "/keys"}
    instead = {paths[name]: document for name, document in documents.items()}
    return lambda path: response(instead[path]) if path in instead else provider.answer_of(path)


async def test_a_sound_provider_has_no_problem(provider: OidcProvider, fetcher: DocumentFetcher) -> None:
    assert await provider_problems([_issuer(provider)], fetcher.fetch) == []


async def test_a_provider_whose_keys_cannot_be_used_is_named(provider: OidcProvider, fetcher: DocumentFetcher) -> None:
    documents: tuple[object, ...] = (MALFORMED, {"keys": []}, {"keys": "none"}, {}, [])
    for keys in documents:
        provider.answer = _with(provider, keys=keys)
        [problem] = await provider_problems([_issuer(provider)], fetcher.fetch)
        assert problem.startswith("the OIDC provider `acme`: ")
        assert "JWK set" in problem


async def test_a_provider_without_a_key_for_its_algorithms_is_named(
    provider: OidcProvider, fetcher: DocumentFetcher
) -> None:
    [problem] = await provider_problems([_issuer(provider, algorithms=("ES512",))], fetcher.fetch)
    assert "`acme`" in problem
    assert "ES512" in problem


async def test_a_discovery_document_of_many_tenants_or_another_issuer_is_named(
    provider: OidcProvider, fetcher: DocumentFetcher
) -> None:
    for named, said in ((ENTRA, "one tenant"), ("https://other.test", "https://other.test"), (None, "discovery")):
        document = {"issuer": named, "jwks_uri": f"{provider.issuer}/keys"}
        provider.answer = _with(provider, discovery=document)
        [problem] = await provider_problems([_issuer(provider)], fetcher.fetch)
        assert "`acme`" in problem
        assert said in problem


@pytest.mark.parametrize(
    "issuer",
    [
        *(
            ENTRA,
            "https://login.microsoftonline.com/common/v2.0",
            "https://login.microsoftonline.com/organizations/v2.0",
        ),
        *("https://sts.windows.net/common/", "https://idp.test/{realm}"),
    ],
)
def test_an_issuer_of_many_tenants_is_no_setting(issuer: str) -> None:
    with pytest.raises(ValidationError, match=r"the OIDC provider `entra`: .* name that of one tenant"):
        OidcIssuer(provider="entra", issuer=issuer, client_ids=("a",))
    tenant = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"
    assert OidcIssuer(provider="entra", issuer=tenant, client_ids=("a",)).issuer == tenant


async def test_a_provider_that_is_away_or_broken_is_no_mistake_of_the_settings(
    provider: OidcProvider, fetcher: DocumentFetcher
) -> None:
    issuer = _issuer(provider)
    for answer in (b"", response({}, status="503 Service Unavailable"), b"HTTP/1.1 200 OK\r\n\r\n<html>"):
        provider.answer = lambda _, answer=answer: answer
        assert await provider_problems([issuer], fetcher.fetch) == []
    await provider.stop()
    assert await provider_problems([issuer], fetcher.fetch) == []


async def _start(
    provider: OidcProvider, callers: Callers, database_url: str, folder: Path
) -> tuple[asyncio.subprocess.Process, bytes]:
    """Run identity as a process; return it when it serves or has ended, with what it wrote."""
    settings = identity_settings(callers, database_url, folder, {"1": "11" * 32})
    issuers = [{"provider": "acme", "issuer": provider.issuer, "client_ids": [CLIENT_ID]}]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.identity"),
        env={
            **os.environ,
            "TOLLHOUSE_IDENTITY_DATABASE_URL": database_url,
            "TOLLHOUSE_IDENTITY_TRUST_BUNDLE_FILE": str(settings.trust_bundle_file),
            "TOLLHOUSE_IDENTITY_PEPPERS": str(settings.peppers),
            "TOLLHOUSE_IDENTITY_PORT": "0",
            "TOLLHOUSE_IDENTITY_OIDC_ISSUERS": json.dumps(issuers),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    written = b""
    async with asyncio.timeout(60):
        while b'"serving"' not in written and (line := await process.stdout.readline()):
            written += line
    return process, written


async def test_the_process_refuses_to_start_with_a_provider_that_can_never_work(
    provider: OidcProvider, callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    provider.answer = _with(provider, keys=MALFORMED)
    process, written = await _start(provider, callers, database_urls["identity"], tmp_path)
    assert await process.wait() == 2
    assert b"the OIDC provider `acme`" in written
    assert b"Traceback" not in written


async def test_the_process_starts_while_a_provider_is_away(
    provider: OidcProvider, callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    await provider.stop()
    process, written = await _start(provider, callers, database_urls["identity"], tmp_path)
    try:
        assert process.returncode is None
        assert b'"serving"' in written
        assert b"an identity provider could not be reached" in written
    finally:
        process.terminate()
        await process.communicate()


async def test_names_in_claims_keep_their_joiners(provider: OidcProvider, fetcher: DocumentFetcher) -> None:
    id_tokens = IdTokens([_issuer(provider)], fetcher.fetch, provider.clock)
    sinhala = "\u0dc1\u0dca\u200d\u0dbb\u0dd3"
    token = provider.token(claims={"name": f"{sinhala}\x00\u202e\x07 Perera"})
    assert (await id_tokens.verify(token)).full_name == f"{sinhala} Perera"
    with_joiner = provider.token(f"id-{sinhala}")
    assert (await id_tokens.verify(with_joiner)).subject == f"id-{sinhala}"
