"""Goes on with payments of which not all is done: a process died, or the account was closed and is open again.

It repeats what `Payments.settle` does until it is done. A process that dies at it leaves the payment as it was, or
further on.
"""

from datetime import timedelta
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.billing.payment import store
from services.billing.payment.payments import Payments

_log = structlog.get_logger("payments")
_EVERY_S: Final = 10.0
_PAGE_MAX: Final = 200
_UNDER_WAY: Final = timedelta(minutes=1)
"""For how long somebody else may be at a payment that has changed."""


class Settling:
    """Settles payments as long as the process runs."""

    def __init__(self, shards: Shards, payments: Payments, clock: Clock) -> None:
        self._shards = shards
        self._payments = payments
        self._clock = clock

    async def run(self) -> NoReturn:
        """Look for payments to settle again and again."""
        await self._shards.visit(self.sweep, every_s=_EVERY_S)

    async def sweep(self, database: Database) -> None:
        """Look once at every payment of a shard that is not settled. One that fails keeps no other from its turn."""
        after = NIL, NIL
        while True:
            async with database.raw_connection() as connection:
                page = await store.unsettled(connection, after, self._clock.now() - _UNDER_WAY, _PAGE_MAX)
            for organization_id, payment_id, is_closed in page:
                if not is_closed:
                    await self._settle(organization_id, payment_id)
            if len(page) < _PAGE_MAX:
                return
            after = page[-1][:2]

    async def _settle(self, organization_id: str, payment_id: str) -> None:
        try:
            await self._payments.settle(organization_id, payment_id)
        except Refusal as refusal:
            _log.warning(
                "payment not settled", organization_id=organization_id, payment_id=payment_id, reason=refusal.reason
            )
