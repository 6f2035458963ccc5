"""Everything that a call can fail with, as exceptions that carry the reason and the facts.

`error_of` turns a `google.rpc.Status` (AIP-193), which the services send with each error and for each refused item of a
batch, into the exception for its reason, or else for its code. docs/errors.md has the reasons and what to do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tollhouse.metering.v1 import admission_pb2, quota_pb2

_DIGITS_MAX: Final = 15
_DETAILS_KEY: Final = "grpc-status-details-bin"
_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


class _Names(Protocol):
    """The names of an enum's values."""

    def Name(self, number: Any) -> str: ...  # noqa: N802 -- as generated code has it.


def named(names: _Names, number: int, prefix: str) -> str:
    """Return the name of a value without its prefix; `UNKNOWN_7` where a newer service has sent what is not known."""
    try:
        return names.Name(number).removeprefix(prefix)
    except ValueError:
        return f"UNKNOWN_{number}"


class TollhouseError(Exception):
    """A call was not carried out, or it is not known whether it was.

    `code` is the gRPC code; `reason` the service's reason for programs, such as `INSUFFICIENT_BALANCE`, or one of this
    package's own that begins with `CLIENT_`; `facts` are what is behind the reason. Where the service says after which
    time a repeat may help, `retry_after_s` is that time in seconds.
    """

    code_of_class: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reason_of_class: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        facts: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code_of_class
        self.reason = reason or self.reason_of_class
        self.facts: Mapping[str, str] = dict(facts or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


class Unavailable(TollhouseError):
    """A service, or what it needs, cannot be reached or has too much to do. Repeat it with the same operation id."""

    code_of_class = grpc.StatusCode.UNAVAILABLE


class QueueFull(Unavailable):
    """Too many calls of this client wait already; this one was not sent."""

    reason_of_class = "CLIENT_QUEUE_FULL"


class ClientClosed(Unavailable):
    """The client is closed, or was closed while the call waited."""

    reason_of_class = "CLIENT_CLOSED"


class DeadlineExceeded(TollhouseError):
    """The time for the call is over. Unless `reason` is CLIENT_NOT_SENT it may have been carried out all the same."""

    code_of_class = grpc.StatusCode.DEADLINE_EXCEEDED


class InvalidArgument(TollhouseError):
    """The request is wrong; `fields` says what is wrong with each field at fault."""

    code_of_class = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, message: str, *, fields: Mapping[str, str] | None = None, reason: str = "") -> None:
        super().__init__(message, reason=reason)
        self.fields: Mapping[str, str] = dict(fields or {})

    def __str__(self) -> str:
        named = "; ".join(f"{field}: {fault}" for field, fault in self.fields.items())
        return f"{super().__str__()} ({named})" if named else super().__str__()


class NotFound(TollhouseError):
    """What the request names does not exist, or is not the caller's."""

    code_of_class = grpc.StatusCode.NOT_FOUND


class Unauthenticated(TollhouseError):
    """The credentials prove nothing: they are missing, wrong, over or revoked."""

    code_of_class = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(TollhouseError):
    """The caller may not do this."""

    code_of_class = grpc.StatusCode.PERMISSION_DENIED


class FailedPrecondition(TollhouseError):
    """The state of things does not allow it. The same request fails again until that changes."""

    code_of_class = grpc.StatusCode.FAILED_PRECONDITION


class InsufficientBalance(FailedPrecondition):
    """The account has less available than is needed; the facts say how much."""

    reason_of_class = "INSUFFICIENT_BALANCE"


class AlreadyExists(TollhouseError):
    """What is to be made is there already."""

    code_of_class = grpc.StatusCode.ALREADY_EXISTS


class OperationIdReused(AlreadyExists):
    """The operation id stands for another request already. Nothing was done."""

    reason_of_class = "OPERATION_ID_REUSED"


class Replayed(AlreadyExists):
    """The operation id is in use: a call with it was allowed before, by this caller or by another one.

    Do not do the work, or it is served twice and charged once.
    """

    reason_of_class = "OPERATION_ID_IN_USE"


class ResourceExhausted(TollhouseError):
    """Something is used up, for now: `retry_after_s` says until when, where waiting helps."""

    code_of_class = grpc.StatusCode.RESOURCE_EXHAUSTED


class Aborted(TollhouseError):
    """Somebody else changed it meanwhile. Read it again."""

    code_of_class = grpc.StatusCode.ABORTED


class OutOfRange(TollhouseError):
    """The number is beyond what there is."""

    code_of_class = grpc.StatusCode.OUT_OF_RANGE


class Internal(TollhouseError):
    """A bug of a service, whose log has more under the fact `error_id`; or an answer that makes no sense."""

    code_of_class = grpc.StatusCode.INTERNAL


