"""LeaseService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import Mapping, Sequence

import grpc

from libs.common.validation import Reader
from services.metering.admission.hints import hints_of_denied
from services.metering.lease.leases import Leases
from services.metering.lease.parsing import read_usages
from services.metering.lease.rendering import render_acquired, render_settled
from services.metering.lease.settlements import Settlements
from services.metering.quota.allocation_parsing import read_lease, units_named
from services.metering.quota.allocations import Allocations
from services.metering.usage.domain import Outcome, Work
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import lease_pb2 as pb
from tollhouse.metering.v1 import lease_pb2_grpc as rpc


class LeaseServicer(rpc.LeaseServiceServicer):
    """Serves leases."""

    def __init__(self, leases: Leases, allocations: Allocations, settlements: Settlements, usages: Usages) -> None:
        self._leases = leases
        self._allocations = allocations
        self._settlements = settlements
        self._usages = usages

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"AcquireLease": lambda request: read_lease(request, self._allocations.units)}

    async def AcquireLease(
        self, request: pb.AcquireLeaseRequest, context: grpc.aio.ServicerContext
    ) -> pb.AcquireLeaseResponse:
        await self._allocations.know_units(units_named(request))
        acquired = await self._leases.acquire(read_lease(request, self._allocations.units))
        if acquired.denied is not None:
            context.set_trailing_metadata(hints_of_denied(acquired.denied, self._usages.now()))
        return render_acquired(acquired)

    async def SettleLease(
        self, request: pb.SettleLeaseRequest, context: grpc.aio.ServicerContext
    ) -> pb.SettleLeaseResponse:
        await self._usages.know_units(one.unit for usage in request.usages for one in usage.quantities)
        outcomes: dict[int, tuple[Outcome, Sequence[str]]] = {}
        works: dict[int, Work] = {}
        for place, read in enumerate(read_usages(request, self._usages)):
            if isinstance(read, Work):
                works[place] = read
            else:
                outcomes[place] = read, ()
        places = list(works)
        for number, refusal in (await self._usages.refused(list(works.values()))).items() if works else ():
            outcomes[places[number]] = refusal, ()
            del works[places[number]]
        settled = await self._settlements.settle(
            request.organization_id.lower(),
            request.lease_id,
            list(works.values()),
            end=request.final or not request.HasField("final"),
        )
        for (place, work), outcome in zip(works.items(), settled.outcomes, strict=True):
            outcomes[place] = outcome, work.adjusted
        in_order = [outcomes[place] for place in range(len(request.usages))]
        return render_settled(request.usages, in_order, settled, self._usages.units)
