"""Real servers of all three services for the tests of metering, with a database of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, priced
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock
from tests.support.own_database import has_own_database

_STARTED_WITH = frozenset({"clock", "settings", "unknown"})
"""Fixtures of what services are started with; the last two are for what Envoy asks."""


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(tmp_path_factory.mktemp("callers"))


@pytest.fixture
def clock() -> ShiftedClock:
    """The clock of the test's own services, which it can move forward."""
    return ShiftedClock()


@pytest.fixture
def platform(request: pytest.FixtureRequest) -> Platform:
    """Billing and metering, with gpt-4o at 2.5 and 10 dollars, and identity once a test starts it.

    They are the test's own if it has a database of its own, or asks for what they are started with; else those of its
    module.
    """
    own = has_own_database(request) or not _STARTED_WITH.isdisjoint(request.fixturenames)
    platform: Platform = request.getfixturevalue("own_platform" if own else "module_platform")
    return platform


@pytest.fixture
async def own_platform(
    callers: Callers, database_urls: dict[str, str], database_admin_url: str, tmp_path: Path, clock: ShiftedClock
) -> AsyncIterator[Platform]:
    async with priced(Platform(callers, database_urls, database_admin_url, tmp_path, clock)) as platform:
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
    async with priced(platform):
        yield platform


@pytest.fixture
def metering(platform: Platform) -> Metering:
    return platform.metering


@pytest.fixture
def organization_id() -> str:
    return new_id()
