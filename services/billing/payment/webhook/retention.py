"""Deletes webhooks that are finished and old, with their bodies, and old counts.

An event that a provider sends again after that is taken as a new one; it changes nothing, since what it says is known.
"""

import asyncio
from datetime import timedelta
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from services.billing.payment.webhook import store
from services.billing.payment.webhook.domain import State

_log = structlog.get_logger("webhooks")
_EVERY_S: Final = 60.0
_AT_ONCE: Final = 1_000
_COUNTS_KEPT: Final = timedelta(days=400)


class Retention:
    """Works as long as the process runs. Several processes may do so at once."""

    def __init__(self, platform: Database, clock: Clock, kept_for: timedelta) -> None:
        self._platform = platform
        self._clock = clock
        self._kept_for = kept_for

    async def run(self) -> NoReturn:
        """Delete what is old again and again, until cancelled."""
        while True:
            try:
                await self.delete_old()
            except Refusal as refusal:
                _log.warning("old webhooks not deleted", reason=refusal.reason)
            await asyncio.sleep(_EVERY_S)

    async def delete_old(self) -> None:
        """Delete all that is old now, a bounded number of rows at a time."""
        now = self._clock.now()
        deleted = _AT_ONCE
        while deleted == _AT_ONCE:
            async with self._platform.raw_connection() as connection:
                counts = await store.delete_finished(connection, now - self._kept_for, _AT_ONCE)
            deleted = counts.total()
            if counts[State.SET_ASIDE]:
                _log.warning("webhooks deleted that were set aside", webhooks=counts[State.SET_ASIDE])
        deleted = _AT_ONCE
        while deleted == _AT_ONCE:
            async with self._platform.raw_connection() as connection:
                deleted = await store.delete_counts(connection, (now - _COUNTS_KEPT).date(), _AT_ONCE)
