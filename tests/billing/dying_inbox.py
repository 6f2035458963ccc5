"""A process that takes webhooks in and applies them, and is killed at a named point of it."""

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from services.billing.payment.payments import Payments
from services.billing.payment.provider import Applied, Fact
from services.billing.payment.webhook import inbox, store
from services.billing.payment.webhook.domain import Decision
from services.billing.payment.webhook.store import Due, NewWebhook
from tests.billing.shop import open_shop

Sent = tuple[str, dict[str, str], bytes]
POINTS: Final = ("kept before the commit", "kept after the commit", "claimed", "one applied", "all applied", "settled")


def run(url: str, point: str, sent: Sequence[Sent]) -> None:
    """Take webhooks in and apply them; die the first time that the point is reached."""

    async def work() -> None:
        _plant(point)
        async with open_shop(url) as shop:
            for provider, headers, body in sent:
                await shop.house.inbox.receive(provider, headers, body)
            await shop.house.work()

    asyncio.run(work())


def _plant(point: str) -> None:
    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    insert, claim, settle, apply = store.insert, store.claim, store.settle, Payments.apply
    receive = inbox.Inbox.receive

    async def inserted(tx: RawConnection, new: Sequence[NewWebhook]) -> set[str]:
        kept = await insert(tx, new)
        reached("kept before the commit")
        return kept

    async def received(self: inbox.Inbox, *sent: object) -> inbox.Received:
        answer = await receive(self, *sent)  # type: ignore[arg-type]  # handed on.
        reached("kept after the commit")
        return answer

    async def claimed(connection: RawConnection, now: datetime, again_at: datetime, limit: int) -> list[Due]:
        due = await claim(connection, now, again_at, limit)
        reached("claimed")
        return due

    async def applied(self: Payments, fact: Fact) -> Applied:
        done = await apply(self, fact)
        reached("one applied")
        return done

    async def settling(connection: RawConnection, decided: Sequence[tuple[Due, Decision]], now: datetime) -> None:
        reached("all applied")
        await settle(connection, decided, now)
        reached("settled")

    for owner, name, planted in (
        (store, "insert", inserted),
        (inbox.Inbox, "receive", received),
        (store, "claim", claimed),
        (store, "settle", settling),
        (Payments, "apply", applied),
    ):
        setattr(owner, name, planted)
