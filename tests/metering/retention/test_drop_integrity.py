"""Damage to what is kept of a dropped month is found, and a drop that dies anywhere is carried out by the next one."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from libs.common.clock import SystemClock
from libs.common.database import Database
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from services.metering.invariants import CHECKS
from services.metering.retention import drops as drops_module
from services.metering.retention import store
from services.metering.retention.drops import Drops
from tests.metering.corrections.calls import amend, tokens
from tests.metering.retention.calls import MONTH, NAME, ask, drop, ended, old_usage, retain, send
from tests.metering.support import Metering, Platform, usage, usd
from tests.support.invariants import findings_of
from tollhouse.metering.v1 import retention_pb2 as pb

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

PLANTED = {
    "dropped_usage_is_kept": "UPDATE metering.dropped_usages SET cost = cost + 1 WHERE operation_id = 'call-1'",
    "dropped_usage_is_kept 2": "DELETE FROM metering.dropped_usages WHERE operation_id = 'call-2'",
    "operations_are_usage": "UPDATE metering.dropped_usages SET operation_id = 'x' WHERE operation_id = 'call-3'",
    "sums_of_dropped_months_stay": "UPDATE metering.usage_hours SET cost = 7 WHERE hour < now() - interval '9 w'",
    "sums_of_dropped_months_stay 2": "UPDATE metering.usage_hour_units SET quantity = 7",
    "sums_of_dropped_months_stay 3": "UPDATE metering.dropped_usage_months SET sum_digest = sum_digest + 1",
    "dropped_usage_is_kept 3": "UPDATE metering.dropped_usage_months SET usage_count = usage_count + 1",
}


async def filled(platform: Platform, count: int = 1) -> list[str]:
    """Record usage of a few organizations in the month, and some of now."""
    identity = await platform.start_identity()
    ids = [(await identity.create_organization())[0] for _ in range(count)]
    for organization_id in ids:
        requests = [old_usage(organization_id, f"call-{number}") for number in range(5)]
        requests[4].quantities.add(unit="images", value="3")
        requests[4].stated_amount.CopyFrom(usd("1"))
        await platform.metering.record_batch([*requests, usage(organization_id, "now")])
        await amend(platform.metering, organization_id, "call-1", tokens=tokens(7, 100))
    await platform.settled()
    return ids


async def test_each_kind_of_damage_to_a_dropped_month_is_found(
    platform: Platform, metering: Metering, metering_shards: Shards
) -> None:
    organization_id, other_id = await filled(platform, 2)
    await retain(metering, organization_id)
    assert (await drop(metering, organization_id)).state == pb.USAGE_DROP_STATE_DROPPED
    assert await metering.findings() == []

    for name, statement in PLANTED.items():
        known = set(await metering.findings())
        await platform.execute(statement)
        new = set(await metering.findings()) - known
        assert {one.split(" ")[0] for one in new} >= {name.split(" ")[0]}, name
    found = await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=10_000))
    assert all(organization_id in one for one in map(str, found) if "dropped" in one)
    assert await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=3)) == found
    differing = [one for one in await platform.verify() if "call-1" in one or "call-2" in one]
    assert len([one for one in differing if one.startswith("X1_charges_agree")]) >= 2, differing
    assert other_id not in "".join(differing)


class _Killed(BaseException):
    """Ends a drop between two statements, as the death of its process would."""


@contextmanager
def killed_after(statements: int, monkeypatch: pytest.MonkeyPatch, ran: list[int]) -> Iterator[None]:
    """Let the drop die before it begins a further statement."""
    original, task = Database.raw_connection, asyncio.current_task()
    ran[0] = 0

    def counted(self: Database) -> object:
        if asyncio.current_task() is not task:
            return original(self)
        ran[0] += 1
        if ran[0] > statements:
            raise _Killed
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "raw_connection", counted)
        yield


@pytest.mark.parametrize("together", [True, False], ids=["with its partition", "row by row"])
async def test_drop_that_dies_between_any_two_statements_is_carried_out_by_the_next(
    platform: Platform, metering_shards: Shards, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    ids = await filled(platform, 2)
    await retain(platform.metering)
    if not together:
        await retain(platform.metering, ids[1], 99)
    expected = await platform.metering.charges()
    request = await ask(platform.metering)
    platform.drops_every_s = 600
    await platform.stop_metering()
    metering = await platform.start_metering()
    await send(metering, request)
    monkeypatch.setattr(drops_module, "PART_MAX", 2)
    monkeypatch.setattr(drops_module, "LEASE", timedelta(0))
    platform_database = metering_shards[0]
    work = Drops(platform_database, metering_shards, None, SystemClock(), seal=timedelta(0), every_s=1)  # type: ignore[arg-type]
    ran, deaths = [0], 0
    while True:
        try:
            with killed_after(deaths, monkeypatch, ran):
                assert await work.step()
            break
        except _Killed:
            deaths += 1
        if deaths % 15 == 0:
            assert await metering.findings() == []
    assert deaths > 20
    done = await ended(metering)
    assert (done.state, done.dropped_count) == (pb.USAGE_DROP_STATE_DROPPED, 10 if together else 5)
    assert await metering.charges() == expected
    assert await platform.verify() == []
    assert await platform.value("SELECT count(*) FROM pg_class WHERE relname ~ '^detached_'") == 0
    left = "SELECT count(*) FROM metering.usage_records WHERE occur_time < $1"
    assert await platform.value(left, MONTH + timedelta(days=27)) == (0 if together else 5), NAME


async def test_partition_stays_for_an_organization_that_keeps_history_meanwhile(
    platform: Platform, metering_shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(platform)
    late_id, _ = await platform.identity.create_organization()
    await retain(platform.metering)
    await retain(platform.metering, late_id, 99)
    request = await ask(platform.metering)
    platform.drops_every_s = 600
    await platform.stop_metering()
    metering = await platform.start_metering()
    await send(metering, request)
    monkeypatch.setattr(drops_module, "LEASE", timedelta(0))
    work = Drops(metering_shards[0], metering_shards, None, SystemClock(), seal=timedelta(0), every_s=1)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(store, "drop_partition", _die)
        with pytest.raises(_Killed):
            await work.step()
    await metering.record(old_usage(late_id, "history"))
    await platform.settled()
    assert await metering.findings() == []
    while await work.step():
        pass

    assert (await ended(metering)).dropped_count == 5
    assert (await metering.get(late_id, "history")).operation_id == "history"
    assert await platform.verify() == []


async def _die(*_: object) -> str:
    raise _Killed
