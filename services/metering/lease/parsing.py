"""Settlements of leases, read into what the use case takes."""

from collections.abc import Sequence

from libs.common import validation
from libs.common.errors import FieldViolation, InvalidArgument, Refusal
from services.metering.errors import UsageOfAnother
from services.metering.usage.domain import Work
from services.metering.usage.servicer import check_usage, read_usage
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import lease_pb2 as pb
from tollhouse.metering.v1 import usage_pb2


def read_usages(request: pb.SettleLeaseRequest, usages: Usages) -> list[Work | Refusal]:
    """Read what was used within a lease, each on its own: what is well formed, or why it is not settled."""
    return [_read_one(request, one, usages) for one in request.usages]


def _read_one(request: pb.SettleLeaseRequest, usage: usage_pb2.RecordUsageRequest, usages: Usages) -> Work | Refusal:
    try:
        validation.check(usage, lambda one: check_usage(one, usages))
        if usage.organization_id.lower() != request.organization_id.lower():
            return UsageOfAnother(operation_id=usage.operation_id, lease_id=request.lease_id)
        violations = _violations(request, usage)
        if violations:
            return InvalidArgument(violations)
        return read_usage(usage, usages)
    except Refusal as refusal:
        return refusal


def _violations(request: pb.SettleLeaseRequest, usage: usage_pb2.RecordUsageRequest) -> Sequence[FieldViolation]:
    violations: list[FieldViolation] = []
    if usage.backfill:
        violations.append(FieldViolation("backfill", "must not be set for the usage of a lease"))
    if usage.operation_id == request.lease_id:
        violations.append(FieldViolation("operation_id", "must not be that of the lease"))
    return violations
