"""Requests as commands. What the annotations in the proto cannot express is checked here."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Final, Protocol, TypeVar

from google.protobuf.message import Message

from libs.common.call import current_actor
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.text import lengths_of, storable
from libs.common.validation import Reader, check
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
_ZERO: Final = Decimal(0)
_METERING: Final = "service:metering"
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
    """Reads one request of an actor; what is wrong with it is added to the violations."""

    def __call__(self, request: _R, actor: str, violations: list[FieldViolation]) -> _C: ...


_Request = TypeVar("_Request")
_Item = TypeVar("_Item", bound=Message)
_Command = TypeVar("_Command")


def parse(parser: Parser[_Request, _Command], request: _Request) -> _Command:
    """Return the command that a request of the current caller asks for.

    Raises:
        InvalidArgument: with every field at fault.
    """
    return _parse(parser, request, current_actor())


def parse_each(parser: Parser[_Item, _Command], requests: Sequence[_Item]) -> list[_Command | InvalidArgument]:
    """Return the command of each item of a batch, or what is wrong with that item.

    The items are checked here, since the proto leaves them out of the check of the batch: a malformed item must not
    fail the others.
    """
    actor, read = current_actor(), _reader(parser)
    commands: list[_Command | InvalidArgument] = []
    for request in requests:
        try:
            check(request, read)
            commands.append(_parse(parser, request, actor))
        except InvalidArgument as refusal:
            commands.append(refusal)
    return commands


def _parse(parser: Parser[_Request, _Command], request: _Request, actor: str) -> _Command:
    violations: list[FieldViolation] = []
    command = parser(request, actor, violations)
    if violations:
        raise InvalidArgument(violations)
    return command


def parse_debit(request: pb.DebitRequest, actor: str, violations: list[FieldViolation]) -> Debit:
    organization_id, amount = request.organization_id.lower(), request.amount
    return Debit(
        organization_id,
        request.operation_id,
        _project(request.project_id, organization_id, violations),
        amount.currency_code,
        _positive(amount, violations),
        _MODES[request.mode],
        storable(request.description, _DESCRIPTION_MAX),
        _metadata(request, actor, violations),
        actor,
        request.validate_only,
        request.user_id.lower() or None,
        request.model or None,
    )


def parse_credit(request: pb.CreditRequest, actor: str, violations: list[FieldViolation]) -> Credit:
    organization_id = request.organization_id.lower()
    return Credit(
        organization_id=organization_id,
        operation_id=request.operation_id,
        project_id=_project(request.project_id, organization_id, violations),
        currency_code=request.amount.currency_code,
        amount=_positive(request.amount, violations),
        source=_SOURCES[request.source],
        description=request.description,
        metadata=_metadata(request, actor, violations),
        actor=actor,
        validate_only=request.validate_only,
    )


def parse_transfer(request: pb.TransferRequest, actor: str, violations: list[FieldViolation]) -> Transfer:
    organization_id = request.organization_id.lower()
    command = Transfer(
        organization_id=organization_id,
        operation_id=request.operation_id,
        source_project_id=_project(request.source_project_id, organization_id, violations, name="source_project_id"),
        destination_project_id=_project(
            request.destination_project_id, organization_id, violations, name="destination_project_id"
        ),
        currency_code=request.amount.currency_code,
        amount=_positive(request.amount, violations),
        description=request.description,
        metadata=_metadata(request, actor, violations),
        actor=actor,
        validate_only=request.validate_only,
    )
    if command.source_project_id == command.destination_project_id:
        violations.append(FieldViolation("destination_project_id", "must differ from source_project_id"))
    return command


def parse_place(request: pb.CreateHoldRequest, actor: str, violations: list[FieldViolation]) -> Place:
    organization_id = request.organization_id.lower()
    return Place(
        organization_id,
        request.operation_id,
        _project(request.project_id, organization_id, violations),
        request.amount.currency_code,
        _positive(request.amount, violations),
        _ttl_ms(request) if request.HasField("ttl") else TTL_DEFAULT_MS,
        storable(request.description, _DESCRIPTION_MAX),
        _metadata(request, actor, violations),
        actor,
        request.validate_only,
        request.user_id.lower() or None,
        request.model or None,
    )


def parse_capture(request: pb.CaptureHoldRequest, actor: str, violations: list[FieldViolation]) -> Capture:
    part_id, operation_id = request.part_id, request.operation_id
    if part_id and part_id == operation_id:
        violations.append(FieldViolation("part_id", "must differ from operation_id"))
    return Capture(
        request.organization_id.lower(),
        part_id or operation_id,
        operation_id if part_id else None,
        request.amount.currency_code,
        _not_negative(request.amount, violations),
        storable(request.description, _DESCRIPTION_MAX),
        _metadata(request, actor, violations),
        actor,
        user_id=request.user_id.lower() or None,
        model=request.model or None,
    )


def parse_release(request: pb.ReleaseHoldRequest, actor: str, violations: list[FieldViolation]) -> Release:
    return Release(request.organization_id.lower(), request.operation_id)


def parse_extend(request: pb.ExtendHoldRequest, actor: str, violations: list[FieldViolation]) -> Extend:
    larger = request.HasField("amount")
    return Extend(
        request.organization_id.lower(),
        request.operation_id,
        _ttl_ms(request),
        currency_code=request.amount.currency_code if larger else None,
        amount=_positive(request.amount, violations) if larger else None,
    )


def parse_reverse(request: pb.ReverseTransactionRequest, actor: str, violations: list[FieldViolation]) -> Reverse:
    partial = request.HasField("amount")
    if bool(request.transaction_id) == bool(request.reversed_operation_id):
        violations.append(FieldViolation("transaction_id", "exactly one of this and reversed_operation_id is needed"))
    return Reverse(
        organization_id=request.organization_id.lower(),
        operation_id=request.operation_id,
        transaction_id=request.transaction_id.lower(),
        currency_code=request.amount.currency_code if partial else None,
        amount=_positive(request.amount, violations) if partial else None,
        description=request.description,
        metadata=_metadata(request, actor, violations),
        actor=actor,
        validate_only=request.validate_only,
    )


def require_one_transaction(request: pb.GetTransactionRequest) -> None:
    """Raise InvalidArgument unless a transaction is named by one of its two ids."""
    if bool(request.transaction_id) == bool(request.operation_id):
        raise InvalidArgument([FieldViolation("transaction_id", "exactly one of this and operation_id is needed")])


def _project(
    project_id: str, organization_id: str, violations: list[FieldViolation], name: str = "project_id"
) -> str | None:
    if not project_id:
        return None
    project_id = project_id.lower()
    if project_id == organization_id:
        violations.append(FieldViolation(name, "must not be the organization's own id"))
    return project_id


def _value(amount: amount_pb2.Amount) -> Decimal:
    """Return the amount's value; zero where it is no number, which its annotation refuses."""
    try:
        value = Decimal(amount.value)
    except InvalidOperation:
        return _ZERO
    return value if value.is_finite() else _ZERO


