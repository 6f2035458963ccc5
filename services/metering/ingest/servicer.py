"""The gRPC service of events: requests are parsed, use cases called, responses rendered."""

from collections.abc import Mapping, Sequence
from typing import Final

import grpc

from libs.common.call import current_rights
from libs.common.errors import FieldViolation, InvalidArgument, Refusal
from libs.common.pages import encode_page_token, page_size, text_in_token, that_fit
from libs.common.status import HTTP_STATUS, RETRY_AFTER, status_of_item
from libs.common.timestamps import render_time
from services.metering.ingest.domain import SUBJECT_FIELDS, Entry, EventMapping
from services.metering.ingest.events import Event, read_events
from services.metering.ingest.mappings import EventMappings
from services.metering.ingest.parsing import read_mapping, usage_of
from services.metering.model.units import CLASS_OF_UNIT
from services.metering.usage.domain import Outcome
from services.metering.usage.servicer import DOMAIN, record_each
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import ingest_pb2 as pb
from tollhouse.metering.v1 import ingest_pb2_grpc as rpc
from tollhouse.metering.v1 import usage_pb2

NAMED_MAX: Final = 1_000
"""The most events that an answer describes."""
_CHUNK_MAX: Final = 500
"""The most events that are recorded together."""
_NAME_MAX: Final = 255
_LIST: Final = "event-mappings"
_MAY_PASS: Final = (
    grpc.StatusCode.UNAVAILABLE.value[0],
    grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
    grpc.StatusCode.ABORTED.value[0],
    grpc.StatusCode.INTERNAL.value[0],
)
"""The codes of refusals after which the same event may be recorded when it is sent again."""


