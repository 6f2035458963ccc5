"""Usage is announced where an endpoint names its event, once, together with the usage, and nowhere else."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from libs.common.events import outbox
from libs.common.ids import new_id
from services.metering.usage import announcements
from tests.metering.leases.support import acquire
from tests.metering.leases.support import settle as settle_lease
from tests.metering.limits.support_rpc import LIFETIME, SOFT, set_limit
from tests.metering.parts.support import Call
from tests.metering.support import Metering, Platform, eventually, usage
from tests.support.events import announced
from tollhouse.common.v1 import event_pb2, event_pb2_grpc

pytestmark = pytest.mark.shards
RECORDED = "tollhouse.usage.recorded"


async def add_endpoint(metering: Metering, organization_id: str, *types: str) -> str:
    request = event_pb2.CreateEventEndpointRequest(
        organization_id=organization_id, url="https://events.acme.invalid/", types=types
    )
    stub: event_pb2_grpc.EventServiceStub = event_pb2_grpc.EventServiceStub(metering.channel)
    return (await stub.CreateEventEndpoint(request, metadata=metering.operator)).endpoint.endpoint_id


async def told(metering: Metering, organization_id: str) -> list[dict[str, Any]]:
    """Return what each event tells of."""
    found = await announced(metering.channel, metering.operator, organization_id, type=RECORDED)
    return [data for _, _, data in found]


async def operations(metering: Metering, organization_id: str) -> Counter[str]:
    return Counter(one["operation_id"] for data in await told(metering, organization_id) for one in data["usages"])


async def switch_on(
    metering: Metering, organization_id: str, pattern: str = RECORDED, *, by: str | None = None
) -> None:
    """Have usage announced by an endpoint of the organization or of another, and wait until it is."""
    await add_endpoint(metering, organization_id if by is None else by, pattern)

    async def heard() -> Counter[str]:
        await metering.record(usage(organization_id, f"before-{new_id()}"))
        return await operations(metering, organization_id)

    await eventually(heard, bool)


async def switch_off(metering: Metering, organization_id: str, by: str) -> None:
    """Delete the only endpoint of an organization or of the platform, and wait until usage is not announced."""
    stub: event_pb2_grpc.EventServiceStub = event_pb2_grpc.EventServiceStub(metering.channel)
    request = event_pb2.ListEventEndpointsRequest(organization_id=by)
    (endpoint,) = (await stub.ListEventEndpoints(request, metadata=metering.operator)).endpoints
    delete = event_pb2.DeleteEventEndpointRequest(organization_id=by, endpoint_id=endpoint.endpoint_id)
    await stub.DeleteEventEndpoint(delete, metadata=metering.operator)

    async def grows() -> bool:
        before = await operations(metering, organization_id)
        await metering.record(usage(organization_id))
        return await operations(metering, organization_id) != before

    await eventually(grows, lambda grew: not grew)


@pytest.fixture
async def wanting(platform: Platform, metering: Metering) -> str:
    """An organization with money that wants events of its usage."""
    organization_id = new_id()
    await platform.fund(organization_id)
    await switch_on(metering, organization_id)
    return organization_id


async def test_every_way_of_recording_announces_each_usage_once_with_what_it_costs(
    metering: Metering, wanting: str
) -> None:
    await set_limit(metering, wanting, "calls", window=LIFETIME, value="1000", enforcement=SOFT)
    batch = [usage(wanting, f"batch-{number}", endpoint="/v1/chat") for number in range(5)]
    await asyncio.gather(*(metering.record_batch(batch) for _ in range(3)))
    await asyncio.gather(*(metering.record(usage(wanting, f"single-{number % 4}")) for number in range(12)))
    call = Call(metering, wanting, "in-parts")
    await call.authorize()
    await call.part(100, 10)
    await call.last(1_000, 600)
    await acquire(metering, wanting, {"USD": "1"}, "lease-1")
    for _ in range(2):
        await settle_lease(metering, wanting, "lease-1", [usage(wanting, "leased")], final=True)
    counts = await operations(metering, wanting)
    expected = [f"batch-{n}" for n in range(5)] + [f"single-{n}" for n in range(4)] + ["in-parts", "leased"]
    assert {name: counts[name] for name in expected} == dict.fromkeys(expected, 1)
    first = next(
        one for data in await told(metering, wanting) for one in data["usages"] if one["operation_id"] == "batch-0"
    )
    stored = await metering.get(wanting, "batch-0")
    assert first == {
        "usage_id": stored.usage_id,
        "operation_id": "batch-0",
        "model": "gpt-4o",
        "endpoint": "/v1/chat",
        "occur_time": first["occur_time"],
        "environment": "LIVE",
        "tokens": {"input": 1000, "output": 100},
        "cost": {"currency_code": "USD", "value": "0.0035"},
    }
    assert await metering.findings() == []


async def test_batch_is_told_of_by_few_events_of_a_bounded_size(metering: Metering, wanting: str) -> None:
    names = [f"{number:03}-{'x' * 240}" for number in range(300)]
    before = len(await told(metering, wanting))
    # Twelve bytes for each character as JSON.
    await metering.record_batch([usage(wanting, name, endpoint="😀" * 100) for name in names])
    events = (await told(metering, wanting))[before:]
    assert sum(len(data["usages"]) for data in events) == 300
    assert max(len(json.dumps(data)) for data in events) < outbox.DATA_BYTES_MAX
    assert len(events) < 40
    counts = await operations(metering, wanting)
    assert [counts[name] for name in names] == [1] * 300


async def test_without_an_endpoint_that_names_it_usage_is_not_announced(
    platform: Platform, metering: Metering, wanting: str
) -> None:
    silent, off = new_id(), new_id()
    await add_endpoint(metering, silent)
    await add_endpoint(metering, silent, "tollhouse.limit.*")
    await switch_on(metering, off, "tollhouse.usage.*")
    await switch_off(metering, off, off)
    await metering.record(usage(silent))
    assert await told(metering, silent) == []


async def test_an_endpoint_of_the_platform_that_names_it_is_told_of_the_usage_of_all(
    platform: Platform, metering: Metering
) -> None:
    anybody = new_id()
    await switch_on(metering, anybody, by="")
    await switch_off(metering, anybody, "")


async def test_usage_that_cannot_be_announced_is_not_recorded_either(
    metering: Metering, wanting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("the event cannot be written")

    with monkeypatch.context() as patched:
        patched.setattr(announcements, "announce", fails)
        (outcome,) = await metering.record_batch([usage(wanting, "together")])
    assert outcome.WhichOneof("outcome") == "refused"
    assert (await operations(metering, wanting))["together"] == 0
    await metering.record(usage(wanting, "together"))
    assert (await operations(metering, wanting))["together"] == 1
