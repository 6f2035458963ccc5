"""Counts of webhooks by what became of them.

They are kept in memory and written every second, so that a flood of forged webhooks writes nothing for each. A process
that is killed loses at most the last second's.
"""

import asyncio
from collections import Counter
from datetime import date
from typing import Final, NoReturn

import structlog
from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from services.billing.payment.webhook import store
from services.billing.payment.webhook.domain import KIND_CHARS_MAX, Outcome

_log = structlog.get_logger("webhooks")
_WRITE_EVERY_S: Final = 1.0
_COUNTED = metrics.get_meter("tollhouse").create_counter(
    "webhooks.received", unit="{webhook}", description="Webhooks of payment providers by what became of them."
)


class Counts:
    """Counts webhooks, and writes the counts to billing's own schema."""

    def __init__(self, platform: Database, clock: Clock) -> None:
        self._platform = platform
        self._clock = clock
        self._waiting: Counter[tuple[str, date, str, str]] = Counter()

    def add(self, provider: str, outcome: Outcome, kind: str = "") -> None:
        """Count one webhook. `kind` is the provider's word; it may only be given where the signature was good."""
        self._waiting[provider, self._clock.now().date(), outcome.value, kind[:KIND_CHARS_MAX]] += 1
        _COUNTED.add(1, {"provider": provider, "outcome": outcome.value})

    async def run(self) -> NoReturn:
        """Write the counts every second, until cancelled."""
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what was counted; keep it where that fails."""
        taken, self._waiting = self._waiting, Counter()
        if not taken:
            return
        try:
            async with self._platform.raw_connection() as connection:
                await store.add_counts(connection, taken)
        except Refusal as refusal:
            self._waiting.update(taken)
            _log.warning("webhooks not counted yet", reason=refusal.reason)
