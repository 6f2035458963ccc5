"""A process that issues or voids an invoice, and is killed after a named statement of it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from libs.common.clock import SystemClock
from libs.common.repeats.once import Repeatable
from libs.common.shards import open_shards
from services.billing.invoice import corrections, invoices, store
from services.billing.invoice.collection import Collection, Wanted
from services.billing.invoice.domain import recipients_tax
from services.billing.ledger.engine import Engine
from tests.support.sharded import SHARDS

ISSUE_POINTS: Final = ("collect", "lock_account", "insert", "keep_response", "commit")
VOID_POINTS: Final = ("lock", "set_state", "add_credited", "insert", "commit")
"""What the process dies after, the first time that it has done it."""


def run(url: str, organization_id: str, invoice_id: str, point: str) -> None:
    """Void an invoice, or issue one where none is named, and die at the point."""
    asyncio.run(_work(url, organization_id, invoice_id, point))


async def _work(url: str, organization_id: str, invoice_id: str, point: str) -> None:
    clock = SystemClock()
    shards = open_shards(url, schema="billing", count=SHARDS)
    collection = Collection(shards, Engine(shards, clock), None, clock)
    issuing = invoices.Invoices(shards, collection, recipients_tax, clock)
    voiding = corrections.Corrections(shards, clock)
    for owner in (collection, store, invoices, corrections):
        if hasattr(owner, point):
            setattr(owner, point, partial(done_and_die, getattr(owner, point)))
    if invoice_id:
        await voiding.void(organization_id, invoice_id, "killed")
    else:
        wanted = Wanted(organization_id, None, "", clock.now())
        again = Repeatable("issue-once", "IssueInvoice", b"", lambda _: "body")
        await issuing.issue(wanted, again, lambda issued: issued.invoice_id.encode(), skip_grace=True)
    die()


async def done_and_die(function: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> None:
    await function(*arguments, **named)
    die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
