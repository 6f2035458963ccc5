"""Requests as commands. Annotations in the proto have been checked; what they cannot say is checked here."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, Protocol, TypeVar

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.text import lengths_of, storable
from services.billing.ledger.domain import (
    Capture,
    Credit,
    Debit,
    Extend,
    Metadata,
    Mode,
    Place,
    Release,
    Reverse,
    SystemAccount,
    Transfer,
)
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1 import amount_pb2

TTL_DEFAULT_MS: Final = 600_000
_DESCRIPTION_MAX: Final = lengths_of(pb.DebitRequest.DESCRIPTOR)["description"]

_MODES: Final = {
    pb.DEBIT_MODE_UNSPECIFIED: Mode.GUARDED,
    pb.DEBIT_MODE_GUARDED: Mode.GUARDED,
    pb.DEBIT_MODE_MUST_POST: Mode.MUST_POST,
    pb.DEBIT_MODE_BEST_EFFORT: Mode.BEST_EFFORT,
}
_SOURCES: Final = {
    pb.CREDIT_SOURCE_UNSPECIFIED: SystemAccount.PAYMENTS,
    pb.CREDIT_SOURCE_PAYMENT: SystemAccount.PAYMENTS,
    pb.CREDIT_SOURCE_GRANT: SystemAccount.GRANTS,
    pb.CREDIT_SOURCE_ADJUSTMENT: SystemAccount.ADJUSTMENTS,
}

_R = TypeVar("_R", contravariant=True)
_C = TypeVar("_C", covariant=True)


class Parser(Protocol[_R, _C]):
    """Reads one request; what is wrong is added to the violations, under fields that begin with the path."""

    def __call__(self, request: _R, violations: list[FieldViolation], path: str = "") -> _C: ...


_Request = TypeVar("_Request")
_Command = TypeVar("_Command")


def parse(parser: Parser[_Request, _Command], request: _Request) -> _Command:
    """One command.

    Raises:
        InvalidArgument: with every field at fault.
    """
    violations: list[FieldViolation] = []
    command = parser(request, violations)
    if violations:
        raise InvalidArgument(violations)
    return command


def parse_all(parser: Parser[_Request, _Command], requests: Sequence[_Request]) -> list[_Command]:
    """The commands of a batch. A malformed item refuses the batch as a whole: it is a mistake in the caller's code."""
    violations: list[FieldViolation] = []
    commands = []
    for request in requests:
        commands.append(parser(request, violations))
        if violations:
            break
    if not violations:
        return commands
    violations = []
    for index, request in enumerate(requests):
        parser(request, violations, f"requests[{index}].")
    raise InvalidArgument(violations)


def parse_debit(request: pb.DebitRequest, violations: list[FieldViolation], path: str = "") -> Debit:
    organization_id, amount = request.organization_id.lower(), request.amount
    return Debit(
        organization_id,
        request.operation_id,
        _project(request.project_id, organization_id, violations, path),
        amount.currency_code,
        _positive(amount, violations, path),
        _MODES[request.mode],
        storable(request.description, _DESCRIPTION_MAX),
        _metadata(request),
        request.validate_only,
    )


def parse_credit(request: pb.CreditRequest, violations: list[FieldViolation], path: str = "") -> Credit:
    organization_id = request.organization_id.lower()
    return Credit(
        organization_id=organization_id,
        operation_id=request.operation_id,
        project_id=_project(request.project_id, organization_id, violations, path),
        currency_code=request.amount.currency_code,
        amount=_positive(request.amount, violations, path),
        source=_SOURCES[request.source],
        description=request.description,
        metadata=_metadata(request),
        validate_only=request.validate_only,
    )


def parse_transfer(request: pb.TransferRequest, violations: list[FieldViolation], path: str = "") -> Transfer:
    organization_id = request.organization_id.lower()
    command = Transfer(
        organization_id=organization_id,
        operation_id=request.operation_id,
        source_project_id=_project(
            request.source_project_id, organization_id, violations, path, name="source_project_id"
        ),
        destination_project_id=_project(
            request.destination_project_id, organization_id, violations, path, name="destination_project_id"
        ),
        currency_code=request.amount.currency_code,
        amount=_positive(request.amount, violations, path),
        description=request.description,
        metadata=_metadata(request),
        validate_only=request.validate_only,
    )
    if command.source_project_id == command.destination_project_id:
        violations.append(FieldViolation(f"{path}destination_project_id", "must differ from source_project_id"))
    return command


def parse_place(request: pb.CreateHoldRequest, violations: list[FieldViolation], path: str = "") -> Place:
    organization_id = request.organization_id.lower()
    return Place(
        organization_id,
        request.operation_id,
        _project(request.project_id, organization_id, violations, path),
        request.amount.currency_code,
        _positive(request.amount, violations, path),
        _ttl_ms(request) if request.HasField("ttl") else TTL_DEFAULT_MS,
        storable(request.description, _DESCRIPTION_MAX),
        _metadata(request),
        request.validate_only,
    )


def parse_capture(request: pb.CaptureHoldRequest, violations: list[FieldViolation], path: str = "") -> Capture:
    return Capture(
        request.organization_id.lower(),
        request.operation_id,
        request.amount.currency_code,
        _not_negative(request.amount, violations, path),
        storable(request.description, _DESCRIPTION_MAX),
        _metadata(request),
    )


def parse_release(request: pb.ReleaseHoldRequest, violations: list[FieldViolation], path: str = "") -> Release:
    return Release(request.organization_id.lower(), request.operation_id)


def parse_extend(request: pb.ExtendHoldRequest, violations: list[FieldViolation], path: str = "") -> Extend:
    return Extend(request.organization_id.lower(), request.operation_id, _ttl_ms(request))


def parse_reverse(request: pb.ReverseTransactionRequest, violations: list[FieldViolation], path: str = "") -> Reverse:
    partial = request.HasField("amount")
    return Reverse(
        organization_id=request.organization_id.lower(),
        operation_id=request.operation_id,
        transaction_id=request.transaction_id.lower(),
        currency_code=request.amount.currency_code if partial else None,
        amount=_positive(request.amount, violations, path) if partial else None,
        description=request.description,
        metadata=_metadata(request),
        validate_only=request.validate_only,
    )


def _project(
    project_id: str, organization_id: str, violations: list[FieldViolation], path: str, name: str = "project_id"
) -> str | None:
    if not project_id:
        return None
    project_id = project_id.lower()
    if project_id == organization_id:
        violations.append(FieldViolation(f"{path}{name}", "must not be the organization's own id"))
    return project_id


def _positive(amount: amount_pb2.Amount, violations: list[FieldViolation], path: str) -> Decimal:
    value = Decimal(amount.value)
    if value <= 0:
        violations.append(FieldViolation(f"{path}amount.value", "must be greater than zero"))
    return value


def _not_negative(amount: amount_pb2.Amount, violations: list[FieldViolation], path: str) -> Decimal:
    value = Decimal(amount.value)
    if value < 0:
        violations.append(FieldViolation(f"{path}amount.value", "must not be negative"))
    return value.copy_abs()


def _ttl_ms(request: pb.CreateHoldRequest | pb.ExtendHoldRequest) -> int:
    """At least a millisecond, so that a tiny ttl does not read as none."""
    return max(request.ttl.ToMilliseconds(), 1)


def _metadata(
    request: pb.DebitRequest
    | pb.CreditRequest
    | pb.TransferRequest
    | pb.CreateHoldRequest
    | pb.CaptureHoldRequest
    | pb.ReverseTransactionRequest,
) -> Metadata | None:
    return dict(request.metadata) if request.metadata else None
