"""Events of organizations are in their shards, and endpoints of the platform are sent those of all."""

from collections.abc import AsyncIterator

import pytest

from libs.common.database import open_database
from libs.common.events.domain import Status
from libs.common.events.homes import sharded_homes
from libs.common.events.replays import Wanted
from libs.common.ids import new_id
from libs.common.sharding import PLATFORM
from libs.common.shards import ShardedDatabases, Shards
from tests.common.events.receiver import Receiver, receiving
from tests.common.events.support import House
from tests.support.clock import FixedClock

pytestmark = pytest.mark.shards


@pytest.fixture
async def sharded(billing_shards: Shards, database_urls: dict[str, str]) -> AsyncIterator[House]:
    platform = open_database(database_urls["billing"], schema="billing")
    yield House(sharded_homes(ShardedDatabases(platform, billing_shards, billing_shards)), FixedClock())
    await platform.close()


async def test_an_endpoint_of_the_platform_is_sent_the_events_of_every_shard_and_of_none(
    sharded: House, receiver: Receiver
) -> None:
    organizations = [new_id() for _ in range(6)]
    made = await sharded.add_endpoint(PLATFORM, receiver.url)
    async with receiving() as own:
        await sharded.add_endpoint(organizations[0], own.url)
        for owner in (*organizations, PLATFORM):
            await sharded.announce(owner, count=2)
        await sharded.deliver()
        await sharded.deliver()
    sent = [(str(one.event["organizationid"]), str(one.event["sequence"])) for one in receiver.received]
    assert sorted(sent) == sorted((owner, n) for owner in (*organizations, PLATFORM) for n in ("1", "2"))
    assert {str(one.event["organizationid"]) for one in own.received} == {organizations[0]}
    for owner in (*organizations, PLATFORM):
        found = await sharded.deliveries(owner, made.endpoint.endpoint_id)
        assert [(one.sequence, one.status) for one in found] == [(1, Status.DELIVERED), (2, Status.DELIVERED)]
    assert await sharded.findings() == []


async def test_operators_replay_an_organizations_events_to_an_endpoint_of_the_platform(
    sharded: House, receiver: Receiver
) -> None:
    org = new_id()
    await sharded.announce(org, count=3)
    await sharded.deliver()
    made = await sharded.add_endpoint(PLATFORM, receiver.url)
    wanted = Wanted(after=(sharded.clock.now().replace(year=2020), new_id()))
    key = org, made.endpoint.endpoint_id
    done, _ = await sharded.replays.replay(*key, wanted, request_id="", of_platform=True)
    await sharded.deliver()
    assert (done.replayed, len(receiver.received)) == (3, 3)


async def test_that_an_endpoint_of_the_platform_fails_is_noted_where_it_is(sharded: House) -> None:
    made = await sharded.add_endpoint(PLATFORM, "http://127.0.0.1:1/")
    await sharded.announce(new_id())
    await sharded.deliver()
    assert (await sharded.endpoints.get(PLATFORM, made.endpoint.endpoint_id)).failing_since == sharded.clock.now()
