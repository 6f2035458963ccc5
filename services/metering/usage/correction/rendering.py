"""Corrections as messages."""

from typing import Final

from libs.common.amount import format_amount
from libs.common.timestamps import render_time
from services.metering.model.units import Units
from services.metering.usage.correction.domain import Correction, CorrectionCharge, CorrectionKind
from services.metering.usage.correction.pending_prices import Pending
from services.metering.usage.domain import PENDING, REFUSED, SETTLED, Recorded
from services.metering.usage.rendering import render_usage
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

_KINDS: Final = {
    CorrectionKind.AMEND: pb.USAGE_CORRECTION_KIND_AMEND,
    CorrectionKind.VOID: pb.USAGE_CORRECTION_KIND_VOID,
    CorrectionKind.RESTORE: pb.USAGE_CORRECTION_KIND_RESTORE,
    CorrectionKind.PRICE: pb.USAGE_CORRECTION_KIND_PRICE,
    CorrectionKind.RERATE: pb.USAGE_CORRECTION_KIND_RERATE,
}
_SETTLEMENTS: Final = {
    PENDING: pb.SETTLEMENT_PENDING,
    SETTLED: pb.SETTLEMENT_SETTLED,
    REFUSED: pb.SETTLEMENT_REFUSED,
}


def render_correction(correction: Correction, units: Units, *, is_stored: bool = True) -> pb.UsageCorrection:
    """Return a correction as a message; one that is not stored has no time, and its movements have no ids."""
    return pb.UsageCorrection(
        operation_id=correction.operation_id,
        organization_id=correction.organization_id,
        usage_operation_id=correction.usage_operation_id,
        usage_id=correction.usage_id,
        number=correction.number,
        kind=_KINDS[correction.kind],
        reason=correction.reason,
        actor=correction.actor,
        create_time=render_time(correction.create_time) if is_stored else None,
        before=_render_state(correction.before, units),
        after=_render_state(correction.after, units),
        charges=[_render_charge(charge, is_stored) for charge in correction.charges],
    )


def render_pending(pending: Pending) -> pb.PendingPrice:
    cost = None
    if pending.currency_code:
        cost = amount_pb2.Amount(currency_code=pending.currency_code, value=format_amount(pending.cost))
    return pb.PendingPrice(
        organization_id=pending.organization_id,
        model=pending.model,
        usage_count=pending.usages,
        cost=cost,
        first_time=render_time(pending.first_time),
        last_time=render_time(pending.last_time),
    )


def _render_state(usage: Recorded | None, units: Units) -> pb.UsageRecord | None:
    if usage is None:
        return None
    record = render_usage(usage, units)
    # They are those of the usage, or say nothing of one state of it.
    for field in ("settlement", "settlement_reason", "create_time"):
        record.ClearField(field)
    return record


def _render_charge(charge: CorrectionCharge, is_stored: bool) -> pb.UsageCorrectionCharge:
    movement = charge.movement
    return pb.UsageCorrectionCharge(
        operation_id=charge.operation_id if is_stored else "",
        amount=amount_pb2.Amount(currency_code=movement.currency_code, value=format_amount(movement.amount)),
        reverses_operation_id=movement.reverses_operation_id or "",
        settlement=_SETTLEMENTS[charge.settlement] if is_stored else pb.SETTLEMENT_UNSPECIFIED,
        settlement_reason=charge.refusal_reason,
    )
