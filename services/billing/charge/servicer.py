"""ChargeService over gRPC."""

from collections.abc import AsyncIterator

import grpc

from libs.common.amount import render_amount
from libs.common.charge_filter import parse_filter, parse_times
from libs.common.digests import check_buckets
from libs.common.timestamps import render_time
from services.billing.charge.charges import Charges
from services.billing.charge.domain import Charge
from services.billing.ledger.rendering import render_kind
from tollhouse.billing.v1 import charge_pb2 as pb
from tollhouse.billing.v1 import charge_pb2_grpc as rpc


class ChargeServicer(rpc.ChargeServiceServicer):
    """Renders what `Charges` lists."""

    def __init__(self, charges: Charges) -> None:
        self._charges = charges

    async def ListCharges(
        self, request: pb.ListChargesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListChargesResponse:
        charges, next_page_token = await self._charges.page(
            parse_filter(request), request.page_size, request.page_token
        )
        return pb.ListChargesResponse(charges=map(_render_charge, charges), next_page_token=next_page_token)

    async def DigestCharges(
        self, request: pb.DigestChargesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.DigestChargesResponse]:
        organization_ids = {organization_id.lower() for organization_id in request.organization_ids}
        check_buckets(request.bucket_count, len(organization_ids))
        times = parse_times(request)
        async for piece in self._charges.digest(sorted(organization_ids), request.bucket_count, *times):
            if isinstance(piece, int):
                yield pb.DigestChargesResponse(rows_read=piece)
            else:
                for digests in piece.messages():
                    yield pb.DigestChargesResponse(digests=digests)

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListOrganizationsResponse:
        token = ""
        if request.organization_ids:
            named = [organization_id.lower() for organization_id in request.organization_ids]
            found, read_time = await self._charges.these_organizations(named)
        else:
            found, token, read_time = await self._charges.organizations(request.page_size, request.page_token)
        return pb.ListOrganizationsResponse(
            organization_ids=[organization_id for organization_id, _ in found],
            movement_counts=[count for _, count in found],
            read_time=render_time(read_time),
            next_page_token=token,
        )


def _render_charge(charge: Charge) -> pb.Charge:
    return pb.Charge(
        organization_id=charge.organization_id,
        operation_id=charge.operation_id,
        amount=render_amount(charge.currency_code, charge.amount),
        transaction_id=charge.transaction_id,
        kind=render_kind(charge.kind),
        create_time=render_time(charge.create_time),
        source=charge.source,
    )
