"""IntegrityService over gRPC, for each of the services to serve."""

from collections.abc import AsyncIterator

import grpc

from libs.common.integrity.domain import Finding, Summary
from libs.common.integrity.verification import Verification
from libs.common.timestamps import render_time
from tollhouse.common.v1 import integrity_pb2 as pb
from tollhouse.common.v1 import integrity_pb2_grpc as rpc


class IntegrityServicer(rpc.IntegrityServiceServicer):
    """Renders the findings of `Verification`."""

    def __init__(self, verification: Verification) -> None:
        self._verification = verification

    async def VerifyInvariants(
        self, request: pb.VerifyInvariantsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.VerifyInvariantsResponse]:
        async for piece in self._verification.verify(request.organization_id.lower() or None):
            yield _render(piece)


def _render(piece: Finding | Summary) -> pb.VerifyInvariantsResponse:
    if isinstance(piece, Finding):
        finding = pb.Finding(
            invariant=piece.invariant,
            organization_id=piece.organization_id,
            resource=piece.resource,
            detail=piece.detail,
        )
        return pb.VerifyInvariantsResponse(finding=finding)
    checks = [
        pb.InvariantCheck(
            invariant=check.invariant,
            description=check.description,
            rows_examined=check.rows_examined,
            findings=check.findings,
        )
        for check in piece.checks
    ]
    summary = pb.VerifyInvariantsSummary(checks=checks, snapshot_time=render_time(piece.snapshot_time))
    return pb.VerifyInvariantsResponse(summary=summary)
