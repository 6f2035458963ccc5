"""Whatever a process dies at while it drops a month, the month is dropped whole, and nothing else changes."""

import asyncio
import signal
from typing import Final

import pytest

from services.metering.retention.drops import Drops
from tests.metering.corrections.calls import amend, tokens
from tests.metering.retention import dying_drop
from tests.metering.retention.calls import ask, ended, months_ago, old_usage, retain, send
from tests.metering.support import WITHIN_S, Metering, Platform
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT
from tollhouse.metering.v1 import retention_pb2 as pb

pytestmark = [pytest.mark.own_database, pytest.mark.thorough]

IMMEDIATELY: Final = {"TOLLHOUSE_METERING_DROPS_EVERY_S": "0.05", "TOLLHOUSE_METERING_DROP_SEAL_S": "0"}


@pytest.mark.timeout(900)
async def test_sigkill_at_any_point_leaves_a_month_dropped_whole(
    platform: Platform, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await platform.start_identity()
    ids = [(await identity.create_organization())[0] for _ in range(2)]
    await retain(metering)
    for number, point in enumerate(dying_drop.POINTS * KILLS_AT_EACH_POINT):
        month = months_ago(4 + number)
        name = f"{month:%Y-%m}"
        for organization_id in ids:
            for place in range(3):
                await metering.record(old_usage(organization_id, f"{name}-{place}", month))
            await amend(metering, organization_id, f"{name}-1", tokens=tokens(3000, 100))
        await platform.settled()
        charges = await metering.charges()
        with monkeypatch.context() as patch:
            patch.setattr(Drops, "step", _idle)
            await send(metering, await ask(metering, month=name))
            async with asyncio.timeout(WITHIN_S * 3):
                code = await exit_code_of(dying_drop.run, platform.environment() | IMMEDIATELY, point, 1)
            assert code == -signal.SIGKILL, point
        dropped = await ended(metering, month=name)
        assert (dropped.state, dropped.dropped_count) == (pb.USAGE_DROP_STATE_DROPPED, 6), point
        partitions = "SELECT count(*) FROM pg_class WHERE strpos(relname, $1) > 0"
        assert await platform.value(partitions, f"usage_records_{month:%Y_%m}") == 0, point
        assert await metering.charges() == charges, point
    assert await metering.findings() == []
    assert await platform.verify() == []


async def _idle(*_: object) -> bool:
    """Do nothing: only the process that dies works on the drop."""
    return False
