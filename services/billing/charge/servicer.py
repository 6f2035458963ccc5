"""ChargeService over gRPC."""

import grpc

from libs.common.amount import render_amount
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
            request.organization_id.lower() or None, request.page_size, request.page_token
        )
        return pb.ListChargesResponse(
            charges=[_render_charge(charge) for charge in charges], next_page_token=next_page_token
        )


def _render_charge(charge: Charge) -> pb.Charge:
    return pb.Charge(
        organization_id=charge.organization_id,
        operation_id=charge.operation_id,
        amount=render_amount(charge.currency_code, charge.amount),
        transaction_id=charge.transaction_id,
        kind=render_kind(charge.kind),
        create_time=render_time(charge.create_time),
    )
