"""Places of concurrent calls are given back once: by ReleaseQuota, or when the lease ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from tests.metering.allocations.support import (
    ADJUST_ONLY,
    BEST_EFFORT,
    Limits,
    allocate,
    allocated,
    assert_counters_are_allocations,
    release,
    state,
    total,
)
from tests.metering.support import Metering, Platform, eventually, refused
from tests.support.clock import ShiftedClock

pytestmark = pytest.mark.shards

MINUTE = Duration(seconds=60)


@pytest.fixture
async def other(platform: Platform, metering: Metering) -> AsyncIterator[Metering]:
    """A second process's worth of metering."""
    second = await platform.start_metering()
    yield second
    # The platform stops the one that it started last.
    await metering.service.stop(0)


async def all_given_back(platform: Platform) -> None:
    await eventually(lambda: total(platform, "reserved"), lambda reserved: reserved == "0")


async def test_release_gives_the_places_back_once_and_leaves_what_is_used(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "3", "concurrent_calls", name="places")
    await limits.set(organization_id, "10", name="ten")
    amounts = {"concurrent_calls": "2", "requests": "1"}

    first = await allocate(metering, organization_id, amounts, "first")
    assert (first.allocated, first.HasField("lease_end_time")) == (True, True)
    assert await state(metering, organization_id, "places") == ("0", "2", "1")
    second = await allocate(metering, organization_id, amounts, "second")
    assert (second.allocated, second.limits[0].name, second.limits[0].HasField("retry_after")) == (
        False,
        "places",
        False,
    )
    assert allocated(await allocate(metering, organization_id, amounts, "third", mode=BEST_EFFORT)) == {
        "concurrent_calls": "1",
        "requests": "1",
    }

    answers = [await release(metering, organization_id, "first") for _ in range(3)]
    assert [(one.replayed, one.lapsed) for one in answers] == [(False, False), (True, False), (True, False)]
    assert await state(metering, organization_id, "places") == ("0", "1", "2")
    assert await state(metering, organization_id, "ten") == ("2", "0", "8")
    assert (await allocate(metering, organization_id, amounts, "second")).allocated
    await assert_counters_are_allocations(platform)


