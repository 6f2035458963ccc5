"""Charges usage that had no price when it was recorded, as soon as there is one."""

import asyncio
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from services.metering.clients.billing import CAPTURE, DEBIT
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import cost_nanos, format_nanos
from services.metering.usage import store
from services.metering.usage.domain import NIL, Cost
from services.metering.usage.store import Key, Pricing, Unpriced

_log = structlog.get_logger("pricing")

_PART_MAX: Final = 200
_LOOK_EVERY_S: Final = 5.0


class LatePricing:
    """Goes through waiting usage whenever prices were added, here or by another process."""

    def __init__(self, database: Database, catalogue: Catalogue, clock: Clock) -> None:
        self._database = database
        self._catalogue = catalogue
        self._clock = clock

    async def run(self) -> None:
        """Look whenever this process adds prices, and every few seconds for what others added."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._catalogue.changed.wait()
            except TimeoutError:
                pass  # nothing was added here; others may have.
            self._catalogue.changed.clear()
            await self.price_all()

    async def price_all(self) -> int:
        """Price whatever can be priced now, part by part; return how many usages that were."""
        await self._catalogue.refresh()
        after: Key = (NIL, NIL)
        count = 0
        while True:
            async with self._database.raw_connection() as connection:
                waiting = await store.next_unpriced(connection, after=after, limit=_PART_MAX)
                pricings = [pricing for usage in waiting if (pricing := self._price(usage)) is not None]
                if pricings:
                    count += await store.price(connection, pricings, self._clock.now())
            if len(waiting) < _PART_MAX:
                break
            after = (waiting[-1].organization_id, waiting[-1].usage_id)
        if count:
            _log.info("waiting usage priced", usages=count)
        return count

    def _price(self, usage: Unpriced) -> Pricing | None:
        version = self._catalogue.price(usage.model, usage.organization_id, usage.occur_time)
        if version is None:
            return None
        amount = format_nanos(cost_nanos(version, usage.tokens))
        kind = CAPTURE if usage.authorized else None if amount == "0" else DEBIT
        cost = Cost(amount, version.prices.currency_code, version.price_version_id, kind)
        return Pricing(usage.organization_id, usage.usage_id, cost)
