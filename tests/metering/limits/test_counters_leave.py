"""There are as many counters as limits have live windows: those of old windows leave, and limits hold as before."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from libs.common.ids import new_id
from services.metering.quota import counter_store
from services.metering.quota.counters import Counters
from services.metering.quota.domain import Scope, Window
from tests.metering.limits.settling import Limits, limits_of, of
from tests.metering.limits.support_subscriptions import ALLOWED, DENIED, asking
from tests.metering.support import Metering, Platform, settlement
from tests.support.clock import ShiftedClock

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

EACH_USER = (
    of("requests", Window.MINUTE, scope=Scope.USER, sliding=True),
    of("requests", Window.MINUTE, scope=Scope.USER),
)


@pytest.fixture
async def limits(platform: Platform, organization_id: str) -> AsyncIterator[Limits]:
    await platform.fund(organization_id)
    async with limits_of(platform) as found:
        yield found


@pytest.fixture
def counters(limits: Limits, clock: ShiftedClock) -> Counters:
    """Those of a process that only sweeps."""
    return Counters(limits.shards, clock)


async def count(platform: Platform) -> int:
    return int(str(await platform.value("SELECT count(*) FROM metering.limit_counters")))


async def test_counters_of_old_windows_leave_with_what_is_locked_for_them(
    platform: Platform,
    metering: Metering,
    limits: Limits,
    counters: Counters,
    clock: ShiftedClock,
    organization_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counter_store, "SWEEP_MAX", 2)
    for shape in EACH_USER:
        await limits.set(organization_id, shape, "2")
    users = [new_id() for _ in range(3)]

    async def use_up() -> None:
        for user_id in users:
            decisions = []
            for _ in range(3):
                request = asking(organization_id, user_id=user_id)
                decisions.append((await metering.authorize(request)).decision)
                if decisions[-1] == ALLOWED:
                    await metering.settle(settlement(organization_id, request.operation_id, user_id=user_id))
            assert decisions == [ALLOWED, ALLOWED, DENIED]

    async def sweep() -> int:
        for database in limits.shards:
            await counters.sweep(database)
        return await count(platform)

    await use_up()
    # A step, what is locked for it, and a minute, of each user; there may be two of the first and the last.
    assert await sweep() == await count(platform) >= 9
    clock.advance(timedelta(seconds=70))
    await use_up()
    assert await sweep() >= 9
    clock.advance(timedelta(minutes=5))
    assert await sweep() == 0
    await use_up()