async def test_lease_that_ends_gives_the_places_back_by_itself_and_release_says_so(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    await limits.set(organization_id, "1", "concurrent_calls", name="places")
    answer = await allocate(metering, organization_id, {"concurrent_calls": "1"}, "op", lease_ttl=MINUTE)
    rest = answer.lease_end_time.ToDatetime(clock.now().tzinfo) - clock.now()
    assert timedelta(seconds=50) < rest <= timedelta(seconds=60)

    clock.advance(timedelta(seconds=61))
    await all_given_back(platform)

    assert (await allocate(metering, organization_id, {"concurrent_calls": "1"}, "next")).allocated
    late = [await release(metering, organization_id, "op") for _ in range(2)]
    assert [(one.replayed, one.lapsed) for one in late] == [(False, True)] * 2
    assert await state(metering, organization_id, "places") == ("0", "1", "0")
    again = await allocate(metering, organization_id, {"concurrent_calls": "1"}, "op", lease_ttl=MINUTE)
    assert (again.replayed, again.lease_end_time) == (True, answer.lease_end_time)
    await assert_counters_are_allocations(platform)


async def test_lease_lasts_ten_minutes_where_nothing_is_said(
    metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    answer = await allocate(metering, organization_id, {"concurrent_calls": "1"})
    rest = answer.lease_end_time.ToDatetime(clock.now().tzinfo) - clock.now()
    assert timedelta(minutes=9, seconds=50) < rest <= timedelta(minutes=10)


async def test_allocation_without_concurrent_calls_has_nothing_to_release(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "10", name="ten")
    for name, amounts in (("plain", {"requests": "4"}), ("zero", {"requests": "1", "concurrent_calls": "0"})):
        answer = await allocate(metering, organization_id, amounts, name)
        assert (answer.allocated, answer.HasField("lease_end_time")) == (True, False)
        for _ in range(2):
            released = await release(metering, organization_id, name)
            assert (released.replayed, released.lapsed) == (False, False)

    assert await state(metering, organization_id, "ten") == ("5", "0", "5")
    await assert_counters_are_allocations(platform)


async def test_operation_that_was_never_allocated_cannot_be_released(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "1", "concurrent_calls", name="places")
    assert not (await allocate(metering, organization_id, {"concurrent_calls": "2"}, "refused")).allocated

    for name in ("refused", "unknown"):
        assert await refused(release(metering, organization_id, name)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_releases_at_once_from_two_processes_give_each_place_back_once(
    platform: Platform, metering: Metering, other: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "100", "concurrent_calls", name="places")
    names = [f"op-{number}" for number in range(30)]
    await asyncio.gather(*(allocate(metering, organization_id, {"concurrent_calls": "2"}, name) for name in names))

    async def release_one(number: int) -> tuple[str, bool, bool]:
        name = names[number % len(names)]
        released = await release((metering, other)[number % 7 % 2], organization_id, name)
        return name, released.replayed, released.lapsed

    answers = await asyncio.gather(*(release_one(number) for number in range(180)))

    assert Counter(name for name, replayed, _ in answers if not replayed) == Counter(names)
    assert not any(lapsed for _, _, lapsed in answers)
    assert await state(metering, organization_id, "places") == ("0", "0", "100")
    await assert_counters_are_allocations(platform)


@pytest.mark.parametrize("round_", range(3))
async def test_release_that_meets_the_end_of_its_lease_gives_the_places_back_once(
    platform: Platform,
    metering: Metering,
    other: Metering,
    limits: Limits,
    organization_id: str,
    clock: ShiftedClock,
    round_: int,
) -> None:
    await limits.set(organization_id, "1000", "concurrent_calls", name="places")
    names = [f"op-{number}" for number in range(60)]
    allocated = await asyncio.gather(
        *(allocate(metering, organization_id, {"concurrent_calls": "3"}, name, lease_ttl=MINUTE) for name in names)
    )
    ends = [one.lease_end_time.ToDatetime(UTC) for one in allocated]
    clock.advance(timedelta(seconds=59.0 + round_ / 2))

    async def release_later(number: int) -> bool:
        await asyncio.sleep(number / 30)
        server = (metering, other)[number % 2]
        before = clock.now()
        released = await release(server, organization_id, names[number])
        assert not released.replayed
        assert clock.now() >= ends[number] if released.lapsed else before < ends[number]
        return released.lapsed

    lapsed = await asyncio.gather(*(release_later(number) for number in range(len(names))))
    await all_given_back(platform)

    assert any(lapsed)
    assert await state(metering, organization_id, "places") == ("0", "0", "1000")
    await assert_counters_are_allocations(platform)


async def test_two_processes_end_many_leases_of_two_tenants_once(
    platform: Platform, metering: Metering, other: Metering, limits: Limits, clock: ShiftedClock
) -> None:
    tenants = [new_id(), new_id()]
    for tenant in tenants:
        await limits.set(tenant, "1000", "concurrent_calls", name="places")
    await asyncio.gather(
        *(
            allocate(metering, tenants[number % 2], {"concurrent_calls": "1"}, f"op-{number}", lease_ttl=MINUTE)
            for number in range(500)
        )
    )
    kept = await allocate(other, tenants[0], {"concurrent_calls": "7"}, "kept")
    assert kept.allocated

    clock.advance(timedelta(seconds=61))
    await eventually(lambda: total(platform, "reserved"), lambda reserved: reserved == "7")

    assert await platform.value("SELECT count(*) FROM metering.quota_allocations WHERE lapsed") == 500
    await assert_counters_are_allocations(platform)


async def test_lease_that_cannot_be_ended_stops_no_other(
    platform: Platform, metering: Metering, limits: Limits, clock: ShiftedClock
) -> None:
    broken, good = new_id(), new_id()
    for tenant in (broken, good):
        await limits.set(tenant, "1000", "concurrent_calls", name="places")
    await allocate(metering, broken, {"concurrent_calls": "1"}, "broken", lease_ttl=MINUTE)
    for number in range(5):
        await allocate(metering, good, {"concurrent_calls": "1"}, f"op-{number}", lease_ttl=MINUTE)
    # Nothing can be taken from this any more.
    least = "-9999999999999999999.999999999"
    await platform.execute(
        f"UPDATE metering.limit_counters SET reserved = {least} WHERE organization_id = '{broken}'"  # noqa: S608
    )

    clock.advance(timedelta(seconds=61))
    await eventually(lambda: state(metering, good, "places"), lambda found: found[1] == "0")
    assert await platform.value("SELECT count(*) FROM metering.quota_leases") == 1

    await platform.execute("UPDATE metering.limit_counters SET reserved = 1 WHERE reserved < 0")
    await all_given_back(platform)
    await assert_counters_are_allocations(platform)


@pytest.mark.own_database
async def test_places_of_a_deleted_limit_are_forgotten_with_it(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    limit = await limits.set(organization_id, "5", "concurrent_calls", name="places")
    await allocate(metering, organization_id, {"concurrent_calls": "2"}, "op", mode=ADJUST_ONLY)
    await limits.delete(organization_id, limit)
    await platform.execute("DELETE FROM metering.limit_counters")

    released = await release(metering, organization_id, "op")

    assert (released.replayed, released.lapsed) == (False, False)
    assert await platform.value("SELECT count(*) FROM metering.quota_leases") == 0
