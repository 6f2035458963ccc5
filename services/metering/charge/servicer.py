"""ChargeService over gRPC."""

from collections.abc import AsyncIterator, Mapping

import grpc

from libs.common.amount import format_amount, render_amount
from libs.common.charge_filter import parse_filter, parse_times
from libs.common.digests import check_buckets
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import NIL, is_id
from libs.common.pages import decode_page_token, encode_page_token, foreign_token, page_size, time_in_key
from libs.common.timestamps import EPOCH, parse_time, render_time, time_text
from libs.common.validation import Reader
from services.metering.charge.charges import Charges
from services.metering.charge.domain import Charge, ChargedUsage, PendingCharge
from services.metering.charge.quantities import RANGE_MAX, Quantities, Wanted
from tollhouse.metering.v1 import charge_pb2 as pb
from tollhouse.metering.v1 import charge_pb2_grpc as rpc
from tollhouse.metering.v1 import unit_pb2


class ChargeServicer(rpc.ChargeServiceServicer):
    """Parses and renders what `Charges` does."""

    def __init__(self, charges: Charges, quantities: Quantities) -> None:
        self._charges = charges
        self._quantities = quantities

    async def ListCharges(
        self, request: pb.ListChargesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListChargesResponse:
        wanted = parse_filter(request)
        _check_with_usage(request)
        charges, token = await self._charges.page(wanted, request.page_size, request.page_token)
        response = pb.ListChargesResponse(charges=map(_render_charge, charges), next_page_token=token)
        if request.with_usage:
            usages = await self._charges.usage_of(request.organization_id.lower(), charges)
            for charge in response.charges:
                if charge.operation_id in usages:
                    charge.usage.CopyFrom(_render_usage(usages[charge.operation_id]))
        return response

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"ListCharges": _check_with_usage, "GetUsedQuantity": _read_wanted}

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
            organization_ids=found, next_page_token=token, read_time=render_time(read_time)
        )

    async def ListPendingCharges(
        self, request: pb.ListPendingChargesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListPendingChargesResponse:
        fingerprint = f"pending/{request.refused_only}"
        after = (EPOCH, NIL, "")
        if request.page_token:
            parts = decode_page_token(request.page_token, fingerprint)
            if len(parts) != 3 or not is_id(parts[1]):
                raise foreign_token()
            after = (time_in_key(parts[0]), parts[1], parts[2])
        limit = page_size(request.page_size)
        charges = await self._charges.list_pending(refused_only=request.refused_only, after=after, limit=limit)
        token = ""
        if len(charges) == limit:
            last = charges[-1]
            key = (time_text(last.create_time), last.organization_id, last.operation_id)
            token = encode_page_token(*key, fingerprint=fingerprint)
        return pb.ListPendingChargesResponse(pending_charges=map(_render_pending, charges), next_page_token=token)

    async def RetryCharges(
        self, request: pb.RetryChargesRequest, context: grpc.aio.ServicerContext
    ) -> pb.RetryChargesResponse:
        count = await self._charges.retry(request.organization_id.lower(), list(request.operation_ids))
        return pb.RetryChargesResponse(charge_count=count)

    async def GetUsedQuantity(
        self, request: pb.GetUsedQuantityRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetUsedQuantityResponse:
        quantity, priced_models, dropped_months = await self._quantities.used(_read_wanted(request))
        return pb.GetUsedQuantityResponse(
            quantity=format_amount(quantity), priced_models=priced_models, dropped_months=dropped_months
        )


def _read_wanted(request: pb.GetUsedQuantityRequest) -> Wanted:
    violations: list[FieldViolation] = []
    start_time = parse_time("start_time", request.start_time, violations)
    end_time = parse_time("end_time", request.end_time, violations)
    if not violations and not start_time < end_time <= start_time + RANGE_MAX:
        rule = f"must be after start_time, at most {RANGE_MAX.days:,} days"
        violations.append(FieldViolation("end_time", rule))
    if violations:
        raise InvalidArgument(violations)
    return Wanted(
        request.organization_id.lower(),
        request.subscription_id.lower(),
        request.with_unsubscribed,
        request.unit,
        list(request.models),
        start_time,
        end_time,
    )


def _check_with_usage(request: pb.ListChargesRequest) -> None:
    if request.with_usage and not request.operation_ids:
        raise InvalidArgument([FieldViolation("with_usage", "is allowed only with operation_ids")])


def _state(state: str) -> pb.ChargeState.ValueType:
    return pb.ChargeState.Value(f"CHARGE_STATE_{state}")


def _render_charge(charge: Charge) -> pb.Charge:
    return pb.Charge(
        organization_id=charge.organization_id,
        operation_id=charge.operation_id,
        amount=render_amount(charge.currency_code, charge.amount),
        state=_state(charge.state),
        occur_time=render_time(charge.occur_time),
    )


def _render_usage(usage: ChargedUsage) -> pb.ChargedUsage:
    return pb.ChargedUsage(
        model=usage.model,
        service_tier=usage.service_tier,
        price_version_id=usage.price_version_id or "",
        quantities=[unit_pb2.Quantity(unit=unit, value=value) for unit, value in usage.quantities.items()],
    )


def _render_pending(charge: PendingCharge) -> pb.PendingCharge:
    return pb.PendingCharge(
        organization_id=charge.organization_id,
        operation_id=charge.operation_id,
        amount=render_amount(charge.currency_code, charge.amount),
        state=_state(charge.state),
        attempt_count=charge.attempt_count,
        last_error_reason=charge.last_error_reason or "",
        next_attempt_time=render_time(charge.next_attempt_time),
        create_time=render_time(charge.create_time),
    )
