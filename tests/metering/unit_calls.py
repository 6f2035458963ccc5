"""Calls of UnitService, made by an operator, for the tests of units."""

from collections.abc import Awaitable, Mapping
from typing import Final

import grpc
import pytest

from libs.common.status import field_violations
from tests.metering.support import Metering
from tollhouse.metering.v1 import unit_pb2 as pb

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT


def new_unit(unit_id: str = "sheets", **fields: object) -> pb.CreateUnitRequest:
    return pb.CreateUnitRequest(**{"unit_id": unit_id, "kind": pb.UNIT_KIND_COUNT} | fields)  # type: ignore[arg-type]


def update(unit_id: str = "sheets", **fields: object) -> pb.UpdateUnitRequest:
    """Return an update of the given fields; the request id and the etag are none of the unit's."""
    request = pb.UpdateUnitRequest(unit_id=unit_id, **fields)  # type: ignore[arg-type]
    request.update_mask.paths.extend(name for name in fields if name not in ("request_id", "etag"))
    return request


async def created(metering: Metering, request: pb.CreateUnitRequest | None = None) -> pb.Unit:
    return (await metering.units.CreateUnit(request or new_unit(), metadata=metering.operator)).unit


async def updated(metering: Metering, request: pb.UpdateUnitRequest) -> pb.Unit:
    return (await metering.units.UpdateUnit(request, metadata=metering.operator)).unit


async def archived(metering: Metering, unit_id: str = "sheets") -> pb.Unit:
    request = pb.ArchiveUnitRequest(unit_id=unit_id)
    return (await metering.units.ArchiveUnit(request, metadata=metering.operator)).unit


async def found(metering: Metering, unit_id: str = "sheets") -> pb.Unit:
    return (await metering.units.GetUnit(pb.GetUnitRequest(unit_id=unit_id), metadata=metering.operator)).unit


async def listed(metering: Metering, **filters: object) -> list[pb.Unit]:
    """All units of a list, from as many pages as there are."""
    request = pb.ListUnitsRequest(**filters)  # type: ignore[arg-type]
    units: list[pb.Unit] = []
    while True:
        page = await metering.units.ListUnits(request, metadata=metering.operator)
        units += page.units
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return units


async def faults(call: Awaitable[object]) -> Mapping[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is INVALID
    return field_violations(error.value)
