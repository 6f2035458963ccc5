"""WatchEntitlements: every change is told within a second, once, in any number of shards, and after any gap."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest

from libs.common.database import Database, RawConnection
from libs.common.errors import Unavailable
from libs.common.shards import Shards
from services.billing.subscription import entitlement_feed as feed_module
from services.billing.subscription import entitlement_store as store
from services.billing.subscription.domain import Subject
from services.billing.subscription.entitlement_position import Position, read_position
from tests.billing.entitlement_calls import entitlements, override, plan_that_says, said, set_override
from tests.billing.plan_calls import archived, found
from tests.billing.subscriptions import put, subscription
from tests.billing.support import BillingServer, Ledger, organization, refusal
from tests.support.sharded import shard_count
from tollhouse.billing.v1 import subscription_pb2 as pb

pytestmark = pytest.mark.shards

Stream = AsyncIterator[pb.WatchEntitlementsResponse]


@pytest.fixture
async def ledger(server: BillingServer) -> AsyncIterator[Ledger]:
    """Billing. Some subscriptions here have no period, which its checks would find."""
    async with server.start() as ledger:
        yield ledger


def watch(ledger: Ledger, revision: str = "") -> Stream:
    request = pb.WatchEntitlementsRequest(revision=revision)
    return aiter(ledger.subscriptions.WatchEntitlements(request, metadata=ledger.metadata, timeout=30))


async def told(stream: Stream, *wanted: str) -> pb.WatchEntitlementsResponse:
    """Read until all the organizations have been told; return the last message. Others are told by none."""
    missing = set(wanted)
    while True:
        message = await anext(stream)
        assert not message.resync
        assert set(message.organization_ids) <= set(wanted)
        missing -= set(message.organization_ids)
        if not missing:
            return message


async def touch(shards: Shards, organization_ids: Sequence[str]) -> None:
    """Let the entitlements of organizations change, those of each shard at once."""
    for number, database in enumerate(shards):
        inside = [one for one in organization_ids if shards.number_of(one) == number]
        async with database.raw_transaction() as connection:
            await store.touch_entitlements(connection, inside)


async def test_a_change_of_any_kind_is_told_within_a_second(ledger: Ledger, billing_shards: Shards) -> None:
    org, other = organization(), organization()
    plan = await plan_that_says(ledger, "ours", said("a", "ours"))
    stream = watch(ledger)
    assert not (await anext(stream)).organization_ids
    async with asyncio.timeout(1):
        await set_override(ledger, override(org))
        await told(stream, org)
    async with asyncio.timeout(1):
        await put(billing_shards, subscription(Subject.ORGANIZATION, organization_id=other, plan=plan))
        await told(stream, other)


@pytest.mark.own_database
async def test_heartbeats_come_every_second_with_the_same_revision(ledger: Ledger) -> None:
    stream = watch(ledger)
    async with asyncio.timeout(4):
        messages = [await anext(stream) for _ in range(4)]
    assert {message.revision for message in messages} == {messages[0].revision}
    assert not any(message.organization_ids or message.resync for message in messages)


async def test_a_stream_resumes_after_a_gap_also_at_another_process(
    server: BillingServer, ledger: Ledger, billing_shards: Shards
) -> None:
    organizations = [organization() for _ in range(12)]
    first = await anext(watch(ledger))
    await touch(billing_shards, organizations)
    await touch(billing_shards, organizations[:3])
    last = await told(watch(ledger, first.revision), *organizations)
    async with server.start() as second:
        assert (await told(watch(second, first.revision), *organizations)).revision == last.revision
        again = await anext(watch(second, last.revision))
        assert (list(again.organization_ids), again.revision, again.resync) == ([], last.revision, False)


async def test_the_revision_of_an_answer_tells_of_its_organization_from_then_on(
    ledger: Ledger, billing_shards: Shards
) -> None:
    org = organization()
    revision = (await entitlements(ledger, org)).revision
    await touch(billing_shards, [org])
    await told(watch(ledger, revision), org)
    stream = watch(ledger, (await entitlements(ledger, org)).revision)
    assert not [one for _ in range(2) for one in (await anext(stream)).organization_ids]


async def test_many_changes_are_told_in_messages_of_a_bounded_size(
    ledger: Ledger, billing_shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "ORGANIZATIONS_AT_ONCE", 3)
    organizations = [organization() for _ in range(20)]
    first = await anext(watch(ledger))
    await touch(billing_shards, organizations)
    stream, seen = watch(ledger, first.revision), list[str]()
    while len(seen) < 20:
        message = await anext(stream)
        assert len(message.organization_ids) <= 3
        seen += message.organization_ids
        # Whoever is cut off here goes on without a gap.
        stream = watch(ledger, message.revision)
    assert sorted(seen) == sorted(organizations)


async def test_a_subscriber_that_reads_slowly_is_told_of_each_organization_once(
    ledger: Ledger, billing_shards: Shards
) -> None:
    organizations = [organization() for _ in range(10)]
    stream = watch(ledger)
    await anext(stream)
    for _ in range(5):
        await touch(billing_shards, organizations)
        await asyncio.sleep(0.2)
    newest = await told(stream, *organizations)
    while True:
        message = await anext(stream)
        if not message.organization_ids:
            break
        newest = message
    position = read_position(newest.revision)
    assert position is not None
    assert sum(revision or 0 for revision in position.revisions) == 50


@pytest.mark.own_database
@pytest.mark.parametrize("revision", ["nonsense", "AQAA", str(Position(0, (10**6,) * 256)), str(Position(7, (0,)))])
async def test_a_revision_that_was_never_given_makes_the_subscriber_start_over(ledger: Ledger, revision: str) -> None:
    stream = watch(ledger, revision)
    first = await anext(stream)
    assert first.resync
    assert not (await anext(stream)).resync
    resumed = await anext(watch(ledger, first.revision))
    assert (resumed.resync, resumed.revision) == (False, first.revision)


@pytest.mark.own_database
async def test_a_revision_that_is_ahead_of_the_database_makes_the_subscriber_start_over(ledger: Ledger) -> None:
    ahead = Position(0, (None,) * (shard_count() - 1) + (1,))
    assert (await anext(watch(ledger, str(ahead)))).resync
    level = Position(0, (None,) * (shard_count() - 1) + (0,))
    assert not (await anext(watch(ledger, str(level)))).resync


@pytest.mark.own_database
async def test_a_new_default_makes_everybody_start_over_also_after_a_gap(ledger: Ledger) -> None:
    stream = watch(ledger)
    before = await anext(stream)
    async with asyncio.timeout(2):
        await plan_that_says(ledger, "default", said("a", "default"))
        while not (message := await anext(stream)).resync:
            pass
    assert (await anext(watch(ledger, before.revision))).resync
    assert not (await anext(watch(ledger, message.revision))).resync
    await archived(ledger, await found(ledger, "default"))
    async with asyncio.timeout(2):
        while not (await anext(stream)).resync:
            pass


@pytest.mark.own_database
async def test_a_process_serves_a_bounded_number_of_streams(server: BillingServer) -> None:
    async with server.start(watchers_max=1) as ledger:
        stream = watch(ledger)
        await anext(stream)
        code, reason, facts = await refusal(anext(watch(ledger)))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "TOO_MANY_WATCHERS")
        assert facts["watchers"] == "1"


async def test_a_stream_ends_after_its_time(billing_shards: Shards, platform: Database) -> None:
    feed = feed_module.EntitlementFeed(platform, billing_shards, 1, stream_life_s=0.3)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(feed.run())
        assert [one async for one in feed.watch("")]
        assert [one async for one in feed.watch("")]
        running.cancel()


async def test_a_shard_that_cannot_be_read_makes_subscribers_start_over_and_stops_no_other_news(
    billing_shards: Shards, platform: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = feed_module.EntitlementFeed(platform, billing_shards, 1)
    org = organization()
    read, broken = store.read_changed, [True]

    async def read_or_fail(connection: RawConnection, after: int, limit: int) -> tuple[int, list[tuple[str, int]]]:
        if broken[0]:
            raise Unavailable(dependency="database")
        return await read(connection, after, limit)

    monkeypatch.setattr(store, "read_changed", read_or_fail)
    async with asyncio.TaskGroup() as group, asyncio.timeout(5):
        running = group.create_task(feed.run())
        stream = feed.watch("")
        await anext(stream)
        await touch(billing_shards, [org])
        while not (await anext(stream)).resync:
            pass
        broken[0] = False
        await touch(billing_shards, [org])
        while org not in (await anext(stream)).organization_ids:
            pass
        running.cancel()


async def test_a_database_that_was_set_back_makes_subscribers_start_over(
    ledger: Ledger, billing_shards: Shards
) -> None:
    org = organization()
    stream = watch(ledger)
    await anext(stream)
    await touch(billing_shards, [org])
    await told(stream, org)
    async with billing_shards.of(org).raw_transaction() as connection:
        await connection.execute("UPDATE entitlement_counter SET revision = 0")
    async with asyncio.timeout(3):
        while not (await anext(stream)).resync:
            pass


async def test_streams_end_when_the_process_stops(billing_shards: Shards, platform: Database) -> None:
    feed = feed_module.EntitlementFeed(platform, billing_shards, 1)
    async with asyncio.TaskGroup() as group, asyncio.timeout(5):
        running = group.create_task(feed.run())
        stream = feed.watch("")
        await anext(stream)
        await feed.close()
        with pytest.raises(Unavailable):
            await anext(stream)
        with pytest.raises(Unavailable):
            await anext(feed.watch(""))
        running.cancel()