def _positive(amount: amount_pb2.Amount, violations: list[FieldViolation]) -> Decimal:
    value = _value(amount)
    if value <= 0:
        violations.append(FieldViolation("amount.value", "must be greater than zero"))
    return value


def _not_negative(amount: amount_pb2.Amount, violations: list[FieldViolation]) -> Decimal:
    value = _value(amount)
    if value < 0:
        violations.append(FieldViolation("amount.value", "must not be negative"))
    return value.copy_abs()


def _ttl_ms(request: pb.CreateHoldRequest | pb.ExtendHoldRequest) -> int:
    """Return the ttl, at least one millisecond, so that a shorter one does not become zero."""
    return max(request.ttl.ToMilliseconds(), 1)


def _metadata(
    request: pb.DebitRequest
    | pb.CreditRequest
    | pb.TransferRequest
    | pb.CreateHoldRequest
    | pb.CaptureHoldRequest
    | pb.ReverseTransactionRequest,
    actor: str,
    violations: list[FieldViolation],
) -> Metadata | None:
    """Return the caller's labels. By one of them usage is told from other charges, so metering alone sets it."""
    if not request.metadata:
        return None
    if actor != _METERING and request.metadata.get("source") == "metering":
        violations.append(FieldViolation("metadata", 'must not say "metering" under "source", by which usage is known'))
    return dict(request.metadata)


def _reader(parser: Parser[_Request, _Command]) -> Reader:
    """Return what raises InvalidArgument for all that the parser finds, also in a request that breaks annotations."""

    def read(request: _Request) -> None:
        violations: list[FieldViolation] = []
        # The parser looks up enum values that the annotations refuse where they are unknown.
        with suppress(LookupError):
            # What depends on the caller is checked with the command.
            parser(request, _METERING, violations)
        if violations:
            raise InvalidArgument(violations)

    return read


READERS: Final[Mapping[str, Reader]] = {
    "Debit": _reader(parse_debit),
    "Credit": _reader(parse_credit),
    "Transfer": _reader(parse_transfer),
    "CreateHold": _reader(parse_place),
    "CaptureHold": _reader(parse_capture),
    "ExtendHold": _reader(parse_extend),
    "ReverseTransaction": _reader(parse_reverse),
    "GetTransaction": require_one_transaction,
}
"""What checks requests beyond their annotations, by the names of the RPCs."""
