"""`tollhouse audit …`: who changed what in all three services, and whether the audit trail was tampered with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Final

import grpc
import typer

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.lookups import user_id_of
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationOption
from libs.cli.terminal.output import Output, as_dict, cell
from libs.cli.terminal.times import parse_past
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc

group = typer.Typer(name="audit", help="Who changed what, and whether the audit trail is intact.", no_args_is_help=True)
_SEQUENCE: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_COLUMNS: Final = ("event_time", "service", "action", "actor", "resource_type", "resource_id", "changes")

ServiceOption = Annotated[
    list[str] | None,
    typer.Option("--service", help="Only this service: identity, billing or metering; may be repeated."),
]
PlatformOption = Annotated[
    bool, typer.Option("--platform", help="The events that belong to no organization, such as price changes.")
]


@calling(group, "list", CONTEXTS)
async def list_events(
    channels: Channels,
    output: Output,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    service: ServiceOption = None,
    actor: Annotated[
        str, typer.Option(help="Only events of this actor: user:ID, service:NAME, …, or an email address.")
    ] = "",
    action: Annotated[str, typer.Option(help="Only this action, such as RevokeApiKey.")] = "",
    resource_type: Annotated[str, typer.Option(help="Only this type of resource, such as api_key.")] = "",
    resource: Annotated[
        str, typer.Option(help="Only the resource with this id; needs --resource-type.", metavar="ID")
    ] = "",
    since: Annotated[str, typer.Option(help="Only from this time on: a time, or a span before now such as 7d.")] = "",
    until: Annotated[str, typer.Option(help="Only before this time: a time, or a span before now such as 1h.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List audit events of all services, newest first."""
    request = audit_pb2.ListAuditEventsRequest(
        organization_id=_chain_of(organization, platform),
        actor=f"user:{await user_id_of(channels, actor)}" if "@" in actor else actor,
        action=action,
        resource_type=resource_type,
        resource_id=resource,
    )
    if since:
        request.start_time.CopyFrom(parse_past(since))
    if until:
        request.end_time.CopyFrom(parse_past(until))
    events: list[tuple[str, audit_pb2.AuditEvent]] = []
    more = False
    for name, channel in _chosen(channels, service).items():
        asked = audit_pb2.ListAuditEventsRequest()
        asked.CopyFrom(request)
        stub = audit_pb2_grpc.AuditServiceStub(channel)
        found, more_there = await listed(stub.ListAuditEvents, asked, lambda page: page.events, limit)
        events += [(name, event) for event in found]
        more = more or more_there
    events.sort(key=lambda one: (one[1].event_time.ToDatetime(UTC), one[1].sequence), reverse=True)
    _print_events(output, events[:limit], more=more or len(events) > limit)


def _print_events(output: Output, events: Sequence[tuple[str, audit_pb2.AuditEvent]], *, more: bool) -> None:
    if output.as_json:
        output.json([{"service": name} | as_dict(event) for name, event in events])
    else:
        rows = [
            [name if column == "service" else _shown(event, column) for column in _COLUMNS] for name, event in events
        ]
        output.table(_COLUMNS, rows)
    if more:
        output.remark("There are more; --limit lists them.")


def _shown(event: audit_pb2.AuditEvent, column: str) -> str:
    return "; ".join(map(_change, event.changes)) if column == "changes" else cell(event, column)


def _change(change: audit_pb2.FieldChange) -> str:
    if not (change.HasField("before") or change.HasField("after")):
        return change.field
    return f"{change.field}: {change.before or '—'} → {change.after or '—'}"


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of verifying one service's chain."""

    events: int
    head: str
    findings: Sequence[audit_pb2.ChainFinding]


