"""The three services with both of Envoy's, as docs/envoy.md configures them, and limits that a test sets."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.identity.support import Identity
from tests.metering.allocations.support import Limits, limits_of
from tests.metering.support import Platform
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock
from tests.support.envoy import documents


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def settings() -> dict[str, object]:
    """What differs from the page in how requests are authorized."""
    return {}


@pytest.fixture
async def platform(
    callers: Callers,
    database_urls: dict[str, str],
    database_admin_url: str,
    tmp_path: Path,
    clock: ShiftedClock,
    settings: dict[str, object],
) -> AsyncIterator[Platform]:
    platform = Platform(callers, database_urls, database_admin_url, tmp_path, clock)
    checks, _, descriptors = documents("json")
    platform.rate_limit_descriptors_file = tmp_path / "descriptors.json"
    platform.rate_limit_descriptors_file.write_text(descriptors, encoding="utf-8")
    platform.external_auth_file = tmp_path / "external_auth.json"
    platform.external_auth_file.write_text(json.dumps(json.loads(checks) | settings), encoding="utf-8")
    try:
        await platform.start()
        yield platform
    finally:
        await platform.close()


@pytest.fixture
async def identity(platform: Platform) -> Identity:
    return await platform.start_identity()


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as one:
        yield one
