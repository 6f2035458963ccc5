"""An alert of a limit becomes one event, whoever looks, and costs no call anything."""

import asyncio

import pytest

from libs.common.clock import SystemClock
from libs.common.shards import Shards
from services.metering.quota.alert_events import AlertEvents
from tests.metering.limits.support_rpc import LIFETIME, SOFT, set_limit
from tests.metering.support import Metering, Platform, usage
from tests.support.events import announced

pytestmark = [pytest.mark.shards, pytest.mark.own_database]


async def test_a_threshold_that_is_reached_is_announced_once(
    platform: Platform, metering: Metering, metering_shards: Shards, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await set_limit(
        *(metering, organization_id, "calls"), window=LIFETIME, value="4", enforcement=SOFT, thresholds=[50, 100]
    )
    for number in range(5):
        await metering.record(usage(organization_id, f"call-{number}"))
    workers = [AlertEvents(metering_shards, SystemClock()) for _ in range(4)]
    await asyncio.gather(*(worker.announce_new(database) for worker in workers for database in metering_shards))
    found = await announced(metering.channel, metering.operator, organization_id)
    assert [kind for kind, _, _ in found] == ["tollhouse.limit.reached"] * 2
    assert [(data["threshold_percent"], data["name"], data["maximum"]) for _, _, data in found] == [
        (50, "calls", "4"),
        (100, "calls", "4"),
    ]
    assert len({subject for _, subject, _ in found}) == 1
