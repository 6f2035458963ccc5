"""VerifyApiKey: every code, the cache, and stale answers that must never be given."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text

from libs.common.clock import SystemClock
from libs.common.database import Database
from libs.common.status import reason_of
from services.identity.api_key.domain import Verdict
from services.identity.api_key.secret import Peppers, new_secret
from services.identity.api_key.verify.cache import Entry, KeyCache
from services.identity.api_key.verify.last_used import LastUsed
from services.identity.api_key.verify.prefixes import ImportedPrefixes
from services.identity.api_key.verify.reader import KeyReader, Reading
from services.identity.api_key.verify.verification import Verifier
from services.identity.api_key.watch.feed import ChangeFeed
from tests.identity.conftest import OpenIdentity
from tests.identity.support import PEPPERS, Identity, open_identity
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import organization_pb2, user_pb2

Stop = Callable[[Identity, pb.ApiKey], Awaitable[int]]


async def _revoke(identity: Identity, key: pb.ApiKey) -> int:
    return await identity.revoke(key)


async def _disable(identity: Identity, key: pb.ApiKey) -> int:
    request = pb.DisableApiKeyRequest(organization_id=key.organization_id, api_key_id=key.api_key_id)
    return (await identity.api_keys.DisableApiKey(request, metadata=identity.metadata)).revision


async def _deactivate_owner(identity: Identity, key: pb.ApiKey) -> int:
    request = user_pb2.DeactivateUserRequest(user_id=key.user_id)
    return (await identity.users.DeactivateUser(request, metadata=identity.metadata)).revision


async def _remove_member(identity: Identity, key: pb.ApiKey) -> int:
    other = await identity.create_user()
    await identity.organizations.AddMember(
        organization_pb2.AddMemberRequest(
            organization_id=key.organization_id, user_id=other.user_id, role=organization_pb2.MEMBER_ROLE_OWNER
        ),
        metadata=identity.metadata,
    )
    removed = await identity.organizations.RemoveMember(
        organization_pb2.RemoveMemberRequest(organization_id=key.organization_id, user_id=key.user_id),
        metadata=identity.metadata,
    )
    assert removed.revoked_api_keys == 1
    return removed.revision


STOPS = [
    pytest.param(_revoke, "REVOKED", id="revoked"),
    pytest.param(_disable, "DISABLED", id="disabled"),
    pytest.param(_deactivate_owner, "OWNER_INACTIVE", id="owner deactivated"),
    pytest.param(_remove_member, "REVOKED", id="member removed"),
]


@pytest.mark.parametrize(("stop", "code"), STOPS)
async def test_stopped_key_is_refused_at_once_with_min_revision(identity: Identity, stop: Stop, code: str) -> None:
    created = await identity.create_key()
    assert await identity.code(created.secret) == "VALID"

    revision = await stop(identity, created.api_key)

    answer = await identity.verify(created.secret, min_revision=revision)
    assert pb.VerifyApiKeyCode.Name(answer.code) == f"VERIFY_API_KEY_CODE_{code}"
    assert answer.revision >= revision
    assert answer.api_key_id == created.api_key.api_key_id
    assert not answer.HasField("principal")
    assert await identity.code(created.secret) == code


@pytest.mark.parametrize(("stop", "code"), STOPS)
async def test_stop_on_one_process_is_pushed_to_another_within_a_second(
    start_identity: OpenIdentity, stop: Stop, code: str
) -> None:
    here, there = await start_identity(), await start_identity()
    created = await here.create_key()
    assert await there.code(created.secret) == "VALID"

    await stop(here, created.api_key)

    began_s = time.monotonic()
    while await there.code(created.secret) != code:
        assert time.monotonic() - began_s < 1
        await asyncio.sleep(0.005)


async def test_scopes_and_models_are_decided_on_every_call(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    secret = (
        await identity.create_key(
            pb.CreateApiKeyRequest(
                organization_id=organization_id,
                user_id=owner,
                scopes=["usage:write"],
                allowed_models=["gpt-4o", "anthropic/*"],
            )
        )
    ).secret

    assert await identity.code(secret, scopes=("usage:write",), model="gpt-4o") == "VALID"
    assert await identity.code(secret, model="anthropic/claude-sonnet-4") == "VALID"
    assert await identity.code(secret, scopes=("usage:write", "admin")) == "INSUFFICIENT_SCOPE"
    assert await identity.code(secret, model="gpt-4o-mini") == "MODEL_NOT_ALLOWED"
    assert await identity.code(secret, scopes=("admin",), model="gpt-4o-mini") == "INSUFFICIENT_SCOPE"


async def test_models_of_any_name_are_allowed_by_name_and_by_their_beginning(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    request = pb.CreateApiKeyRequest(
        organization_id=organization_id,
        user_id=owner,
        allowed_models=["@cf/*", "~anthropic/claude-x", "models/gemini=1", "accounts/a#deployments/d"],
    )
    secret = (await identity.create_key(request)).secret

    for model in (
        "@cf/meta/llama-3.1-8b-instruct",
        "~anthropic/claude-x",
        "models/gemini=1",
        "accounts/a#deployments/d",
    ):
        assert await identity.code(secret, model=model) == "VALID"
    assert await identity.code(secret, model="accounts/a#deployments/e") == "MODEL_NOT_ALLOWED"


async def test_key_expires_on_time_although_it_is_remembered(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    clock = FixedClock(datetime.now(UTC))
    async with open_identity(callers, database_urls["identity"], tmp_path, clock=clock) as identity:
        organization_id, owner = await identity.create_organization()
        request = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=owner)
        request.expire_time.FromDatetime(clock.now() + timedelta(minutes=1))
        secret = (await identity.create_key(request)).secret
        assert await identity.code(secret) == "VALID"
        clock.advance(timedelta(seconds=59))
        assert await identity.code(secret) == "VALID"
        clock.advance(timedelta(seconds=1))
        assert await identity.code(secret) == "EXPIRED"


async def test_unknown_secret_is_not_found(identity: Identity) -> None:
    assert await identity.code(new_secret(live=True)) == "NOT_FOUND"


async def test_min_revision_ahead_of_every_change_is_refused(identity: Identity) -> None:
    created = await identity.create_key()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.verify(created.secret, min_revision=created.revision + 1_000)

    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "REVISION_NOT_REACHED"


async def test_older_pepper_still_recognises_its_keys(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    url = database_urls["identity"]
    async with open_identity(callers, url, tmp_path) as before:
        old = await before.create_key()
    rotated = {**PEPPERS, "2": "22" * 32}
    async with open_identity(callers, url, tmp_path, peppers=rotated) as after:
        new = await after.create_key()
        assert await after.code(old.secret) == "VALID"
        assert await after.code(new.secret) == "VALID"
    async with open_identity(callers, url, tmp_path, peppers={"2": rotated["2"]}) as last:
        assert await last.code(old.secret) == "NOT_FOUND"
        assert await last.code(new.secret) == "VALID"


async def test_flood_of_malformed_secrets_never_reaches_the_database(
    identity: Identity, identity_database: Database
) -> None:
    good = new_secret(live=True)
    floods = [good[:-1] + ("0" if good[-1] != "0" else "1"), good[:-1], "th_live_", "x" * 256, good.upper()]

    async def looked_at() -> int:
        async with identity_database.transaction() as tx:
            await tx.execute(text("SELECT pg_stat_force_next_flush()"))
            statement = text(
                "SELECT coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0) FROM pg_stat_user_tables "
                "WHERE schemaname = 'identity' AND relname = 'api_keys'"
            )
            return int((await tx.execute(statement)).scalar_one())

    before = await looked_at()
    for number in range(300):
        assert await identity.code(floods[number % len(floods)]) == "NOT_FOUND"
    # The counts of another session reach the statistics view about a second after its work.
    await asyncio.sleep(1.2)
    # A worker looks now and then for keys that expire soon.
    assert await looked_at() - before < 10

    # A new session holds its counts back for a second, and reports them with its next statement.
    for _ in range(20):
        assert await identity.code(new_secret(live=True)) == "NOT_FOUND"
    await asyncio.sleep(1.2)
    assert await identity.code(good) == "NOT_FOUND"
    await asyncio.sleep(1.2)
    assert await looked_at() - before >= 20


async def test_concurrent_first_uses_of_a_key_all_succeed(identity: Identity) -> None:
    created = [await identity.create_key() for _ in range(3)]

    answers = await asyncio.gather(*(identity.code(created[n % 3].secret) for n in range(90)))

    assert set(answers) == {"VALID"}


class _HeldReader(KeyReader):
    """A reader whose first answer is held back until the test lets it go."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.has_read, self.let_go = asyncio.Event(), asyncio.Event()

    async def read(self, digests: tuple[bytes, ...]) -> Reading:
        reading = await super().read(digests)
        if not self.has_read.is_set():
            self.has_read.set()
            await self.let_go.wait()
        return reading


