"""Keeps a partition ready for every month that usage may fall into."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.shards import Shards
from services.metering.usage import month_store
from services.metering.usage.domain import month_of

_log = structlog.get_logger("months")

MONTHS_AHEAD: Final = 3
MONTHS_BEHIND: Final = 2
_LOOK_EVERY_S: Final = 600.0
_MADE_REMEMBERED_MAX: Final = 1_200
COPIED_MAX: Final = 5_000
"""How many usages one statement copies out of the default partition."""


class Months:
    """Creates the monthly partitions. If one is missing, no call fails: its usage goes to the default partition."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock
        self._made: dict[Database, set[datetime]] = {database: set() for database in shards}

    async def run(self) -> NoReturn:
        """Create the partitions around the current month, again every ten minutes, for as long as the service runs."""
        await self._shards.visit(self.ensure_around_now, every_s=_LOOK_EVERY_S)

    async def ensure_around_now(self, database: Database) -> None:
        """Return when a shard has its partitions around the current month, and the default partition is empty."""
        await self.heal(database)
        await self._ensure(database, months_around(self._clock.now()))

    async def heal(self, database: Database) -> None:
        """Give the usage in a shard's default partition a partition of its month.

        It is copied part by part, and what is left is moved when the partition is attached. A process that dies leaves
        the usage where it is, and its copy to the next one.
        """
        async with database.raw_connection() as connection:
            months = await month_store.stray_months(connection)
        for month in months:
            _log.warning("usage is in the default partition", schema=database.schema, month=f"{month:%Y-%m}")
            copied = COPIED_MAX
            while copied == COPIED_MAX:
                async with database.raw_connection() as connection:
                    copied = await month_store.copy_stray(connection, month, COPIED_MAX)
            async with database.raw_connection() as connection:
                await month_store.ensure_month(connection, month)

    async def ensure(self, moments: Iterable[tuple[str, datetime]]) -> None:
        """Return when the months of these moments have their partitions, each in the shard of its organization."""
        months: dict[Database, set[datetime]] = {}
        for organization_id, moment in moments:
            months.setdefault(self._shards.of(organization_id), set()).add(month_of(moment))
        for database, wanted in months.items():
            await self._ensure(database, wanted)

    async def _ensure(self, database: Database, months: Iterable[datetime]) -> None:
        made = self._made[database]
        for month in sorted(set(months) - made):
            async with database.raw_connection() as connection:
                await month_store.ensure_month(connection, month)
            if len(made) < _MADE_REMEMBERED_MAX:
                made.add(month)


def months_around(now: datetime) -> list[datetime]:
    """Return the beginnings of the present month and of those just before and after it."""
    months = [month_of(now)]
    for _ in range(MONTHS_BEHIND):
        months.insert(0, month_of(months[0] - timedelta(days=1)))
    for _ in range(MONTHS_AHEAD):
        months.append(month_of(months[-1] + timedelta(days=32)))
    return months