class Denied(TollhouseError):
    """The call may not begin. `reason` is the denial's, such as `KEY_REVOKED` or `LIMIT_EXCEEDED`.

    `denial` and `limits` are those of the answer; of several limits the first is the one that refused. Nothing is held.
    """

    code_of_class = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self, denial: admission_pb2.Denial, limits: Sequence[quota_pb2.LimitStatus] = ()) -> None:
        reason = named(admission_pb2.DenialReason, denial.reason, "DENIAL_REASON_")
        wait_ms = denial.facts.get("retry_after_ms", "")
        retry_after_s = int(wait_ms) / 1000 if wait_ms.isdecimal() and len(wait_ms) <= _DIGITS_MAX else None
        super().__init__(denial.message, reason=reason, facts=denial.facts, retry_after_s=retry_after_s)
        self.denial = denial
        self.limits = tuple(limits)


class KeyDenied(Denied):
    """The API key is unknown, disabled, revoked or over, or may not be used for this."""


class BalanceDenied(Denied, InsufficientBalance):
    """The account has less available than the call can cost; the facts say how much."""


class LimitExceeded(Denied):
    """A limit leaves less than the call may use."""

    code_of_class = grpc.StatusCode.RESOURCE_EXHAUSTED


class UsageMissing(TollhouseError):
    """A metered block ended without saying what was used. Nothing is charged; the hold ends by itself.

    Call `used`, or `cancel` where no work was done.
    """

    code_of_class = grpc.StatusCode.FAILED_PRECONDITION
    reason_of_class = "CLIENT_USAGE_MISSING"


class SpoolFull(TollhouseError):
    """A usage record was not taken: the spool file or its disk is full. Nothing of it was kept."""

    code_of_class = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason_of_class = "CLIENT_SPOOL_FULL"


class SpoolInUse(TollhouseError):
    """Another process has the spool file open. Give each process a file of its own."""

    code_of_class = grpc.StatusCode.FAILED_PRECONDITION
    reason_of_class = "CLIENT_SPOOL_IN_USE"


class RecorderFull(Unavailable):
    """The recorder holds as much as it may, and nothing could be sent in the time of the call. Nothing was taken."""

    reason_of_class = "CLIENT_RECORDER_FULL"


class UsedAfterFork(RuntimeError):
    """A client was used in a process that was forked after the client was made, or after another was used.

    Make a client in each process, and fork before the first is used: gRPC does not work in one that was forked later.
    """


_BY_CODE: Final[Mapping[grpc.StatusCode, type[TollhouseError]]] = {
    kind.code_of_class: kind
    for kind in (
        *(Unavailable, DeadlineExceeded, NotFound, Unauthenticated, PermissionDenied, FailedPrecondition),
        *(AlreadyExists, ResourceExhausted, Aborted, OutOfRange, Internal),
    )
}
_BY_REASON: Final[Mapping[tuple[grpc.StatusCode, str], type[TollhouseError]]] = {
    (kind.code_of_class, kind.reason_of_class): kind for kind in (InsufficientBalance, OperationIdReused, Replayed)
}


def denied_of(answer: admission_pb2.AuthorizeResponse) -> Denied:
    """Return the exception for a denial."""
    reason = answer.denial.reason
    kind: type[Denied] = Denied
    if named(admission_pb2.DenialReason, reason, "DENIAL_REASON_").startswith("KEY_"):
        kind = KeyDenied
    elif reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE:
        kind = BalanceDenied
    elif reason == admission_pb2.DENIAL_REASON_LIMIT_EXCEEDED:
        kind = LimitExceeded
    return kind(answer.denial, answer.limits)


def error_of(status: status_pb2.Status) -> TollhouseError:
    """Return the exception for a status that a service sent."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status.details:
        try:
            if detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
            elif not detail.Unpack(info):
                detail.Unpack(bad)
        except (DecodeError, OverflowError):
            continue  # A detail that cannot be read says nothing.
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        fields = {violation.field: violation.description for violation in bad.field_violations}
        return InvalidArgument(status.message, fields=fields, reason=info.reason)
    kind = _BY_REASON.get((code, info.reason)) or _BY_CODE.get(code, TollhouseError)
    return kind(status.message, code=code, reason=info.reason, facts=info.metadata, retry_after_s=retry_after_s)


def error_of_call(error: grpc.RpcError) -> TollhouseError:
    """Return the exception for a call that failed."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return TollhouseError(type(error).__name__)
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                break
            # The code of the call counts, should the details contradict it.
            status.code = error.code().value[0]
            return error_of(status)
    return error_of(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))
