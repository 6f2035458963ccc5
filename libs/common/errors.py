"""Refusals: the one way in which domain code says no.

A refusal carries a machine-readable reason and the facts behind it. The server's pipeline turns it into a
`google.rpc.Status`; domain code knows nothing of gRPC. The message is filled from the facts, and the same facts become
`ErrorInfo.metadata`, so that nothing dynamic hides in the text alone (AIP-193).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import ClassVar

Fact = str | int | Decimal | datetime


class Kind(Enum):
    """What sort of no it is; the values are the names of gRPC's status codes."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


class Refusal(Exception):
    """A command that was understood and is not carried out.

    Subclasses set `kind`, `reason` and `template`; instances add the facts. A fact that is None is left out.
    """

    kind: ClassVar[Kind]
    reason: ClassVar[str]
    template: ClassVar[str]

    retry_after_ms: int | None = None
    resource: tuple[str, str] | None = None

    def __init__(self, **facts: Fact | None) -> None:
        self.facts = {name: _text(value) for name, value in facts.items() if value is not None}
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return self.template.format_map(_Facts(self.facts))


class _Facts(dict[str, str]):
    """Facts for a template; one that was not given reads as `unknown`."""

    def __missing__(self, name: str) -> str:
        return "unknown"


def _text(value: Fact) -> str:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field at fault, by its path in the request, and what is wrong with it."""

    field: str
    description: str


class InvalidArgument(Refusal):
    """The request is malformed; every field at fault is named."""

    kind = Kind.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"
    template = "The request is invalid: {fields}."

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__(fields="; ".join(f"{v.field}: {v.description}" for v in self.violations))


class NotFound(Refusal):
    """There is no such resource, or it belongs to somebody else: both look the same."""

    kind = Kind.NOT_FOUND
    reason = "NOT_FOUND"
    template = "There is no such {resource_type}."

    def __init__(self, *, resource_type: str, resource_name: str) -> None:
        super().__init__(resource_type=resource_type)
        self.resource = (resource_type, resource_name)


class OperationIdReused(Refusal):
    """The operation id already names other work."""

    kind = Kind.ALREADY_EXISTS
    reason = "OPERATION_ID_REUSED"
    template = "The operation id {operation_id} was used before by a request that differs in {field}."


class RequestIdReused(Refusal):
    """The request id was sent before with another body."""

    kind = Kind.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"
    template = "The request id {request_id} was used before by a request that differs in {field}."


class Conflict(Refusal):
    """Another change got in between; the same call may succeed when repeated."""

    kind = Kind.ABORTED
    reason = "CONFLICT"
    template = "Another change got in between; repeat the call."
    retry_after_ms = 50


class Unavailable(Refusal):
    """Something the service depends on cannot be reached; the outcome of a keyed call is learnt by repeating it."""

    kind = Kind.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"
    template = "The {dependency} cannot be reached now; repeat the call."
    retry_after_ms = 200


class Overloaded(Refusal):
    """The service has as much work as it can do in time. It is not a quota: waiting helps."""

    kind = Kind.UNAVAILABLE
    reason = "OVERLOADED"
    template = "The service is overloaded; repeat the call."
    retry_after_ms = 100


class ShuttingDown(Refusal):
    """The service is about to stop and takes nothing up any more; another process of it does."""

    kind = Kind.UNAVAILABLE
    reason = "SHUTTING_DOWN"
    template = "The service is shutting down; repeat the call."
    retry_after_ms = 500


class DeadlineExceeded(Refusal):
    """The work did not finish in the time there was; the outcome of a keyed call is learnt by repeating it."""

    kind = Kind.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    template = "The call did not finish in time; repeat it with the same id."


class Unauthenticated(Refusal):
    """The caller did not prove who it is. The answer never says why, so as to teach an attacker nothing."""

    kind = Kind.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"
    template = "Valid credentials are needed."


class PermissionDenied(Refusal):
    """The caller is known and may not do this."""

    kind = Kind.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"
    template = "The caller may not make this call."


class StaleEtag(Refusal):
    """The resource has changed since the caller read it."""

    kind = Kind.ABORTED
    reason = "STALE_ETAG"
    template = "The {resource_type} has changed since it was read; read it again."
