"""WatchUsage tells each usage and each correction once, whenever it is committed, and goes on from any position."""

import asyncio
from collections.abc import Callable

import asyncpg
import grpc
import pytest

from libs.common.ids import new_id
from services.metering.usage.streaming import watch as watching
from tests.metering.support import Metering, Platform, refused, stamp, usage
from tests.support.sharded import in_shard_of
from tollhouse.metering.v1 import usage_pb2 as pb


async def told(
    metering: Metering, request: pb.WatchUsageRequest, enough: Callable[[list[str]], bool]
) -> tuple[list[str], str]:
    """Watch until enough was told; return the operation ids, those of corrections with a `!`, and the position."""
    names: list[str] = []
    position = ""
    stream = metering.usage.WatchUsage(request, metadata=metering.operator, timeout=60)
    async for message in stream:
        names += [one.operation_id for one in message.usages]
        names += [f"!{one.operation_id}" for one in message.corrections]
        position = message.position
        if enough(names):
            break
    stream.cancel()
    return names, position


async def begin(metering: Metering, organization_id: str) -> str:
    """Return the position of now."""
    request = pb.WatchUsageRequest(organization_id=organization_id)
    return (await told(metering, request, lambda names: True))[1]


@pytest.mark.shards
async def test_usage_and_corrections_are_told_once_and_from_any_position(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PAGE_MAX", 3)
    await metering.record(usage(organization_id, "before"))
    position = await begin(metering, organization_id)
    await metering.record_batch([usage(organization_id, f"call-{n}") for n in range(7)])
    await metering.record(usage(organization_id, "late", occur_time=stamp(days=-30)))
    await metering.record(usage(new_id(), "other"))
    void = pb.VoidUsageRequest(organization_id=organization_id, operation_id="void-1", usage_operation_id="call-3")
    await metering.usage.VoidUsage(void, metadata=metering.operator)
    expected = sorted([*(f"call-{n}" for n in range(7)), "late", "!void-1"])

    def request(at: str) -> pb.WatchUsageRequest:
        return pb.WatchUsageRequest(organization_id=organization_id, position=at)

    at_once, _ = await told(metering, request(position), lambda names: "!void-1" in names)
    in_parts: list[str] = []
    while "!void-1" not in in_parts:
        names, position = await told(metering, request(position), bool)
        in_parts += names
    since = pb.WatchUsageRequest(organization_id=organization_id, start_time=stamp(minutes=-5))
    all_of_it, _ = await told(metering, since, lambda names: "!void-1" in names)
    await metering.record(usage(organization_id, "after"))
    rest, _ = await told(metering, request(position), bool)

    assert sorted(at_once) == sorted(in_parts) == expected
    assert sorted(all_of_it) == sorted([*expected, "before"])
    assert rest == ["after"]
    foreign = pb.WatchUsageRequest(organization_id=new_id(), position=position)
    for wrong in (foreign, request("x"), request(position[:-8])):
        stream = metering.usage.WatchUsage(wrong, metadata=metering.operator)
        assert await refused(stream.read()) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


@pytest.mark.shards
async def test_usage_that_is_committed_late_is_told_although_later_ids_were(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "model"))
    position = await begin(metering, organization_id)
    connection = await asyncpg.connect(platform.admin_url)
    try:
        copy = in_shard_of(
            organization_id,
            """
            WITH o AS (
                INSERT INTO metering.usage_operations
                SELECT organization_id, 'late', fingerprint, $2::uuid, occur_time FROM metering.usage_operations
                WHERE organization_id = $1::uuid AND operation_id = 'model' RETURNING *
            ) SELECT count(*) FROM o
            """,
        )
        record = in_shard_of(
            organization_id,
            """
            INSERT INTO metering.usage_records (organization_id, occur_time, usage_id, operation_id, model, input,
                output, cache_read, cache_write, reasoning, audio_input, audio_output, image, partial, create_time)
            SELECT organization_id, occur_time, $2::uuid, 'late', model, input, output, cache_read, cache_write,
                reasoning, audio_input, audio_output, image, partial, create_time
            FROM metering.usage_records WHERE organization_id = $1::uuid AND operation_id = 'model'
            """,
        )
        late_id = new_id()
        async with connection.transaction():
            await connection.execute(copy, organization_id, late_id)
            await connection.execute(record, organization_id, late_id)
            await metering.record(usage(organization_id, "soon"))
            request = pb.WatchUsageRequest(organization_id=organization_id, position=position)
            first, position = await told(metering, request, bool)
        request.position = position
        second, _ = await told(metering, request, bool)
    finally:
        await connection.close()

    assert (first, second) == (["soon"], ["late"])


async def test_an_organization_has_so_many_watchers_at_once(metering: Metering, organization_id: str) -> None:
    request = pb.WatchUsageRequest(organization_id=organization_id)
    streams = [
        metering.usage.WatchUsage(request, metadata=metering.operator) for _ in range(watching.WATCHERS_OF_ONE_MAX)
    ]
    for stream in streams:
        await stream.read()
    one_more = metering.usage.WatchUsage(request, metadata=metering.operator)
    assert await refused(one_more.read()) == (grpc.StatusCode.UNAVAILABLE, "TOO_MANY_WATCHERS")
    for stream in streams:
        stream.cancel()

    async with asyncio.timeout(30):
        while True:
            stream = metering.usage.WatchUsage(request, metadata=metering.operator)
            try:
                message = await stream.read()
                assert isinstance(message, pb.WatchUsageResponse)
                assert message.position
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
            else:
                stream.cancel()
                return
