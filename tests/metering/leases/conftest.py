"""The platform with a clock that a test moves forward, a priced model, and limits that a test sets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.metering.allocations.support import Limits, limits_of
from tests.metering.support import Platform, priced
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
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as one:
        yield one
