"""Keeps a partition ready for every month that usage may fall into."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from services.metering.usage import store
from services.metering.usage.domain import month_of

MONTHS_AHEAD: Final = 3
MONTHS_BEHIND: Final = 2
_LOOK_EVERY_S: Final = 600.0
_MADE_REMEMBERED_MAX: Final = 1_200


class Months:
    """Creates the monthly partitions. If one is missing, no call fails: its usage goes to the default partition."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._made: set[datetime] = set()

    async def run(self) -> None:
        """Create the partitions around the current month, again every ten minutes, for as long as the service runs."""
        while True:
            await self.ensure(self._around_now())
            await asyncio.sleep(_LOOK_EVERY_S)

    async def ensure(self, moments: Iterable[datetime]) -> None:
        """Return when the months of these moments have their partitions."""
        for month in sorted({month_of(moment) for moment in moments} - self._made):
            async with self._database.raw_connection() as connection:
                await store.ensure_month(connection, month)
            if len(self._made) < _MADE_REMEMBERED_MAX:
                self._made.add(month)

    def _around_now(self) -> list[datetime]:
        return months_around(self._clock.now())


def months_around(now: datetime) -> list[datetime]:
    """Return the beginnings of the present month and of those just before and after it."""
    months = [month_of(now)]
    for _ in range(MONTHS_BEHIND):
        months.insert(0, month_of(months[0] - timedelta(days=1)))
    for _ in range(MONTHS_AHEAD):
        months.append(month_of(months[-1] + timedelta(days=32)))
    return months
