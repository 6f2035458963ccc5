"""Whatever a process dies after while it charges the usage of a period, each movement is made once."""

import signal
from datetime import timedelta
from decimal import Decimal
from functools import partial
from operator import eq

import pytest

from services.billing.subscription.domain import Subscription
from tests.billing import dying_usage_charge
from tests.billing.period_house import open_house, pending, utc
from tests.billing.usage_charge_house import Metered, charging, pages
from tests.metering.support import eventually
from tests.support.clock import FixedClock
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT

_USED = (
    # When it is looked at, what is known then, and what was charged in all: with a minimum of 400.
    ("2026-10-01", "101", Decimal(400)),
    ("2026-10-02", "250", Decimal(450)),
)

pytestmark = pytest.mark.thorough


@pytest.mark.timeout(300)
async def test_sigkill_at_each_point_charges_and_gives_back_once(database_urls: dict[str, str]) -> None:
    clock = FixedClock(utc("2026-09-01"))
    async with open_house(database_urls["billing"], clock) as house:
        metered = Metered(house, clock)
        terms = charging(0, pages(("100", "3"), ("", "1")), minimum="400")
        plan = await house.plan("metered", terms)
        for point in dying_usage_charge.POINTS * KILLS_AT_EACH_POINT:
            clock.set(utc("2026-09-01"))
            s = await house.add(pending(plan, clock.now(), expire=utc("2026-10-01")))
            await house.work_off()
            clock.set(utc("2026-10-01"))
            await house.work_off()
            for moment, used, amount in _USED:
                clock.set(utc(moment))
                told = [(utc("2026-09-05"), used)]
                metered.meter.used[s.subscription_id] = [(utc("2026-09-05"), Decimal(used))]
                arguments = database_urls["billing"], clock.now(), s.subscription_id, told, point
                assert await exit_code_of(dying_usage_charge.run, *arguments) == -signal.SIGKILL
                # Whoever comes next waits until the one that died has nothing any more.
                clock.advance(timedelta(minutes=2))
                assert await eventually(partial(_moved, metered, s), partial(eq, amount)) == amount, point
        assert await house.findings() == []


async def _moved(metered: Metered, s: Subscription) -> Decimal:
    """Look at what is due; return what was moved in all. A transaction of the dead may hold a row for a moment."""
    await metered.sweep()
    return -sum((Decimal(line[3]) for line in await metered.house.statement(s.organization_id)), Decimal(0))
