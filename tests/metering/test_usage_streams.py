"""A stream of usage that breaks keeps what it has acknowledged, and the rest can be sent again."""

import os
import random
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal

import grpc
import pytest

from libs.common.errors import Overloaded
from services.metering.usage.streaming import servicer as streaming
from tests.metering.leases.processes import process
from tests.metering.support import Metering, Platform, usage
from tests.support.kills import KILLS_AT_EACH_POINT
from tollhouse.metering.v1 import usage_pb2 as pb


def messages(usages: list[pb.RecordUsageRequest], size: int) -> list[pb.StreamUsageRequest]:
    """Return messages of some calls each, and of one each as the field for one."""
    if size == 1:
        return [pb.StreamUsageRequest(usage=one) for one in usages]
    return [pb.StreamUsageRequest(usages=usages[at : at + size]) for at in range(0, len(usages), size)]


async def outcomes(metering: Metering, sent: Iterable[pb.StreamUsageRequest]) -> AsyncIterator[pb.UsageOutcome]:
    async for response in metering.usage.StreamUsage(iter(sent), metadata=metering.gateway):
        assert response.HasField("outcome") != bool(response.outcomes)
        for outcome in response.outcomes or [response.outcome]:
            yield outcome


@pytest.mark.own_database
async def test_what_a_killed_process_acknowledged_is_kept_and_the_rest_is_charged_once(
    platform: Platform, organization_id: str
) -> None:
    await platform.fund(organization_id)
    before = await platform.posted(organization_id)
    sent = 0
    for kill in range(KILLS_AT_EACH_POINT):
        usages = [usage(organization_id, f"call-{kill}-{n}") for n in range(600)]
        sent += len(usages)
        acknowledged: set[str] = set()
        wanted = random.randrange(len(usages))
        size = random.choice((1, 7, 100))
        async with process(platform) as (dying, pid):
            try:
                async for outcome in outcomes(dying, messages(usages, size)):
                    acknowledged.add(outcome.operation_id)
                    if len(acknowledged) == wanted:
                        os.kill(pid, signal.SIGKILL)
            except grpc.aio.AioRpcError:
                pass
        rest = [one for one in usages if one.operation_id not in acknowledged]
        answered = [one async for one in outcomes(platform.metering, messages(rest, size))]
        answers = {one.operation_id for one in answered if one.HasField("recorded")}
        assert answers == {one.operation_id for one in rest}
        again = [one.recorded.replayed async for one in outcomes(platform.metering, messages(usages[:50], 50))]
        assert again == [True] * 50
    await platform.settled()
    assert await platform.posted(organization_id) == before - sent * Decimal("0.0035")
    assert await platform.metering.findings() == []


async def test_calls_of_one_message_are_recorded_and_refused_each_by_itself(
    metering: Metering, organization_id: str
) -> None:
    usages = [usage(organization_id, f"call-{n}") for n in range(3)] + [usage("nobody", "bad"), pb.RecordUsageRequest()]
    mixed = pb.StreamUsageRequest(usage=usage(organization_id, "single"), usages=usages)
    found = [one async for one in outcomes(metering, [mixed, pb.StreamUsageRequest()])]
    recorded = {one.operation_id for one in found if one.HasField("recorded")}
    assert recorded == {"single", "call-0", "call-1", "call-2"}
    assert [one.refused.code for one in found if one.HasField("refused")] == [3, 3, 3]


async def test_stream_reads_on_only_as_calls_are_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "IN_PROGRESS_MAX", 4)
    read = recorded = most = 0

    async def requests() -> AsyncIterator[pb.StreamUsageRequest]:
        nonlocal read, most
        for number in range(40):
            read += 1
            most = max(most, read - recorded)
            yield pb.StreamUsageRequest(usage=pb.RecordUsageRequest(operation_id=str(number)))

    async def record(calls: Sequence[pb.RecordUsageRequest], outcomes: Sequence[pb.UsageOutcome]) -> None:
        nonlocal recorded
        recorded += len(calls)
        for call, outcome in zip(calls, outcomes, strict=True):
            outcome.recorded.replayed, outcome.operation_id = True, call.operation_id
        if recorded > 30:
            raise Overloaded

    answered = [one.outcome async for one in streaming.acknowledged(requests(), record)]

    assert sorted(int(one.operation_id) for one in answered) == list(range(40))
    assert most <= 5
    assert {one.refused.code for one in answered[31:]} == {grpc.StatusCode.UNAVAILABLE.value[0]}
    assert not any(one.HasField("recorded") for one in answered[31:])
