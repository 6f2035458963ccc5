"""Events, endpoints and deliveries as messages."""

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from libs.common.events.domain import Delivery, Endpoint, Event, Status
from libs.common.events.message import source_of
from libs.common.timestamps import render_optional_time, render_time
from tollhouse.common.v1 import event_pb2 as pb


def render_endpoint(endpoint: Endpoint) -> pb.EventEndpoint:
    return pb.EventEndpoint(
        organization_id=endpoint.organization_id,
        endpoint_id=endpoint.endpoint_id,
        url=endpoint.url,
        types=endpoint.types,
        description=endpoint.description,
        enabled=endpoint.enabled,
        disabled_reason=endpoint.disabled_reason,
        failing_since_time=render_optional_time(endpoint.failing_since),
        previous_secret_expire_time=render_optional_time(endpoint.previous_secret_expire_time),
        etag=endpoint.etag,
        create_time=render_time(endpoint.create_time),
        update_time=render_time(endpoint.update_time),
    )


def render_event(event: Event, context: str) -> pb.Event:
    """Return an event without what only endpoints of the platform are sent."""
    data: Struct = json_format.ParseDict(dict(event.data), Struct())
    return pb.Event(
        event_id=event.event_id,
        organization_id=event.organization_id,
        type=event.type,
        source=source_of(context),
        subject=event.subject,
        sequence=event.sequence,
        event_time=render_time(event.event_time),
        data=data,
    )


def render_delivery(delivery: Delivery) -> pb.EventDelivery:
    is_finished = delivery.status in (Status.DELIVERED, Status.FAILED)
    return pb.EventDelivery(
        organization_id=delivery.organization_id,
        event_id=delivery.event_id,
        endpoint_id=delivery.endpoint_id,
        subject=delivery.subject,
        sequence=delivery.sequence,
        status=pb.EventDeliveryStatus.Value(f"EVENT_DELIVERY_STATUS_{delivery.status.value}"),
        attempt_count=delivery.attempt_count,
        next_attempt_time=None if is_finished else render_time(delivery.next_attempt_time),
        last_attempt_time=render_optional_time(delivery.last_attempt_time),
        reason=delivery.last_reason,
        detail=delivery.last_detail,
        http_status=delivery.http_status,
        replay_count=delivery.replay_count,
        finish_time=render_optional_time(delivery.finish_time),
    )
