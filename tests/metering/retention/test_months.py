"""Partitions: an installation that was stopped catches up, and what fell beside its month is moved into it."""

from datetime import timedelta
from pathlib import Path

import pytest

from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.usage import month_store
from services.metering.usage import months as months_module
from services.metering.usage.months import Months
from tests.metering.support import Metering, Platform, eventually, stamp, usage
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock

pytestmark = [pytest.mark.own_database, pytest.mark.shards]


@pytest.fixture
def callers(tmp_path: Path, clock: ShiftedClock) -> Callers:
    """Callers whose tokens hold by the clock that is moved."""
    return Callers(tmp_path, clock)


IN_DEFAULT = "SELECT count(*) FROM metering.usage_records_default"


async def test_installation_stopped_for_six_months_starts_and_catches_up(
    platform: Platform, metering: Metering, clock: ShiftedClock
) -> None:
    organization_id = new_id()
    await metering.record(usage(organization_id, "before"))
    await platform.settled()
    await platform.stop_metering()
    clock.advance(timedelta(days=185))
    metering = await platform.start_metering()
    await metering.record(usage(organization_id, "after", occur_time=stamp(clock)))
    await platform.settled()
    await eventually(lambda: platform.value(IN_DEFAULT), lambda count: count == 0)
    assert [one for one in await metering.findings() if "months_are_ready" in one] == []
    assert (await metering.get(organization_id, "before")).operation_id == "before"


async def test_usage_in_the_default_partition_is_moved_beside_live_writes_and_deaths(
    platform: Platform,
    metering: Metering,
    metering_shards: Shards,
    clock: ShiftedClock,
    callers: Callers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock.advance(timedelta(days=185))
    metering.operator = callers.operator()
    ids = [new_id() for _ in range(3)]

    async def record(name: str) -> None:
        await metering.record_batch([usage(one, f"{name}-{n}", occur_time=stamp(clock)) for one in ids for n in "123"])

    await record("first")
    await platform.settled()
    assert await platform.value(IN_DEFAULT) == 9
    assert [one for one in await metering.findings() if "months_are_ready" in one]

    monkeypatch.setattr(months_module, "COPIED_MAX", 2)
    copy, deaths = month_store.copy_stray, 0

    async def dying(*values: object) -> int:
        nonlocal deaths
        deaths += 1
        await record(f"meanwhile-{deaths}")
        copied = await copy(*values)  # type: ignore[arg-type]
        if deaths % 3 == 0:
            raise RuntimeError
        return copied

    monkeypatch.setattr(month_store, "copy_stray", dying)
    work = Months(metering_shards, clock)
    for database in metering_shards:
        for _ in range(20):
            try:
                await work.heal(database)
            except RuntimeError:
                assert await platform.value(IN_DEFAULT) != 0
                if deaths > 6:
                    monkeypatch.setattr(months_module, "COPIED_MAX", 1_000)
                continue
            break
    await platform.settled()
    monkeypatch.setattr(month_store, "copy_stray", copy)
    for database in metering_shards:
        await work.ensure_around_now(database)
    assert deaths > 2
    assert await platform.value(IN_DEFAULT) == 0
    assert await platform.value("SELECT count(*) FROM metering.usage_records") == 9 + 9 * deaths
    assert await metering.findings() == []
