"""WatchApiKeys: no change is missed, even after lost connections."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from libs.common.database import Database
from libs.common.errors import TooManyWatchers, Unavailable
from libs.common.status import reason_of
from services.identity.api_key.watch import watch as watch_module
from services.identity.api_key.watch.watch import Watchers
from services.identity.revisions import Change, ChangeKind, SubjectType
from tests.identity.conftest import OpenIdentity
from tests.identity.support import Identity, changes_until
from tollhouse.identity.v1 import api_key_pb2 as pb


def _watch(identity: Identity, after_revision: int) -> AsyncIterator[pb.WatchApiKeysResponse]:
    request = pb.WatchApiKeysRequest(after_revision=after_revision)
    return aiter(identity.api_keys.WatchApiKeys(request, metadata=identity.metadata, timeout=20))


async def test_watch_from_now_tells_the_revision_then_every_change(identity: Identity) -> None:
    created = await identity.create_key()
    stream = _watch(identity, 0)
    first = await anext(stream)
    revision = await identity.revoke(created.api_key)

    changes = await changes_until(stream, revision)

    assert first.revision <= created.revision
    assert (changes[-1].revision, changes[-1].kind) == (revision, pb.API_KEY_CHANGE_KIND_REVOKED)
    assert changes[-1].api_key_id == created.api_key.api_key_id
    assert changes[-1].organization_id == created.api_key.organization_id


async def test_update_and_rotation_are_told_by_their_kinds(identity: Identity) -> None:
    created = await identity.create_key()
    key = created.api_key
    update = pb.UpdateApiKeyRequest(
        organization_id=key.organization_id,
        api_key_id=key.api_key_id,
        update_mask=FieldMask(paths=["name"]),
        name="second",
    )
    await identity.api_keys.UpdateApiKey(update, metadata=identity.metadata)
    rotate = pb.RotateApiKeyRequest(organization_id=key.organization_id, api_key_id=key.api_key_id)
    rotated = await identity.api_keys.RotateApiKey(rotate, metadata=identity.metadata)

    changes = await changes_until(_watch(identity, created.revision), rotated.revision)

    assert [(change.kind, change.api_key_id) for change in changes] == [
        (pb.API_KEY_CHANGE_KIND_UPDATED, created.api_key.api_key_id),
        (pb.API_KEY_CHANGE_KIND_CREATED, rotated.api_key.api_key_id),
        (pb.API_KEY_CHANGE_KIND_ROTATED, created.api_key.api_key_id),
    ]


async def test_heartbeat_comes_without_changes(identity: Identity) -> None:
    stream = _watch(identity, 0)
    async with asyncio.timeout(4):
        first, second, third = await anext(stream), await anext(stream), await anext(stream)

    assert first.revision == second.revision == third.revision
    assert not second.changes
    assert not third.changes


async def test_watch_resumes_after_the_last_revision_without_gap(identity: Identity) -> None:
    created = [await identity.create_key() for _ in range(3)]
    seen = created[0].revision
    revoked = [await identity.revoke(key.api_key) for key in created]

    changes = await changes_until(_watch(identity, seen), revoked[-1])

    assert [change.revision for change in changes] == list(range(seen + 1, revoked[-1] + 1))


@pytest.mark.own_database
async def test_watch_on_another_process_sees_what_this_one_changes(start_identity: OpenIdentity) -> None:
    here, there = await start_identity(), await start_identity()
    created = await here.create_key()
    stream = _watch(there, created.revision)
    revision = await here.revoke(created.api_key)

    async with asyncio.timeout(3):
        changes = await changes_until(stream, revision)

    assert [change.api_key_id for change in changes] == [created.api_key.api_key_id]


async def test_changes_made_while_the_feed_is_cut_are_told_when_it_is_back(
    identity: Identity, database_admin_url: str, identity_database: Database
) -> None:
    created = [await identity.create_key() for _ in range(2)]
    assert await identity.code(created[1].secret) == "VALID"
    stream = _watch(identity, created[-1].revision)
    async with identity_database.transaction() as tx:
        cut = await tx.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user"
            )
        )
        assert len(cut.all()) > 0
    revisions = [await _until_it_works(identity, key.api_key) for key in created]

    async with asyncio.timeout(5):
        changes = await changes_until(stream, revisions[-1])

    assert [change.revision for change in changes] == revisions
    assert await identity.code(created[1].secret) == "REVOKED"


async def _until_it_works(identity: Identity, api_key: pb.ApiKey) -> int:
    async with asyncio.timeout(5):
        while True:
            try:
                return await identity.revoke(api_key)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


async def test_subscriber_behind_what_is_kept_is_told_to_start_over(
    identity: Identity, identity_database: Database
) -> None:
    created = await identity.create_key()
    revision = await identity.revoke(created.api_key)
    async with identity_database.transaction() as tx:
        await tx.execute(text("DELETE FROM identity.key_changes"))
    await asyncio.sleep(1.1)  # Wait for one poll of the feed, so that it has read the newest revision.

    message = await anext(_watch(identity, created.revision - 1))

    assert message.resync
    assert message.revision == revision


async def test_slow_subscriber_is_bounded_and_told_to_start_over(
    identity_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_PENDING_MAX", 10)
    watchers = Watchers(identity_database, watchers_max=1)
    watchers.forget_all(seen_revision=5, confirmed_s=0)
    stream = watchers.watch(0)
    assert (await anext(stream)).revision == 5
    sample = await _any_change(identity_database)
    watchers.note([sample] * 11, seen_revision=16, confirmed_s=0)
    watchers.note([sample], seen_revision=17, confirmed_s=0)

    news = await anext(stream)

    assert (news.resync, news.revision, len(news.changes)) == (True, 17, 1)


async def test_backlog_for_one_organization_says_that_nothing_is_missing_with_its_last_message_alone(
    identity: Identity, identity_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await identity.create_key()
    organization_id = first.api_key.organization_id
    request = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=first.api_key.user_id)
    created = []
    for _ in range(4):
        await identity.create_key()  # In an organization of its own.
        created.append(await identity.create_key(request))
    monkeypatch.setattr(watch_module, "CHANGES_AT_ONCE", 3)
    watchers = Watchers(identity_database, watchers_max=1)
    watchers.forget_all(seen_revision=created[-1].revision, confirmed_s=0)
    stream = watchers.watch(first.revision, organization_id)

    told = [await anext(stream) for _ in range(2)]

    assert [[change.revision for change in news.changes] for news in told] == [
        [one.revision for one in created[:3]],
        [created[3].revision],
    ]
    assert [news.revision for news in told] == [created[2].revision, created[3].revision]
    monkeypatch.setattr(watch_module, "_PENDING_MAX", 3)
    await stream.aclose()  # type: ignore[attr-defined]  # which generators have
    assert (await anext(watchers.watch(first.revision, organization_id))).resync


async def _any_change(database: Database) -> Change:
    async with database.transaction() as tx:
        now = (await tx.execute(text("SELECT now()"))).scalar_one()
    return Change(6, ChangeKind.REVOKED, SubjectType.API_KEY, "key", None, now)


async def test_more_watchers_than_allowed_are_refused(identity_database: Database) -> None:
    watchers = Watchers(identity_database, watchers_max=1)
    watchers.forget_all(seen_revision=5, confirmed_s=0)
    stream = watchers.watch(0)
    await anext(stream)
    with pytest.raises(TooManyWatchers):
        await anext(watchers.watch(0))
    await watchers.close()
    with pytest.raises(Unavailable):
        await anext(stream)


@pytest.mark.own_database
async def test_stopping_server_ends_its_streams(start_identity: OpenIdentity) -> None:
    identity = await start_identity()
    stream = _watch(identity, 0)
    await anext(stream)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await identity.service.stop(grace_s=10)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await changes_until(stream, 2**62)

    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert reason_of(ended.value) == "DEPENDENCY_UNAVAILABLE"
    assert loop.time() - began_s < 5


async def test_subscriber_ahead_of_this_process_is_told_nothing_twice(identity_database: Database) -> None:
    watchers = Watchers(identity_database, watchers_max=1)
    watchers.forget_all(seen_revision=1, confirmed_s=0)
    sample = await _any_change(identity_database)
    async with identity_database.transaction() as tx:
        await tx.execute(text("UPDATE identity.revision_counter SET revision = 6"))
    stream = watchers.watch(6)
    first = asyncio.ensure_future(anext(stream))
    for _ in range(1_000):
        if watchers.count:
            break
        await asyncio.sleep(0.001)
    watchers.note([sample, replace(sample, revision=7)], seen_revision=7, confirmed_s=0)

    assert [change.revision for change in (await first).changes] == [7]


async def test_stream_ends_by_itself_and_the_next_one_goes_on_where_it_ended(
    identity_database: Database,
) -> None:
    watchers = Watchers(identity_database, watchers_max=1, stream_life_s=0.2)
    watchers.forget_all(seen_revision=0, confirmed_s=0)
    told: list[int] = []

    async def follow() -> None:
        told.extend([news.revision async for news in watchers.watch(told[-1] if told else 0)])

    for _ in range(2):
        ending = asyncio.create_task(follow())
        await asyncio.sleep(0.3)
        watchers.note([], seen_revision=0, confirmed_s=0)
        await asyncio.wait_for(ending, 5)

    assert told == [0, 0, 0, 0]
    assert watchers.count == 0
