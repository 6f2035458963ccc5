"""The inbox of webhooks with its worker over a real database, for tests of how webhooks are kept and brought on.

What payments make of the facts is tested with the payments themselves. Here a book stands for them: it notes what is
brought to it, and answers as it is told.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from libs.common.database import Database
from services.billing.payment.provider import Applied, Fact, Result
from services.billing.payment.providers.lemon_squeezy.provider import LemonSqueezy
from services.billing.payment.providers.registry import Configured, Providers
from services.billing.payment.providers.stripe.provider import Stripe
from services.billing.payment.webhook.counts import Counts
from services.billing.payment.webhook.domain import World
from services.billing.payment.webhook.inbox import Inbox, Received
from services.billing.payment.webhook.reconciliation import Reconciliation
from services.billing.payment.webhook.webhooks import Webhooks
from services.billing.payment.webhook.worker import WebhookWorker
from tests.support.clock import FixedClock
from tests.support.providers import lemon_squeezy as lemon_fake
from tests.support.providers import stripe as stripe_fake
from tests.support.providers.lemon_squeezy import FakeLemonSqueezy
from tests.support.providers.stripe import FakeStripe


@dataclass
class Book:
    """Notes facts in the place of payments."""

    brought: Counter[Fact] = field(default_factory=Counter)
    decide: Callable[[Fact], Applied] = lambda _: Applied(Result.APPLIED)
    before: Callable[[Fact], Any] | None = None
    """Is awaited before a fact is noted."""

    async def apply(self, fact: Fact) -> Applied:
        if self.before is not None:
            await self.before(fact)
        self.brought[fact] += 1
        return self.decide(fact)


@dataclass
class House:
    """Everything of one process."""

    platform: Database
    clock: FixedClock
    book: Book
    stripe: FakeStripe
    lemon: FakeLemonSqueezy
    counts: Counts
    inbox: Inbox
    worker: WebhookWorker
    webhooks: Webhooks
    reconciliation: Reconciliation

    async def send(self, event: dict[str, Any]) -> Received:
        """Send an event of Stripe, or a webhook of Lemon Squeezy."""
        if "meta" in event:
            return await self.inbox.receive("lemon_squeezy", *self.lemon.webhook(event))
        return await self.inbox.receive("stripe", *self.stripe.webhook(event))

    async def work(self) -> int:
        """Apply what is due; return how many were tried."""
        tried = 0
        while done := await self.worker.apply_due():
            tried += done
        await self.worker.close()
        return tried

    async def rows(self) -> list[dict[str, Any]]:
        async with self.platform.raw_connection() as connection:
            return [dict(row) for row in await connection.fetch("SELECT * FROM billing.webhooks ORDER BY webhook_id")]

    async def states(self) -> dict[str, str]:
        return {row["event_id"]: row["state"] for row in await self.rows()}

    async def counted(self, provider: str = "stripe") -> Counter[str]:
        """Return the counts by outcome."""
        await self.counts.write()
        counts: Counter[str] = Counter()
        for outcome, _, count in await self.webhooks.counts(provider, 7):
            counts[outcome] += count
        return counts


def providers_of(stripe: FakeStripe, lemon: FakeLemonSqueezy, clock: FixedClock) -> Providers:
    to_stripe = Stripe(stripe_fake.SECRET_KEY, stripe.url, clock)
    to_lemon = LemonSqueezy(lemon_fake.API_KEY, str(lemon_fake.STORE), "56", lemon.url, clock)
    return {
        "stripe": Configured(to_stripe, (stripe_fake.WEBHOOK_SECRET,), "", True, to_stripe.close),
        "lemon_squeezy": Configured(
            to_lemon, (lemon_fake.WEBHOOK_SECRET,), str(lemon_fake.STORE), True, to_lemon.close
        ),
    }


def house_of(platform: Database, clock: FixedClock, stripe: FakeStripe, lemon: FakeLemonSqueezy, book: Book) -> House:
    providers = providers_of(stripe, lemon, clock)
    worlds = {name: World(one.store, is_test=False) for name, one in providers.items()}
    counts = Counts(platform, clock)
    worker = WebhookWorker(providers, worlds, book, platform, clock, counts)
    return House(
        platform,
        clock,
        book,
        stripe,
        lemon,
        counts,
        Inbox(providers, worlds, platform, clock, counts, worker.wake),
        worker,
        Webhooks(platform, clock, worker.wake),
        Reconciliation(providers, worlds, book, platform, clock),
    )


async def eventually(holds: Callable[[], Awaitable[bool]], *, within_s: float = 10) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def close(house: House) -> None:
    await house.inbox.drain()
    await house.worker.close()
    await asyncio.gather(*(one.close() for one in house.reconciliation._providers.values()))
