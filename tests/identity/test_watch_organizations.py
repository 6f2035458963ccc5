"""WatchOrganizations: every organization is told, each change within a second, and none is missed."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import grpc
import pytest
from sqlalchemy import text

from libs.common import streams as streams_module
from libs.common.database import Database
from libs.common.database_url import plain_url
from libs.common.databases import create_database, drop_database
from libs.common.errors import TooManyWatchers, Unavailable
from libs.common.ids import new_id
from libs.common.migrate import migrate
from libs.common.sharding import SERVICES
from libs.common.status import reason_of
from services.identity.organization.watch import feed as feed_module
from services.identity.organization.watch import store
from services.identity.organization.watch.feed import OrganizationFeed, OrganizationNews
from tests.identity.conftest import OpenIdentity
from tests.identity.support import Identity
from tests.support.database import TestPostgres, new_database_name
from tollhouse.identity.v1 import organization_pb2 as pb
from tollhouse.identity.v1 import user_pb2

Stream = AsyncIterator[pb.WatchOrganizationsResponse]
PATIENCE_S = 10
_INSERT = text(
    "INSERT INTO identity.organizations (organization_id, name, create_time, update_time)"
    " SELECT CAST(id AS uuid), '', now(), now() FROM unnest(CAST(:ids AS text[])) id"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed looks often, for tests that wait for it again and again and measure no time."""
    monkeypatch.setattr(feed_module, "_ROUND_S", 0.05)
    monkeypatch.setattr(feed_module, "_HEARTBEAT_S", 0.1)


def _watch(identity: Identity, after_revision: int = 0) -> Stream:
    request = pb.WatchOrganizationsRequest(after_revision=after_revision)
    return aiter(identity.organizations.WatchOrganizations(request, metadata=identity.metadata, timeout=20))


async def _told(stream: Stream, exist: set[str], deleted: set[str] = frozenset()) -> list[pb.WatchedOrganization]:  # type: ignore[assignment]
    """Return what is told until these organizations are told to exist and those to be deleted."""
    told: list[pb.WatchedOrganization] = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in stream:
            told += message.organizations
            now = {one.organization_id: one.HasField("delete_time") for one in told}
            if exist <= now.keys() and all(now.get(id_) for id_ in deleted):
                return told
    raise AssertionError("the stream ended")


async def _delete(identity: Identity, organization_id: str) -> None:
    request = pb.DeleteOrganizationRequest(organization_id=organization_id)
    await identity.organizations.DeleteOrganization(request, metadata=identity.metadata)


async def _delete_user(identity: Identity, user_id: str) -> None:
    await identity.users.DeleteUser(user_pb2.DeleteUserRequest(user_id=user_id), metadata=identity.metadata)


async def _newest(identity: Identity) -> int:
    """Return the newest revision, once everything that exists has one."""
    stream = _watch(identity)
    revision = -1
    async for message in stream:
        if message.revision == revision:
            return revision
        revision = message.revision
    raise AssertionError("the stream ended")


@pytest.mark.own_database
@pytest.mark.usefixtures("quick")
async def test_stream_from_the_beginning_tells_every_organization_as_it_is(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "ENTRIES_AT_ONCE", 2)
    ada, gone = await identity.create_user(), await identity.create_user()
    shared, _ = await identity.create_organization(ada.user_id)
    deleted, _ = await identity.create_organization(ada.user_id)
    await _delete(identity, deleted)
    await _delete_user(identity, gone.user_id)
    mine, theirs = ada.personal_organization_id, gone.personal_organization_id
    all_ids = {mine, theirs, shared, deleted}
    # Whatever was told of them before they were deleted is out of the way.
    await _told(_watch(identity), all_ids, {theirs, deleted})

    told = await _told(_watch(identity), all_ids, {theirs, deleted})

    assert [one.revision for one in told] == sorted({one.revision for one in told})
    assert {one.organization_id: (one.personal, one.owner_user_id, one.HasField("delete_time")) for one in told} == {
        mine: (True, ada.user_id, False),
        theirs: (True, gone.user_id, True),
        shared: (False, "", False),
        deleted: (False, "", True),
    }
    assert all(one.HasField("create_time") for one in told)


@pytest.mark.own_database
async def test_creations_and_deletions_are_told_within_a_second(start_identity: OpenIdentity) -> None:
    here, there = await start_identity(), await start_identity()
    streams = [_watch(here), _watch(there)]
    for stream in streams:
        await anext(stream)
    loop = asyncio.get_running_loop()

    ada = await here.create_user()
    shared, _ = await here.create_organization(ada.user_id)
    began_s = loop.time()
    for stream in streams:
        await _told(stream, {ada.personal_organization_id, shared})
    assert loop.time() - began_s < 3  # The promised second, and two for what else the machine does.
    await _delete(there, shared)
    began_s = loop.time()
    for stream in streams:
        (told,) = await _told(stream, set(), {shared})
        assert told.organization_id == shared
    assert loop.time() - began_s < 3
    assert 2 * feed_module._ROUND_S < 1, "one process numbers, and another finds the number"


