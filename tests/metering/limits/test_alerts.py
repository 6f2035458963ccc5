"""Alerts are stored with the use that reaches a threshold, in one transaction, whatever counts the use."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from services.metering.quota.alerts import Alerts
from services.metering.quota.decisions import place_of
from services.metering.quota.domain import Limit, Terms, Window
from tests.metering.allocations.support import allocate
from tests.metering.limits.settling import limits_of, of, settling
from tests.metering.limits.support_rpc import LIFETIME, SOFT, set_limit
from tests.metering.limits.test_entitlements_hold import alerts_of
from tests.metering.support import Metering, Platform, usage
from tests.metering.test_batch_admission import ask

pytestmark = pytest.mark.shards


class _NotCommitted(Exception):
    pass


async def test_use_that_is_not_committed_leaves_no_alert_and_the_next_use_stores_it_once(
    platform: Platform, organization_id: str
) -> None:
    limit = Limit(new_id(), "calls", of("requests", Window.LIFETIME), Terms(Decimal(2), thresholds=(50, 100)))
    counted = [(organization_id, place_of(limit, "", datetime.now(UTC)).counter, Decimal(2))]
    async with limits_of(platform) as limits:
        alerts, other_process = Alerts(limits.shards, SystemClock()), Alerts(limits.shards, SystemClock())
        database = limits.database(organization_id)

        async def stored() -> list[int]:
            now = datetime.now(UTC)
            page = await alerts.page(
                organization_id, start_time=now - timedelta(hours=1), end_time=now, after=None, limit=10
            )
            return sorted(alert.threshold for alert in page)

        with suppress(_NotCommitted):
            async with database.raw_transaction() as connection:
                await alerts.add(connection, counted)
                raise _NotCommitted
        assert await stored() == []
        for one in (alerts, alerts, other_process):
            async with database.raw_transaction() as connection:
                await one.add(connection, counted)
            one.remember(counted)
            assert await stored() == [50, 100]


async def test_whatever_is_used_of_a_limit_is_alerted(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await set_limit(
        *(metering, organization_id, "calls"),
        window=LIFETIME,
        value="4",
        enforcement=SOFT,
        thresholds=[25, 50, 75, 100],
    )

    async def reached() -> list[int]:
        return sorted(alert.threshold for alert in await alerts_of(metering, organization_id))

    await metering.authorize(ask(organization_id, "call-1"))
    assert await reached() == []
    await metering.settle(settling(organization_id, "call-1", 30))
    assert await reached() == [25]
    await metering.authorize(ask(organization_id, "call-2"))
    await metering.settle(settling(organization_id, "call-2", 10, final=False))
    assert await reached() == [25]
    await metering.settle(settling(organization_id, "call-2", 30))
    assert await reached() == [25, 50]
    await metering.record(usage(organization_id, "call-3"))
    assert await reached() == [25, 50, 75]
    await allocate(metering, organization_id, {"requests": "1"}, "job")
    await allocate(metering, organization_id, {"requests": "1"}, "job")
    assert await reached() == [25, 50, 75, 100]
