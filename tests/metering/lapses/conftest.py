"""What looks for lapses beside the platform, by a clock that a test moves forward."""

from collections.abc import AsyncIterator

import pytest

from tests.metering.lapses.support import Worker, worker
from tests.metering.policy_calls import charge_input
from tests.metering.support import Metering, Platform
from tests.support.clock import ShiftedClock


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