@pytest.mark.own_database
async def test_heartbeat_comes_every_second_without_changes(identity: Identity) -> None:
    stream = _watch(identity)
    messages = [await anext(stream), await anext(stream)]
    async with asyncio.timeout(PATIENCE_S):
        messages.append(await anext(stream))

    assert messages == [pb.WatchOrganizationsResponse()] * 3


@pytest.mark.own_database
@pytest.mark.usefixtures("quick")
async def test_watch_goes_on_after_any_revision_with_what_is_new_alone(start_identity: OpenIdentity) -> None:
    here, there = await start_identity(), await start_identity()
    before, _ = await here.create_organization()
    told = await _told(_watch(here), {before})
    seen = max(one.revision for one in told)
    made = {(await here.create_user()).personal_organization_id for _ in range(3)}

    later = await _told(_watch(there, seen), made)

    assert {one.organization_id for one in later} == made
    assert all(one.revision > seen for one in later)


@pytest.mark.usefixtures("quick")
async def test_organization_is_told_again_after_a_change(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    revision = await _newest(identity)
    request = pb.UpdateOrganizationRequest(organization_id=organization_id, name="Other")
    request.update_mask.paths.append("name")
    await identity.organizations.UpdateOrganization(request, metadata=identity.metadata)

    (told,) = await _told(_watch(identity, revision), {organization_id})

    assert told.revision > revision
    of_all = await _told(_watch(identity), {organization_id})
    assert [one for one in of_all if one.organization_id == organization_id] == [told], "at its latest revision alone"


@pytest.mark.own_database
@pytest.mark.usefixtures("quick")
async def test_many_creations_at_once_are_all_told_to_subscribers_of_two_processes(
    start_identity: OpenIdentity,
) -> None:
    here, there = await start_identity(), await start_identity()
    following = [asyncio.create_task(_all_that_is_told(_watch(process), 60)) for process in (here, there)]

    async def create(process: Identity) -> list[user_pb2.User]:
        return [await process.create_user() for _ in range(6)]

    # No more at a time than the two have connections, so that none waits for one for too long.
    created = await asyncio.gather(*(create(process) for _ in range(5) for process in (here, there)))
    ids = {user.personal_organization_id for users in created for user in users}

    for told in await asyncio.gather(*following):
        revisions = [one.revision for one in told]
        assert revisions == sorted(set(revisions))
        assert {one.organization_id for one in told} == ids


async def _all_that_is_told(stream: Stream, count: int) -> list[pb.WatchedOrganization]:
    told: list[pb.WatchedOrganization] = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in stream:
            told += message.organizations
            if len({one.organization_id for one in told}) >= count:
                break
    return told


@pytest.mark.usefixtures("quick")
async def test_locked_organization_is_told_later_and_delays_no_other(
    identity: Identity, identity_database: Database
) -> None:
    locked, other = sorted([new_id(), new_id()])
    revision = await _newest(identity)
    async with identity_database.transaction() as tx:
        await tx.execute(_INSERT, {"ids": [locked]})
    stream = _watch(identity, revision)
    await _told(stream, {locked})
    async with identity_database.transaction() as tx:
        await tx.execute(
            text("UPDATE identity.organizations SET version = version + 1 WHERE organization_id = :id"), {"id": locked}
        )
        async with identity_database.transaction() as beside:
            await beside.execute(_INSERT, {"ids": [other]})
        assert [one.organization_id for one in await _told(stream, {other})] == [other]
    assert [one.organization_id for one in await _told(stream, {locked})] == [locked]


@pytest.mark.usefixtures("quick")
async def test_what_the_version_before_writes_is_told(identity: Identity, identity_database: Database) -> None:
    """It knows nothing of the feed: it leaves the columns as they are, and increments the version."""
    id_ = new_id()
    stream = _watch(identity)
    await anext(stream)
    async with identity_database.transaction() as tx:
        await tx.execute(_INSERT, {"ids": [id_]})
    (created,) = await _told(stream, {id_})
    async with identity_database.transaction() as tx:
        await tx.execute(
            text(
                "UPDATE identity.organizations SET delete_time = now(), version = version + 1"
                " WHERE organization_id = :id"
            ),
            {"id": id_},
        )
    (deleted,) = await _told(stream, set(), {id_})

    assert deleted.revision > created.revision


@pytest.mark.usefixtures("quick")
async def test_subscriber_that_knows_more_than_there_is_gets_everything_again(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    revision = await _newest(identity)
    stream = _watch(identity, 2**63 - 1)

    first, second = await anext(stream), await anext(stream)

    assert first.resync
    assert first.revision == revision
    assert organization_id in {one.organization_id for one in first.organizations}
    assert second == pb.WatchOrganizationsResponse(revision=revision)


async def test_more_watchers_than_allowed_are_refused_and_all_end_when_the_process_stops(
    identity_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "_FIRST_NEWS_WITHIN_S", 0.05)
    feed = OrganizationFeed(identity_database, watchers_max=1)
    with pytest.raises(Unavailable):
        await anext(feed.watch(0))  # It has not looked at the database yet.
    await feed.catch_up()
    stream = feed.watch(0)
    await anext(stream)
    with pytest.raises(TooManyWatchers):
        await anext(feed.watch(0))
    await feed.close()
    with pytest.raises(Unavailable):
        await anext(stream)
    with pytest.raises(Unavailable):
        await anext(feed.watch(0))


@pytest.mark.own_database
async def test_stopping_server_ends_its_streams(start_identity: OpenIdentity) -> None:
    identity = await start_identity()
    stream = _watch(identity)
    await anext(stream)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await identity.service.stop(grace_s=10)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await _told(stream, {new_id()})

    assert (ended.value.code(), reason_of(ended.value)) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert loop.time() - began_s < 5


async def test_stream_ends_by_itself_and_the_next_one_goes_on_where_it_ended(
    identity_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "ENTRIES_AT_ONCE", 2)
    ids = [new_id() for _ in range(5)]
    async with identity_database.transaction() as tx:
        await tx.execute(_INSERT, {"ids": ids})
    feed = OrganizationFeed(identity_database, watchers_max=1, stream_life_s=0)
    await feed.catch_up()
    told: list[OrganizationNews] = []
    for _ in range(2):
        async with asyncio.timeout(5):
            news = [one async for one in feed.watch(told[-1].revision if told else 0)]
        assert len(news) == 1, "it ended after the first message"
        told += news
    told.append(await anext(feed.watch(told[-1].revision)))

    assert [entry.organization_id for news in told for entry in news.entries] == sorted(ids)


async def test_rounds_and_pages_go_along_the_indexes_of_the_feed(
    identity_database: Database, database_admin_url: str
) -> None:
    async with identity_database.transaction() as tx:
        await tx.execute(_INSERT, {"ids": [new_id() for _ in range(3_000)]})
    feed = OrganizationFeed(identity_database, watchers_max=1)
    await feed.catch_up()
    connection = await asyncpg.connect(plain_url(database_admin_url))
    await connection.execute("VACUUM ANALYZE identity.organizations")
    plans = [
        await connection.fetch(f"EXPLAIN {statement.replace('$1', '2000').replace('$2', '500')}")
        for statement in (store._LOOK, store._NUMBER, store._READ)
    ]
    await connection.close()

    look, number, read = ("\n".join(line[0] for line in plan) for plan in plans)
    assert "Seq Scan on organizations" not in look + read
    for plan, index in ((look, "not_in_feed"), (look, "by_feed_revision"), (number, "not_in_feed")):
        assert f"using organizations_{index}" in plan
    assert read.count("using organizations_by_feed_revision") == 2


async def test_organizations_from_before_get_their_revisions_by_the_migration(
    postgres: TestPostgres, tmp_path: Path
) -> None:
    folder = tmp_path / "identity" / "migrations"
    folder.mkdir(parents=True)
    for path in (SERVICES / "identity" / "migrations").glob("*.py"):
        if path.name < "0011":
            shutil.copy(path, folder)
    name = new_database_name()
    url = await create_database(postgres.admin_url, name)
    try:
        await migrate("identity", url, services=tmp_path)
        connection = await asyncpg.connect(plain_url(url))
        # More than two batches.
        await connection.execute(
            "INSERT INTO identity.organizations (organization_id, name, create_time, update_time, delete_time, version)"
            " SELECT gen_random_uuid(), '', now(), now(), CASE WHEN n % 3 = 0 THEN now() END, n"
            " FROM generate_series(1, 4500) n"
        )
        await migrate("identity", url)
        places = await connection.fetch("SELECT feed_revision FROM identity.organizations ORDER BY organization_id")
        unnumbered = await connection.fetchval(
            "SELECT count(*) FROM identity.organizations WHERE feed_version IS DISTINCT FROM version"
        )
        await connection.close()
    finally:
        await drop_database(postgres.admin_url, name)

    assert [row["feed_revision"] for row in places] == list(range(1, 4501))
    assert unnumbered == 0
