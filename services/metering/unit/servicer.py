"""The gRPC service of units: requests are parsed, use cases called, responses rendered."""

from collections.abc import Mapping
from typing import Final

import grpc

from libs.common.errors import InvalidArgument
from libs.common.pages import encode_page_token, page_size, text_in_token, that_fit
from libs.common.repeats.parsing import repeatable
from libs.common.timestamps import render_time
from libs.common.update_mask import mask_violations
from libs.common.validation import Reader
from services.metering.model.units import THOUSANDTHS, Kind, Unit, name_of, quantity_text
from services.metering.unit.domain import Changes, Entry, flaws_of_name, flaws_of_new
from services.metering.unit.units import CatalogueUnits
from tollhouse.metering.v1 import unit_pb2 as pb
from tollhouse.metering.v1 import unit_pb2_grpc as rpc

_KINDS: Final = {
    pb.UNIT_KIND_TOKEN: Kind.TOKEN,
    pb.UNIT_KIND_COUNT: Kind.COUNT,
    pb.UNIT_KIND_DURATION: Kind.DURATION,
    pb.UNIT_KIND_SIZE: Kind.SIZE,
}
_RENDERED_KINDS: Final = {kind: value for value, kind in _KINDS.items()}
_STEPS: Final = {quantity_text(thousandths): thousandths for thousandths in (1, 10, 100, THOUSANDTHS)}
_UPDATABLE: Final = ("name", "description", "archived")


class UnitServicer(rpc.UnitServiceServicer):
    """Implements UnitService."""

    def __init__(self, units: CatalogueUnits) -> None:
        self._units = units

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"CreateUnit": _new_unit, "UpdateUnit": _changes}

    async def CreateUnit(
        self, request: pb.CreateUnitRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateUnitResponse:
        answer, replayed = await self._units.create(
            _new_unit(request),
            repeatable(request.request_id, "CreateUnit", request),
            lambda entry: pb.CreateUnitResponse(unit=render_unit(entry)).SerializeToString(),
        )
        response = pb.CreateUnitResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def GetUnit(self, request: pb.GetUnitRequest, context: grpc.aio.ServicerContext) -> pb.GetUnitResponse:
        return pb.GetUnitResponse(unit=render_unit(await self._units.get(request.unit_id)))

    async def ListUnits(self, request: pb.ListUnitsRequest, context: grpc.aio.ServicerContext) -> pb.ListUnitsResponse:
        fingerprint = f"units/{request.kind}/{request.active_only}"
        limit = page_size(request.page_size)
        entries = await self._units.list_units(
            after=text_in_token(request.page_token, fingerprint) or "",
            kind=_KINDS.get(request.kind),
            active_only=request.active_only,
            limit=limit,
        )
        units = that_fit(map(render_unit, entries))
        has_more = len(entries) == limit or len(units) < len(entries)
        token = encode_page_token(units[-1].unit_id, fingerprint=fingerprint) if has_more else ""
        return pb.ListUnitsResponse(units=units, next_page_token=token)

    async def UpdateUnit(
        self, request: pb.UpdateUnitRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateUnitResponse:
        answer, replayed = await self._units.update(
            request.unit_id,
            _changes(request),
            request.etag,
            repeatable(request.request_id, "UpdateUnit", request),
            lambda entry: pb.UpdateUnitResponse(unit=render_unit(entry)).SerializeToString(),
        )
        response = pb.UpdateUnitResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def ArchiveUnit(
        self, request: pb.ArchiveUnitRequest, context: grpc.aio.ServicerContext
    ) -> pb.ArchiveUnitResponse:
        return pb.ArchiveUnitResponse(unit=render_unit(await self._units.archive(request.unit_id)))


def render_unit(entry: Entry) -> pb.Unit:
    unit = entry.unit
    return pb.Unit(
        unit_id=unit.unit_id,
        name=unit.name,
        description=unit.description,
        kind=_RENDERED_KINDS[unit.kind],
        counts_toward_context=unit.counts_toward_context,
        step=quantity_text(unit.step_thousandths),
        archived=unit.archived,
        create_time=render_time(entry.create_time),
        update_time=render_time(entry.update_time),
        etag=str(entry.revision),
    )


def _new_unit(request: pb.CreateUnitRequest) -> Unit:
    kind = _KINDS.get(request.kind)
    # A step that is none of these is refused for its form; here it must not hide the other faults.
    step_thousandths = _STEPS.get(request.step, THOUSANDTHS)
    flaws = flaws_of_new(request.name, kind, step_thousandths, counts_toward_context=request.counts_toward_context)
    if kind is None or flaws:
        raise InvalidArgument(flaws)
    return Unit(
        unit_id=request.unit_id,
        name=request.name or name_of(request.unit_id),
        description=request.description,
        kind=kind,
        counts_toward_context=request.counts_toward_context,
        step_thousandths=step_thousandths,
    )


def _changes(request: pb.UpdateUnitRequest) -> Changes:
    paths = set(request.update_mask.paths)
    flaws = [*(flaws_of_name(request.name) if "name" in paths else ()), *mask_violations(paths, _UPDATABLE)]
    if flaws:
        raise InvalidArgument(flaws)
    return Changes(
        name=request.name if "name" in paths else None,
        description=request.description if "description" in paths else None,
        archived=request.archived if "archived" in paths else None,
    )
