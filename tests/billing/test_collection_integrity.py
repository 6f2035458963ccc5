"""Each kind of damage to what providers collect is found by the invariant that is meant for it."""

from typing import Final

import pytest

from tests.billing.collecting_house import open_collecting
from tests.support.sharded import execute_in_shards

pytestmark = pytest.mark.shards

# Damage, what is found for it, and what repairs it.
BROKEN: Final = (
    (
        "period_payments SET operation_id = 'x' || operation_id",
        "period_payments_pay_their_subscription",
        "period_payments SET operation_id = substr(operation_id, 2)",
    ),
    (
        "payments SET subscription_id = NULL",
        "period_payments_pay_their_subscription",
        (
            "payments SET subscription_id = u.subscription_id FROM billing.period_payments AS u"
            " WHERE u.payment_id = payments.payment_id"
        ),
    ),
    (
        "external_subscriptions SET status = 'ACTIVE'",
        "providers_renew_no_ended_subscription",
        "external_subscriptions SET status = 'CANCELLED'",
    ),
    (
        "next_steps SET since_time = since_time - interval '100 days'",
        "next_steps_are_done",
        "next_steps SET since_time = since_time + interval '100 days'",
    ),
)

COLLECTION_DAMAGE: Final = frozenset(invariant for _, invariant, _ in BROKEN)


async def test_each_damage_to_a_collected_subscription_is_found(
    database_urls: dict[str, str], database_admin_url: str
) -> None:
    async with open_collecting(database_urls["billing"]) as till:
        made = await till.bought("stripe", await till.plan())
        await till.subscriptions.cancel(made.organization_id, made.subscription_id, "", "", at_period_end=False)
        await till.work()
        await till.told()
        till.shop.clock.advance(till.shop.clock.now() - made.create_time)
        await till.buy("stripe", made.organization_id, await till.plan())
        await till.shop.deliver(till.unsent())
        other = "subscriptions SET state_time = state_time - interval '2 days' WHERE state = 'CANCELLED'"
        await execute_in_shards(database_admin_url, f"UPDATE billing.{other}")
        assert await till.house.findings() == []
        for damage, invariant, repair in BROKEN:
            await execute_in_shards(database_admin_url, f"UPDATE billing.{damage}")
            found = [one.partition(":")[0] for one in await till.house.findings()]
            assert set(found) == {invariant}, damage
            await execute_in_shards(database_admin_url, f"UPDATE billing.{repair}")
        await till.work()
        assert len(await till.all_of(made.organization_id)) == 2
