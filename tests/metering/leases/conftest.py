"""Limits that a test sets, beside the platform."""

from collections.abc import AsyncIterator

import pytest

from tests.metering.allocations.support import Limits, limits_of
from tests.metering.support import Platform


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as one:
        yield one
