"""An address that sends many wrong tokens is rate-limited; valid tokens are never counted."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from libs.common.status import status_in
from services.identity.oidc import OidcIssuer
from services.identity.session.refresh_token import FORM
from tests.identity.refusals import refused
from tests.identity.sign_ins import SignIns, from_address, open_sign_ins
from tests.support.oidc import CLIENT_ID, OidcProvider, open_provider
from tollhouse.identity.v1 import session_pb2 as pb

WRONG_REFRESH = ("UNAUTHENTICATED", "INVALID_REFRESH_TOKEN")
WRONG_ID = ("UNAUTHENTICATED", "INVALID_ID_TOKEN")
TOO_MANY = ("RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS")
MAX = 3


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    async with open_provider() as provider:
        yield provider


@pytest.fixture
async def site(database_urls: dict[str, str], tmp_path: Path, provider: OidcProvider) -> AsyncIterator[SignIns]:
    issuer = OidcIssuer(provider="acme", issuer=provider.issuer, client_ids=(CLIENT_ID,))
    async with open_sign_ins(
        database_urls["identity"], tmp_path, oidc_issuers=(issuer,), wrong_tokens_per_address_max=MAX
    ) as site:
        provider.clock = site.clock
        yield site


async def _refresh(site: SignIns, token: str, address: str = "192.0.2.1") -> pb.RefreshSessionResponse:
    request = pb.RefreshSessionRequest(refresh_token=token)
    return await site.sessions.RefreshSession(request, metadata=from_address(address), timeout=20)


async def _sign_in(site: SignIns, id_token: str, address: str = "192.0.2.1") -> pb.SignInWithIdTokenResponse:
    request = pb.SignInWithIdTokenRequest(id_token=id_token)
    return await site.sessions.SignInWithIdToken(request, metadata=from_address(address), timeout=20)


async def test_wrong_tokens_of_both_kinds_count_together_until_the_address_has_to_wait(
    site: SignIns, provider: OidcProvider
) -> None:
    user = await site.create_user()
    good = (await site.sign_in(user.email)).tokens.refresh_token
    assert await refused(_refresh(site, FORM.new())) == WRONG_REFRESH
    assert await refused(_sign_in(site, provider.token(claims={"aud": "somebody-else"}))) == WRONG_ID
    assert await refused(_refresh(site, FORM.new())) == WRONG_REFRESH

    # From here on every token from this address is refused unread. A valid token stays valid for later.
    assert await refused(_refresh(site, FORM.new())) == TOO_MANY
    assert await refused(_sign_in(site, provider.token())) == TOO_MANY
    assert await refused(_refresh(site, good)) == TOO_MANY
    assert await refused(_refresh(site, FORM.new(), "192.0.2.2")) == WRONG_REFRESH

    site.clock.advance(timedelta(minutes=1))
    await _refresh(site, good)


async def test_whoever_has_to_wait_is_told_for_how_long(site: SignIns) -> None:
    for _ in range(MAX):
        await refused(_refresh(site, FORM.new()))
    site.clock.advance(timedelta(seconds=20))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _refresh(site, FORM.new())
    assert _retry_after_s(error.value) == 40


def _retry_after_s(error: grpc.aio.AioRpcError) -> float:
    status = status_in(error)
    assert status is not None
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToSeconds())
    raise AssertionError("no RetryInfo")


async def test_good_tokens_are_never_counted(site: SignIns, provider: OidcProvider) -> None:
    token = (await _sign_in(site, provider.token())).tokens.refresh_token
    for _ in range(3 * MAX):
        token = (await _refresh(site, token)).tokens.refresh_token
        await _sign_in(site, provider.token())


async def test_what_has_not_the_form_of_a_refresh_token_is_not_counted(site: SignIns) -> None:
    for _ in range(3 * MAX):
        assert await refused(_refresh(site, "th_refresh_" + "x" * 49)) == WRONG_REFRESH


async def test_reused_tokens_end_the_session_and_are_counted(site: SignIns) -> None:
    user = await site.create_user()
    used = (await site.sign_in(user.email)).tokens.refresh_token
    await _refresh(site, used)
    for _ in range(MAX):
        assert await refused(_refresh(site, used)) == WRONG_REFRESH
    assert await refused(_refresh(site, used)) == TOO_MANY
    assert await site.listed(user.user_id) == []


async def test_an_ipv6_customer_counts_as_one(site: SignIns) -> None:
    for last in range(MAX):
        assert await refused(_refresh(site, FORM.new(), f"2001:db8:0:7::{last + 1}")) == WRONG_REFRESH
    assert await refused(_refresh(site, FORM.new(), "2001:db8:0:7::ffff")) == TOO_MANY
    assert await refused(_refresh(site, FORM.new(), "2001:db8:0:8::1")) == WRONG_REFRESH
