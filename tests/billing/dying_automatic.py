"""A process that issues invoices by itself, and is killed after a named statement of it."""

import asyncio
from datetime import datetime
from functools import partial
from typing import Final

from libs.common.shards import open_shards
from services.billing.invoice import invoices, party_store, schedule_store, store
from services.billing.invoice.automatic import AutomaticInvoices
from services.billing.invoice.collection import Collection
from services.billing.invoice.domain import recipients_tax
from services.billing.ledger.engine import Engine
from tests.billing.dying_issue import die, done_and_die
from tests.support.clock import FixedClock
from tests.support.sharded import SHARDS

POINTS: Final = ("begin", "enrol", "take", "done", "insert", "announce_document", "sweep")
"""What the process dies after, the first time that it has done it. `sweep` is the end of a whole sweep of a shard."""


def run(url: str, now: datetime, point: str) -> None:
    """Issue what is due, and die at the point."""
    asyncio.run(_work(url, FixedClock(now), point))


async def _work(url: str, clock: FixedClock, point: str) -> None:
    shards = open_shards(url, schema="billing", count=SHARDS)
    collection = Collection(shards, Engine(shards, clock), None, clock)
    automatic = AutomaticInvoices(shards, invoices.Invoices(shards, collection, recipients_tax, clock), clock, 1)
    for owner in (party_store, schedule_store, store, invoices):
        if hasattr(owner, point):
            setattr(owner, point, partial(done_and_die, getattr(owner, point)))
    for database in shards:
        await automatic.sweep(database)
        if point == "sweep":
            die()
    die()
