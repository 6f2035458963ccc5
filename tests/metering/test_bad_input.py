"""Bad input names every field at fault at once, also those that only the service's own reading finds."""

from collections.abc import Awaitable, Mapping

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from libs.common.status import field_violations
from tests.metering.support import Metering, settlement, stamp, usage
from tollhouse.metering.v1 import model_pb2, usage_pb2


async def faults(call: Awaitable[object]) -> Mapping[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return field_violations(refused.value)


async def test_times_of_usage_are_named_with_the_other_faults(metering: Metering) -> None:
    old = stamp(days=-40)
    recorded = usage("acme", occur_time=old)
    settled = settlement("acme", "op", occur_time=old)

    assert {"organization_id", "occur_time"} <= (await faults(metering.record(recorded))).keys()
    assert {"organization_id", "occur_time"} <= (await faults(metering.settle(settled))).keys()


async def test_item_of_a_batch_names_all_its_faults(metering: Metering) -> None:
    (outcome,) = await metering.record_batch([usage("acme", occur_time=stamp(days=-40))])

    details = error_details_pb2.BadRequest()
    assert any(detail.Unpack(details) for detail in outcome.refused.details)
    assert {"organization_id", "occur_time"} <= {violation.field for violation in details.field_violations}


async def test_query_names_all_its_faults(metering: Metering, organization_id: str) -> None:
    request = usage_pb2.QueryUsageRequest(
        organization_id="acme", window=usage_pb2.USAGE_WINDOW_DAY, time_zone="localtime", page_size=-1
    )
    request.start_time.seconds, request.end_time.seconds = 2_000, 1_000

    named = await faults(metering.usage.QueryUsage(request, metadata=metering.operator))
    assert named.keys() == {"organization_id", "page_size", "end_time", "time_zone"}

    request.organization_id, request.page_size = organization_id, 0
    named = await faults(metering.usage.QueryUsage(request, metadata=metering.operator))
    assert named.keys() == {"end_time", "time_zone"}


async def test_lists_name_all_their_faults(metering: Metering, organization_id: str) -> None:
    request = usage_pb2.ListUsageRequest(organization_id="acme", start_time=Timestamp(seconds=-1))
    request.end_time.nanos = -1
    expected = {"start_time", "end_time"}

    assert (await faults(metering.usage.ListUsage(request, metadata=metering.operator))).keys() == expected | {
        "organization_id"
    }
    request.organization_id = organization_id
    assert (await faults(metering.usage.ListUsage(request, metadata=metering.operator))).keys() == expected


async def test_update_of_a_model_names_its_mask_with_the_other_faults(metering: Metering) -> None:
    request = model_pb2.UpdateModelRequest(request_id="é", model_id="")
    request.update_mask.paths.append("model_id")

    named = await faults(metering.models.UpdateModel(request, metadata=metering.operator))

    assert {"request_id", "model_id", "update_mask"} <= named.keys()
