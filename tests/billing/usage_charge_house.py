"""Usage charges beside the subscriptions of a house, with a peer that says what was used as a test told it."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from libs.common.errors import Unavailable
from services.billing.clients.usages import Usages, UsedQuantity, WantedQuantity
from services.billing.ledger.engine import Engine
from services.billing.plan.domain import Terms
from services.billing.plan.usage_charge_domain import UsageCharge, UsageMode, UsageStep
from services.billing.usage_charge.worker import UsageCharges
from tests.billing.period_house import House, terms
from tests.support.clock import FixedClock

PAGES = "pages"


class Meter(Usages):
    """What metering answers, by the usage that a test has told it."""

    def __init__(self) -> None:
        self.used: dict[str, list[tuple[datetime, Decimal]]] = defaultdict(list)
        """By subscription: when, and how much."""
        self.is_away = False
        self.dropped_until: datetime | None = None
        """Before when usage was dropped."""

    def use(self, subscription_id: str, moment: datetime, quantity: str) -> None:
        self.used[subscription_id].append((moment, Decimal(quantity)))

    async def quantity(self, wanted: WantedQuantity) -> UsedQuantity:
        if self.is_away:
            raise Unavailable(dependency="metering")
        assert wanted.unit == PAGES
        within = [one for one in self.used[wanted.subscription_id] if wanted.start <= one[0] < wanted.end]
        kept = [one for one in within if self.dropped_until is None or one[0] >= self.dropped_until]
        dropped = {f"{moment:%Y-%m}" for moment, _ in set(within) - set(kept)}
        return UsedQuantity(sum((quantity for _, quantity in kept), Decimal(0)), (), tuple(sorted(dropped)))


def pages(
    *steps: tuple[str, str],
    mode: UsageMode = UsageMode.GRADUATED,
    fee: str = "0",
    always: bool = False,
    code: str = PAGES,
) -> UsageCharge:
    """Return a charge for pages by steps: the last quantity, and the price."""
    listed = tuple(
        UsageStep(Decimal(up_to) if up_to else None, Decimal(price)) for up_to, price in steps or [("", "1")]
    )
    return UsageCharge(code, "Pages", PAGES, (), mode, listed, Decimal(fee), always)


def charging(price: str | int = 0, *charges: UsageCharge, minimum: str = "", retries: tuple[int, ...] = ()) -> Terms:
    return replace(terms(price, minimum=minimum, retries=retries), usage_charges=charges or (pages(),))


@dataclass(slots=True)
class Metered:
    """A house whose usage is charged."""

    house: House
    clock: FixedClock
    meter: Meter = field(default_factory=Meter)

    def worker(self, engine: Engine | None = None) -> UsageCharges:
        """Return another process's worth of what charges usage."""
        return UsageCharges(self.house.shards, engine or self.house.engine, self.meter, self.clock, 3600)

    async def sweep(self) -> None:
        for database in self.house.shards:
            await self.worker().sweep(database)

    async def work_off(self, moment: datetime) -> None:
        """Let what is due at a moment be done: periods, then their usage charges."""
        self.clock.set(moment)
        await self.house.work_off()
        await self.sweep()

    async def periods(self, subscription_id: str) -> list[tuple[str, str, str, str, str]]:
        """Return what is stored of a subscription's times: start, end, code, quantity and amount."""
        found = []
        for database in self.house.shards:
            async with database.raw_connection() as connection:
                found += await connection.fetch(
                    "SELECT start_time, end_time, usage_charge_code, quantity, amount FROM usage_periods"
                    " WHERE subscription_id = $1::uuid ORDER BY start_time, usage_charge_code",
                    subscription_id,
                )
        return [(f"{row[0]:%m-%d}", f"{row[1]:%m-%d}", row[2], plain(row[3]), plain(row[4])) for row in found]


def plain(value: Decimal) -> str:
    return format(value.normalize(), "f")
