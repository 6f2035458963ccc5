"""`tollhouse events …`: what happened in all three services, where it is sent to, and sending it again."""

import json
from collections.abc import Sequence
from datetime import UTC
from typing import Annotated, Final

import grpc
import typer
from google.protobuf import field_mask_pb2, json_format

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationOption
from libs.cli.terminal.output import Output, as_dict, cell
from libs.cli.terminal.times import parse_past, parse_span
from libs.common.ids import new_id
from tollhouse.common.v1 import event_pb2, event_pb2_grpc

group = typer.Typer(
    name="events", help="What happened, where it is sent to, and sending it again.", no_args_is_help=True
)
_EVENT_COLUMNS: Final = ("event_time", "type", "subject", "sequence", "event_id", "data")
_ENDPOINT_COLUMNS: Final = (
    "service",
    "endpoint_id",
    "url",
    "types",
    "enabled",
    "disabled_reason",
    "failing_since_time",
)
_DELIVERY_COLUMNS: Final = ("event_id", "subject", "sequence", "status", "attempt_count", "reason", "http_status")

ServicesOption = Annotated[
    list[str] | None,
    typer.Option("--service", help="Only this service: identity, billing or metering; may be repeated."),
]
OneServiceOption = Annotated[str, typer.Option("--service", help="The service: identity, billing or metering.")]
PlatformOption = Annotated[bool, typer.Option("--platform", help="What belongs to no organization.")]
TypesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--type", help="What to send: a type, or all of a noun such as 'tollhouse.invoice.*'; may be repeated."
    ),
]
EndpointOption = Annotated[str, typer.Option("--endpoint", help="The endpoint.", metavar="ID")]


