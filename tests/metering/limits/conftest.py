"""The platform with a clock that a test moves forward, whose processes forget limits when a test changes them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.metering.quota.book import LimitBook
from tests.metering.lapses.support import Worker, worker
from tests.metering.limits.support import BOOKS
from tests.metering.support import Platform
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note the book of every process of metering that the test starts."""
    BOOKS.clear()
    make = LimitBook.__init__

    def note(self: LimitBook, *args: object, **options: object) -> None:
        make(self, *args, **options)  # type: ignore[arg-type]
        BOOKS.append(self)

    monkeypatch.setattr(LimitBook, "__init__", note)


@pytest.fixture
async def platform(
    callers: Callers,
    database_urls: dict[str, str],
    database_admin_url: str,
    tmp_path: Path,
    clock: ShiftedClock,
    books: None,
) -> AsyncIterator[Platform]:
    platform = Platform(callers, database_urls, database_admin_url, tmp_path, clock)
    try:
        await platform.start()
        await platform.metering.add_model()
        await platform.metering.set_price()
        yield platform
    finally:
        await platform.close()


@pytest.fixture
async def looking(platform: Platform, clock: ShiftedClock) -> AsyncIterator[Worker]:
    async with worker(platform, clock) as one:
        yield one
