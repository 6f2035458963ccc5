"""The platform with Envoy's rate limit service, and limits that a test sets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from tests.metering.allocations.support import Limits, limits_of
from tests.metering.rate_limit.support import RULES
from tests.metering.support import Platform, priced
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock


@pytest.fixture
def unknown() -> str:
    """What becomes of unknown descriptors."""
    return "DENY"


@pytest.fixture
async def own_platform(
    callers: Callers,
    database_urls: dict[str, str],
    database_admin_url: str,
    tmp_path: Path,
    clock: ShiftedClock,
    unknown: str,
) -> AsyncIterator[Platform]:
    platform = Platform(callers, database_urls, database_admin_url, tmp_path, clock)
    async with priced(with_rules(platform, unknown)):
        yield platform


@pytest.fixture(scope="module")
async def module_platform(
    callers: Callers,
    module_database_urls: dict[str, str],
    module_database_admin_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    platform = Platform(callers, module_database_urls, module_database_admin_url, folder, SystemClock())
    async with priced(with_rules(platform, "DENY")):
        yield platform


def with_rules(platform: Platform, unknown: str) -> Platform:
    """Let a platform that has not started serve Envoy's rate limit service."""
    platform.rate_limit_descriptors_file = platform.folder / "descriptors.json"
    platform.rate_limit_descriptors_file.write_text(RULES % unknown, encoding="utf-8")
    return platform


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as one:
        yield one
