"""A process that charges the usage of periods, and is killed after a named statement of it, or after the ledger's."""

import asyncio
from datetime import datetime
from functools import partial
from typing import Final

from libs.common.shards import open_shards
from services.billing.ledger.engine import Engine
from services.billing.usage_charge import store
from services.billing.usage_charge.worker import UsageCharges
from tests.billing.dying_issue import die, done_and_die
from tests.billing.usage_charge_house import Meter
from tests.support.clock import FixedClock
from tests.support.sharded import SHARDS

POINTS: Final = ("take", "lock", "plan", "wake_minimum", "submit", "moved", "done", "charged_within", "sweep")
"""What the process dies after, the first time that it has done it. `sweep` is the end of a whole sweep of a shard."""


def run(url: str, now: datetime, subscription_id: str, used: list[tuple[datetime, str]], point: str) -> None:
    """Look at what is due, and die at the point."""
    asyncio.run(_work(url, FixedClock(now), subscription_id, used, point))


async def _work(
    url: str, clock: FixedClock, subscription_id: str, used: list[tuple[datetime, str]], point: str
) -> None:
    shards, meter = open_shards(url, schema="billing", count=SHARDS), Meter()
    for moment, quantity in used:
        meter.use(subscription_id, moment, quantity)
    engine = Engine(shards, clock)
    for owner in (store, engine):
        if hasattr(owner, point):
            setattr(owner, point, partial(done_and_die, getattr(owner, point)))
    worker = UsageCharges(shards, engine, meter, clock, 3600)
    for database in shards:
        await worker.sweep(database)
    die()
