"""Charges usage that had no price when it was recorded, as soon as there is one."""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Refusal
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import format_nanos, rate, refusal_of_cost
from services.metering.model.rates import Unpriced
from services.metering.quota import counter_store
from services.metering.quota.counters import sums
from services.metering.quota.domain import SPEND
from services.metering.usage import pricing_store
from services.metering.usage.correction import store as correction_store
from services.metering.usage.correction.corrections import Corrected, Corrections, wanted_price
from services.metering.usage.dimensions import TEST
from services.metering.usage.domain import charge_kind, is_above, is_below, kind_in_lease, rated_cost
from services.metering.usage.pricing_store import Pricing, Waiting
from services.metering.usage.store import Key

_log = structlog.get_logger("pricing")

_PART_MAX: Final = 200
_LOOK_EVERY_S: Final = 5.0
_ZERO: Final = Decimal(0)


class LatePricing:
    """Goes through waiting usage whenever prices were added, here or by another process."""

    def __init__(self, shards: Shards, catalogue: Catalogue, corrections: Corrections, clock: Clock) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._corrections = corrections
        self._clock = clock

    async def run(self) -> None:
        """Look whenever this process adds prices, and every few seconds for what others added."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._catalogue.changed.wait()
            except TimeoutError:
                pass  # No price was added by this process; another may have added some.
            self._catalogue.changed.clear()
            await self.price_all()

    async def price_all(self) -> int:
        """Price whatever can be priced now in every shard; return how many usages that were."""
        await self._catalogue.refresh()
        counts: list[int] = []

        async def visit(database: Database) -> None:
            counts.append(await self._price_shard(database))
            counts.append(await self._price_corrected(database))

        await self._shards.visit_all(visit)
        return sum(counts)

    async def _price_shard(self, database: Database) -> int:
        """Price whatever can be priced in a shard, part by part; return how many usages that were."""
        after: Key = (NIL, NIL)
        count = below = 0
        while True:
            async with database.raw_connection() as connection:
                waiting = await pricing_store.next_unpriced(connection, after=after, limit=_PART_MAX)
                counters = {(usage.organization_id, one) for usage in waiting for one in usage.counters}
                metrics = await counter_store.metrics(connection, counters) if counters else {}
            priced = [
                (usage, _counted(usage, pricing, metrics))
                for usage in waiting
                if (pricing := self._price(usage)) is not None
            ]
            pricings = [pricing for usage, pricing in priced if not is_below(pricing.cost, usage.captured_before)]
            below += len(priced) - len(pricings)
            count += await self._write(database, pricings)
            if len(waiting) < _PART_MAX:
                break
            after = (waiting[-1].organization_id, waiting[-1].usage_id)
        if count:
            _log.info("waiting usage priced", usages=count)
        if below:
            # What was captured is not given back: an operator sets a price that is not lower, in the same currency.
            _log.error("usage waits since its price is below what parts of its call captured", usages=below)
        return count

    async def _price_corrected(self, database: Database) -> int:
        """Price corrected usage that waits in a shard, each by a further correction; return how many that were."""
        after: Key = (NIL, NIL)
        count = 0
        while True:
            async with database.raw_connection() as connection:
                waiting = await correction_store.next_waiting(connection, after=after, limit=_PART_MAX)
            if waiting:
                wanted = [wanted_price(*one) for one in waiting]
                count += sum(isinstance(one, Corrected) for one in await self._corrections.correct_all(wanted))
            if len(waiting) < _PART_MAX:
                return count
            after = waiting[-1][:2]

    async def _write(self, database: Database, pricings: Sequence[Pricing]) -> int:
        """Write the prices, and return how many were written.

        A part that fails is split in halves until the usage at fault is alone, so that it does not delay the others.
        """
        if not pricings:
            return 0
        try:
            if any(one.counters for one in pricings):
                async with database.raw_transaction() as connection:
                    freed = await pricing_store.price(connection, pricings, self._clock.now())
                    await _count([one for one in pricings if one.usage_id in freed], connection)
            else:
                async with database.raw_connection() as connection:
                    freed = await pricing_store.price(connection, pricings, self._clock.now())
            return len(freed)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one usage must not reach the others.
            if len(pricings) == 1:
                _log.error("a usage could not be priced", usage_id=pricings[0].usage_id, exc_info=error)
                return 0
        middle = len(pricings) // 2
        halves = (pricings[:middle], pricings[middle:])
        return sum([await self._write(database, half) for half in halves])

    def _price(self, usage: Waiting) -> Pricing | None:
        version = self._catalogue.price(usage.model, usage.organization_id, usage.occur_time)
        if version is None:
            return None
        units = self._catalogue.units
        rated = rate(version, usage.tokens, usage.quantities, usage.service_tier, units, usage.occur_time)
        # Usage that costs more than an amount can be waits for the right price: what it cost could not be changed.
        if isinstance(rated, Unpriced) or refusal_of_cost(rated, version.card) is not None:
            return None
        before = usage.captured_before
        costs = is_above(format_nanos(rated.amount_nanos), before)
        kind = charge_kind(costs=costs, is_held=usage.authorized, environment=usage.environment)
        cost = kind_in_lease(rated_cost(rated, version, kind), usage.leased_currency_code)
        return Pricing(usage.organization_id, usage.usage_id, cost)


def _counted(usage: Waiting, pricing: Pricing, metrics: Mapping[Key, tuple[str, str]]) -> Pricing:
    """Return a price with the counters of spend limits that it is added to. The spend of tests is zero."""
    if usage.environment == TEST or pricing.cost.amount == "0":
        return pricing
    spend = (SPEND, pricing.cost.currency_code)
    return pricing._replace(
        counters=[one for one in usage.counters if metrics.get((usage.organization_id, one)) == spend]
    )


async def _count(priced: Sequence[Pricing], connection: RawConnection) -> None:
    """Add the cost of usages to their spend limits. What was in a window that is gone by now is added to nothing."""
    changes = sums(
        ((one.organization_id, counter_id), Decimal(one.cost.amount), _ZERO)
        for one in priced
        for counter_id in one.counters
    )
    found = await counter_store.lock(connection, changes) if changes else {}
    if found:
        await counter_store.add(connection, {key: changes[key] for key in found})
