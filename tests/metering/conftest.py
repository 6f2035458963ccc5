"""Real servers of all three services for the tests of metering, with a database of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from tests.metering.support import Metering, Platform
from tests.support.callers import Callers


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(tmp_path_factory.mktemp("callers"))


@pytest.fixture
async def platform(
    callers: Callers, database_urls: dict[str, str], database_admin_url: str, tmp_path: Path
) -> AsyncIterator[Platform]:
    """Billing and metering, with gpt-4o at 2.5 and 10 dollars; a test that needs identity starts it."""
    platform = Platform(callers, database_urls, database_admin_url, tmp_path, SystemClock())
    try:
        await platform.start()
        await platform.metering.add_model()
        await platform.metering.set_price()
        yield platform
    finally:
        await platform.close()


@pytest.fixture
def metering(platform: Platform) -> Metering:
    return platform.metering


@pytest.fixture
def organization_id() -> str:
    return new_id()
