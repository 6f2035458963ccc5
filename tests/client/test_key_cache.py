"""The key cache answers from memory what identity would answer, no later than five seconds after a change."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from google.protobuf import timestamp_pb2

from tests.client.conftest import House
from tests.metering.support import eventually
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc, organization_pb2, service_account_pb2
from tollhouse_client import ApiKey, KeyAnswer, KeyCache, Token, key_cache
from tollhouse_client.errors import ClientClosed, TollhouseError


@pytest.fixture
async def keys(house: House) -> AsyncIterator[KeyCache]:
    async with KeyCache(house.gateway) as keys:
        await told(keys, 1)
        yield keys


async def told(keys: KeyCache, revision: int) -> None:
    """Return when the cache knows of every change up to a revision."""

    async def seen() -> int:
        return keys.watched_revision

    await eventually(seen, lambda watched: watched >= revision)


async def test_warm_key_costs_no_rpc(house: House, keys: KeyCache) -> None:
    first = await keys.verify(house.secret, model="gpt-4o")
    assert first.is_valid
    assert first.key is not None
    assert first.key.organization_id == house.organization_id
    assert first.key.api_key_id == house.key.api_key.api_key_id
    assert keys.known(house.secret, model="gpt-4o") is await keys.verify(house.secret, model="gpt-4o")


async def test_revoked_key_stops_when_the_change_arrives(house: House, keys: KeyCache) -> None:
    key = await house.new_key()
    assert (await keys.verify(key.secret)).is_valid
    revision = await house.platform.identity.revoke(key.api_key)
    await told(keys, revision)
    assert keys.known(key.secret) is None
    assert await keys.verify(key.secret) == KeyAnswer("REVOKED")


async def test_revoked_key_stops_at_once_with_its_revision(house: House, keys: KeyCache) -> None:
    key = await house.new_key()
    assert (await keys.verify(key.secret)).is_valid
    revision = await house.platform.identity.revoke(key.api_key)
    assert (await keys.verify(key.secret, min_revision=revision)).code == "REVOKED"


async def test_every_key_of_a_deactivated_owner_stops(house: House, keys: KeyCache) -> None:
    identity = house.platform.identity
    organization_id, owner = await identity.create_organization()
    both = [
        await identity.create_key(api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner))
        for _ in range(2)
    ]
    assert [(await keys.verify(key.secret)).is_valid for key in both] == [True, True]
    revision = max([await identity.revoke(key.api_key) for key in both])
    await told(keys, revision)
    assert {(await keys.verify(key.secret)).code for key in both} == {"REVOKED"}


async def test_models_scopes_and_addresses_are_decided_as_identity_decides(house: House, keys: KeyCache) -> None:
    key = await house.new_key(
        allowed_models=["gpt-*", "claude-sonnet"], allowed_addresses=["192.0.2.0/24", "2001:db8::7"]
    )
    identity = house.platform.identity
    for model in ("gpt-4o", "claude-sonnet", "claude-sonnet-2", "other", ""):
        for address in ("192.0.2.9", "::ffff:192.0.2.9", "198.51.100.1", "2001:db8::7", ""):
            for scopes in ((), ("tollhouse:usage.read",)):
                answer = await keys.verify(key.secret, model=model, required_scopes=scopes, client_address=address)
                expected = await identity.code(key.secret, model=model, scopes=scopes, address=address)
                assert answer.code == expected, (model, address, scopes)


@pytest.mark.parametrize("secret", ["", "x" * 513, "th_live_nobody", "\x00", "\ud800", "'; DROP TABLE api_keys --"])
async def test_text_that_is_no_key_is_not_found(keys: KeyCache, secret: str) -> None:
    assert await keys.verify(secret) == KeyAnswer("NOT_FOUND")
    assert keys.size == 0


async def test_callers_with_one_unknown_key_share_one_question(house: House, keys: KeyCache) -> None:
    key = await house.new_key()
    callers = [asyncio.create_task(keys.verify(key.secret)) for _ in range(50)]
    await asyncio.sleep(0)
    callers[0].cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {id(answer) for answer in answers[1:]} == {id(keys.known(key.secret))}


async def test_cache_is_bounded(house: House) -> None:
    async with KeyCache(house.gateway, keys_max=3) as keys:
        await told(keys, 1)
        for _ in range(5):
            assert (await keys.verify((await house.new_key()).secret)).is_valid
            assert keys.size <= 3


async def test_secrets_are_in_no_attribute_of_the_cache(house: House, keys: KeyCache) -> None:
    await keys.verify(house.secret)
    assert house.secret not in repr(vars(keys))


async def test_cache_that_hears_nothing_stops_answering_after_the_bound(house: House) -> None:
    async with KeyCache(house.gateway, stale_max_s=0.3) as keys:
        await told(keys, 1)
        await keys.verify(house.secret)
        # Heartbeats come every second, so between two of them the bound of 0.3 s is passed.
        over_s = time.monotonic() + 5
        while keys.known(house.secret) is not None:
            assert time.monotonic() < over_s
            await asyncio.sleep(0.02)
        assert (await keys.verify(house.secret)).is_valid


async def test_change_before_the_answer_keeps_the_answer_out(house: House, keys: KeyCache) -> None:
    revision = keys.watched_revision + 1000
    change = api_key_pb2.ApiKeyChange(revision=revision, user_id=house.key.api_key.user_id)
    lonely = KeyCache(house.gateway)
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=revision, changes=[change]))
    assert (await lonely.verify(house.secret)).is_valid
    assert lonely.size == 0


async def test_full_message_of_changes_does_not_extend_the_time(house: House) -> None:
    lonely = KeyCache(house.gateway)
    changes = [api_key_pb2.ApiKeyChange(revision=number, organization_id="other") for number in range(1, 501)]
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=1))
    await lonely.verify(house.secret)
    assert lonely.known(house.secret) is not None
    lonely._good_until_s = 0
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=500, changes=changes))
    assert lonely.known(house.secret) is None
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=501))
    assert lonely.known(house.secret) is not None


async def test_resync_drops_everything(house: House) -> None:
    lonely = KeyCache(house.gateway)
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=1))
    await lonely.verify(house.secret)
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=2, resync=True))
    assert lonely.size == 0


async def test_key_expires_by_the_clock_of_identity(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_time = timestamp_pb2.Timestamp(seconds=int(time.time()) + 3600)
    key = await house.new_key(expire_time=expire_time)
    fast = SimpleNamespace(time=lambda: time.time() + 7200, monotonic=time.monotonic)
    monkeypatch.setattr(key_cache, "time", fast)
    async with KeyCache(house.gateway) as keys:
        await told(keys, 1)
        assert (await keys.verify(key.secret)).is_valid
        assert keys.known(key.secret) is not None
    monkeypatch.undo()
    lonely = KeyCache(house.gateway)
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=1))
    assert (await lonely.verify(key.secret)).is_valid
    assert lonely.known(key.secret) is not None
    lonely.take_in(api_key_pb2.WatchApiKeysResponse(revision=1, send_time=expire_time))
    assert lonely.known(key.secret) is None


async def test_closed_cache_answers_nobody_from_memory(house: House) -> None:
    async with house.client() as client:
        keys = KeyCache(client)
        async with keys:
            await told(keys, 1)
            assert (await keys.verify(house.secret)).is_valid
        assert keys.known(house.secret) is None
        question = asyncio.create_task(keys.verify(house.secret))
        await asyncio.sleep(0)
        await keys.close()
        with pytest.raises(ClientClosed):
            await question


async def test_gateway_of_one_organization_answers_from_memory_and_hears_of_its_changes(house: House) -> None:
    key, revoked = await house.new_key(), await house.new_key()
    credentials = ApiKey(await _gateway_key(house))
    async with house.client(credentials=credentials) as client, KeyCache(client) as keys:
        await told(keys, 1)
        for one in (key, revoked):
            assert (await keys.verify(one.secret)).is_valid
        revision = await house.platform.identity.revoke(revoked.api_key)
        await told(keys, revision)
        assert keys.known(revoked.secret) is None
        assert (await keys.verify(revoked.secret)).code == "REVOKED"
        assert keys.known(key.secret) is not None
        stranger = await house.platform.identity.create_key()
        assert (await keys.verify(stranger.secret)).code == "NOT_FOUND"


async def test_refused_stream_is_logged_once_and_asked_for_rarely(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[float] = []

    class Counting(Token):
        def bearer(self, audience: str) -> str:
            opened.append(time.monotonic())
            return super().bearer(audience)

    monkeypatch.setattr(key_cache, "_OPEN_AGAIN_AFTER_S", 0.02)
    monkeypatch.setattr(key_cache, "_OPEN_AGAIN_AFTER_MAX_S", 0.04)
    monkeypatch.setattr(key_cache, "_REFUSED_AGAIN_AFTER_MAX_S", 0.16)
    async with house.client(credentials=Counting("no.such.token")) as client, KeyCache(client):

        async def openings() -> int:
            return len(opened)

        await eventually(openings, lambda count: count >= 6)
    assert len([record for record in caplog.records if "stream of key changes" in record.message]) == 1
    # The pauses grow beyond those after a stream that broke.
    assert opened[-1] - opened[-2] >= 0.16


async def test_code_of_a_newer_identity_is_an_answer(house: House) -> None:
    class Newer:
        stub = house.gateway.stub

        async def verify_api_key(self, *_: object, **__: object) -> api_key_pb2.VerifyApiKeyResponse:
            return api_key_pb2.VerifyApiKeyResponse(code=999)  # type: ignore[arg-type]  # not a code of today

    answer = await KeyCache(Newer()).verify(house.secret)
    assert (answer.code, answer.is_valid, answer.key) == ("UNKNOWN_999", False, None)


async def _gateway_key(house: House) -> str:
    """Make a key of a service account with which a gateway serves this organization alone."""
    identity = house.platform.identity
    request = service_account_pb2.CreateServiceAccountRequest(
        organization_id=house.organization_id, name="gateway", role=organization_pb2.MEMBER_ROLE_ADMIN
    )
    account = (
        await identity.service_accounts.CreateServiceAccount(request, metadata=identity.metadata)
    ).service_account
    key = api_key_pb2.CreateApiKeyRequest(
        organization_id=house.organization_id,
        service_account_id=account.service_account_id,
        scopes=["tollhouse:admission"],
    )
    return (await identity.create_key(key)).secret


async def test_cache_whose_client_is_closed_first_ends_without_an_error(house: House) -> None:
    client = house.client()
    async with KeyCache(client) as keys:
        await told(keys, 1)
        await client.close()
        with pytest.raises(ClientClosed):
            await keys.verify(house.secret)
        assert keys._follower is not None
        await asyncio.wait([keys._follower], timeout=10)
        assert keys._follower.exception() is None
    stream = client.stub(api_key_pb2_grpc.ApiKeyServiceStub).WatchApiKeys(api_key_pb2.WatchApiKeysRequest())
    with pytest.raises(ClientClosed):
        await anext(aiter(stream))


async def test_nobody_is_served_while_identity_is_away(house: House) -> None:
    async with house.client(identity="127.0.0.1:1", timeout_s=0.3) as client, KeyCache(client) as keys:
        with pytest.raises(TollhouseError):
            await keys.verify(house.secret)


@pytest.mark.parametrize("options", [{"keys_max": 0}, {"stale_max_s": 0}, {"stale_max_s": 5.1}])
async def test_impossible_bounds_are_refused(house: House, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="keys_max"):
        KeyCache(house.gateway, **options)  # type: ignore[arg-type]  # one of them is a whole number
