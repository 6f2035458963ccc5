"""ExportUsage: proto in, use case, proto out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from decimal import Decimal
from typing import Final

import grpc
from google.api.httpbody_pb2 import HttpBody

from libs.common.amount import format_amount, render_amount
from libs.common.timestamps import render_time
from libs.common.validation import Reader
from services.metering.usage.export.domain import VERSION, Span, Totals
from services.metering.usage.export.exports import Exports
from services.metering.usage.export.focus import focus_form
from services.metering.usage.export.forms import Form, csv_form, json_form
from services.metering.usage.export.parsing import fingerprint_of, read_export
from services.metering.usage.export.tokens import write_token
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc as rpc
from tollhouse.metering.v1.unit_pb2 import Quantity

_BROKEN_OFF: Final = b"\r\nThis file is not complete.\r\n"


class ExportServicer(rpc.UsageServiceServicer):
    """Serves exports of usage."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    @property
    def export_readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"ExportUsage": lambda request: read_export(request, self._exports.clock.now())}

    async def ExportUsage(
        self, request: pb.ExportUsageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ExportUsageResponse]:
        asked, place, totals = read_export(request, self._exports.clock.now())
        fingerprint = fingerprint_of(request)
        await self._exports.catalogue.refresh()
        form = self._form_of(request)
        is_begun = False
        try:
            async with aclosing(self._exports.pieces(asked, form, place, totals)) as pieces:
                async for piece in pieces:
                    yield pb.ExportUsageResponse(
                        body=HttpBody(content_type=form.content_type, data=piece.text),
                        resume_token=write_token(fingerprint, asked.span, piece.place, totals),
                        row_count=totals.rows,
                    )
                    is_begun = True
        except Exception:
            if is_begun:
                yield pb.ExportUsageResponse(body=HttpBody(content_type=form.content_type, data=_BROKEN_OFF))
            raise
        yield pb.ExportUsageResponse(
            body=HttpBody(content_type=form.content_type),
            row_count=totals.rows,
            manifest=_render_manifest(request, asked.span, totals),
        )

    def _form_of(self, request: pb.ExportUsageRequest) -> Form:
        if request.format == pb.USAGE_EXPORT_FORMAT_JSON_LINES:
            return json_form()
        mark = request.byte_order_mark
        if request.format == pb.USAGE_EXPORT_FORMAT_FOCUS:
            guarded = not request.raw_text
            return focus_form(self._exports.catalogue, request.issuer_name, byte_order_mark=mark, guarded=guarded)
        return csv_form(byte_order_mark=mark)


def _render_manifest(request: pb.ExportUsageRequest, span: Span, totals: Totals) -> pb.UsageExportManifest:
    asked = pb.ExportUsageRequest()
    asked.CopyFrom(request)
    asked.ClearField("resume_token")
    asked.format = request.format or pb.USAGE_EXPORT_FORMAT_CSV
    for name, moment in span._asdict().items():
        getattr(asked, name).CopyFrom(render_time(moment))
    return pb.UsageExportManifest(
        version=VERSION,
        request=asked,
        row_count=totals.rows,
        byte_count=totals.size,
        digest=totals.digest.hex(),
        request_count=totals.requests,
        unpriced_count=totals.unpriced,
        quantities=[
            Quantity(unit=unit, value=format_amount(value)) for unit, value in sorted(totals.quantities.items())
        ],
        costs=_amounts(totals.costs),
        provider_costs=_amounts(totals.provider_costs),
        charges=_amounts(totals.charges),
    )


def _amounts(sums: Mapping[str, Decimal]) -> list[Amount]:
    return [render_amount(currency_code, value) for currency_code, value in sorted(sums.items())]
