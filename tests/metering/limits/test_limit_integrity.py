"""The invariants of limits find each kind of damage wherever ranges of counters end, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.integrity.domain import Finding
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from services.metering.limit_invariants import COUNTERS
from services.metering.quota.domain import Limit, Scope, Window
from tests.metering.limits.settling import Limits, limits_of, of, settling
from tests.metering.support import Metering, Platform, eventually, usage
from tests.support.invariants import findings_of

USED, RESERVED = "limits_used_matches_usage", "limits_reserved_matches_authorizations"
TOKENS = of("total_tokens", Window.DAY)

pytestmark = [pytest.mark.own_database, pytest.mark.usefixtures("patient_locks")]
PLANTED = {
    "UPDATE metering.limit_counters SET used = used + 0.000000001 WHERE metric = 'total_tokens'": {USED},
    "UPDATE metering.limit_counters SET reserved = reserved - 1 WHERE metric = 'total_tokens'": {RESERVED},
    "UPDATE metering.usage_records SET counted = ARRAY[counted[1] + 1] || counted[2:] WHERE operation_id = 'settled'": {
        USED
    },
    "UPDATE metering.usage_records SET counters = counters[2:], counted = counted[2:] WHERE operation_id = 'settled'": {
        USED
    },
    "UPDATE metering.usage_pricings SET counted = ARRAY[counted[1] - 0.001]": {USED},
    "UPDATE metering.authorizations SET limits_released = true WHERE operation_id = 'open'": {RESERVED},
    "UPDATE metering.authorizations SET reserved = ARRAY[reserved[1] + 1] || reserved[2:]"
    " WHERE operation_id = 'open'": {RESERVED},
    "DELETE FROM metering.usage_operations WHERE operation_id = 'settled'": {RESERVED, "reservations_are_looked_for"},
    "DELETE FROM metering.lapse_checks": {"reservations_are_looked_for"},
}


@pytest.fixture
async def limits(platform: Platform) -> AsyncIterator[Limits]:
    async with limits_of(platform) as found:
        yield found


async def found(shards: Shards, rows_max: int = 10_000, looked_at_max: int = 1_000_000) -> list[Finding]:
    statement = COUNTERS.violations.replace("1000000", str(looked_at_max))
    walk = replace(COUNTERS, violations=statement)
    return await findings_of(Verification(shards, SystemClock(), (walk,), rows_max=rows_max))


async def work(metering: Metering, limits: Limits, organization_id: str) -> list[Limit]:
    """Let an organization use something in every way that counts."""
    spend = of("spend", Window.LIFETIME)
    set_ = [await limits.set(organization_id, shape) for shape in (TOKENS, of("requests", Window.MINUTE), spend)]
    set_.append(await limits.set(organization_id, of("requests", Window.MONTH, scope=Scope.USER)))
    for name in ("settled", "open", "lapsed"):
        await limits.authorize(organization_id, name, dict.fromkeys(set_[:3], 5))
    await limits.give_back(organization_id, ["lapsed"])
    await metering.settle(settling(organization_id, "settled", 10))
    await metering.record_batch([usage(organization_id, user_id=new_id()) for _ in range(3)])
    await metering.record(usage(organization_id, "late", model=f"late-{organization_id}"))
    return set_


@pytest.mark.parametrize("statement", PLANTED)
async def test_damage_is_found_wherever_ranges_end_and_nothing_before(
    platform: Platform, metering: Metering, statement: str
) -> None:
    async with limits_of(platform) as limits:
        organizations = [new_id(), new_id()]
        for organization_id in organizations:
            await metering.add_model(f"late-{organization_id}")
            await work(metering, limits, organization_id)
            await metering.set_price(f"late-{organization_id}")
        await eventually(lambda: platform.value("SELECT count(*) FROM metering.unpriced_usages"), lambda n: n == 0)
        await limits.assert_consistent()
        # A call may count little enough for the latest of each alone to be looked at.
        assert await found(limits.shards, looked_at_max=1) == []

        await platform.execute(statement)
        damage = await found(limits.shards)
        assert {one.invariant for one in damage} == PLANTED[statement]
        assert {one.organization_id for one in damage} == set(organizations)
        for rows_max in (1, 2, 3):
            assert await found(limits.shards, rows_max) == damage
        assert PLANTED[statement] <= {one.split(" ")[0] for one in await metering.findings()}
        limits.damaged = True


async def test_of_what_is_too_much_to_look_at_a_counter_has_at_least_the_latest(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    used = await limits.set(organization_id, of("requests", Window.MONTH))
    for number in range(4):
        request = usage(organization_id)
        request.occur_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=number))
        await metering.record(request)
    statement = "UPDATE metering.limit_counters SET used = $1"
    for value, looked_at_max, is_wrong in ((4, 2, False), (9, 2, False), (9, 4, True), (1, 2, True), (3, 3, False)):
        await platform.execute(statement, value)
        assert bool(await found(limits.shards, looked_at_max=looked_at_max)) is is_wrong
    await platform.execute(statement, 4)
    assert await limits.counted(organization_id, used) == (4, 0)


async def test_check_beside_live_calls_finds_nothing(platform: Platform, metering: Metering, limits: Limits) -> None:
    organizations = [new_id() for _ in range(3)]

    async def live(organization_id: str) -> None:
        limit = await limits.set(organization_id, TOKENS)
        for number in range(12):
            names = [f"call-{number}-{place}" for place in range(5)]
            for name in names:
                await limits.authorize(organization_id, name, {limit: 10})
            await asyncio.gather(
                metering.settle_batch([settling(organization_id, name, 7) for name in names]),
                limits.give_back(organization_id, names),
            )

    workers = asyncio.gather(*map(live, organizations))
    rounds = 0
    while not workers.done():
        assert await found(limits.shards, 2) == []
        rounds += 1
    await workers
    assert rounds > 3
