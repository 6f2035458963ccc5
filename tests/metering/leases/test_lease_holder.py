"""The holder of leases spends no more than them and nothing after their end, and brings all usage exactly once."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final

import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import new_id
from tests.metering.allocations.support import Limits, state
from tests.metering.leases.processes import servers_of
from tests.metering.leases.support import COST, assert_consistent, balance, request_of
from tests.metering.support import Metering, Platform, eventually, usage
from tests.support.clock import ShiftedClock
from tollhouse.metering.v1 import usage_pb2
from tollhouse.metering.v1.lease_holder import LeaseHolder, LocalLease, Taken

CALL: Final[Mapping[str, int | Decimal]] = {"requests": 1, "spend": Decimal("0.0035")}

Refused = list[tuple[usage_pb2.RecordUsageRequest, status_pb2.Status]]


def holder_of(metering: Metering, organization_id: str, refused: Refused, **fields: object) -> LeaseHolder:
    options: dict[str, object] = {"ttl_s": 60, "amounts": {"requests": "20", "USD": "0.07"}} | fields
    request = request_of(organization_id, **options)  # type: ignore[arg-type]
    return LeaseHolder(
        metering.channel,
        request,
        metadata=metering.gateway,
        settle_every_s=0.1,
        on_refused=lambda usage, status: refused.append((usage, status)),
    )


async def until_taken(holder: LeaseHolder, tries: int = 400) -> Taken | None:
    for _ in range(tries):
        taken = holder.take(CALL)
        if taken is not None:
            return taken
        await asyncio.sleep(0.02)
    return None


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "give"]), st.sampled_from(["requests", "spend", "other"]), st.integers(0, 6))
    )
)
def test_local_lease_never_gives_out_more_than_it_has(steps: Sequence[tuple[str, str, int]]) -> None:
    lease = LocalLease("lease", {"requests": 10, "spend": Decimal("7.5")}, 100, clock=lambda: 50)
    out: dict[str, int] = {"requests": 0, "spend": 0}
    most: dict[str, int | Decimal] = {"requests": 10, "spend": Decimal("7.5")}
    for step, metric, value in steps:
        if step == "take":
            fits = metric in out and out[metric] + value <= most[metric]
            assert lease.take({metric: value}) == fits
            if fits:
                out[metric] += value
        elif metric in out and value <= out[metric]:
            lease.give_back({metric: value})
            out[metric] -= value
        elif value:
            with pytest.raises(ValueError, match="cannot be given back"):
                lease.give_back({metric: value})
    assert lease.rest == {metric: most[metric] - taken for metric, taken in out.items()}


def test_local_lease_takes_all_of_a_call_or_nothing() -> None:
    lease = LocalLease("lease", {"requests": 10, "spend": 1}, 100, clock=lambda: 50)
    assert not lease.take({"requests": 1, "spend": 2})
    assert lease.rest == {"requests": 10, "spend": 1}
    with pytest.raises(ValueError, match="below zero"):
        lease.take({"requests": -1})


def test_local_lease_gives_out_nothing_from_its_end_on() -> None:
    now = [99.9]
    lease = LocalLease("lease", {"requests": 10}, 100, clock=lambda: now[0])
    assert lease.take({"requests": 1})
    now[0] = 100
    assert lease.is_over
    assert not lease.take({"requests": 1})
    lease.give_back({"requests": 1})
    assert not lease.take({"requests": 1})


async def test_holder_renews_ahead_settles_in_batches_and_gives_the_rest_back(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "1000", name="requests")
    refused: Refused = []
    async with holder_of(metering, organization_id, refused) as holder:
        for number in range(130):
            taken = await until_taken(holder)
            assert taken is not None
            if number % 13 == 0:
                holder.done(taken, None)
            else:
                holder.done(taken, usage(organization_id, f"call-{number}"))
    assert refused == []
    assert await state(metering, organization_id, "requests") == ("120", "0", "880")
    await platform.settled()
    assert await balance(platform, organization_id) == (10 - 120 * COST, Decimal(0), 10 - 120 * COST)
    await assert_consistent(platform)


async def test_holders_of_four_processes_never_let_more_through_than_the_limit(
    platform: Platform, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "150", name="requests")
    refused: Refused = []

    async def work(holder: LeaseHolder, name: str) -> int:
        done = 0
        for number in range(60):
            taken = await until_taken(holder, tries=60)
            if taken is None:
                break
            holder.done(taken, usage(organization_id, f"{name}-{number}"))
            done += 1
        return done

    async with servers_of(platform, 4) as servers:
        holders = [holder_of(server, organization_id, refused) for server in servers]
        for holder in holders:
            await holder.__aenter__()
        done = await asyncio.gather(*(work(holder, str(number)) for number, holder in enumerate(holders)))
        for holder in holders:
            await holder.close()
        assert sum(done) <= 150
        # What one holder gives back others take: only what could not be taken in time is left.
        assert sum(done) >= 100
        assert refused == []
        assert (await state(servers[0], organization_id, "requests"))[:2] == (str(sum(done)), "0")
        await assert_consistent(platform)


async def test_holder_that_dies_loses_its_slice_at_the_end_and_nothing_overshoots(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id, "0.07")
    await limits.set(organization_id, "20", name="requests")
    dead = holder_of(metering, organization_id, [], ttl_s=30)
    await dead.__aenter__()
    spent = [dead.take(CALL) for _ in range(15)]
    assert None not in spent
    async with holder_of(metering, organization_id, [], ttl_s=30) as other:
        assert other.take(CALL) is None
        assert other.denied is not None
        # It dies without giving anything back.
        for task in dead._tasks:
            task.cancel()
        clock.advance(timedelta(seconds=32))
        await eventually(lambda: state(metering, organization_id, "requests"), lambda one: one[1] in ("0", "20"))
        assert await until_taken(other) is not None
    await assert_consistent(platform)


async def test_usage_waits_while_metering_is_away_and_is_brought_once_it_is_back(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "1000", name="requests")
    holder = holder_of(metering, organization_id, [])
    await holder.__aenter__()
    await platform.stop_billing()
    for number in range(10):
        taken = holder.take(CALL)
        assert taken is not None
        holder.done(taken, usage(organization_id, f"call-{number}"))
    await asyncio.sleep(0.5)
    await platform.start_billing()
    await holder.close()

    await platform.settled()
    assert (await state(metering, organization_id, "requests"))[:2] == ("10", "0")
    assert (await balance(platform, organization_id))[0] == 10 - 10 * COST
    await assert_consistent(platform)


async def test_refused_usage_is_handed_back_and_the_rest_is_settled(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await limits.set(organization_id, "1000", name="requests")
    refused: Refused = []

    class Failing(Refused):
        def append(self, told: tuple[usage_pb2.RecordUsageRequest, status_pb2.Status]) -> None:
            refused.append(told)
            raise ValueError("what is told of refused usage fails")

    bad = usage(new_id(), "foreign")
    async with holder_of(metering, organization_id, Failing()) as holder:
        for one in (bad, usage(organization_id, "good")):
            taken = holder.take(CALL)
            assert taken is not None
            holder.done(taken, one)
    assert [one.operation_id for one, _ in refused] == ["foreign"]
    assert (await state(metering, organization_id, "requests"))[:2] == ("1", "0")
