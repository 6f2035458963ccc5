"""Ends expired holds of accounts that nobody uses.

Nothing depends on it: an expired hold stops counting at once, wherever it is read. The sweeper makes the stored state
agree with that.
"""

from collections.abc import Sequence
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.billing.ledger import posting_store, store
from services.billing.ledger.expiries import EXPIRED_HOLDS

_log = structlog.get_logger("sweeper")
_ACCOUNTS_MAX: Final = 200
"""How many accounts one transaction updates: few enough that it is short."""
_FIRST: Final[store.Key] = (NIL, NIL)


class Sweeper:
    """Ends expired holds, a bounded number of accounts in each transaction."""

    def __init__(self, shards: Shards, clock: Clock, every_s: float) -> None:
        self._shards = shards
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> NoReturn:
        await self._shards.visit(self.sweep, every_s=self._every_s)

    async def sweep(self, database: Database) -> None:
        """Look once at every account with expired holds of a shard.

        An account that fails is logged and keeps no other from its turn.
        """
        after = _FIRST
        while True:
            now = self._clock.now()
            async with database.raw_connection() as connection:
                due = await store.find_due_accounts(connection, now, after, _ACCOUNTS_MAX)
            if due:
                await self._expire_or_split(database, due)
            if len(due) < _ACCOUNTS_MAX:
                return
            after = due[-1]

    async def _expire_or_split(self, database: Database, due: Sequence[store.Key]) -> None:
        """End the expired holds of these accounts together; if that fails, account by account."""
        try:
            await self._expire(database, due)
        except Exception as error:  # noqa: BLE001 -- the other accounts must have their turn, whatever the cause.
            if len(due) == 1:
                _log.warning("expired holds not ended", organization_id=due[0][0], account_id=due[0][1], exc_info=error)
                return
            for key in due:
                await self._expire_or_split(database, [key])

    async def _expire(self, database: Database, due: Sequence[store.Key]) -> None:
        async with database.raw_transaction() as connection:
            accounts = await store.lock_unused_accounts(connection, due)
            if not accounts:
                return
            ended = await store.expire_holds(connection, accounts, self._clock.now())
            await posting_store.update_accounts(connection, accounts)
        EXPIRED_HOLDS.add(ended)
