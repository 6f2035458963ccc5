"""Metering and billing on a cluster that loses the machine with the data for a while."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import grpc
import pytest

from libs.common.clock import SystemClock
from tests.metering.support import Platform, usage
from tests.support.callers import Callers
from tests.support.cluster import Cluster, clustered
from tollhouse.metering.v1 import usage_pb2

_LOST_FOR_S = 1.0


@pytest.fixture(params=[False, True], ids=["by statement", "by COPY"])
async def on_cluster(
    request: pytest.FixtureRequest,
    callers: Callers,
    database_urls: dict[str, str],
    database_admin_url: str,
    tmp_path: Path,
) -> AsyncIterator[tuple[Platform, Cluster, Cluster]]:
    """The services, and the clusters of metering and of billing."""
    async with (
        clustered(database_urls["metering"], by_copy=request.param) as (metering_url, of_metering),
        clustered(database_urls["billing"], by_copy=request.param) as (billing_url, of_billing),
    ):
        urls = database_urls | {"metering": metering_url, "billing": billing_url}
        platform = Platform(callers, urls, database_admin_url, tmp_path, SystemClock())
        try:
            await platform.start()
            await platform.metering.add_model()
            await platform.metering.set_price()
            yield platform, of_metering, of_billing
        finally:
            await platform.close()


async def test_usage_recorded_while_machines_are_lost_is_charged_once_when_they_are_back(
    on_cluster: tuple[Platform, Cluster, Cluster], organization_id: str
) -> None:
    platform, of_metering, of_billing = on_cluster
    await platform.fund(organization_id, "10")
    refusals: set[grpc.StatusCode] = set()

    async def recorded(number: int) -> usage_pb2.RecordUsageResponse:
        for _ in range(200):
            try:
                return await platform.metering.record(usage(organization_id, f"call-{number}"))
            except grpc.aio.AioRpcError as error:
                refusals.add(error.code())
                await asyncio.sleep(0.05)
        raise AssertionError("no answer after 200 tries")

    calls = [asyncio.create_task(recorded(number)) for number in range(60)]
    for cluster in (of_metering, of_billing):
        cluster.lost = True
        await asyncio.sleep(_LOST_FOR_S)
        cluster.lost = False
    await asyncio.gather(*calls)
    await platform.settled()

    assert of_metering.broken_off > 0
    assert refusals <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}
    assert await platform.posted(organization_id) == Decimal(10) - 60 * Decimal("0.0035")
    assert await platform.metering.charges() == await platform.billing_charges()
    assert await platform.metering.findings() == []


async def test_usage_of_two_processes_with_the_same_ids_is_charged_once(
    on_cluster: tuple[Platform, Cluster, Cluster], organization_id: str
) -> None:
    platform, _, _ = on_cluster
    service, one = platform.metering_service, platform.metering
    assert service is not None
    other = await platform.start_metering()
    try:
        requests = [usage(organization_id, f"call-{number}") for number in range(100)]
        outcomes = await asyncio.gather(one.record_batch(requests), other.record_batch(requests[::-1]))
        assert all(outcome.HasField("recorded") for batch in outcomes for outcome in batch)
        await platform.settled()
        assert await platform.posted(organization_id) == -100 * Decimal("0.0035")
        assert await other.findings() == []
    finally:
        await service.stop(0)
