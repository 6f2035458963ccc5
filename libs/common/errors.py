"""Refusals: the exceptions with which domain code rejects a command.

A refusal carries a machine-readable reason and the facts behind it. The server's pipeline turns it into a
`google.rpc.Status`; domain code knows nothing of gRPC. The message is filled from the facts, and the same facts become
`ErrorInfo.metadata`, so that every value in the text can also be read by programs (AIP-193).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import ClassVar

Fact = str | int | Decimal | datetime


class Kind(Enum):
    """The kind of a refusal; the values are the names of gRPC's status codes.

    RESOURCE_EXHAUSTED means that a caller has used up what a quota or a rate limit allows for a time. Where there is a
    maximum number of something, such as of units or plans, a further one is FAILED_PRECONDITION: waiting does not help.
    A process that has too much to do is UNAVAILABLE.
    """

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
    """A command that was understood and is rejected.

    Subclasses set `kind`, `reason` and `template`, and in `remedy` what a caller does about it, which docs/errors.md
    lists; instances add the facts. A fact that is None is left out.
    """

    kind: ClassVar[Kind]
    reason: ClassVar[str]
    template: ClassVar[str]
    remedy: ClassVar[str]
    http_status: ClassVar[int | None] = None
    """The HTTP status over REST, where it is another than gateways make of the kind."""

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


# A refusal travels in the metadata of the answer, of which clients take 8 KiB. It holds the violations three times: in
# the message, and in the details, which repeat the message, in base64.
_VIOLATIONS_MAX = 16
_VIOLATIONS_TEXT_MAX = 1_400


class InvalidArgument(Refusal):
    """The request is malformed; every field at fault is named, as far as an answer has room for them."""

    kind = Kind.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"
    template = "The request is invalid: {fields}."
    remedy = "Mend the fields that the answer names; the same request never succeeds."

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        self.shown = _as_many_as_fit(self.violations)
        super().__init__(fields="; ".join(f"{v.field}: {v.description}".removeprefix(": ") for v in self.shown))


class RequestTooLarge(InvalidArgument):
    """The message is larger than its RPC takes."""

    reason = "REQUEST_TOO_LARGE"
    http_status = 413
    remedy = "Send less in one request; a batch can be divided."

    def __init__(self, *, bytes_max: int) -> None:
        super().__init__([FieldViolation("", f"the request is larger than {bytes_max} bytes")])


def _as_many_as_fit(violations: Sequence[FieldViolation]) -> tuple[FieldViolation, ...]:
    shown: list[FieldViolation] = []
    room = _VIOLATIONS_TEXT_MAX
    for violation in violations[:_VIOLATIONS_MAX]:
        room -= len(violation.field.encode()) + len(violation.description.encode())
        if room < 0:
            break
        shown.append(violation)
    if len(shown) < len(violations):
        shown.append(FieldViolation("", f"and {len(violations) - len(shown)} more"))
    return tuple(shown)


class NotFound(Refusal):
    """There is no such resource, or it belongs to another organization; the caller cannot tell which."""

    kind = Kind.NOT_FOUND
    reason = "NOT_FOUND"
    template = "There is no such {resource_type}."
    remedy = "Check the id and the organization; a resource of another organization looks the same."

    def __init__(self, *, resource_type: str, resource_name: str) -> None:
        super().__init__(resource_type=resource_type)
        self.resource = (resource_type, resource_name)


class OperationIdReused(Refusal):
    """The operation id was used before for different work."""

    kind = Kind.ALREADY_EXISTS
    reason = "OPERATION_ID_REUSED"
    template = "The operation id {operation_id} was used before by a request that differs in {field}."
    remedy = "Take a new operation id for new work; for a repeat, send what was sent the first time."


class RequestIdReused(Refusal):
    """The request id was sent before with another body."""

    kind = Kind.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"
    template = "The request id {request_id} was used before by a request that differs in {field}."
    remedy = "Take a new request id for a new change; for a repeat, send what was sent the first time."


class Conflict(Refusal):
    """A concurrent change interfered; the same call may succeed when repeated."""

    kind = Kind.ABORTED
    reason = "CONFLICT"
    template = "A concurrent change interfered; repeat the call."
    remedy = "Repeat the call as it is."
    retry_after_ms = 50


class Unavailable(Refusal):
    """Something the service depends on cannot be reached; repeating a call with its id tells its outcome."""

    kind = Kind.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"
    template = "The {dependency} cannot be reached now; repeat the call."
    remedy = "Repeat the call with the same id after the given delay, with growing pauses."
    retry_after_ms = 200


class Overloaded(Refusal):
    """The service has as much work as it can do in time. This is no quota: a retry after a moment helps."""

    kind = Kind.UNAVAILABLE
    reason = "OVERLOADED"
    template = "The service is overloaded; repeat the call."
    remedy = "Repeat the call with the same id after the given delay; if it lasts, start more processes."
    retry_after_ms = 100


class ShuttingDown(Refusal):
    """This process is stopping and accepts no new calls; another process of the service does."""

    kind = Kind.UNAVAILABLE
    reason = "SHUTTING_DOWN"
    template = "The service is shutting down; repeat the call."
    remedy = "Repeat the call with the same id; a new connection reaches another process."
    retry_after_ms = 500


class DeadlineExceeded(Refusal):
    """The work did not finish in the time there was; repeating a call with its id tells its outcome."""

    kind = Kind.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    template = "The call did not finish in time; repeat it with the same id."
    remedy = "Repeat the call with the same id, with a longer deadline; it may have been done already."


class Unauthenticated(Refusal):
    """The caller did not prove who it is. Only the holder of a genuine token learns more than that, by a subclass."""

    kind = Kind.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"
    template = "Valid credentials are needed: send `authorization: Bearer` and a token or an API key."
    remedy = "Send a token or an API key as `authorization: Bearer …`."


class TokenExpired(Unauthenticated):
    """The token is genuine, and its time is over."""

    reason = "TOKEN_EXPIRED"
    template = "The token expired at {expire_time}; get a new one."
    remedy = "Sign or fetch a new token; renew before the `exp` of the old one."


class TokenNotYetValid(Unauthenticated):
    """The token is genuine, and its time has not begun: a clock is wrong, or it was made for later."""

    reason = "TOKEN_NOT_YET_VALID"
    template = "The token is not valid before {valid_from_time}; compare the clocks if it was issued just now."
    remedy = "Compare the clocks of the signer and of the service."


class WrongAudience(Unauthenticated):
    """The token is genuine, and made for other services than this one."""

    reason = "WRONG_AUDIENCE"
    template = "The token is not meant for this service; its `aud` must hold {audience}."
    remedy = "Sign the token with the audience that the answer names."


class WrongTokenType(Unauthenticated):
    """The token is signed by a trusted issuer, and its header names another type than a caller's token has."""

    reason = "WRONG_TOKEN_TYPE"
    template = "The token's header must have `typ` {token_type}."
    remedy = "Sign the token with the header `typ` that the answer names."


