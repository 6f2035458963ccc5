"""The RPCs of UsageService that correct usage: proto in, use case, proto out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar

import grpc

from libs.common.pages import (
    decode_page_token,
    encode_page_token,
    foreign_token,
    number_in_key,
    page_size,
    that_fit,
    time_in_key,
)
from libs.common.timestamps import time_text
from libs.common.validation import Reader
from services.metering.usage.correction.corrections import Corrected, Corrections
from services.metering.usage.correction.domain import CORRECTIONS_MAX, Correction
from services.metering.usage.correction.parsing import (
    read_amendment,
    wanted_amendment,
    wanted_restoration,
    wanted_void,
)
from services.metering.usage.correction.pending_prices import Asked, PendingPrices
from services.metering.usage.correction.rendering import render_correction, render_pending
from services.metering.usage.domain import Recorded
from services.metering.usage.rendering import fill_balance, fill_settlement
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc as rpc

_R = TypeVar("_R", pb.AmendUsageResponse, pb.VoidUsageResponse, pb.RestoreUsageResponse)
_LIST: Final = "corrections"


class CorrectionServicer(rpc.UsageServiceServicer):
    """Serves corrections of usage."""

    def __init__(self, usages: Usages, corrections: Corrections, pending_prices: PendingPrices) -> None:
        self._usages = usages
        self._corrections = corrections
        self._pending_prices = pending_prices

    @property
    def correction_readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"AmendUsage": lambda request: read_amendment(request, self._usages.units)}

    async def AmendUsage(
        self, request: pb.AmendUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.AmendUsageResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        amendment, adjusted = read_amendment(request, self._usages.units)
        wanted = wanted_amendment(request, amendment)
        corrected = await self._corrections.correct(wanted, validate_only=request.validate_only)
        response = pb.AmendUsageResponse(adjusted_fields=adjusted)
        return await self._filled(response, corrected, is_stored=not request.validate_only)

    async def VoidUsage(self, request: pb.VoidUsageRequest, context: grpc.aio.ServicerContext) -> pb.VoidUsageResponse:
        corrected = await self._corrections.correct(wanted_void(request), validate_only=request.validate_only)
        return await self._filled(pb.VoidUsageResponse(), corrected, is_stored=not request.validate_only)

    async def RestoreUsage(
        self, request: pb.RestoreUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.RestoreUsageResponse:
        corrected = await self._corrections.correct(wanted_restoration(request), validate_only=request.validate_only)
        return await self._filled(pb.RestoreUsageResponse(), corrected, is_stored=not request.validate_only)

    async def ListUsageCorrections(
        self, request: pb.ListUsageCorrectionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListUsageCorrectionsResponse:
        organization_id, size = request.organization_id.lower(), page_size(request.page_size)
        fingerprint = f"{_LIST}/{organization_id}/{request.usage_operation_id}"
        after = decode_page_token(request.page_token, fingerprint) if request.page_token else None
        if request.usage_operation_id:
            usage = await self._usages.get(organization_id, request.usage_operation_id)
            number = None if after is None else _number(after)
            found = await self._corrections.of_usage(organization_id, usage.usage_id, before=number, limit=size)
        else:
            place = None if after is None else _place(after)
            found = await self._corrections.of_organization(organization_id, before=place, limit=size)
        rendered = await self._rendered_corrections(found)
        token = ""
        if rendered and (len(rendered) < len(found) or len(found) == size):
            last = found[len(rendered) - 1]
            by_time = time_text(last.create_time), last.operation_id
            parts = (str(last.number),) if request.usage_operation_id else by_time
            token = encode_page_token(*parts, fingerprint=fingerprint)
        return pb.ListUsageCorrectionsResponse(corrections=rendered, next_page_token=token)

    async def ListPendingPrices(
        self, request: pb.ListPendingPricesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListPendingPricesResponse:
        ids = request.organization_id.lower() or None, request.model or None, request.price_version_id.lower() or None
        page, token = await self._pending_prices.page(Asked(*ids), page_size(request.page_size), request.page_token)
        return pb.ListPendingPricesResponse(pending_prices=map(render_pending, page), next_page_token=token)

    async def _with_corrections(self, record: pb.UsageRecord, usage: Recorded) -> pb.GetUsageResponse:
        """Return the answer to GetUsage: the usage, and its corrections, the latest first."""
        await self._mark([record], [usage])
        found: Sequence[Correction] = ()
        if record.correction_count:
            organization_id, usage_id = usage.work.organization_id, usage.usage_id
            found = await self._corrections.of_usage(organization_id, usage_id, before=None, limit=CORRECTIONS_MAX)
        return pb.GetUsageResponse(usage=record, corrections=await self._rendered_corrections(found))

    async def _mark(self, records: Sequence[pb.UsageRecord], usages: Sequence[Recorded]) -> None:
        """Write into the records of usages how many corrections each had, whether it is voided, and what it corrects.

        Usage that was recorded without a price gets the cost and the settlement that corrections gave it.
        """
        marks, links = await self._corrections.marks(usages)
        for record in records:
            record.corrects_operation_id = links.get((record.organization_id, record.operation_id), "")
            mark = marks.get(record.usage_id)
            if mark is None:
                continue
            record.correction_count, record.voided = mark.corrections, mark.voided
            if mark.now is not None:
                fill_settlement(record, mark.now)

    async def _rendered_corrections(self, corrections: Sequence[Correction]) -> list[pb.UsageCorrection]:
        """Return as many corrections, from the first on, as fit into an answer."""
        await self._know_units(corrections)
        return that_fit(render_correction(one, self._usages.units) for one in corrections)

    async def _filled(self, response: _R, corrected: Corrected, *, is_stored: bool) -> _R:
        await self._know_units([corrected.correction])
        is_stored = is_stored or corrected.replayed
        correction = render_correction(corrected.correction, self._usages.units, is_stored=is_stored)
        response.correction.CopyFrom(correction)
        response.replayed = corrected.replayed
        if corrected.balance is not None:
            fill_balance(response.balance, corrected.balance)
        return response

    async def _know_units(self, corrections: Sequence[Correction]) -> None:
        await self._usages.know_units(
            unit_id
            for one in corrections
            for state in (one.before, one.after)
            if state is not None
            for unit_id in state.work.quantities
        )


def _number(parts: Sequence[str]) -> int:
    if len(parts) != 1:
        raise foreign_token()
    return number_in_key(parts[0], CORRECTIONS_MAX)


def _place(parts: Sequence[str]) -> tuple[datetime, str]:
    if len(parts) != 2:
        raise foreign_token()
    return time_in_key(parts[0]), parts[1]
