"""Usage with texts as long as they may be: each answer about it is small enough to be sent."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.metering.corrections.calls import amend, tokens
from tests.metering.support import Metering, Platform, settlement, usage
from tollhouse.metering.v1 import usage_pb2 as pb

_LONG = "🐈" * 256
_TEXTS: dict[str, Any] = {
    "labels": {f"{number:064}": _LONG for number in range(16)},
    "error_message": _LONG * 4,
    "endpoint": _LONG,
}
_ALMOST = 4_190_000


def large(organization_id: str) -> list[pb.RecordUsageRequest]:
    """Return as many usages as a request has room for."""
    one = usage(organization_id, **_TEXTS).ByteSize() + 4
    return [usage(organization_id, **_TEXTS) for _ in range(_ALMOST // one)]


async def streamed(
    metering: Metering, messages: Sequence[Sequence[pb.RecordUsageRequest]]
) -> list[pb.StreamUsageResponse]:
    async def requests() -> AsyncIterator[pb.StreamUsageRequest]:
        for usages in messages:
            yield pb.StreamUsageRequest(usages=usages)

    return [one async for one in metering.usage.StreamUsage(requests(), metadata=metering.operator)]


async def test_batch_is_answered_without_the_texts_that_were_sent(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    usages = large(organization_id)
    first, again = [await metering.record_batch(usages) for _ in range(2)]
    assert [one.recorded.replayed for one in (first[0], again[0])] == [False, True]
    for outcome, sent in zip(first, usages, strict=True):
        told = outcome.recorded.usage
        assert (told.operation_id, told.cost.value, dict(told.labels)) == (sent.operation_id, "0.0035", {})
    assert dict((await metering.get(organization_id, usages[0].operation_id)).labels) == _TEXTS["labels"]
    small = await metering.record_batch([usage(organization_id, **_TEXTS)])
    assert dict(small[0].recorded.usage.labels) == _TEXTS["labels"]
    settled = await metering.settle_batch([settlement(organization_id, one.operation_id, **_TEXTS) for one in usages])
    assert all(one.settled.replayed and not one.settled.usage.labels for one in settled)


async def test_stream_acknowledges_in_as_many_messages_as_are_small_enough(
    metering: Metering, organization_id: str
) -> None:
    usages = large(organization_id)
    answers = await streamed(metering, [usages, usages[:100], usages[100:]])
    told = [outcome for one in answers for outcome in one.outcomes]
    assert len(told) == 2 * len(usages)
    assert {one.operation_id for one in told} == {one.operation_id for one in usages}
    assert all(dict(one.recorded.usage.labels) == _TEXTS["labels"] for one in told)


async def test_watcher_is_told_of_all_usage_and_corrections_in_messages_that_can_be_sent(
    metering: Metering, organization_id: str
) -> None:
    usages = large(organization_id)
    await metering.record_batch(usages)
    corrected = [one.operation_id for one in usages[:50]]
    for operation_id in corrected:
        await amend(metering, organization_id, operation_id, tokens=tokens(7))
    request = pb.WatchUsageRequest(organization_id=organization_id)
    request.start_time.FromDatetime(datetime.now(UTC) - timedelta(hours=1))
    told: list[str] = []
    changes: list[str] = []
    # Each message is the last of its stream, so every position is gone on from.
    while len(changes) < len(corrected):
        stream = metering.usage.WatchUsage(request, metadata=metering.operator)
        async for one in stream:
            if one.usages or one.corrections:
                told += [each.operation_id for each in one.usages]
                changes += [each.usage_operation_id for each in one.corrections]
                request = pb.WatchUsageRequest(organization_id=organization_id, position=one.position)
                stream.cancel()
                break
    assert sorted(told) == sorted(one.operation_id for one in usages)
    assert changes == corrected