class PermissionDenied(Refusal):
    """The caller is known and may not do this.

    The pipeline adds the fact `callers`: whom the RPC lets in. It is made from the RPC's `access` option, so it says
    nothing of anybody's organizations.
    """

    kind = Kind.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"
    template = "The caller may not make this call."
    remedy = "Call as somebody whom docs/access.md lists for this RPC, or have the scope given."

    @property
    def message(self) -> str:
        callers = self.facts.get("callers")
        return f"{self.template} It is open to {callers}." if callers else self.template


class StaleEtag(Refusal):
    """The resource has changed since the caller read it."""

    kind = Kind.ABORTED
    reason = "STALE_ETAG"
    template = "The {resource_type} has changed since it was read; read it again."
    remedy = "Read the resource, apply the change to what it says now, and send it with its etag."


class TooManyWatchers(Refusal):
    """The process serves as many change streams as its limit allows; another one, or this one later, may serve more."""

    kind = Kind.UNAVAILABLE
    reason = "TOO_MANY_WATCHERS"
    template = "This process serves {watchers} change streams, and no more to this caller."
    remedy = "Connect to another process of the service, or later."
    retry_after_ms = 1_000


class EventsNotSetUp(Refusal):
    """The service has no key with which to encrypt the secrets of endpoints."""

    kind = Kind.FAILED_PRECONDITION
    reason = "EVENTS_NOT_SET_UP"
    template = "This service sends no events to endpoints: its setting EVENT_KEYS_FILE is not set."
    remedy = "Have the operator set EVENT_KEYS_FILE, which docs/events.md describes."


class TooManyEventEndpoints(Refusal):
    """The organization has as many endpoints in this service as there may be."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_EVENT_ENDPOINTS"
    template = "There are {endpoints} endpoints already, which is the maximum."
    remedy = "Delete an endpoint, or let one endpoint have more types of events."


class EventEndpointOff(Refusal):
    """The endpoint is switched off, so nothing can be sent to it again."""

    kind = Kind.FAILED_PRECONDITION
    reason = "EVENT_ENDPOINT_OFF"
    template = "The endpoint is switched off."
    remedy = "Switch it on with UpdateEventEndpoint, and replay then."
