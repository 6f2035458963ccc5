"""For how long usage is kept, and which months there are."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.errors import OrganizationNotFound
from services.metering.retention import store
from services.metering.retention.domain import Month, Retention, is_over


class Policies:
    """Reads and sets retention. The nil id stands for the platform."""

    def __init__(self, platform: Database, shards: Shards, organizations: Organizations, clock: Clock) -> None:
        self._platform = platform
        self._shards = shards
        self._organizations = organizations
        self._clock = clock

    async def get(self, organization_id: str) -> Retention:
        async with self._platform.raw_connection() as connection:
            return await store.retention_of(connection, organization_id)

    async def set(self, organization_id: str, months: int | None) -> Retention:
        """Set a retention, and return what is in force; None lets an organization have the platform's again.

        Raises:
            OrganizationNotFound: identity does not know the organization.
        """
        if organization_id != NIL and await self._organizations.find_unknown([organization_id]):
            raise OrganizationNotFound(organization_id=organization_id)
        home = self._platform if organization_id == NIL else self._shards.of(organization_id)
        now = self._clock.now()
        async with home.raw_transaction() as connection:
            before = await store.retention_of(connection, organization_id)
            await store.set_retention(connection, organization_id, months, now)
            after = await store.retention_of(connection, organization_id)
            if (before.months, before.inherited) != (after.months, after.inherited):
                await record_event(
                    connection,
                    now=now,
                    organization_id=PLATFORM if organization_id == NIL else organization_id,
                    resource_type="usage_retention",
                    resource_id="" if organization_id == NIL else organization_id,
                    changed=[Changed("months", _text(before), _text(after))],
                )
        return after

    async def months(
        self, organization_id: str, first: datetime, limit: int
    ) -> tuple[Sequence[tuple[Month, bool]], datetime | None]:
        """Return months from one on, each with whether its retention is over, and where the next page begins."""
        retention, now = await self.get(organization_id), self._clock.now()
        if organization_id != NIL:
            async with self._shards.of(organization_id).raw_connection() as connection:
                found = await store.months_of(connection, organization_id, first, limit + 1)
        else:
            found = [one for one in await self._platform_months() if one.month >= first]
        following = found[limit].month if len(found) > limit else None
        return [(one, is_over(retention, one.month, now)) for one in found[:limit]], following

    async def _platform_months(self) -> list[Month]:
        months: defaultdict[datetime, list[Month]] = defaultdict(list)
        for database in self._shards:
            async with database.raw_connection() as connection:
                for one in await store.platform_months(connection):
                    months[one.month].append(one)
        return [
            Month(
                month,
                sum(one.usages for one in some),
                sum(one.dropped for one in some),
                any(one.is_dropping for one in some),
                any(one.was_dropped for one in some),
                sum(one.size_bytes for one in some),
            )
            for month, some in sorted(months.items())
        ]


def _text(retention: Retention) -> str:
    return f"{retention.months}, inherited" if retention.inherited else str(retention.months)
