"""Requests for allocations, read into what the use case takes."""

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final

from libs.common.amount import SMALLEST_POSITIVE, format_amount
from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.model.units import QUANTITY_MAX, Units, check_unit, quantity_of
from services.metering.quota.allocation_domain import LEASE_DEFAULT, Ask, Asked, Mode, fingerprint_of
from services.metering.quota.domain import CONCURRENT_CALLS, METRICS, SPEND, Call
from tollhouse.metering.v1 import lease_pb2
from tollhouse.metering.v1 import quota_pb2 as pb

_MODES: Final = {
    pb.ALLOCATION_MODE_UNSPECIFIED: Mode.NORMAL,
    pb.ALLOCATION_MODE_NORMAL: Mode.NORMAL,
    pb.ALLOCATION_MODE_BEST_EFFORT: Mode.BEST_EFFORT,
    pb.ALLOCATION_MODE_CHECK_ONLY: Mode.CHECK_ONLY,
    pb.ALLOCATION_MODE_ADJUST_ONLY: Mode.ADJUST_ONLY,
}
_WHOLE: Final = Decimal(1)

Request = pb.AllocateQuotaRequest | lease_pb2.AcquireLeaseRequest


def units_named(request: Request) -> Iterable[str]:
    """Return the units among the metrics of a request."""
    return (one.metric for one in request.amounts if one.metric not in METRICS)


def read_ask(request: pb.AllocateQuotaRequest, units: Units) -> Ask:
    """Read a request to take amounts.

    Raises:
        InvalidArgument: a metric does not exist or is named twice, a value is too large or no multiple of its step, a
            currency is missing or out of place, or a lease is given without concurrent calls.
    """
    violations: list[FieldViolation] = []
    amounts = _read_amounts(request, units, violations)
    has_lease = request.HasField("lease_ttl")
    if has_lease and all(amount.metric != CONCURRENT_CALLS for amount in request.amounts):
        violations.append(FieldViolation("lease_ttl", f"is for {CONCURRENT_CALLS}, which are not among the amounts"))
    if violations:
        raise InvalidArgument(violations)
    lease = request.lease_ttl.ToTimedelta() if has_lease else LEASE_DEFAULT
    return _ask(request, request.operation_id, amounts, lease)


def read_lease(request: lease_pb2.AcquireLeaseRequest, units: Units) -> Ask:
    """Read a request to acquire a lease.

    Raises:
        InvalidArgument: a metric does not exist or is named twice, a value is too large or no multiple of its step, a
            currency is missing or out of place, or the mode is none of leases.
    """
    violations: list[FieldViolation] = []
    amounts = _read_amounts(request, units, violations)
    if _MODES[request.mode] not in (Mode.NORMAL, Mode.BEST_EFFORT):
        violations.append(FieldViolation("mode", "must be NORMAL or BEST_EFFORT"))
    if violations:
        raise InvalidArgument(violations)
    return _ask(request, request.lease_id, amounts, request.ttl.ToTimedelta())._replace(is_lease=True)


def _ask(request: Request, operation_id: str, amounts: Sequence[Asked], lease: timedelta) -> Ask:
    call = _read_call(request)
    mode = _MODES[request.mode]
    fingerprint = fingerprint_of(
        {
            **call._asdict(),
            "labels": json.dumps(dict(call.labels), sort_keys=True),
            "amounts": "\n".join(f"{one.metric} {format_amount(one.value)} {one.currency_code}" for one in amounts),
            "mode": mode.value,
            "lease_ttl": str(lease),
        }
    )
    return Ask(request.organization_id.lower(), operation_id, fingerprint, mode, amounts, call, lease)


def _read_amounts(request: Request, units: Units, violations: list[FieldViolation]) -> list[Asked]:
    """Read the amounts of a request; what is wrong with them is added to `violations`."""
    amounts: list[Asked] = []
    for number, amount in enumerate(request.amounts):
        field = f"amounts[{number}]"
        if any(amount.metric == other.metric for other in request.amounts[:number]):
            violations.append(FieldViolation(f"{field}.metric", f"names {amount.metric} twice"))
            continue
        asked = _read_amount(field, amount, units, violations)
        if asked is not None:
            amounts.append(asked)
    return amounts


def _read_amount(field: str, amount: pb.QuotaAmount, units: Units, violations: list[FieldViolation]) -> Asked | None:
    """Read an amount; what is wrong with it is added to `violations`."""
    value = Decimal(amount.value)
    if amount.metric == SPEND:
        if not amount.currency_code:
            violations.append(FieldViolation(f"{field}.currency_code", f"must be given for {SPEND}"))
        return Asked(SPEND, amount.currency_code, value, SMALLEST_POSITIVE)
    if amount.currency_code:
        violations.append(FieldViolation(f"{field}.currency_code", f"must be empty for {amount.metric}"))
    step = _WHOLE
    if amount.metric not in METRICS:
        flaws = check_unit(f"{field}.metric", amount.metric, units)
        if flaws:
            violations += (FieldViolation(one.field, f"{amount.metric} {one.description}") for one in flaws)
            return None
        step = quantity_of(units[amount.metric].step_thousandths)
    if value > QUANTITY_MAX or value % step:
        description = f"must be a multiple of {format_amount(step)}, at most {QUANTITY_MAX:,}"
        violations.append(FieldViolation(f"{field}.value", description))
    return Asked(amount.metric, "", value, step)


def _read_call(request: Request) -> Call:
    return Call(
        project_id=request.project_id.lower(),
        user_id=request.user_id.lower(),
        service_account_id=request.service_account_id.lower(),
        api_key_id=request.api_key_id.lower(),
        subscription_id=request.subscription_id.lower(),
        model=request.model,
        provider=request.provider,
        labels=dict(request.labels),
    )