@calling(group, "verify", CONTEXTS)
async def verify(
    channels: Channels,
    output: Output,
    organization: OrganizationOption = "",
    platform: PlatformOption = False,
    service: ServiceOption = None,
    expected_head: Annotated[
        list[str] | None,
        typer.Option(
            help="A head that was printed earlier and kept elsewhere; may be repeated.", metavar="SERVICE:NUMBER:HASH"
        ),
    ] = None,
) -> None:
    """Verify an organization's hash chains; exit status 1 and a list of findings if an event was changed or removed.

    Keep the printed heads outside of the database. Given later as --expected-head, they prove that no event up to them
    was changed, even by somebody who can rewrite the whole chain.
    """
    heads = [_parse_head(text) for text in expected_head or []]
    chosen = _chosen(channels, service)
    left_out = [name for name, _ in heads if name not in chosen]
    if left_out:
        raise WrongUse(f"A head of {left_out[0]} was given, but --service leaves {left_out[0]} out.")
    chain = _chain_of(organization, platform)
    verified = {
        name: await _verify(name, channel, chain, [head for owner, head in heads if owner == name])
        for name, channel in chosen.items()
    }
    intact = not any(one.findings for one in verified.values())
    _print_verified(output, verified, intact=intact)
    raise typer.Exit(0 if intact else 1)


async def _verify(
    name: str, channel: grpc.aio.Channel, chain: str, expected: Sequence[audit_pb2.ChainHead]
) -> Verified:
    """Verify the whole chain page by page, and look for every expected head."""
    stub = audit_pb2_grpc.AuditServiceStub(channel)
    findings: list[audit_pb2.ChainFinding] = []
    for head in expected:
        # This only checks that the head exists; the chain itself is verified once, below.
        request = audit_pb2.VerifyAuditChainRequest(organization_id=chain, expected_head=head, events_max=1)
        request.after.CopyFrom(head)
        missing = audit_pb2.CHAIN_FLAW_EXPECTED_HEAD_MISSING
        findings += [one for one in (await stub.VerifyAuditChain(request)).findings if one.flaw == missing]
    request = audit_pb2.VerifyAuditChainRequest(organization_id=chain)
    events = 0
    while True:
        answer = await stub.VerifyAuditChain(request)
        events += answer.verified_events
        findings += answer.findings
        if not answer.HasField("continue_after"):
            return Verified(events, f"{name}:{answer.head.sequence}:{answer.head.hash}", findings)
        request.after.CopyFrom(answer.continue_after)


def _print_verified(output: Output, verified: Mapping[str, Verified], *, intact: bool) -> None:
    if output.as_json:
        services = {
            name: {"verified_events": one.events, "head": one.head, "findings": [as_dict(f) for f in one.findings]}
            for name, one in verified.items()
        }
        output.json({"intact": intact, "services": services})
        return
    rows = [
        [name, f"{one.events:,}", "broken" if one.findings else "intact", one.head] for name, one in verified.items()
    ]
    output.table(("service", "events", "chain", "head"), rows)
    for name, one in verified.items():
        for finding in one.findings:
            output.line(f"{name} event {finding.sequence}: {cell(finding, 'flaw')}: {finding.description}")


def _chain_of(organization: str, platform: bool) -> str:
    if bool(organization) == platform:
        raise WrongUse("Give either --organization or --platform.")
    return organization


def _chosen(channels: Channels, services: Sequence[str] | None) -> dict[str, grpc.aio.Channel]:
    unknown = [name for name in services or () if name not in CONTEXTS]
    if unknown:
        raise WrongUse(f"There is no service {unknown[0]!r}; choose from {', '.join(CONTEXTS)}.")
    return {name: getattr(channels, name) for name in CONTEXTS if not services or name in services}


def _parse_head(text: str) -> tuple[str, audit_pb2.ChainHead]:
    service, _, rest = text.partition(":")
    sequence, _, digest = rest.partition(":")
    if service not in CONTEXTS or not _SEQUENCE.fullmatch(sequence) or not _HASH.fullmatch(digest):
        raise WrongUse(f"{text!r} is not a head as `tollhouse audit verify` prints it: SERVICE:NUMBER:HASH.")
    return service, audit_pb2.ChainHead(sequence=int(sequence), hash=digest)
