"""Tidies expired holds on accounts that nobody touches.

Nothing depends on it: an expired hold stops counting at once, wherever it is looked at. It keeps the books readable.
"""

import asyncio
from contextlib import suppress
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Conflict
from services.billing.ledger import posting_store, store

_ACCOUNTS_MAX: Final = 200
"""How many accounts one transaction tidies: short enough to keep nobody waiting."""


class Sweeper:
    """Ends what is overdue, a bounded number of accounts at a time."""

    def __init__(self, database: Database, clock: Clock, every_s: float) -> None:
        self._database = database
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            with suppress(Conflict):
                while await self.sweep() == _ACCOUNTS_MAX:
                    pass

    async def sweep(self) -> int:
        """Tidies up to a bounded number of accounts and returns how many there were."""
        now = self._clock.now()
        async with self._database.raw_transaction() as connection:
            due = await store.lock_due_accounts(connection, now, _ACCOUNTS_MAX)
            if due:
                await store.expire_holds(connection, due, now)
                await posting_store.update_accounts(connection, due)
        return len(due)