class _UnfencedCache(KeyCache[bytes]):
    """A cache without the check whether a read was overtaken by a change."""

    def overtaken(self, entry: Entry[bytes]) -> bool:
        return False


async def _verdicts_when_a_revocation_passes_a_read(
    identity: Identity, database: Database, cache: KeyCache[bytes]
) -> tuple[Verdict, Verdict]:
    """Delay a read until the feed has announced a revocation that it has not seen; return its answer and the next."""
    created = await identity.create_key()
    reader = _HeldReader(database)
    verifier = Verifier(
        peppers=Peppers({1: bytes.fromhex(PEPPERS["1"])}),
        cache=cache,
        reader=reader,
        last_used=LastUsed(database, 60),
        clock=SystemClock(),
        prepare=lambda record, revision: b"",
        prefixes=ImportedPrefixes(),
    )
    feed = ChangeFeed(database, [cache])
    async with database.raw_connection() as connection:
        await feed.catch_up(connection)

    under_way = asyncio.create_task(verifier.verify(created.secret, (), "", 0))
    await reader.has_read.wait()
    await identity.revoke(created.api_key)
    async with database.raw_connection() as connection:
        await feed.catch_up(connection)
    reader.let_go.set()

    return (await under_way)[0], (await verifier.verify(created.secret, (), "", 0))[0]


async def test_read_overtaken_by_a_pushed_revocation_is_neither_kept_nor_answered(
    identity: Identity, identity_database: Database
) -> None:
    verdicts = await _verdicts_when_a_revocation_passes_a_read(identity, identity_database, KeyCache(10))

    assert verdicts == (Verdict.REVOKED, Verdict.REVOKED)


async def test_without_the_fence_the_same_read_would_be_kept_and_answered(
    identity: Identity, identity_database: Database
) -> None:
    verdicts = await _verdicts_when_a_revocation_passes_a_read(identity, identity_database, _UnfencedCache(10))

    assert verdicts == (Verdict.VALID, Verdict.VALID)
