"""The platform, whose processes forget limits when a test changes them."""

from collections.abc import AsyncIterator, Iterator

import pytest

from services.metering.quota.book import LimitBook
from tests.metering.lapses.support import Worker, worker
from tests.metering.limits.support import BOOKS
from tests.metering.support import Platform
from tests.support.clock import ShiftedClock


@pytest.fixture(scope="module", autouse=True)
def _books() -> Iterator[None]:
    """Note the book of every process of metering that the tests of the module start."""
    BOOKS.clear()
    make = LimitBook.__init__

    def note(self: LimitBook, *args: object, **options: object) -> None:
        make(self, *args, **options)  # type: ignore[arg-type]
        BOOKS.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LimitBook, "__init__", note)
        yield


@pytest.fixture
async def looking(platform: Platform, clock: ShiftedClock) -> AsyncIterator[Worker]:
    async with worker(platform, clock) as one:
        yield one
