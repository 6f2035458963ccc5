"""The invariants hold with leases open, settled and lapsed, and find each kind of damage."""

import asyncio
from datetime import timedelta

import pytest

from libs.common.ids import new_id
from tests.metering.allocations.support import Limits, state
from tests.metering.leases.support import acquire, assert_consistent, settle
from tests.metering.support import Metering, Platform, eventually, usage
from tests.support.clock import ShiftedClock

pytestmark = [pytest.mark.own_database, pytest.mark.shards, pytest.mark.usefixtures("patient_locks")]

USED, RESERVED = "limits_used_matches_usage", "limits_reserved_matches_authorizations"
SOUGHT, CHARGES = "reservations_are_looked_for", "charges_come_from_usage"
OPEN = "operation_id = 'open'"
ALLOCATIONS = "UPDATE metering.quota_allocations SET"
PLANTED = {
    "UPDATE metering.limit_counters SET reserved = reserved - 1 WHERE reserved > 1": {RESERVED},
    f"{ALLOCATIONS} reserved = ARRAY[reserved[1] + 1] || reserved[2:] WHERE {OPEN}": {RESERVED},
    f"{ALLOCATIONS} released = true WHERE {OPEN}": {RESERVED},
    f"{ALLOCATIONS} released = false WHERE operation_id = 'settled'": {RESERVED, SOUGHT},
    "DELETE FROM metering.quota_leases WHERE operation_id = 'open'": {SOUGHT},
    "UPDATE metering.usage_records SET counted = ARRAY[counted[1] + 1] || counted[2:] WHERE lease_id = 'open'": {USED},
}
PLANTED_IN_CHARGES = (
    "UPDATE metering.outbox SET hold_operation_id = 'another'",
    "UPDATE metering.outbox SET amount = amount + 1",
    "UPDATE metering.outbox SET kind = 'DEBIT'",
    "UPDATE metering.usage_records SET lease_id = NULL",
)


async def _work(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    """Let an organization have leases in every state."""
    await platform.fund(organization_id, "100")
    await limits.set(organization_id, "1000", name="requests")
    await limits.set(organization_id, "50", "spend", currency_code="USD", name="money")
    for name in ("lapsed", "open", "settled", "declined"):
        amounts = {"requests": "10", "EUR" if name == "declined" else "USD": "2"}
        await acquire(metering, organization_id, amounts, name, ttl_s=30 if name == "lapsed" else 3600)
    await settle(metering, organization_id, "settled", [usage(organization_id) for _ in range(3)])
    await settle(metering, organization_id, "open", [usage(organization_id) for _ in range(2)], final=False)
    clock.advance(timedelta(seconds=31))
    await eventually(lambda: state(metering, organization_id, "requests"), lambda one: one[:2] == ("5", "8"))
    await settle(metering, organization_id, "lapsed", [usage(organization_id) for _ in range(2)])


@pytest.mark.parametrize("statement", PLANTED)
async def test_damage_of_leases_is_found_and_nothing_before(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock, statement: str
) -> None:
    await _work(platform, metering, limits, organization_id, clock)
    await assert_consistent(platform)
    await platform.execute(statement)
    assert {one.split(" ")[0] for one in await metering.findings()} == PLANTED[statement]


@pytest.mark.parametrize("statement", PLANTED_IN_CHARGES)
async def test_damage_of_charges_of_leases_is_found_and_nothing_before(
    platform: Platform, metering: Metering, organization_id: str, statement: str
) -> None:
    await platform.fund(organization_id, "100")
    await acquire(metering, organization_id, {"requests": "10", "USD": "1"}, "slice")
    await platform.stop_billing()
    await settle(metering, organization_id, "slice", [usage(organization_id)], final=False)
    # The process tries again, and must not find billing while the test looks.
    assert await metering.findings() == []
    await platform.execute(statement)
    found = {one.split(" ")[0] for one in await metering.findings()}
    assert found == {CHARGES}


async def test_check_beside_live_leases_finds_nothing(platform: Platform, metering: Metering, limits: Limits) -> None:
    organizations = [new_id() for _ in range(3)]

    async def live(organization_id: str) -> None:
        await platform.fund(organization_id, "100")
        await limits.set(organization_id, "100000", name="requests")
        for number in range(8):
            lease_id = f"lease-{number}"
            await acquire(metering, organization_id, {"requests": "5", "USD": "0.1"}, lease_id)
            usages = [usage(organization_id) for _ in range(6)]
            await asyncio.gather(
                *(settle(metering, organization_id, lease_id, usages[n : n + 2], final=n == 2) for n in (0, 2, 4))
            )

    workers = asyncio.gather(*map(live, organizations))
    rounds = 0
    while not workers.done():
        assert await metering.findings() == []
        rounds += 1
    await workers
    assert rounds > 1
    await assert_consistent(platform)
