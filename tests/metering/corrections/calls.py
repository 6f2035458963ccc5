"""Corrections of usage in one line each."""

from collections.abc import Sequence
from decimal import Decimal

from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.ids import new_id
from tests.metering.support import Metering, Platform
from tollhouse.metering.v1 import model_pb2
from tollhouse.metering.v1 import usage_pb2 as pb


def amendment(organization_id: str, usage: str, operation_id: str = "", **fields: object) -> pb.AmendUsageRequest:
    """Return a request that replaces the fields given."""
    others = {name: fields.pop(name) for name in ("reason", "validate_only") if name in fields}
    return pb.AmendUsageRequest(
        organization_id=organization_id,
        operation_id=operation_id or f"amend-{new_id()}",
        usage_operation_id=usage,
        update_mask=FieldMask(paths=sorted(fields)),
        **fields,  # type: ignore[arg-type]
        **others,  # type: ignore[arg-type]
    )


def tokens(input_tokens: int = 0, output_tokens: int = 0) -> model_pb2.TokenCounts:
    return model_pb2.TokenCounts(input=input_tokens, output=output_tokens)


async def amend(
    metering: Metering, organization_id: str, usage: str, operation_id: str = "", **fields: object
) -> pb.AmendUsageResponse:
    request = amendment(organization_id, usage, operation_id, **fields)
    return await metering.usage.AmendUsage(request, metadata=metering.operator)


async def void(
    metering: Metering, organization_id: str, usage: str, operation_id: str = "", **fields: object
) -> pb.VoidUsageResponse:
    request = pb.VoidUsageRequest(
        organization_id=organization_id,
        operation_id=operation_id or f"void-{new_id()}",
        usage_operation_id=usage,
        **fields,  # type: ignore[arg-type]
    )
    return await metering.usage.VoidUsage(request, metadata=metering.operator)


async def restore(
    metering: Metering, organization_id: str, usage: str, operation_id: str = ""
) -> pb.RestoreUsageResponse:
    request = pb.RestoreUsageRequest(
        organization_id=organization_id, operation_id=operation_id or f"restore-{new_id()}", usage_operation_id=usage
    )
    return await metering.usage.RestoreUsage(request, metadata=metering.operator)


async def found(metering: Metering, organization_id: str, usage: str) -> pb.GetUsageResponse:
    request = pb.GetUsageRequest(organization_id=organization_id, operation_id=usage)
    return await metering.usage.GetUsage(request, metadata=metering.operator)


async def charged(platform: Platform, organization_id: str) -> Decimal:
    """Return what billing has charged the organization in all, less what it has given back."""
    charges = await platform.billing_charges()
    return sum((amount for (owner, _), amount in charges.items() if owner == organization_id), Decimal(0))


def moved(correction: pb.UsageCorrection) -> Sequence[tuple[str, bool]]:
    """Return the amounts of the movements of a correction, and whether each gives something back."""
    return [(one.amount.value, bool(one.reverses_operation_id)) for one in correction.charges]
