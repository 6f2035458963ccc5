"""The events that a service has announced, as it lists them."""

import grpc
from google.protobuf import json_format

from tests.support.callers import Metadata
from tollhouse.common.v1 import event_pb2, event_pb2_grpc


async def announced(
    channel: grpc.aio.Channel,
    metadata: Metadata,
    organization_id: str,
    *,
    type: str = "",  # noqa: A002 -- as the request has it.
    subject: str = "",
) -> list[tuple[str, str, dict[str, object]]]:
    """Return the type, subject and data of an organization's events, the oldest first."""
    request = event_pb2.ListEventsRequest(organization_id=organization_id, page_size=1000, type=type, subject=subject)
    stub: event_pb2_grpc.EventServiceStub = event_pb2_grpc.EventServiceStub(channel)
    found = (await stub.ListEvents(request, metadata=metadata, timeout=20)).events
    ordered = sorted(found, key=lambda one: (one.event_time.ToNanoseconds(), one.subject, one.sequence))
    return [(one.type, one.subject, json_format.MessageToDict(one.data)) for one in ordered]
