"""Lets grants begin and expire on accounts that nobody uses.

Nothing that is decided depends on it: whatever uses or reads an account lets its due grants begin and expire first. The
worker makes the movements of the others, so that statements and listings have them.
"""

from collections.abc import Sequence
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.billing.ledger import grant_store
from services.billing.ledger.domain import SettleGrants
from services.billing.ledger.engine import Engine

_log = structlog.get_logger("grants")
_ACCOUNTS_MAX: Final = 200
"""How many accounts are looked at together: the ledger decides them in one batch."""


class GrantWorker:
    """Settles accounts with grants that are due, a bounded number at a time. Several processes may do so at once."""

    def __init__(self, shards: Shards, engine: Engine, clock: Clock, every_s: float) -> None:
        self._shards = shards
        self._engine = engine
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> NoReturn:
        await self._shards.visit(self.sweep, every_s=self._every_s)

    async def sweep(self, database: Database) -> None:
        """Look once at every account of a shard with grants that are due.

        The ledger decides each account by itself: one that fails keeps no other from its turn.
        """
        after = (NIL, NIL)
        while True:
            async with database.raw_connection() as connection:
                due = await grant_store.find_due_owners(connection, self._clock.now(), after, _ACCOUNTS_MAX)
            if due:
                await self._settle(due)
            if len(due) < _ACCOUNTS_MAX:
                return
            after = due[-1].organization_id, due[-1].account_id

    async def _settle(self, due: Sequence[grant_store.DueOwner]) -> None:
        answers = await self._engine.submit(
            [SettleGrants(one.organization_id, "", one.project_id, one.currency_code) for one in due]
        )
        for one, answer in zip(due, answers, strict=True):
            if isinstance(answer, Exception):
                reason = answer.reason if isinstance(answer, Refusal) else type(answer).__name__
                _log.warning("grants not settled", account_id=one.account_id, reason=reason)
