"""Metering's cache of keys serves no answer older than a change it has seen, and stale ones only if configured."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from libs.common import server
from libs.common.channel import open_channel
from libs.common.clock import SystemClock
from libs.common.deadline import STREAM_LIFE_S
from libs.common.errors import Unavailable
from libs.common.ids import new_id
from services.identity.api_key.secret import new_secret
from services.identity.api_key.verify.guesses import GUESSES_A_MINUTE, Guesses
from services.identity.api_key.watch.watch import Watchers
from services.metering.clients.identity import VALID, IdentityClient
from tests.identity.support import Identity, open_identity
from tests.metering.held_answers import HeldAnswers, Streams
from tests.metering.support import Metering, Platform, eventually, refused
from tests.support.callers import Callers
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2

pytestmark = pytest.mark.own_database

WITHIN_S = 1.0


class UnfencedClient(IdentityClient):
    """A client without the check that no newer change was seen."""

    def _overtaken(self, revision: int) -> bool:
        return False


async def _code(client: IdentityClient, secret: str, *, min_revision: int = 0, address: str = "") -> str:
    answer = await client.verify(
        secret, model="gpt-4o", required_scopes=[], min_revision=min_revision, client_address=address
    )
    return answer.code


async def _told(client: IdentityClient, revision: int) -> None:
    """Return when the client has been told of every change up to a revision."""

    async def watched() -> int:
        return client.watched_revision

    await eventually(watched, lambda seen: seen >= revision)


async def _code_after_a_revocation_passed_an_answer_on_its_way(
    identity: Identity, port: int, callers: Callers, kind: type[IdentityClient]
) -> str:
    """Hold an answer back until the stream has delivered a newer revocation; return what the cache then says."""
    created = await identity.create_key()
    other = await identity.create_key()
    held = HeldAnswers(callers.service("metering"))
    streams = Streams(callers.service("metering"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=[held, streams]) as channel:
        client = kind(channel, SystemClock(), ttl_s=5, answers_max=10)
        watching = asyncio.create_task(client.watch())
        try:
            async with asyncio.timeout(10):
                # The stream is established once it delivers a change.
                while await _code(client, other.secret) == VALID:
                    await identity.revoke(other.api_key)
                    await asyncio.sleep(0.05)
                held.answered.clear()
                held.open.clear()
                asking = asyncio.create_task(_code(client, created.secret))
                await held.answered.wait()
                revision = await identity.revoke(created.api_key)
                await _told(client, revision)
                held.open.set()
                assert await asking == VALID
                return await _code(client, created.secret)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def test_answer_overtaken_by_a_revocation_is_never_kept(platform: Platform) -> None:
    identity = await platform.start_identity()

    code = await _code_after_a_revocation_passed_an_answer_on_its_way(
        identity, platform.identity_port, platform.callers, IdentityClient
    )

    assert code == "REVOKED"


async def test_without_the_fence_the_same_interleaving_would_let_the_revoked_key_in(platform: Platform) -> None:
    identity = await platform.start_identity()

    code = await _code_after_a_revocation_passed_an_answer_on_its_way(
        identity, platform.identity_port, platform.callers, UnfencedClient
    )

    assert code == VALID


def _ask(secret: str, *, address: str = "", min_revision: int = 0) -> admission_pb2.AuthorizeRequest:
    return admission_pb2.AuthorizeRequest(
        operation_id=f"op-{new_id()}",
        api_key=secret,
        model="gpt-4o",
        input_tokens=1,
        max_output_tokens=1,
        client_address=address,
        min_revision=min_revision,
    )


async def _reason(metering: Metering, request: admission_pb2.AuthorizeRequest) -> str:
    answer = await metering.authorize(request)
    return admission_pb2.DenialReason.Name(answer.denial.reason).removeprefix("DENIAL_REASON_")


async def test_revocation_reaches_a_metering_process_within_a_second(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    created = [await identity.create_key() for _ in range(5)]
    for key in created:
        await platform.fund(key.api_key.organization_id)
    secrets = [key.secret for key in created]

    async def is_let_in(secret: str) -> bool:
        return (await metering.authorize(_ask(secret))).decision == admission_pb2.DECISION_ALLOWED

    assert await eventually(lambda: is_let_in(secrets[0]), bool)
    # Metering has the answers in its cache, so it learns of the change from its stream only.
    for secret in secrets:
        assert await is_let_in(secret)
    await asyncio.sleep(1)

    delays = []
    for key in created:
        assert await is_let_in(key.secret)
        revision = await identity.revoke(key.api_key)
        began_s = time.monotonic()
        while await is_let_in(key.secret):
            assert time.monotonic() - began_s < WITHIN_S
        delays.append(time.monotonic() - began_s)
        assert await _reason(metering, _ask(key.secret, min_revision=revision)) == "KEY_REVOKED"

    assert max(delays) < WITHIN_S


async def test_address_of_the_end_user_decides_on_answers_in_memory_too(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    organization_id, owner = await identity.create_organization()
    await platform.fund(organization_id)
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=owner, allowed_addresses=["192.0.2.0/24", "2001:db8::/32"]
        )
    )
    expected = {
        "192.0.2.9": "UNSPECIFIED",
        "2001:db8::9": "UNSPECIFIED",
        "192.0.3.9": "KEY_ADDRESS_NOT_ALLOWED",
        "": "KEY_ADDRESS_NOT_ALLOWED",
    }
    for addresses in (list(expected), list(expected)[::-1]):
        for address in addresses:
            assert await _reason(metering, _ask(created.secret, address=address)) == expected[address]


async def test_question_asked_from_a_wrong_address_refuses_nobody_at_a_right_one(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        organization_id, owner = await identity.create_organization()
        created = await identity.create_key(
            api_key_pb2.CreateApiKeyRequest(
                organization_id=organization_id, user_id=owner, allowed_addresses=["192.0.2.1"]
            )
        )
        async with _client_of(callers, identity, stale_max_s=0) as client:
            calls = [_code(client, created.secret, address=f"192.0.2.{n % 3 + 1}") for n in range(30)][::-1]
            codes = (await asyncio.gather(*calls))[::-1]

    assert codes == [VALID if n % 3 == 0 else "ADDRESS_NOT_ALLOWED" for n in range(30)]


async def test_guesses_through_metering_are_slowed_down_where_they_come_from(
    platform: Platform, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time stands still for the count of guesses: it forgets one every three seconds, and this machine may be slow.
    monkeypatch.setattr(Guesses.__init__, "__defaults__", (lambda: 0.0,))
    await platform.start_identity()
    for _ in range(GUESSES_A_MINUTE):
        assert await _reason(metering, _ask(new_secret(live=True), address="192.0.2.1")) == "KEY_NOT_FOUND"

    guess = metering.authorize(_ask(new_secret(live=True), address="192.0.2.1"))

    assert await refused(guess) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_UNKNOWN_KEYS")
    assert await _reason(metering, _ask(new_secret(live=True), address="192.0.2.2")) == "KEY_NOT_FOUND"


TTL_S = 0.2
STALE_S = 4.0


@asynccontextmanager
async def _client_of(callers: Callers, identity: Identity, *, stale_max_s: float) -> AsyncIterator[IdentityClient]:
    tokens = callers.token_source("metering")
    channel = open_channel(f"127.0.0.1:{identity.port}", caller=tokens, audience="identity.tollhouse")
    yield IdentityClient(channel, SystemClock(), ttl_s=TTL_S, answers_max=10, stale_max_s=stale_max_s)
    await channel.close()


async def test_without_the_stale_mode_nobody_gets_in_while_identity_is_away(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        secret = (await identity.create_key()).secret
        async with _client_of(callers, identity, stale_max_s=0) as client:
            assert await _code(client, secret) == VALID
            await identity.service.stop(0)
            await asyncio.sleep(TTL_S)

            with pytest.raises(Unavailable):
                await _code(client, secret)
            assert client.stale_answers.count == 0


async def test_stale_mode_is_bounded_counted_and_never_for_what_a_change_has_named(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        secret = (await identity.create_key()).secret
        named, unknown = await identity.create_key(), await identity.create_key()
        async with _client_of(callers, identity, stale_max_s=STALE_S) as client:
            watching = asyncio.create_task(client.watch())
            await _told(client, 1)
            for known in (secret, named.secret):
                assert await _code(client, known) == VALID
            revision = await identity.revoke(named.api_key)
            await _told(client, revision)
            assert await _code(client, secret) == VALID
            await identity.service.stop(0)
            await asyncio.sleep(TTL_S)

            for _ in range(3):
                assert await _code(client, secret) == VALID
            assert client.stale_answers.count == 3
            for refused_secret, min_revision in ((secret, 1), (named.secret, 0), (unknown.secret, 0)):
                with pytest.raises(Unavailable):
                    await _code(client, refused_secret, min_revision=min_revision)
            await asyncio.sleep(STALE_S)
            with pytest.raises(Unavailable):
                await _code(client, secret)
            assert client.stale_answers.count == 3
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def test_connection_that_grows_old_is_renewed_quietly(
    callers: Callers,
    database_urls: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the ages of connections and streams in tenths of a second, both end several times within the test."""
    assert server.CONNECTION_AGE_GRACE_S > STREAM_LIFE_S
    monkeypatch.setattr(server, "CONNECTION_AGE_MAX_S", 0.3)
    monkeypatch.setattr(server, "CONNECTION_AGE_GRACE_S", 2.5)
    monkeypatch.setattr(Watchers.__init__, "__defaults__", (0.5,))
    caplog.set_level(logging.WARNING)
    async with (
        open_identity(callers, database_urls["identity"], tmp_path) as identity,
        _client_of(callers, identity, stale_max_s=0) as client,
    ):
        watching = asyncio.create_task(client.watch())
        for _ in range(5):
            created = await identity.create_key()
            await _told(client, created.revision)
            await asyncio.sleep(1)
        broken = [record.getMessage() for record in caplog.records if "stream of key changes" in record.getMessage()]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    assert broken == []
