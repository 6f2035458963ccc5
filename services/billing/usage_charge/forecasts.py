"""Says what the usage charges of periods under way would come to, were they over now."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.shards import Shards
from services.billing.clients.usages import Usages, WantedQuantity
from services.billing.invoice.domain import UsageForecast
from services.billing.subscription.costs import span
from services.billing.subscription.domain import Agreement, Subject, Subscription
from services.billing.subscription.offers import Offers
from services.billing.subscription.proration import prorated
from services.billing.usage_charge import store

_MOMENT: Final = timedelta(microseconds=1)
_SUBSCRIPTIONS_MAX: Final = 50
"""Of how many subscriptions of an organization the forecast tells."""


class Forecasts:
    """The usage charges of periods that are not over, of one organization at a time."""

    def __init__(self, shards: Shards, offers: Offers, usages: Usages | None, clock: Clock) -> None:
        self._shards = shards
        self._offers = offers
        self._usages = usages
        self._clock = clock

    async def __call__(self, organization_id: str) -> Sequence[UsageForecast]:
        """Return what was used so far and what it comes to, of the first 50 subscriptions with usage charges.

        Raises:
            Unavailable: metering cannot be asked.
        """
        async with self._shards.of(organization_id).raw_connection() as connection:
            running = await store.running(connection, organization_id, _SUBSCRIPTIONS_MAX)
        return [forecast for one in running for forecast in await self._of(one)]

    async def _of(self, s: Subscription) -> list[UsageForecast]:
        if self._usages is None:
            raise Unavailable(dependency="metering")
        terms, now = await self._offers.terms(s), self._clock.now()
        start, end = s.usage_since, s.period_end_time
        if start is None or end is None or start >= end:
            return []
        part = span(Agreement(s, terms), start, end)
        rests = not s.period_paid and not s.state.entitles
        found = []
        for charge in terms.usage_charges:
            wanted = WantedQuantity(
                *(s.organization_id, s.subscription_id, s.subject is Subject.ORGANIZATION, charge.unit, charge.models),
                *(start, max(min(now, end), start + _MOMENT)),
            )
            used = await self._usages.quantity(wanted)
            base = prorated(Decimal(0) if rests else charge.flat_fee, part.days, part.period_days)
            found.append(
                UsageForecast(
                    s.subscription_id,
                    s.plan.plan_code if s.plan else "",
                    charge.usage_charge_code,
                    charge.name,
                    charge.unit,
                    used.quantity,
                    terms.price.currency_code,
                    charge.amount(used.quantity, base),
                    start,
                    end,
                    used.priced_models,
                )
            )
        return found
