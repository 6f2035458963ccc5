"""Announces balances that became low, once for each crossing, and credits that are about to expire, once.

It looks at what movements have left behind, so that no movement takes longer for it. An event is written in the
transaction that notes that it is: killed before its end, it is done by the next look.
"""

from datetime import timedelta
from typing import Final, NoReturn

from libs.common.amount import format_amount
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.events.outbox import NewEvent, announce
from libs.common.ids import NIL
from libs.common.shards import Shards
from libs.common.timestamps import rfc3339
from services.billing.notice import store
from services.billing.notice.store import Crossing, Expiring, Key

_AT_ONCE: Final = 200
EXPIRY_TOLD_BEFORE: Final = timedelta(days=7)
"""How long before they expire credits are announced."""


class NoticeWorker:
    """Looks at the shards again and again. Several processes may do so at once."""

    def __init__(self, shards: Shards, clock: Clock, every_s: float) -> None:
        self._shards = shards
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> NoReturn:
        await self._shards.visit(self.sweep, every_s=self._every_s)

    async def sweep(self, database: Database) -> None:
        """Look once at a shard."""
        await self._tell_low_balances(database)
        while await self._tell_expiring(database) == _AT_ONCE:
            pass

    async def _tell_low_balances(self, database: Database) -> None:
        after: Key = (NIL, NIL)
        while True:
            async with database.raw_connection() as connection:
                found = await store.find_crossed(connection, after, _AT_ONCE)
            for key in found:
                async with database.raw_transaction() as connection:
                    crossing = await store.tell(connection, key)
                    if crossing is not None and crossing.is_low:
                        await announce(connection, [_low(key, crossing)], self._clock.now())
            if len(found) < _AT_ONCE:
                return
            after = found[-1]

    async def _tell_expiring(self, database: Database) -> int:
        now = self._clock.now()
        async with database.raw_transaction() as connection:
            grants = await store.lock_expiring(connection, now + EXPIRY_TOLD_BEFORE, _AT_ONCE)
            if grants:
                await store.note_told(connection, grants)
                events = [_expiring(grant) for grant in grants]
                await announce(connection, sorted(events, key=lambda one: (one.organization_id, one.subject)), now)
        return len(grants)


def _low(key: Key, crossing: Crossing) -> NewEvent:
    data = {
        "account_id": key[1],
        "project_id": crossing.project_id,
        "currency_code": crossing.currency_code,
        "posted": format_amount(crossing.posted),
        "threshold": format_amount(crossing.threshold),
    }
    return NewEvent(key[0], "tollhouse.balance.low", f"account/{key[1]}", data)


def _expiring(grant: Expiring) -> NewEvent:
    data = {
        "grant_id": grant.grant_id,
        "account_id": grant.account_id,
        "currency_code": grant.currency_code,
        "amount": format_amount(grant.amount),
        "rest": format_amount(grant.rest),
        "expire_time": rfc3339(grant.expire_time),
        "source_reference": grant.source_reference,
        "description": grant.description,
    }
    return NewEvent(grant.organization_id, "tollhouse.credit_grant.expiring", f"credit_grant/{grant.grant_id}", data)
