"""Whatever a process dies at while it works on a job, each usage is re-rated, charged and counted once."""

import asyncio
import signal
from datetime import timedelta
from decimal import Decimal
from typing import Final

import pytest

from libs.common.ids import new_id
from services.metering.usage.rerate import change_store, job_store
from services.metering.usage.rerate.domain import Change
from services.metering.usage.rerate.worker import RerateWorker
from tests.metering.corrections.calls import charged, found
from tests.metering.rerates import dying_worker
from tests.metering.rerates.calls import begun, done, ended, later, rerate
from tests.metering.support import WITHIN_S, Metering, Platform, usage
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = pytest.mark.own_database

USAGES: Final = 6


@pytest.mark.thorough
@pytest.mark.timeout(900)
async def test_sigkill_at_any_point_leaves_each_usage_rerated_once(
    platform: Platform, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.usage.rerate.worker.SLICE_MAX", 2)
    old = await metering.set_price(effective_time=later(2))
    await metering.set_price(price_in="5", price_out="20", effective_time=later(3))
    for number, point in enumerate(dying_worker.POINTS * KILLS_AT_EACH_POINT):
        organization_id = new_id()
        for place in range(USAGES):
            await metering.record(usage(organization_id, f"call-{place}"))
        request = rerate(organization_id, price_version_id=old.price_version_id)
        at = 1 if point == "before the job is done" else number % 3 + 1
        with monkeypatch.context() as patch:
            patch.setattr(RerateWorker, "_take", _idle)
            patch.setattr(RerateWorker, "_advance", _idle)
            job = await begun(metering, request)
            async with asyncio.timeout(WITHIN_S * 3):
                code = await exit_code_of(dying_worker.run, platform.environment(), point, at)
            assert code == -signal.SIGKILL, point
        last = await ended(metering, job.job_id)
        assert (last.state, last.sums.usage_count, last.sums.changed_count) == (
            pb.RERATE_JOB_STATE_DONE,
            USAGES,
            USAGES,
        ), point
        assert last.sums.amounts[0].after.value == "0.021"
        for place in range(USAGES):
            assert len((await found(metering, organization_id, f"call-{place}")).corrections) == 1, point
        await platform.settled()
        assert await charged(platform, organization_id) == Decimal("0.021"), point
    assert await metering.findings() == []
    assert await platform.ledger.findings() == []


async def _idle(*_: object) -> None:
    """Do nothing: only the process that dies works on the job."""


async def test_what_is_wrong_with_one_usage_keeps_no_other_from_its_price(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        await metering.record(usage(organization_id, f"call-{number}"))
    poisoned = (await metering.get(organization_id, "call-4")).usage_id
    await metering.set_price(price_in="5", price_out="20", effective_time=later(2))
    write = change_store.write

    async def fail(connection: object, correcting: object, changes: list[Change]) -> None:
        if any(one.usage.seen.usage_id == poisoned for one in changes):
            raise ValueError("poison")
        await write(connection, correcting, changes)  # type: ignore[arg-type]

    monkeypatch.setattr(change_store, "write", fail)
    monkeypatch.setattr("services.metering.usage.rerate.worker._AGAIN_AFTER", timedelta(0))
    last = await done(metering, rerate(organization_id))
    assert last.sums.changed_count == 6
    assert [(one.reason, one.usage_count) for one in last.sums.failures] == [("INTERNAL", 1)]
    assert not (await found(metering, organization_id, "call-4")).corrections
    assert await metering.findings() == []


async def test_parts_beside_recorded_usage_and_turns_that_end_within_a_slice_do_each_usage_once(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await metering.record_batch([usage(organization_id, f"call-{number}") for number in range(30)])
    await metering.set_price(price_in="5", price_out="20", effective_time=later(2))
    monkeypatch.setattr("services.metering.usage.rerate.worker.PART_MAX", 4)
    monkeypatch.setattr("services.metering.usage.rerate.worker._TURN_S", 0.01)
    monkeypatch.setattr("services.metering.usage.rerate.worker._AGAIN_AFTER", timedelta(0))
    other = new_id()
    parts: list[int] = []
    advance = job_store.advance

    async def record(*arguments: object) -> bool:
        parts.append(len(parts))
        await metering.record(usage(other, f"beside-{len(parts)}"))
        return await advance(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(job_store, "advance", record)
    last = await done(metering, rerate(organization_id))
    assert (last.sums.changed_count, last.sums.usage_count) == (30, 30)
    assert len(parts) == 7
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.21")
    assert await metering.findings() == []


async def test_several_processes_share_a_job_and_do_no_usage_twice(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.usage.rerate.worker.SLICE_MAX", 2)
    await metering.record_batch([usage(organization_id, f"call-{number}") for number in range(60)])
    await metering.set_price(price_in="5", price_out="20", effective_time=later(2))
    workers: set[int] = set()
    rerated = RerateWorker._rerate

    async def note(self: RerateWorker, *arguments: object) -> None:
        workers.add(id(self))
        await asyncio.sleep(0.1)  # The others look for jobs every second.
        await rerated(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RerateWorker, "_rerate", note)
    others = [await platform.start_metering() for _ in range(2)]
    last = await done(others[0], rerate(organization_id))
    assert (last.sums.changed_count, last.sums.usage_count) == (60, 60)
    assert len(workers) > 1
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.42")
    assert await others[1].findings() == []
    await asyncio.gather(*(one.service.stop(0) for one in (metering, others[0])))