@calling(group, "list", CONTEXTS)
async def list_events(
    channels: Channels,
    output: Output,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    service: ServicesOption = None,
    type_: Annotated[str, typer.Option("--type", help="Only events of this type.")] = "",
    subject: Annotated[str, typer.Option(help="Only events of this subject, such as account/ID.")] = "",
    since: Annotated[str, typer.Option(help="Only from this time on: a time, or a span before now such as 7d.")] = "",
    until: Annotated[str, typer.Option(help="Only before this time: a time, or a span before now such as 1h.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List events of all services, newest first."""
    events: list[event_pb2.Event] = []
    more = False
    for name in _chosen(service):
        request = event_pb2.ListEventsRequest(
            organization_id=_owner(organization, platform), type=type_, subject=subject
        )
        if since:
            request.start_time.CopyFrom(parse_past(since))
        if until:
            request.end_time.CopyFrom(parse_past(until))
        found, more_there = await listed(_stub(channels, name).ListEvents, request, lambda page: page.events, limit)
        events += found
        more = more or more_there
    events.sort(key=lambda event: (event.event_time.ToDatetime(UTC), event.sequence), reverse=True)
    if output.as_json:
        output.json([as_dict(event) for event in events[:limit]])
    else:
        output.table(_EVENT_COLUMNS, [[_cell(event, column) for column in _EVENT_COLUMNS] for event in events[:limit]])
    if more or len(events) > limit:
        output.remark("There are more; --limit lists them.")


@calling(group, "endpoints", CONTEXTS)
async def endpoints(
    channels: Channels,
    output: Output,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    service: ServicesOption = None,
    limit: LimitOption = LIMIT,
) -> None:
    """List the endpoints that events are sent to, newest first."""
    found: list[tuple[str, event_pb2.EventEndpoint]] = []
    for name in _chosen(service):
        request = event_pb2.ListEventEndpointsRequest(organization_id=_owner(organization, platform))
        ask = _stub(channels, name).ListEventEndpoints
        some, _ = await listed(ask, request, lambda page: page.endpoints, limit)
        found += [(name, endpoint) for endpoint in some]
    if output.as_json:
        output.json([{"service": name} | as_dict(endpoint) for name, endpoint in found])
        return
    rows = [
        [name if column == "service" else cell(endpoint, column) for column in _ENDPOINT_COLUMNS]
        for name, endpoint in found
    ]
    output.table(_ENDPOINT_COLUMNS, rows)


@calling(group, "create", CONTEXTS)
async def create(
    channels: Channels,
    output: Output,
    url: Annotated[str, typer.Argument(help="Where to send, such as https://acme.example/hook.", metavar="URL")],
    service: OneServiceOption,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    type_: TypesOption = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    request_id: Annotated[str, typer.Option("--request", help="A name, so that a repeat creates nothing more.")] = "",
) -> None:
    """Create an endpoint that a service's events are sent to; the secret that signs them is shown this once."""
    request = event_pb2.CreateEventEndpointRequest(
        organization_id=_owner(organization, platform),
        url=url,
        types=type_ or (),
        description=description,
        request_id=request_id,
    )
    created = await _stub_of(channels, service).CreateEventEndpoint(request)
    output.one(created.endpoint, secret=created.secret)
    if created.replayed:
        output.remark("It was created before. `events rotate` gives it a new secret if the first was lost.")


@calling(group, "update", CONTEXTS)
async def update(
    channels: Channels,
    output: Output,
    service: OneServiceOption,
    endpoint: EndpointOption,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    url: Annotated[str | None, typer.Option(help="Where to send.")] = None,
    type_: TypesOption = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    enabled: Annotated[bool | None, typer.Option("--on/--off", help="Whether events are sent to it.")] = None,
) -> None:
    """Change what is given of an endpoint, and leave the rest."""
    changes = {"url": url, "types": type_, "description": description, "enabled": enabled}
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        raise WrongUse("Give what is to change: --url, --type, --description, --on or --off.")
    request = event_pb2.UpdateEventEndpointRequest(
        organization_id=_owner(organization, platform),
        endpoint_id=endpoint,
        update_mask=field_mask_pb2.FieldMask(paths=given),
        **given,  # type: ignore[arg-type]  # Each has the type of its field.
    )
    output.one((await _stub_of(channels, service).UpdateEventEndpoint(request)).endpoint)


@calling(group, "rotate", CONTEXTS)
async def rotate(
    channels: Channels,
    output: Output,
    service: OneServiceOption,
    endpoint: EndpointOption,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret signs as well, such as 24h; 0s if it has leaked.")
    ] = "24h",
) -> None:
    """Give an endpoint a new secret, which is shown this once."""
    request = event_pb2.RotateEventEndpointSecretRequest(
        organization_id=_owner(organization, platform), endpoint_id=endpoint
    )
    request.overlap.FromTimedelta(parse_span(overlap))
    rotated = await _stub_of(channels, service).RotateEventEndpointSecret(request)
    output.one(rotated.endpoint, secret=rotated.secret)


@calling(group, "delete", CONTEXTS)
async def delete(
    channels: Channels,
    output: Output,
    service: OneServiceOption,
    endpoint: EndpointOption,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    yes: YesOption = False,
) -> None:
    """Delete an endpoint. What waits for it is given up."""
    confirm(f"Delete the endpoint {endpoint}?", yes=yes)
    request = event_pb2.DeleteEventEndpointRequest(organization_id=_owner(organization, platform), endpoint_id=endpoint)
    await _stub_of(channels, service).DeleteEventEndpoint(request)
    output.remark(f"The endpoint {endpoint} is deleted.")


@calling(group, "deliveries", CONTEXTS)
async def deliveries(
    channels: Channels,
    output: Output,
    service: OneServiceOption,
    endpoint: EndpointOption,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    limit: LimitOption = LIMIT,
) -> None:
    """List what became of an organization's events at an endpoint, newest first."""
    request = event_pb2.ListEventDeliveriesRequest(organization_id=_owner(organization, platform), endpoint_id=endpoint)
    ask = _stub_of(channels, service).ListEventDeliveries
    found, more = await listed(ask, request, lambda page: page.deliveries, limit)
    if output.as_json:
        output.json([as_dict(delivery) for delivery in found])
    else:
        output.table(_DELIVERY_COLUMNS, [[cell(one, column) for column in _DELIVERY_COLUMNS] for one in found])
    if more:
        output.remark("There are more; --limit lists them.")


@calling(group, "replay", CONTEXTS)
async def replay(
    channels: Channels,
    output: Output,
    service: OneServiceOption,
    endpoint: EndpointOption,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    event: Annotated[list[str] | None, typer.Option(help="Send this event; may be repeated.", metavar="ID")] = None,
    since: Annotated[str, typer.Option(help="Send events from this time on: a time, or a span before now.")] = "",
    until: Annotated[str, typer.Option(help="Send events before this time: a time, or a span before now.")] = "",
) -> None:
    """Send events to an endpoint again: those that are named, or all of a time."""
    if bool(event) == bool(since):
        raise WrongUse("Give either --event or --since.")
    request = event_pb2.ReplayEventsRequest(
        organization_id=_owner(organization, platform), endpoint_id=endpoint, event_ids=event or []
    )
    if since:
        request.start_time.CopyFrom(parse_past(since))
    if until:
        request.end_time.CopyFrom(parse_past(until))
    stub = _stub_of(channels, service)
    counts = dict.fromkeys(("replayed_count", "pending_count", "unwanted_count", "unknown_count"), 0)
    while True:
        request.request_id = new_id()
        answer = await stub.ReplayEvents(request)
        counts = {count: number + getattr(answer, count) for count, number in counts.items()}
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    if output.as_json:
        output.json(counts)
    else:
        output.table(tuple(counts), [[f"{number:,}" for number in counts.values()]])


def _cell(event: event_pb2.Event, column: str) -> str:
    return json.dumps(json_format.MessageToDict(event.data)) if column == "data" else cell(event, column)


def _stub(channels: Channels, name: str) -> event_pb2_grpc.EventServiceStub:
    channel: grpc.aio.Channel = getattr(channels, name)
    return event_pb2_grpc.EventServiceStub(channel)


def _stub_of(channels: Channels, service: str) -> event_pb2_grpc.EventServiceStub:
    (name,) = _chosen([service])
    return _stub(channels, name)


def _owner(organization: str, platform: bool) -> str:
    if bool(organization) == platform:
        raise WrongUse("Give either --organization or --platform.")
    return organization


def _chosen(services: Sequence[str] | None) -> Sequence[str]:
    unknown = [name for name in services or () if name not in CONTEXTS]
    if unknown:
        raise WrongUse(f"There is no service {unknown[0]!r}; choose from {', '.join(CONTEXTS)}.")
    return [name for name in CONTEXTS if not services or name in services]
