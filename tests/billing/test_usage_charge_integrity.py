"""The invariants of usage charges find each kind of damage, wherever ranges of rows end."""

from typing import Final

import pytest

from libs.common.integrity.verification import Verification
from services.billing.plan.usage_charge_domain import UsageMode
from services.billing.usage_charge_invariants import USAGE_CHARGE_CHECKS
from tests.billing.period_house import open_house, pending, utc
from tests.billing.usage_charge_house import Metered, charging, pages
from tests.support.clock import FixedClock
from tests.support.invariants import findings_of
from tests.support.sharded import execute_in_shards

pytestmark = pytest.mark.shards

_MOVED: Final = "usage_periods_have_their_movements"
_PRICED: Final = "usage_periods_cost_what_was_used"
_APART: Final = "usage_periods_are_apart"
_FOLLOW: Final = "usage_periods_follow_each_other"
_CHARGED: Final = "usage_periods_are_charged"


DAMAGE: Final = {
    # For each kind of damage the invariant that finds it, and the statement, which goes on with " AND" and a condition.
    "an amount": (_MOVED, "UPDATE billing.usage_periods SET amount = amount + 1 WHERE true"),
    "a movement is gone": (_MOVED, "DELETE FROM billing.usage_period_movements WHERE sequence = 1"),
    "a movement of another amount": (
        _MOVED,
        "UPDATE billing.usage_period_movements SET change = change + 1 WHERE true",
    ),
    "another operation": (
        _MOVED,
        "UPDATE billing.usage_period_movements SET operation_id = operation_id || 'x' WHERE true",
    ),
    "a quantity": (
        _PRICED,
        "UPDATE billing.usage_periods SET quantity = quantity + 1 WHERE charge ->> 'mode' = 'GRADUATED'",
    ),
    "a quantity by volume": (
        _PRICED,
        "UPDATE billing.usage_periods SET quantity = 100 WHERE charge ->> 'mode' = 'VOLUME'",
    ),
    "a flat fee": (_PRICED, "UPDATE billing.usage_periods SET base = 0 WHERE base = 5"),
    "a minimum": (_PRICED, "UPDATE billing.usage_periods SET base = base + 1 WHERE usage_charge_code = ''"),
    "an end": (_APART, "UPDATE billing.usage_periods SET end_time = end_time + interval '1 s' WHERE true"),
    "a time is gone, and one followed": (
        _FOLLOW,
        "UPDATE billing.usage_periods SET end_time = end_time - interval '1 s' WHERE start_time < '2026-10-01'",
    ),
    "the last time is gone": (_FOLLOW, "DELETE FROM billing.usage_periods WHERE start_time >= '2026-10-01'"),
    "a time that waits": (_CHARGED, "UPDATE billing.usage_periods SET looked_time = NULL WHERE true"),
    "a movement that waits": (_CHARGED, "UPDATE billing.usage_period_movements SET planned = true WHERE true"),
}
USAGE_CHARGE_DAMAGE: Final = frozenset(invariant for invariant, _ in DAMAGE.values())


async def test_planted_damage_to_usage_charges_is_found(database_urls: dict[str, str], database_admin_url: str) -> None:
    clock = FixedClock(utc("2026-09-01"))
    steps = ("100", "3"), ("", "1")
    async with open_house(database_urls["billing"], clock) as house:
        metered = Metered(house, clock)
        charges = pages(*steps), pages(*steps, mode=UsageMode.VOLUME, fee="5", always=True, code="by_volume")
        plan = await house.plan("metered", charging(0, *charges, minimum="900"))
        damaged = {kind: await house.add(pending(plan, clock.now())) for kind in DAMAGE}
        await house.work_off()
        for s in damaged.values():
            for month, quantity in (("09", "101"), ("10", "7")):
                metered.meter.use(s.subscription_id, utc(f"2026-{month}-05"), quantity)
        for day in ("2026-10-01", "2026-11-01", "2026-11-03"):
            await metered.work_off(utc(day))

        def verification(rows_max: int) -> Verification:
            return Verification(house.reports, clock, USAGE_CHARGE_CHECKS, rows_max=rows_max)

        for rows_max in (3, 10_000):
            assert await findings_of(verification(rows_max)) == []
        for kind, s in damaged.items():
            await execute_in_shards(
                database_admin_url, f"{DAMAGE[kind][1]} AND organization_id = '{s.organization_id}'"
            )
        found = await findings_of(verification(10_000))
        for kind, s in damaged.items():
            of_it = {one.invariant for one in found if one.resource == f"subscriptions/{s.subscription_id}"}
            assert DAMAGE[kind][0] in of_it, kind
        for rows_max in (1, 2):
            assert await findings_of(verification(rows_max)) == found
