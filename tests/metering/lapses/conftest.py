"""The platform with a clock that a test moves forward, and what looks for lapses beside it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.metering.lapses.support import Worker, worker
from tests.metering.policy_calls import charge_input
from tests.metering.support import Metering, Platform, priced
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def platform(
    callers: Callers, database_urls: dict[str, str], database_admin_url: str, tmp_path: Path, clock: ShiftedClock
) -> AsyncIterator[Platform]:
    async with priced(Platform(callers, database_urls, database_admin_url, tmp_path, clock)) as platform:
        yield platform


@pytest.fixture
async def looking(platform: Platform, clock: ShiftedClock) -> AsyncIterator[Worker]:
    async with worker(platform, clock) as one:
        yield one


@pytest.fixture
async def charging(platform: Platform, metering: Metering, organization_id: str) -> str:
    """An organization with a dollar that charges for lapses as soon as a hold has ended."""
    await platform.fund(organization_id, "1")
    await charge_input(metering, organization_id)
    return organization_id
