"""QuotaService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import Mapping

import grpc

from libs.common.amount import format_amount
from libs.common.timestamps import render_time
from libs.common.validation import Reader
from services.metering.quota.allocation_parsing import read_ask, units_named
from services.metering.quota.allocations import Allocations
from services.metering.quota.domain import SPEND
from services.metering.quota.rendering import render_statuses
from tollhouse.metering.v1 import quota_pb2 as pb
from tollhouse.metering.v1 import quota_pb2_grpc as rpc


class QuotaServicer(rpc.QuotaServiceServicer):
    """Implements QuotaService."""

    def __init__(self, allocations: Allocations) -> None:
        self._allocations = allocations

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"AllocateQuota": lambda request: read_ask(request, self._allocations.units)}

    async def AllocateQuota(
        self, request: pb.AllocateQuotaRequest, context: grpc.aio.ServicerContext
    ) -> pb.AllocateQuotaResponse:
        await self._allocations.know_units(units_named(request))
        answer = await self._allocations.allocate(read_ask(request, self._allocations.units))
        response = pb.AllocateQuotaResponse(
            allocated=answer.allocated,
            limits=render_statuses(answer.limits, answer.refused),
            replayed=answer.replayed,
        )
        for metric, value in answer.amounts:
            amount = response.allocated_amounts.add(metric=metric, value=format_amount(value))
            if metric == SPEND:
                amount.currency_code = answer.currency_code
        if answer.lease_end_time is not None:
            response.lease_end_time.CopyFrom(render_time(answer.lease_end_time))
        return response

    async def ReleaseQuota(
        self, request: pb.ReleaseQuotaRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReleaseQuotaResponse:
        released = await self._allocations.release(request.organization_id.lower(), request.operation_id)
        return pb.ReleaseQuotaResponse(replayed=released.replayed, lapsed=released.lapsed)
