"""The three services with both of Envoy's, as docs/envoy.md configures them, and limits that a test sets."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from tests.identity.support import Identity
from tests.metering.allocations.support import Limits, limits_of
from tests.metering.support import Platform, priced
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock
from tests.support.envoy import documents


@pytest.fixture
def settings() -> dict[str, object]:
    """What differs from the page in how requests are authorized."""
    return {}


@pytest.fixture
async def own_platform(
    callers: Callers,
    database_urls: dict[str, str],
    database_admin_url: str,
    tmp_path: Path,
    clock: ShiftedClock,
    settings: dict[str, object],
) -> AsyncIterator[Platform]:
    platform = Platform(callers, database_urls, database_admin_url, tmp_path, clock)
    async with priced(with_documents(platform, settings)):
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
    async with priced(with_documents(platform, {})):
        yield platform


def with_documents(platform: Platform, settings: Mapping[str, object]) -> Platform:
    """Let a platform that has not started serve Envoy's two services, as the page says but for the settings."""
    checks, _, descriptors = documents("json")
    platform.rate_limit_descriptors_file = platform.folder / "descriptors.json"
    platform.rate_limit_descriptors_file.write_text(descriptors, encoding="utf-8")
    platform.external_auth_file = platform.folder / "external_auth.json"
    platform.external_auth_file.write_text(json.dumps(json.loads(checks) | dict(settings)), encoding="utf-8")
    return platform


@pytest.fixture
async def identity(platform: Platform) -> Identity:
    return await platform.start_identity()


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as one:
        yield one
