"""EventService over gRPC, for each of the services to serve."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import grpc

from libs.common.call import is_operator
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.events.endpoints import Changes, Endpoints, updatable
from libs.common.events.rendering import render_delivery, render_endpoint, render_event
from libs.common.events.replays import Place, Replays, Wanted
from libs.common.events.store import EventFilters
from libs.common.ids import MAX, is_id, lowest_id_at
from libs.common.pages import decode_page_token, encode_page_token, foreign_token, page_size, that_fit
from libs.common.sharding import PLATFORM
from libs.common.timestamps import EPOCH, parse_range, time_of_text, time_text
from libs.common.validation import Reader
from tollhouse.common.v1 import event_pb2 as pb
from tollhouse.common.v1 import event_pb2_grpc as rpc

_LAST: Final = datetime(9999, 1, 1, tzinfo=EPOCH.tzinfo)
_FIRST_ID: Final = lowest_id_at(0)


class EventServicer(rpc.EventServiceServicer):
    """Parses and renders what `Endpoints` and `Replays` do."""

    def __init__(self, context: str, endpoints: Endpoints, replays: Replays) -> None:
        self._context = context
        self._endpoints = endpoints
        self._replays = replays

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "ListEvents": _read_filters,
            "ListEventDeliveries": _check_deliveries,
            "ReplayEvents": _read_wanted,
            "UpdateEventEndpoint": _read_changes,
        }

    async def CreateEventEndpoint(
        self, request: pb.CreateEventEndpointRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateEventEndpointResponse:
        made = await self._endpoints.create(
            _organization_of(request.organization_id),
            url=request.url,
            types=tuple(request.types),
            description=request.description,
            request_id=request.request_id,
        )
        return pb.CreateEventEndpointResponse(
            endpoint=render_endpoint(made.endpoint), secret=made.secret, replayed=made.replayed
        )

    async def GetEventEndpoint(
        self, request: pb.GetEventEndpointRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetEventEndpointResponse:
        found = await self._endpoints.get(_organization_of(request.organization_id), request.endpoint_id.lower())
        return pb.GetEventEndpointResponse(endpoint=render_endpoint(found))

    async def ListEventEndpoints(
        self, request: pb.ListEventEndpointsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListEventEndpointsResponse:
        organization_id, size = _organization_of(request.organization_id), page_size(request.page_size)
        fingerprint = f"event_endpoints/{organization_id}"
        before = _id_in_token(request.page_token, fingerprint)
        found = await self._endpoints.page(organization_id, before, size + 1)
        page = found[:size]
        more = len(found) > size
        return pb.ListEventEndpointsResponse(
            endpoints=map(render_endpoint, page),
            next_page_token=encode_page_token(page[-1].endpoint_id, fingerprint=fingerprint) if more else "",
        )

    async def UpdateEventEndpoint(
        self, request: pb.UpdateEventEndpointRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateEventEndpointResponse:
        key = _organization_of(request.organization_id), request.endpoint_id.lower()
        changed = await self._endpoints.update(*key, _read_changes(request), etag=request.etag)
        return pb.UpdateEventEndpointResponse(endpoint=render_endpoint(changed))

    async def DeleteEventEndpoint(
        self, request: pb.DeleteEventEndpointRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteEventEndpointResponse:
        key = _organization_of(request.organization_id), request.endpoint_id.lower()
        await self._endpoints.delete(*key, etag=request.etag)
        return pb.DeleteEventEndpointResponse()

    async def RotateEventEndpointSecret(
        self, request: pb.RotateEventEndpointSecretRequest, context: grpc.aio.ServicerContext
    ) -> pb.RotateEventEndpointSecretResponse:
        rotated = await self._endpoints.rotate(
            _organization_of(request.organization_id),
            request.endpoint_id.lower(),
            overlap=timedelta(seconds=request.overlap.seconds, microseconds=request.overlap.nanos // 1000),
            request_id=request.request_id,
        )
        return pb.RotateEventEndpointSecretResponse(
            endpoint=render_endpoint(rotated.endpoint), secret=rotated.secret, replayed=rotated.replayed
        )

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListEventsResponse:
        filters, size = _read_filters(request), page_size(request.page_size)
        times = time_text(filters.start_time), time_text(filters.end_time)
        fingerprint = "/".join(("events", filters.organization_id, filters.type, filters.subject, *times))
        before = _place_in_token(request.page_token, fingerprint) or (filters.end_time, _FIRST_ID)
        found = await self._replays.events(filters, before, size + 1)
        shown = that_fit(render_event(event, self._context) for event in found[:size])
        last = found[len(shown) - 1] if len(shown) < len(found) else None
        token = encode_page_token(time_text(last.event_time), last.event_id, fingerprint=fingerprint) if last else ""
        return pb.ListEventsResponse(events=shown, next_page_token=token)

    async def ListEventDeliveries(
        self, request: pb.ListEventDeliveriesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListEventDeliveriesResponse:
        _check_deliveries(request)
        organization_id, size = _organization_of(request.organization_id), page_size(request.page_size)
        event_id, endpoint_id = request.event_id.lower(), request.endpoint_id.lower()
        fingerprint = "/".join(("event_deliveries", organization_id, event_id, endpoint_id))
        found, last_id = await self._replays.deliveries(
            organization_id,
            event_id=event_id,
            endpoint_id=endpoint_id,
            before=_id_in_token(request.page_token, fingerprint),
            limit=size,
            of_platform=is_operator(),
        )
        return pb.ListEventDeliveriesResponse(
            deliveries=map(render_delivery, found),
            next_page_token=encode_page_token(last_id, fingerprint=fingerprint) if last_id else "",
        )

    async def ReplayEvents(
        self, request: pb.ReplayEventsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReplayEventsResponse:
        done, replayed = await self._replays.replay(
            _organization_of(request.organization_id),
            request.endpoint_id.lower(),
            _read_wanted(request),
            request_id=request.request_id,
            of_platform=is_operator(),
        )
        token = ""
        if done.last_id:
            key = time_text(datetime.fromisoformat(done.last_time)), done.last_id
            token = encode_page_token(*key, fingerprint=_replay_fingerprint(request))
        return pb.ReplayEventsResponse(
            replayed_count=done.replayed,
            pending_count=done.pending,
            unwanted_count=done.unwanted,
            unknown_count=done.unknown,
            next_page_token=token,
            replayed=replayed,
        )


def _organization_of(organization_id: str) -> str:
    return organization_id.lower() or PLATFORM


def _read_changes(request: pb.UpdateEventEndpointRequest) -> Changes:
    violations = updatable(request.update_mask.paths)
    if violations:
        raise InvalidArgument(violations)
    changes = Changes()
    if "url" in request.update_mask.paths:
        changes["url"] = request.url
    if "types" in request.update_mask.paths:
        changes["types"] = tuple(request.types)
    if "description" in request.update_mask.paths:
        changes["description"] = request.description
    if "enabled" in request.update_mask.paths:
        changes["enabled"] = request.enabled
    return changes


def _read_filters(request: pb.ListEventsRequest) -> EventFilters:
    start_time, end_time = parse_range(request)
    return EventFilters(
        organization_id=_organization_of(request.organization_id),
        start_time=start_time or EPOCH,
        end_time=end_time or _LAST,
        type=request.type,
        subject=request.subject,
    )


def _check_deliveries(request: pb.ListEventDeliveriesRequest) -> None:
    if not (request.event_id or request.endpoint_id):
        raise InvalidArgument([FieldViolation("event_id", "must be set where endpoint_id is not")])


def _read_wanted(request: pb.ReplayEventsRequest) -> Wanted:
    violations: list[FieldViolation] = []
    start_time = end_time = None
    try:
        start_time, end_time = parse_range(request)
    except InvalidArgument as refusal:
        violations += refusal.violations
    has_times = request.HasField("start_time") or request.HasField("end_time") or bool(request.page_token)
    if request.event_ids and has_times:
        violations.append(FieldViolation("event_ids", "must not be set together with times or a page_token"))
    if not request.event_ids and not request.HasField("start_time"):
        violations.append(FieldViolation("start_time", "must be set where event_ids are not"))
    if violations:
        raise InvalidArgument(violations)
    if start_time is None:
        return Wanted(event_ids=tuple(one.lower() for one in request.event_ids))
    after = _place_in_token(request.page_token, _replay_fingerprint(request)) or (start_time, _FIRST_ID)
    return Wanted(after=after, end_time=end_time)


def _replay_fingerprint(request: pb.ReplayEventsRequest) -> str:
    times = (f"{moment.seconds}.{moment.nanos}" for moment in (request.start_time, request.end_time))
    return "/".join(("replay", _organization_of(request.organization_id), *times))


def _place_in_token(token: str, fingerprint: str) -> Place | None:
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    try:
        if len(key) != 2 or not is_id(key[1]):
            raise ValueError
        return time_of_text(key[0]), key[1]
    except ValueError:
        raise foreign_token() from None


def _id_in_token(token: str, fingerprint: str) -> str:
    if not token:
        return MAX
    key = decode_page_token(token, fingerprint)
    if len(key) != 1 or not is_id(key[0]):
        raise foreign_token()
    return key[0]
