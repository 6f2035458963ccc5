"""Requests on credits, read into commands."""

from datetime import datetime, timedelta
from typing import Final

from libs.common.amount import parse_amount
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.text import lengths_of, storable
from libs.common.timestamps import parse_time
from services.billing.ledger.domain import GrantCredits
from services.billing.ledger.grants import GrantKind, GrantState
from tollhouse.billing.v1 import credit_pb2 as pb

_AHEAD_MAX: Final = timedelta(days=3_653)
"""How far ahead a grant may begin: ten years."""
_DESCRIPTION_MAX: Final = lengths_of(pb.GrantCreditsRequest.DESCRIPTOR)["description"]


def read_grant(request: pb.GrantCreditsRequest, clock: Clock) -> GrantCredits:
    """Return the command that a request of the current caller asks for.

    Raises:
        InvalidArgument: with every field at fault.
    """
    violations: list[FieldViolation] = []
    organization_id = request.organization_id.lower()
    project_id = request.project_id.lower() or None
    if project_id == organization_id:
        violations.append(FieldViolation("project_id", "must not be the organization's own id"))
    amount = parse_amount("amount", request.amount, violations)
    effective_time = expire_time = None
    if request.HasField("effective_time"):
        effective_time = parse_time("effective_time", request.effective_time, violations)
    if request.HasField("expire_time"):
        expire_time = parse_time("expire_time", request.expire_time, violations)
    _check_times(effective_time, expire_time, clock.now(), violations)
    if violations:
        raise InvalidArgument(violations)
    return GrantCredits(
        organization_id=organization_id,
        operation_id=request.operation_id,
        project_id=project_id,
        currency_code=request.amount.currency_code,
        amount=amount,
        kind=read_kind(request.kind),
        priority=request.priority,
        effective_time=effective_time,
        expire_time=expire_time,
        source_reference=request.source_reference,
        description=storable(request.description, _DESCRIPTION_MAX),
        metadata=dict(request.metadata) or None,
        actor=current_actor(),
        user_id=request.user_id.lower() or None,
        model=request.model or None,
    )


def read_kind(kind: pb.GrantKind.ValueType) -> GrantKind:
    """Return the kind; PROMOTIONAL where none is given."""
    name = pb.GrantKind.Name(kind).removeprefix("GRANT_KIND_")
    return GrantKind.PROMOTIONAL if name == "UNSPECIFIED" else GrantKind(name)


def read_state(state: pb.GrantState.ValueType) -> GrantState | None:
    """Return the state that a list is filtered by; None for all."""
    name = pb.GrantState.Name(state).removeprefix("GRANT_STATE_")
    return None if name == "UNSPECIFIED" else GrantState(name)


def read_transaction(request: pb.ExplainChargeRequest) -> tuple[str | None, str | None]:
    """Return the transaction's id or its operation's.

    Raises:
        InvalidArgument: not exactly one of the two is given.
    """
    if bool(request.transaction_id) == bool(request.operation_id):
        raise InvalidArgument([FieldViolation("transaction_id", "exactly one of this and operation_id is needed")])
    return request.transaction_id.lower() or None, request.operation_id or None


def check_reason(request: pb.VoidGrantRequest) -> None:
    """Raise InvalidArgument for a reason that says nothing."""
    if not request.reason.strip():
        raise InvalidArgument([FieldViolation("reason", "must not be blank")])


def _check_times(
    effective_time: datetime | None, expire_time: datetime | None, now: datetime, violations: list[FieldViolation]
) -> None:
    if effective_time is not None and effective_time > now + _AHEAD_MAX:
        violations.append(FieldViolation("effective_time", "must be at most ten years ahead"))
    if expire_time is not None and effective_time is not None and expire_time <= effective_time:
        violations.append(FieldViolation("expire_time", "must be after effective_time"))
