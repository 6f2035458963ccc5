"""Says how much of a unit was used under a subscription, for what plans charge for usage."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.shards import Shards
from services.metering.charge import quantity_store
from services.metering.charge.quantity_store import Span
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import REQUESTS
from services.metering.model.units import TOKEN_CLASS_UNITS
from services.metering.usage.dropped_store import month_text

RANGE_MAX: Final = timedelta(days=3660)
_CLASS_OF_UNIT: Final = {unit: name for name, unit in TOKEN_CLASS_UNITS.items()}
_MODELS_MAX: Final = 10
_AN_HOUR: Final = timedelta(hours=1)


class Wanted(NamedTuple):
    """Which usage is asked for."""

    organization_id: str
    subscription_id: str
    with_unsubscribed: bool
    unit: str
    models: Sequence[str]
    start_time: datetime
    end_time: datetime


class Quantities:
    """Adds up usage by unit."""

    def __init__(self, reports: Shards, catalogue: Catalogue, clock: Clock) -> None:
        self._reports = reports
        self._catalogue = catalogue
        self._clock = clock

    async def used(self, wanted: Wanted) -> tuple[Decimal, list[str], list[str]]:
        """Return how much was used, the first models with a price of their own for the unit, and the months of dropped
        usage that is not in it.
        """
        span = span_of(wanted.start_time, wanted.end_time)
        subscription_ids = [wanted.subscription_id, *([""] if wanted.with_unsubscribed else [])]
        async with self._reports.of(wanted.organization_id).raw_connection() as connection:
            by_model = await quantity_store.used_by_model(
                connection,
                wanted.organization_id,
                subscription_ids,
                span,
                unit=wanted.unit,
                token_class=_CLASS_OF_UNIT.get(wanted.unit),
                is_requests=wanted.unit == REQUESTS,
                models=wanted.models,
            )
            dropped = await quantity_store.dropped_at_the_ends(connection, wanted.organization_id, span)
        await self._catalogue.refresh()
        priced = [model for model in sorted(by_model) if self._is_priced(model, wanted)]
        quantity = sum(by_model.values(), Decimal(0))
        if dropped:
            # What corrections took out of dropped usage is known still, and the usage itself is not.
            quantity = max(quantity, Decimal(0))
        return quantity, priced[:_MODELS_MAX], sorted({*map(month_text, dropped)})

    def _is_priced(self, model: str, wanted: Wanted) -> bool:
        """Return whether a model's rate card in force asks for a price for the unit, or for one it falls back to."""
        price = self._catalogue.price(model, wanted.organization_id, self._clock.now())
        if price is None:
            return False
        unit = wanted.unit
        for _ in range(len(price.card.fallbacks) + 1):
            if unit in price.card.rated_units or unit not in price.card.fallbacks:
                break
            unit = price.card.fallbacks[unit]
        return any(rate.unit_id == unit and rate.price > 0 for rate in price.card.rates)


def span_of(start: datetime, end: datetime) -> Span:
    """Return a time in its parts. Hours are those of UTC."""
    first = start.replace(minute=0, second=0, microsecond=0)
    first = first if first == start else first + _AN_HOUR
    last = end.replace(minute=0, second=0, microsecond=0)
    return Span(start, first, last, end) if first <= last else Span(start, end, end, end)
