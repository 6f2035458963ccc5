"""The revisions at which entitlements change."""

import asyncio

import pytest

from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing.subscription.entitlement_store import touch_entitlements

pytestmark = pytest.mark.shards


async def _revisions(database: Database) -> tuple[int, dict[str, int]]:
    async with database.raw_connection() as connection:
        counter = await connection.fetchval("SELECT revision FROM entitlement_counter")
        rows = await connection.fetch("SELECT organization_id::text, revision FROM entitlement_revisions")
    return counter, {row["organization_id"]: row["revision"] for row in rows}


def _organizations(shards: Shards, database: Database, count: int) -> list[str]:
    """Ids of organizations that are in one shard."""
    found: list[str] = []
    while len(found) < count:
        organization_id = new_id()
        if shards.of(organization_id) is database:
            found.append(organization_id)
    return sorted(found)


async def test_each_touched_organization_gets_the_next_revision_over_both_interfaces(billing_shards: Shards) -> None:
    for database in billing_shards:
        first, second, third = _organizations(billing_shards, database, 3)
        async with database.transaction() as tx:
            await touch_entitlements(tx, [second, first.upper(), first])
        assert await _revisions(database) == (2, {first: 1, second: 2})
        async with database.raw_transaction() as raw:
            await touch_entitlements(raw, [first, third])
        assert await _revisions(database) == (4, {first: 3, second: 2, third: 4})
        async with database.transaction() as tx:
            await touch_entitlements(tx, [])
        assert (await _revisions(database))[0] == 4


async def test_a_transaction_that_fails_leaves_no_revision(billing_shards: Shards) -> None:
    database = billing_shards[0]
    (organization_id,) = _organizations(billing_shards, database, 1)

    async def fail() -> None:
        async with database.transaction() as tx:
            await touch_entitlements(tx, [organization_id])
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await _revisions(database) == (0, {})


async def test_concurrent_changes_each_get_revisions_of_their_own(billing_shards: Shards) -> None:
    database = billing_shards[0]
    organizations = _organizations(billing_shards, database, 12)

    async def touch(number: int) -> None:
        touched = [organizations[(number + step) % 12] for step in range(5)]
        if number % 2:
            async with database.raw_transaction() as raw:
                await touch_entitlements(raw, touched)
        else:
            async with database.transaction() as tx:
                await touch_entitlements(tx, touched)

    await asyncio.gather(*(touch(number) for number in range(30)))
    counter, revisions = await _revisions(database)
    assert counter == 150
    assert sorted(revisions) == organizations
    assert len(set(revisions.values())) == 12
    assert max(revisions.values()) == 150
