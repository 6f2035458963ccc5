"""The platform with Envoy's rate limit service, a clock that a test moves, and limits that a test sets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.metering.allocations.support import Limits, limits_of
from tests.metering.rate_limit.support import RULES
from tests.metering.support import Platform
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def unknown() -> str:
    """What becomes of unknown descriptors."""
    return "DENY"


@pytest.fixture
async def platform(
    callers: Callers,
    database_urls: dict[str, str],
    database_admin_url: str,
    tmp_path: Path,
    clock: ShiftedClock,
    unknown: str,
) -> AsyncIterator[Platform]:
    platform = Platform(callers, database_urls, database_admin_url, tmp_path, clock)
    platform.rate_limit_descriptors_file = tmp_path / "descriptors.json"
    platform.rate_limit_descriptors_file.write_text(RULES % unknown, encoding="utf-8")
    try:
        await platform.start()
        yield platform
    finally:
        await platform.close()


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as one:
        yield one
