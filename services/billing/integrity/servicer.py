"""IntegrityService over gRPC."""

from collections.abc import AsyncIterator

import grpc

from libs.common.amount import render_amount
from libs.common.integrity.domain import Finding, Summary
from libs.common.integrity.verification import Verification
from libs.common.timestamps import render_time
from services.billing.integrity.charges import Charges
from services.billing.integrity.domain import Charge
from services.billing.ledger.rendering import render_kind
from tollhouse.billing.v1 import integrity_pb2 as pb
from tollhouse.billing.v1 import integrity_pb2_grpc as rpc


class IntegrityServicer(rpc.IntegrityServiceServicer):
    """Renders what `Verification` finds and `Charges` lists."""

    def __init__(self, verification: Verification, charges: Charges) -> None:
        self._verification = verification
        self._charges = charges

    async def VerifyInvariants(
        self, request: pb.VerifyInvariantsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.VerifyInvariantsResponse]:
        async for piece in self._verification.verify(request.organization_id.lower() or None):
            yield _render(piece)

    async def ListCharges(
        self, request: pb.ListChargesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListChargesResponse:
        charges, next_page_token = await self._charges.page(
            request.organization_id.lower() or None, request.page_size, request.page_token
        )
        return pb.ListChargesResponse(
            charges=[_render_charge(charge) for charge in charges], next_page_token=next_page_token
        )

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListOrganizationsResponse:
        organization_ids, next_page_token = await self._charges.organizations(request.page_size, request.page_token)
        return pb.ListOrganizationsResponse(organization_ids=organization_ids, next_page_token=next_page_token)


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


def _render_charge(charge: Charge) -> pb.Charge:
    return pb.Charge(
        organization_id=charge.organization_id,
        operation_id=charge.operation_id,
        amount=render_amount(charge.currency_code, charge.amount),
        transaction_id=charge.transaction_id,
        kind=render_kind(charge.kind),
        create_time=render_time(charge.create_time),
    )
