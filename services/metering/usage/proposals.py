"""What a work is priced with and costs, before it is written."""

from collections.abc import Iterable
from datetime import datetime

from libs.common.ids import new_id
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import PriceVersion, format_nanos, rate, refusal_of_cost
from services.metering.model.rates import STANDARD_TIER, Unpriced
from services.metering.usage.domain import (
    PENDING,
    PENDING_PRICE,
    SETTLED,
    Authorization,
    Captured,
    Cost,
    Recorded,
    Work,
    charge_kind,
    completed,
    dimensions_of,
    is_above,
    rated_cost,
)
from services.metering.usage.part_domain import Part


class Proposals:
    """Prices works by the catalogue: authorized ones with the price version of their authorization."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def know_prices(self, works: Iterable[tuple[Work, Authorization | None]]) -> None:
        """Refresh the catalogue from the database once more if it has no price for one of the works."""
        if not all(work.stated is not None or self.version(work, authorization) for work, authorization in works):
            await self._catalogue.refresh_for_unknown()

    async def knows_price(self, part: Part) -> bool:
        """Tell whether the price version of a part is known here; another process may have known it first."""
        if part.price_version_id is not None and self._catalogue.version(part.price_version_id) is None:
            await self._catalogue.refresh_for_unknown()
        return part.price_version_id is None or self._catalogue.version(part.price_version_id) is not None

    def version(self, work: Work, authorization: Authorization | None, last: Part | None = None) -> PriceVersion | None:
        """Return the price version of a work: that of the parts of its call, if these were priced."""
        if last is not None and last.price_version_id is not None:
            return self._catalogue.version(last.price_version_id)
        if authorization is not None and authorization.model == work.model:
            return self._catalogue.version(authorization.price_version_id)
        return self._catalogue.price(work.model, work.organization_id, work.occur_time)

    def propose(
        self, work: Work, authorization: Authorization | None, now: datetime, last: Part | None = None
    ) -> Recorded:
        """Return the usage as it is to be recorded; `last` is the last part of its call, if it was settled in parts."""
        version = self.version(work, authorization, last)
        if authorization is not None:
            work = completed(work, authorization)
        elif work.service_tier is None:
            work = work._replace(service_tier=STANDARD_TIER)
        model = self._catalogue.model(work.model)
        dimensions = dimensions_of(work, model.provider if model is not None else "")
        before = None if last is None else last.captured
        is_held = authorization is not None and authorization.amount > 0
        cost = self.cost(work, version, is_held=is_held, before=before)
        settlement = PENDING_PRICE if cost is None else SETTLED if cost.charge_kind is None else PENDING
        return Recorded(work, new_id(), cost, now, settlement, dimensions=dimensions, captured_before=before)

    def cost(
        self, work: Work, version: PriceVersion | None, *, is_held: bool, before: Captured | None = None
    ) -> Cost | None:
        """Return what a work costs: what the caller states, else by the price; None while no price is known.

        Raises:
            CostTooLarge: it costs more than an amount can be.
        """
        if work.stated is not None:
            costs = is_above(work.stated.amount, before)
            kind = charge_kind(costs=costs, is_held=is_held, environment=work.environment)
            return Cost(work.stated.amount, work.stated.currency_code, None, kind)
        if version is None:
            return None
        tier = work.service_tier or STANDARD_TIER
        rated = rate(version, work.tokens, work.quantities, tier, self._catalogue.units, work.occur_time)
        if isinstance(rated, Unpriced):
            return None
        too_large = refusal_of_cost(rated, version.card)
        if too_large is not None:
            raise too_large
        costs = rated.amount_nanos > 0 if before is None else is_above(format_nanos(rated.amount_nanos), before)
        return rated_cost(rated, version, charge_kind(costs=costs, is_held=is_held, environment=work.environment))