class IngestServicer(rpc.IngestServiceServicer):
    """Implements IngestService."""

    def __init__(self, mappings: EventMappings, usages: Usages) -> None:
        self._mappings = mappings
        self._usages = usages

    async def IngestEvents(
        self, request: pb.IngestEventsRequest, context: grpc.aio.ServicerContext
    ) -> pb.IngestEventsResponse:
        events = read_events(request.body.content_type, request.body.data)
        mappings = await self._mappings.known()
        rights = current_rights()
        own = rights.gateway_organization_id if rights is not None else ""
        response = pb.IngestEventsResponse(event_count=len(events))
        answer = _Answer(response, events)
        for first in range(0, len(events), _CHUNK_MAX):
            usages: list[usage_pb2.RecordUsageRequest] = []
            places: list[int] = []
            for place, event in enumerate(events[first : first + _CHUNK_MAX], first):
                try:
                    usages.append(usage_of(event, mappings, own))
                    places.append(place)
                except Refusal as refusal:
                    answer.outcomes[place] = refusal, ()
            await self._record(usages, places, mappings, answer)
        answer.fill()
        context.set_trailing_metadata(answer.hints())
        return response

    async def _record(
        self,
        usages: Sequence[usage_pb2.RecordUsageRequest],
        places: Sequence[int],
        mappings: Mapping[str, EventMapping],
        answer: "_Answer",
    ) -> None:
        outcomes: Sequence[tuple[Outcome, Sequence[str]]] = ()
        try:
            outcomes = await record_each(usages, self._usages) if usages else ()
        except Refusal as refusal:  # Too much waits already: those before are recorded, these are to be sent again.
            outcomes = [(refusal, ())] * len(usages)
        for place, (outcome, adjusted) in zip(places, outcomes, strict=True):
            if isinstance(outcome, InvalidArgument):
                outcome = _in_words_of_event(outcome, answer.mapping_of(place, mappings))
            answer.outcomes[place] = outcome, adjusted

    async def SetEventMapping(
        self, request: pb.SetEventMappingRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetEventMappingResponse:
        entry = await self._mappings.set_mapping(read_mapping(request.mapping))
        return pb.SetEventMappingResponse(mapping=_render(entry))

    async def GetEventMapping(
        self, request: pb.GetEventMappingRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetEventMappingResponse:
        return pb.GetEventMappingResponse(mapping=_render(await self._mappings.get(request.event_type)))

    async def ListEventMappings(
        self, request: pb.ListEventMappingsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListEventMappingsResponse:
        limit = page_size(request.page_size)
        entries = await self._mappings.list_mappings(text_in_token(request.page_token, _LIST) or "", limit)
        rendered = that_fit(map(_render, entries))
        more = len(rendered) < len(entries) or len(entries) == limit
        token = encode_page_token(rendered[-1].event_type, fingerprint=_LIST) if rendered and more else ""
        return pb.ListEventMappingsResponse(mappings=rendered, next_page_token=token)

    async def DeleteEventMapping(
        self, request: pb.DeleteEventMappingRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteEventMappingResponse:
        await self._mappings.delete(request.event_type)
        return pb.DeleteEventMappingResponse()


class _Answer:
    """What became of each event, by its place in the body."""

    def __init__(self, response: pb.IngestEventsResponse, events: Sequence[Event]) -> None:
        self.outcomes: dict[int, tuple[Outcome, Sequence[str]]] = {}
        self._response = response
        self._events = events
        self._may_pass = False
        self._adjusted = 0

    def mapping_of(self, place: int, mappings: Mapping[str, EventMapping]) -> EventMapping:
        """Return the mapping by which an event was read."""
        value = self._events[place].value
        assert isinstance(value, dict)
        return mappings[value["type"]]

    def fill(self) -> None:
        """Write the outcomes into the response."""
        for place in range(len(self._events)):
            outcome, adjusted = self.outcomes[place]
            if isinstance(outcome, Exception):
                self._add_refused(place, outcome)
                continue
            if outcome.replayed:
                self._response.replayed_count += 1
            else:
                self._response.recorded_count += 1
            if adjusted:
                self._adjusted += 1
                if self._adjusted <= NAMED_MAX:
                    self._response.adjusted.add(index=place, fields=adjusted)

    def hints(self) -> tuple[tuple[str, str], ...]:
        """Return what the HTTP answer is to say besides."""
        told = (("adjusted-events", str(self._adjusted)),) if self._adjusted else ()
        if not self._response.refused_count:
            return (HTTP_STATUS, "204"), *told
        if self._may_pass:
            return (HTTP_STATUS, "503"), (RETRY_AFTER, "1"), *told
        return (HTTP_STATUS, "400"), *told

    def _add_refused(self, place: int, outcome: Exception) -> None:
        status = status_of_item(outcome, DOMAIN)
        self._may_pass |= status.code in _MAY_PASS
        self._response.refused_count += 1
        if self._response.refused_count > NAMED_MAX:
            self._response.further_refused.append(place)
            return
        value = self._events[place].value
        named = value if isinstance(value, dict) else {}
        source, event_id = (_cut(named.get(name)) for name in ("source", "id"))
        self._response.refused.add(index=place, source=source, id=event_id, status=status)


def _cut(text: object) -> str:
    """Return a source or an id as it can be shown; a lone surrogate could not be sent."""
    return text[:_NAME_MAX].encode("utf-8", "replace").decode() if isinstance(text, str) else ""


def _in_words_of_event(refusal: InvalidArgument, mapping: EventMapping) -> InvalidArgument:
    """Name what is wrong with a usage by where the event has it."""
    places = {name: f"data{path[1:]}" for name, path in mapping.field_paths.items()}
    if mapping.model_path:
        places["model"] = f"data{mapping.model_path[1:]}"
    if mapping.subject in SUBJECT_FIELDS:
        places[SUBJECT_FIELDS[mapping.subject]] = "subject"
    # Quantities of token classes are no quantities of the request.
    for index, rule in enumerate(one for one in mapping.quantities if one.unit not in CLASS_OF_UNIT):
        places[f"quantities[{index}].value"] = f"data{rule.path[1:]}" if rule.path else rule.unit
    places["occur_time"] = "time"
    return InvalidArgument(
        [FieldViolation(places.get(one.field, one.field), one.description) for one in refusal.violations]
    )


def _render(entry: Entry) -> pb.EventMapping:
    mapping = entry.mapping
    return pb.EventMapping(
        event_type=mapping.event_type,
        model=mapping.model,
        model_path=mapping.model_path,
        quantities=[pb.EventQuantity(unit=one.unit, path=one.path, value=one.value) for one in mapping.quantities],
        subject=pb.EventSubject.Value(f"EVENT_SUBJECT_{mapping.subject.value}"),
        field_paths=mapping.field_paths,
        label_paths=mapping.label_paths,
        create_time=render_time(entry.create_time),
        update_time=render_time(entry.update_time),
    )
