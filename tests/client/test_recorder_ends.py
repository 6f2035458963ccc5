"""A recorder that is closed, or opened again, loses nothing and keeps nobody waiting."""

import asyncio
from pathlib import Path

import pytest

from libs.common.ids import new_id
from tests.client.conftest import House
from tests.client.test_meter import COST, MODEL
from tests.client.test_recorder import BYTES, Away, charged, some_usage, spooled, usage
from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse_client import Recorder
from tollhouse_client.errors import ClientClosed, SpoolInUse
from tollhouse_client.spool import Spool


async def test_settlement_that_comes_after_the_end_waits_in_the_spool_for_the_next_process(tmp_path: Path) -> None:
    def settlement(number: int) -> admission_pb2.SettleRequest:
        return admission_pb2.SettleRequest(operation_id=f"late-{number}", organization_id=new_id(), model=MODEL)

    async with Recorder(Away(), tmp_path, close_within_s=0.1) as recorder:
        await recorder.record(some_usage("in-time"))
        closing = asyncio.create_task(recorder.close())
        await asyncio.sleep(0)
        await asyncio.gather(*(recorder.settle_later(settlement(number)) for number in range(3)))
        await closing
    await recorder.settle_later(settlement(3))
    async with Recorder(Away(), tmp_path, close_within_s=0.01):
        with pytest.raises(SpoolInUse):
            await recorder.settle_later(settlement(4))
    kept = [admission_pb2.SettleRequest.FromString(one.message) for one in Spool(tmp_path, BYTES).read()[1:]]
    assert [request.operation_id for request in kept] == [f"late-{number}" for number in range(4)]


async def test_recorder_that_is_opened_again_goes_on_with_what_waits(house: House, tmp_path: Path) -> None:
    class LaterBack(Away):
        is_back = False

        async def record_usage(
            self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float | None = None
        ) -> usage_pb2.RecordUsageResponse:
            if not self.is_back:
                return await super().record_usage(request, timeout_s=timeout_s)
            return await house.gateway.record_usage(request, timeout_s=timeout_s)

    later = LaterBack()
    recorder = Recorder(later, tmp_path, close_within_s=0.01)
    async with recorder:
        for number in range(3):
            await recorder.record(usage(house, f"reopened-{number}"))
    later.is_back = True
    async with recorder:
        await recorder.record(usage(house, "reopened-3"))
        async with asyncio.timeout(20):
            await recorder.flush()
    assert spooled(tmp_path) == []
    assert await charged(house, "reopened-") == {f"reopened-{number}": COST for number in range(4)}


async def test_callers_who_wait_for_room_are_told_when_the_recorder_is_closed(tmp_path: Path) -> None:
    async with Recorder(Away(), tmp_path, waiting_max=1, close_within_s=0.01) as recorder:
        await recorder.record(some_usage("taken"))
        waiting = asyncio.create_task(recorder.record(some_usage("waits"), timeout_s=60))
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed):
            await recorder.flush()
    assert len(Spool(tmp_path, BYTES).read()) == 1


async def test_fault_of_the_spool_that_nobody_foresaw_reaches_its_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    async with Recorder(Away(), tmp_path, close_within_s=0.01) as recorder, asyncio.timeout(5):
        with monkeypatch.context() as broken:
            broken.setattr(Spool, "append", fail)
            with pytest.raises(MemoryError):
                await recorder.record(some_usage("broken"))
        await recorder.record(some_usage("mended"))


def test_recorder_whose_event_loop_is_over_takes_nothing_that_nobody_would_send(tmp_path: Path) -> None:
    recorder = Recorder(Away(), tmp_path)

    async def record() -> None:
        await recorder.record(some_usage("lost"))

    asyncio.run(_enter(recorder))
    with pytest.raises(ClientClosed):
        asyncio.run(record())


async def _enter(recorder: Recorder) -> None:
    await recorder.__aenter__()
