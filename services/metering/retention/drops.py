"""Drops months of usage that were exported.

1. A drop is sealed: from the commit of its row on, corrections and history of the month are refused. What had been let
   through before is written within seconds; so the work begins a minute later.
2. The numbers of each organization's month are read and stored, and added up. If they differ from those of the export,
   the drop is refused: what was stored is deleted, and the seal is lifted. Else the drop goes on, whatever happens.
3. Of each usage is kept what charges and operations are compared with. Where all usage of a partition goes, it is
   copied, and then the partition is detached, which changes in the same transaction what counts. Else each part is kept
   and deleted in one statement.

A process that dies leaves the drop to the next one that takes it: what is counted stays counted, what is kept says
where to go on, and a partition that is detached is dropped. Two processes that work on the same drop do no harm.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, NoReturn

import structlog

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import NotFound, Refusal, Unavailable
from libs.common.ids import MAX, NIL
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.errors import OrganizationNotFound
from services.metering.retention import store
from services.metering.retention.domain import (
    COPYING,
    COUNTED,
    DROPPED,
    DROPPING,
    MOVING,
    REFUSED,
    SEALED,
    Drop,
    Numbers,
    difference,
    end_of,
    is_closed,
    is_over,
)
from services.metering.usage.dropped_store import month_text
from services.metering.usage.month_store import ensure_month
from services.metering.usage_errors import UsageExportDiffers, UsageMonthDropped, UsageMonthOpen, UsageRetained

_log = structlog.get_logger("drops")

PART_MAX: Final = 2_000
"""How many usages one statement keeps."""
LEASE: Final = timedelta(seconds=60)
_ORGANIZATIONS_MAX: Final = 500
_MICROSECOND: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)

Renew = Callable[[], Awaitable[None]]
"""Puts off the end of the lease of a drop."""


class Drops:
    """Takes drops of months, and carries them out for as long as the service runs."""

    def __init__(
        self,
        platform: Database,
        shards: Shards,
        organizations: Organizations,
        clock: Clock,
        *,
        seal: timedelta,
        every_s: float,
    ) -> None:
        """`seal` is how long a month is sealed before it is counted."""
        self._platform = platform
        self._shards = shards
        self._organizations = organizations
        self._clock = clock
        self._seal = seal
        self._every_s = every_s

    async def ask(self, organization_id: str, month: datetime, numbers: Numbers, *, validate_only: bool) -> Drop:
        """Take a drop of an organization's month, or of all of them for the nil id; return it as it is.

        Raises:
            OrganizationNotFound: identity does not know the organization.
            UsageMonthDropped: it is dropped already, or with other numbers.
            UsageRetained, UsageMonthOpen: it may not be dropped yet.
        """
        if organization_id != NIL and await self._organizations.find_unknown([organization_id]):
            raise OrganizationNotFound(organization_id=organization_id)
        now = self._clock.now()
        asked = Drop(organization_id, month, SEALED, numbers, None, None, current_actor(), now, now)
        async with self._home(organization_id).raw_connection() as connection:
            known = await store.find_drop(connection, organization_id, month)
            retention = await store.retention_of(connection, organization_id)
        if known is not None and known.state != REFUSED:
            return known if validate_only else _same(known, asked)
        if not is_over(retention, month, now):
            raise UsageRetained(month=month_text(month), months=retention.months)
        await self._refuse_open(organization_id, month, now)
        if validate_only:
            return asked._replace(state="")
        async with self._home(organization_id).raw_transaction() as connection:
            sealed = await store.seal(connection, asked, now + self._seal)
            if sealed is None:
                known = await store.find_drop(connection, organization_id, month)
                assert known is not None, "another call has sealed it"
                return _same(known, asked)
            await record_event(
                connection,
                now=now,
                organization_id=PLATFORM if organization_id == NIL else organization_id,
                resource_type="usage_month",
                resource_id=month_text(month),
                changed=[Changed("state", after=SEALED), Changed("usage_count", after=str(numbers.usage_count))],
            )
        return sealed

    async def get(self, organization_id: str, month: datetime) -> tuple[Drop, int]:
        """Return a drop, and how many usages are dropped by now."""
        async with self._home(organization_id).raw_connection() as connection:
            drop = await store.find_drop(connection, organization_id, month)
        if drop is None:
            raise NotFound(resource_type="usage drop", resource_name=month_text(month))
        counted = [one async for _, one in self._counted(organization_id, month)]
        return drop, sum(one.numbers.usage_count for one in counted if one.state == DROPPED)

    async def digest(self, organization_id: str, month: datetime) -> AsyncIterator[int | Numbers]:
        """Yield how many rows were read, part by part, and at the end the numbers of a month's usage.

        Raises:
            UsageMonthDropped: a drop has begun.
        """
        async with self._home(organization_id).raw_connection() as connection:
            known = await store.find_drop(connection, organization_id, month)
        if known is not None and known.state in (DROPPING, DROPPED):
            raise UsageMonthDropped(organization_id=organization_id, month=month_text(month))
        numbers = Numbers()
        for database in self._databases(organization_id):
            async for organization in self._organizations_of(database, organization_id, month):
                if not organization.has_usage or (organization.is_kept and organization_id == NIL):
                    continue
                async for part in _parts(database, organization.organization_id, month):
                    numbers.add(part.usage_count, part.totals, part.digest)
                    yield part.usage_count
        yield numbers

    async def run(self) -> NoReturn:
        """Carry out drops until cancelled."""
        while True:
            try:
                while await self.step():
                    pass
            except Refusal as refusal:
                _log.warning("a drop of usage waits", reason=refusal.reason)
            except Exception as error:  # noqa: BLE001 -- another process, or the next round, takes the drop again.
                _log.error("a drop of usage failed and is tried again", exc_info=error)
            await asyncio.sleep(self._every_s)

    async def step(self) -> bool:
        """Take a drop and carry it out; tell whether there was one."""
        now = self._clock.now()
        async with self._platform.raw_connection() as connection:
            drop = await store.take_drop(connection, now, now + LEASE)
        if drop is None:
            return False

        async def renew() -> None:
            async with self._platform.raw_connection() as connection:
                await store.keep_drop(connection, drop, self._clock.now() + LEASE)

        if drop.state == SEALED and not await self._compare(drop, renew):
            return True
        await self._drop(drop, renew)
        return True

    def _home(self, organization_id: str) -> Database:
        return self._platform if organization_id == NIL else self._shards.of(organization_id)

    def _databases(self, organization_id: str) -> list[Database]:
        return list(self._shards) if organization_id == NIL else [self._shards.of(organization_id)]

    async def _refuse_open(self, organization_id: str, month: datetime, now: datetime) -> None:
        if not is_closed(month, now):
            raise UsageMonthOpen(month=month_text(month), cause="it has not ended 36 days ago")
        for database in self._databases(organization_id):
            async with database.raw_connection() as connection:
                cause = await store.find_open(connection, organization_id, month, now)
            if cause is not None:
                raise UsageMonthOpen(month=month_text(month), cause=cause)

    async def _organizations_of(
        self, database: Database, organization_id: str, month: datetime
    ) -> AsyncIterator[store.Organization]:
        """Yield the organization, or all of a shard that ever had usage."""
        if organization_id != NIL:
            yield store.Organization(organization_id, has_usage=True, is_counted=False, is_kept=False)
            return
        after, now = NIL, self._clock.now()
        while True:
            async with database.raw_connection() as connection:
                found = await store.organizations_after(connection, after, month, now, _ORGANIZATIONS_MAX)
            for one in found:
                yield one
            if len(found) < _ORGANIZATIONS_MAX:
                return
            after = found[-1].organization_id

    async def _counted(self, organization_id: str, month: datetime) -> AsyncIterator[tuple[Database, store.Counted]]:
        """Yield what is stored of a month, by organization."""
        for database in self._databases(organization_id):
            after = NIL
            while True:
                async with database.raw_connection() as connection:
                    found = await store.counted_after(connection, organization_id, month, after, _ORGANIZATIONS_MAX)
                for one in found:
                    yield database, one
                if len(found) < _ORGANIZATIONS_MAX or organization_id != NIL:
                    break
                after = found[-1].organization_id

    async def _compare(self, drop: Drop, renew: Renew) -> bool:
        """Count the usage of a drop, and tell whether it is what the export has. If not, the drop is refused."""
        refusal: Refusal | None = None
        try:
            await self._refuse_open(drop.organization_id, drop.month, self._clock.now())
            found = await self._count(drop, renew)
            differs = difference(drop.numbers, found)
            if differs is not None:
                raise UsageExportDiffers(month=month_text(drop.month), difference=differs)
        except (UsageMonthOpen, UsageExportDiffers) as error:
            refusal = error
            for database in self._databases(drop.organization_id):
                async with database.raw_connection() as connection:
                    await store.forget_counted(connection, drop.organization_id, drop.month)
        states = (SEALED, DROPPING if refusal is None else REFUSED)
        why = (None, None) if refusal is None else (refusal.reason, refusal.message)
        async with self._platform.raw_connection() as connection:
            await store.move_on(connection, drop, states, self._clock.now(), why)
        return refusal is None

    async def _count(self, drop: Drop, renew: Renew) -> Numbers:
        """Store the numbers of each organization's month, and return them added up."""
        for database in self._databases(drop.organization_id):
            async with database.raw_connection() as connection:
                await store.forget_counted(connection, drop.organization_id, drop.month)
            async for one in self._organizations_of(database, drop.organization_id, drop.month):
                if one.has_usage and not one.is_kept:
                    await self._count_organization(database, one.organization_id, drop.month, renew)
        numbers = Numbers()
        async for _, counted in self._counted(drop.organization_id, drop.month):
            if counted.state == COUNTED:
                numbers.add(counted.numbers.usage_count, counted.numbers.totals, counted.numbers.digest)
        return numbers

    async def _count_organization(
        self, database: Database, organization_id: str, month: datetime, renew: Renew
    ) -> None:
        numbers, kept = Numbers(), 0
        async for part in _parts(database, organization_id, month):
            await renew()
            numbers.add(part.usage_count, part.totals, part.digest)
            kept ^= part.kept_digest
        sums, sums_digest, day = 0, 0, month
        while day < end_of(month):
            async with database.raw_connection() as connection:
                count, digest = await store.sums_of_day(connection, organization_id, day)
            sums, sums_digest, day = sums + count, sums_digest ^ digest, day + _DAY
        async with database.raw_connection() as connection:
            now = self._clock.now()
            await store.add_month(connection, organization_id, month, numbers, kept, (sums, sums_digest), now)

    async def _drop(self, drop: Drop, renew: Renew) -> None:
        """Drop what was counted. From here on nothing is refused any more."""
        for database in self._databases(drop.organization_id):
            async with database.raw_connection() as connection:
                await ensure_month(connection, drop.month)  # Usage in the default partition leaves with its month, too.
        modes = {database: await self._mode(database, drop) for database in self._databases(drop.organization_id)}
        async for database, counted in self._counted(drop.organization_id, drop.month):
            if counted.state == DROPPED:
                continue
            await self._keep(database, counted.organization_id, drop.month, modes[database], renew)
        for database in modes:
            async with database.raw_connection() as connection:
                is_empty = await store.is_empty(connection, drop.month)
            if is_empty or modes[database] == COPYING:
                await self._drop_partition(database, drop.month)
        async with self._platform.raw_connection() as connection:
            await store.move_on(connection, drop, (DROPPING, DROPPED), self._clock.now())

    async def _mode(self, database: Database, drop: Drop) -> str:
        """Return how a shard's usage of a month leaves: with its partition, if all of it goes, or row by row."""
        if drop.organization_id != NIL:
            return MOVING
        async for one in self._organizations_of(database, NIL, drop.month):
            if one.has_usage and not one.is_counted:
                return MOVING
        return COPYING

    async def _keep(self, database: Database, organization_id: str, month: datetime, mode: str, renew: Renew) -> None:
        """Keep what is needed of an organization's usage, part by part."""
        async with database.raw_connection() as connection:
            await store.begin(connection, organization_id, month, mode)
        moved = PART_MAX
        while moved == PART_MAX:
            async with database.raw_connection() as connection:
                moved = await store.keep_part(connection, organization_id, month, PART_MAX)
            await renew()
        async with database.raw_connection() as connection:
            await store.finish(connection, organization_id, month, self._clock.now())

    async def _drop_partition(self, database: Database, month: datetime) -> None:
        """Detach the partition and drop it.

        Raises:
            Unavailable: it has usage that is not kept, or its lock was not to be had; the next round tries again.
        """
        for _ in range(3):
            async with database.raw_connection() as connection:
                done = await store.drop_partition(connection, month, self._clock.now())
            if done == "GONE":
                return
            if done == "KEPT":
                break
        raise Unavailable(dependency="database")


async def _parts(database: Database, organization_id: str, month: datetime) -> AsyncIterator[store.Part]:
    """Read an organization's month part by part."""
    after: tuple[datetime, str] | None = month - _MICROSECOND, MAX
    while after is not None:
        async with database.raw_connection() as connection:
            part, after = await store.read_part(connection, organization_id, month, after)
        yield part


def _same(known: Drop, asked: Drop) -> Drop:
    """Return a drop that is known, if it was asked for with the same numbers."""
    if difference(asked.numbers, known.numbers) is not None:
        raise UsageMonthDropped(organization_id=asked.organization_id, month=month_text(asked.month))
    return known
