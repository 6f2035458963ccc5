"""IntegrityService over gRPC, for each of the services to serve."""

from collections.abc import AsyncIterator

import grpc

from libs.common.integrity.domain import Finding, Progress, Summary
from libs.common.integrity.verification import Verification
from libs.common.timestamps import parse_optional_time, render_time
from tollhouse.common.v1 import integrity_pb2 as pb
from tollhouse.common.v1 import integrity_pb2_grpc as rpc


class IntegrityServicer(rpc.IntegrityServiceServicer):
    """Renders the findings of `Verification`."""

    def __init__(self, verification: Verification) -> None:
        self._verification = verification

    async def VerifyInvariants(
        self, request: pb.VerifyInvariantsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.VerifyInvariantsResponse]:
        since_time = parse_optional_time("since_time", request.since_time, present=request.HasField("since_time"))
        async for piece in self._verification.verify(request.organization_id.lower() or None, since_time):
            yield _render(piece)


def _render(piece: Finding | Progress | Summary) -> pb.VerifyInvariantsResponse:
    if isinstance(piece, Finding):
        finding = pb.Finding(
            invariant=piece.invariant,
            organization_id=piece.organization_id,
            resource=piece.resource,
            detail=piece.detail,
        )
        return pb.VerifyInvariantsResponse(finding=finding)
    if isinstance(piece, Progress):
        progress = pb.VerifyInvariantsProgress(
            table=piece.table, rows_examined=piece.rows_examined, rows_estimated=piece.rows_estimated
        )
        return pb.VerifyInvariantsResponse(progress=progress)
    checks = [
        pb.InvariantCheck(
            invariant=check.invariant,
            description=check.description,
            rows_examined=check.rows_examined,
            findings=check.findings,
            more_findings=check.more_findings,
        )
        for check in piece.checks
    ]
    summary = pb.VerifyInvariantsSummary(checks=checks, snapshot_time=render_time(piece.snapshot_time))
    return pb.VerifyInvariantsResponse(summary=summary)
