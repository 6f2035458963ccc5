"""AuditService over gRPC, for each of the services to serve."""

from collections.abc import Mapping
from typing import Final

import grpc

from libs.common.audit.chain import START, Changed, Finding, Head, Link
from libs.common.audit.recording import PLATFORM
from libs.common.audit.trail import EVENTS_MAX, Filters, Trail
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import decode_page_token, encode_page_token, foreign_token, page_size
from libs.common.timestamps import parse_range, render_time, time_text
from libs.common.validation import Reader
from tollhouse.common.v1 import audit_pb2 as pb
from tollhouse.common.v1 import audit_pb2_grpc as rpc

_SEQUENCE_MAX: Final = 2**63 - 1


class AuditServicer(rpc.AuditServiceServicer):
    """Parses and renders what `Trail` does."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "ListAuditEvents": _read_filters,
            "VerifyAuditChain": _read_expected_head,
        }

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListAuditEventsResponse:
        filters = _read_filters(request)
        size = page_size(request.page_size)
        fingerprint = _fingerprint(filters)
        found = await self._trail.page(filters, _read_token(request.page_token, fingerprint), size + 1)
        page = found[:size]
        more = len(found) > size
        return pb.ListAuditEventsResponse(
            events=map(_render, page),
            next_page_token=encode_page_token(str(page[-1].event.sequence), fingerprint=fingerprint) if more else "",
        )

    async def VerifyAuditChain(
        self, request: pb.VerifyAuditChainRequest, context: grpc.aio.ServicerContext
    ) -> pb.VerifyAuditChainResponse:
        expected = _read_expected_head(request)
        found = await self._trail.verify(
            request.organization_id.lower() or PLATFORM,
            after=Head(request.after.sequence, bytes.fromhex(request.after.hash)) if request.after.sequence else START,
            expected_head=None if expected is None else Head(expected.sequence, bytes.fromhex(expected.hash)),
            events_max=request.events_max or EVENTS_MAX,
        )
        return pb.VerifyAuditChainResponse(
            intact=not found.findings,
            verified_events=found.verified_events,
            head=_render_head(found.head),
            continue_after=None if found.continue_after is None else _render_head(found.continue_after),
            findings=map(_render_finding, found.findings),
        )


def _read_expected_head(request: pb.VerifyAuditChainRequest) -> pb.ChainHead | None:
    expected = request.expected_head if request.HasField("expected_head") else None
    if expected is not None and not (expected.sequence and expected.hash):
        raise InvalidArgument([FieldViolation("expected_head", "must have a sequence and a hash")])
    return expected


def _read_filters(request: pb.ListAuditEventsRequest) -> Filters:
    violations: list[FieldViolation] = []
    start_time = end_time = None
    try:
        start_time, end_time = parse_range(request)
    except InvalidArgument as refusal:
        violations += refusal.violations
    if request.resource_id and not request.resource_type:
        violations.append(FieldViolation("resource_type", "must be set where resource_id is"))
    if violations:
        raise InvalidArgument(violations)
    return Filters(
        organization_id=request.organization_id.lower() or PLATFORM,
        actor=request.actor,
        action=request.action,
        resource_type=request.resource_type,
        resource_id=request.resource_id,
        start_time=start_time,
        end_time=end_time,
    )


def _fingerprint(filters: Filters) -> str:
    times = (time_text(moment) if moment else "" for moment in (filters.start_time, filters.end_time))
    texts = (filters.organization_id, filters.actor, filters.action, filters.resource_type, filters.resource_id)
    return "/".join(("audit", *texts, *times))


def _read_token(token: str, fingerprint: str) -> int | None:
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    if len(key) != 1 or not (key[0].isascii() and key[0].isdigit()) or int(key[0]) > _SEQUENCE_MAX:
        raise foreign_token()
    return int(key[0])


def _render(link: Link) -> pb.AuditEvent:
    event = link.event
    return pb.AuditEvent(
        organization_id=event.organization_id,
        sequence=event.sequence,
        event_id=event.event_id,
        event_time=render_time(event.event_time),
        action=event.action,
        actor=event.actor,
        api_key_id=event.api_key_id or "",
        resource_type=event.resource_type,
        resource_id=event.resource_id,
        changes=map(_render_change, event.changes),
        peer_address=event.peer_address,
        user_agent=event.user_agent,
        request_id=event.request_id,
        previous_hash=link.previous_hash.hex(),
        hash=link.hash.hex(),
    )


def _render_change(change: Changed) -> pb.FieldChange:
    return pb.FieldChange(field=change.field, before=change.before, after=change.after)


def _render_head(head: Head) -> pb.ChainHead:
    return pb.ChainHead(sequence=head.sequence, hash=head.hash.hex())


def _render_finding(finding: Finding) -> pb.ChainFinding:
    flaw = pb.ChainFlaw.Value(f"CHAIN_FLAW_{finding.flaw.name}")
    return pb.ChainFinding(sequence=finding.sequence, flaw=flaw, description=finding.description)
