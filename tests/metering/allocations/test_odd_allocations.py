"""Odd contents in any field of an allocation are answered or refused, and fail no other tenant's call."""

from google.protobuf.message import Message

from libs.common.ids import new_id
from tests.metering.allocations.support import (
    NORMAL,
    Limits,
    allocate,
    assert_counters_are_allocations,
    request_of,
    state,
)
from tests.metering.support import Metering, Platform
from tests.support.hostile_calls import HostileCalls
from tests.support.odd_requests import variants
from tollhouse.metering.v1 import quota_pb2 as pb


def _requests(organization_id: str) -> dict[str, Message]:
    allocation = request_of(
        organization_id,
        {"concurrent_calls": "1", "requests": "1", "USD": "0.5", "output_seconds": "0.25"},
        "odd",
        mode=NORMAL,
        labels={"team": "red"},
        model="gpt-4o",
        lease_ttl={"seconds": 60},
    )
    return {
        "AllocateQuota": allocation,
        "ReleaseQuota": pb.ReleaseQuotaRequest(organization_id=organization_id, operation_id="odd"),
    }


async def test_odd_requests_are_answered_or_refused_and_fail_no_neighbours_call(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    neighbour = new_id()
    for tenant in (organization_id, neighbour):
        await limits.set(tenant, "100000", name="requests")
        await limits.set(tenant, "100000", "concurrent_calls", name="places")
        await limits.set(tenant, None, "spend", name="money", currency_code="USD")
    hostile = HostileCalls(metering.channel, metering.gateway)
    methods = pb.DESCRIPTOR.services_by_name["QuotaService"].methods_by_name

    async def send_all() -> None:
        for name, request in _requests(organization_id).items():
            await hostile.send(methods[name], [request, *variants(request)])

    made = await hostile.beside(
        lambda number: allocate(metering, neighbour, {"requests": "1"}, f"call-{number}"), send_all()
    )

    assert "\n".join(hostile.failures) == ""
    assert hostile.answered == {"AllocateQuota", "ReleaseQuota"}
    assert (await state(metering, neighbour, "requests"))[0] == str(made)
    await assert_counters_are_allocations(platform)
