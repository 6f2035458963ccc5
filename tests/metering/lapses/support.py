"""What looks for lapsed authorizations, run by a test instead of by the service."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Final

import grpc

from libs.common.authentication import SigningKey, TokenSource
from libs.common.channel import open_channel
from libs.common.database import open_database
from libs.common.events.homes import Homes
from libs.common.shards import Shards, open_shards
from services.metering.admission.lapses import LEASE, Lapses
from services.metering.admission.parsing import read_kept
from services.metering.clients.billing import BillingClient
from services.metering.clients.entitlements import EntitlementsClient
from services.metering.clients.organizations import Organizations
from services.metering.clients.subscriptions import SubscriptionsClient
from services.metering.model.catalogue import Catalogue
from services.metering.quota.alerts import Alerts
from services.metering.quota.book import LimitBook
from services.metering.quota.calls import CallLimits
from services.metering.quota.counters import Counters
from services.metering.usage.announcements import UsageEvents
from services.metering.usage.charging import Charging
from services.metering.usage.counting import Counting
from services.metering.usage.engine import UsageEngine
from services.metering.usage.months import Months
from services.metering.usage.named_subscriptions import NamedSubscriptions
from services.metering.usage.usages import Usages
from tests.metering.support import Metering, Platform
from tests.support.clock import ShiftedClock
from tests.support.sharded import shard_count

INPUT_COST: Final = Decimal("0.0025")
LONG: Final = timedelta(minutes=10, seconds=30)
"""Longer than holds last by default."""


class Worker:
    """A process's worth of what looks for lapses."""

    def __init__(self, lapses: Lapses, shards: Shards, clock: ShiftedClock) -> None:
        self.lapses = lapses
        self.shards = shards
        self._clock = clock

    async def look(self) -> None:
        """Look at every shard as two visits do: the first notes what may lapse, the second decides it."""
        for _ in range(2):
            for database in self.shards:
                await self.lapses.look(database)

    async def look_later(self, by: timedelta = LONG) -> None:
        """Let time pass, and look."""
        self._clock.advance(by)
        await self.look()

    async def look_after_a_lease(self) -> None:
        """Look when checks that were taken and not decided can be taken again."""
        await self.look_later(LEASE + timedelta(seconds=1))


@asynccontextmanager
async def worker(platform: Platform, clock: ShiftedClock) -> AsyncIterator[Worker]:
    """Look for lapses beside the platform's own process."""
    platform_database = open_database(platform.urls["metering"], schema="metering")
    shards = open_shards(platform.urls["metering"], schema="metering", count=shard_count())
    catalogue = Catalogue(platform_database)
    tokens = TokenSource(SigningKey.read(platform.callers.signing_key_file("metering", platform.folder)), clock)
    channel = open_channel(f"127.0.0.1:{platform.billing_port}", caller=tokens, audience="billing.tollhouse")
    billing = BillingClient(channel)
    charging = Charging(shards, billing, clock)
    book = LimitBook(shards)
    limits = CallLimits(book, EntitlementsClient(channel, clock))
    counting = Counting(catalogue, book, limits, Counters(shards, clock), Alerts(shards, clock), clock)
    engine = UsageEngine(
        *(shards, catalogue, charging, counting, NamedSubscriptions(SubscriptionsClient(channel)), clock),
        UsageEvents(Homes(platform_database, Shards([platform_database, *shards]), shards.of)),
        queue_max=1_000,
        relay_after=timedelta(seconds=1),
    )
    usages = Usages(shards, catalogue, engine, Organizations(channel), Months(shards, clock), clock)
    read_part = partial(read_kept, usages=usages)
    try:
        await platform_database.warm(1)
        await shards[0].warm(4)
        yield Worker(Lapses(shards, catalogue, billing, engine, clock, read_part, every_s=1), shards, clock)
    finally:
        await engine.close()
        await channel.close()
        await shards.close()
        await platform_database.close()


async def checks(platform: Platform) -> Sequence[str]:
    """Return the operations that may lapse, as far as they are noted."""
    found = await platform.value("SELECT array_agg(operation_id ORDER BY operation_id) FROM metering.lapse_checks")
    return found if isinstance(found, list) else []


async def lapsed(metering: Metering, organization_id: str) -> set[str]:
    """Return the operations whose usage was recorded because they lapsed."""
    listed = await metering.authorizations(organization_id)
    return {one.operation_id for one in listed if one.recorded_when_lapsed}


async def recorded_count(platform: Platform) -> object:
    return await platform.value("SELECT count(*) FROM metering.usage_records")


async def billing_answers(platform: Platform, organization_id: str) -> bool:
    """Whether billing answers."""
    try:
        await platform.posted(organization_id)
    except grpc.aio.AioRpcError:
        return False
    return True
