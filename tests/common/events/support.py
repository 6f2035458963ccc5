"""What delivers events, over databases of a test and with a clock that it moves."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network

from libs.common.events.domain import Delivery
from libs.common.events.endpoints import Endpoints, WithSecret
from libs.common.events.homes import Homes
from libs.common.events.invariants import EVENT_CHECKS
from libs.common.events.mail import Mailer
from libs.common.events.options import Options
from libs.common.events.outbox import NewEvent, announce
from libs.common.events.post import Poster
from libs.common.events.replays import Replays
from libs.common.events.sending import Sender
from libs.common.events.worker import Deliverer
from libs.common.integrity.domain import Finding
from libs.common.integrity.verification import Verification
from libs.common.sealing import SealingKeys
from libs.common.shards import Shards
from tests.support.clock import FixedClock
from tests.support.invariants import findings_of

KEYS = SealingKeys({1: bytes(range(32))})
LOOPBACK = (ip_network("127.0.0.0/8"),)
OPTIONS = Options(keys=KEYS, allowed=LOOPBACK, attempt_timeout_s=2.0)
HIGHEST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


@dataclass
class House:
    """A process that delivers events."""

    homes: Homes
    clock: FixedClock
    options: Options = OPTIONS
    mailer: Mailer | None = None
    poster: Poster | None = None

    def __post_init__(self) -> None:
        options = self.options
        poster = self.poster or Poster(options.allowed, options.tls, options.attempt_timeout_s)
        self.endpoints = Endpoints(self.homes, self.clock, options, mails=self.mailer is not None)
        self.sender = Sender("identity", options.keys, poster, self.clock, self.mailer)
        self.deliverer = Deliverer(self.homes, self.clock, options, self.sender, self.endpoints)
        self.replays = Replays(self.homes, self.clock, self.sender.built_in)

    def another(self, **options: object) -> "House":
        """Return another process on the same databases."""
        return House(self.homes, self.clock, replace(self.options, **options), self.mailer)  # type: ignore[arg-type]

    async def add_endpoint(self, organization_id: str, url: str, *types: str) -> WithSecret:
        return await self.endpoints.create(organization_id, url=url, types=types, description="", request_id="")

    async def announce(
        self, organization_id: str, subject: str = "thing/1", count: int = 1, kind: str = "tollhouse.thing.changed"
    ) -> None:
        events = [NewEvent(organization_id, kind, subject, {"n": number}) for number in range(count)]
        async with self.homes.of(organization_id).raw_transaction() as connection:
            await announce(connection, events, self.clock.now())

    async def deliver(self) -> None:
        """Do everything that is due now, and what follows from it."""
        for home in self.homes.all:
            await self.deliverer.visit(home)
        await self.deliverer.finish_all()

    async def pass_time(self, by: timedelta) -> None:
        self.clock.advance(by)
        await self.deliver()

    async def deliveries(self, organization_id: str, endpoint_id: str) -> Sequence[Delivery]:
        """Return the deliveries to an endpoint, in the order of their numbers."""
        found, _ = await self.replays.deliveries(
            organization_id, event_id="", endpoint_id=endpoint_id, before=HIGHEST, limit=1000, of_platform=True
        )
        return sorted(found, key=lambda one: (one.subject, one.sequence))

    async def findings(self) -> list[Finding]:
        """Return what the invariants of events find in all databases."""
        found = []
        for home in self.homes.all:
            found += await findings_of(Verification(Shards([home]), self.clock, EVENT_CHECKS))
        return found

    async def delivery(self, organization_id: str, endpoint_id: str) -> Delivery:
        (found,) = await self.deliveries(organization_id, endpoint_id)
        return found


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when something holds; fails after 20 seconds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 -- what it asks about is no task of ours.
            await asyncio.sleep(0.01)
