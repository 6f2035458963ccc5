"""Refusals as `google.rpc.Status` with details (AIP-193): rendered by the server, parsed by the client."""

from typing import Final

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from libs.common.errors import InvalidArgument, Kind, Refusal
from libs.common.ids import new_id

_log = structlog.get_logger("call")
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
INTERNAL_REASON: Final = "INTERNAL"
HTTP_STATUS: Final = "http-status"
"""The metadata with the HTTP status that a REST gateway answers with, where it is not the usual one of gRPC's code."""
RETRY_AFTER: Final = "retry-after"
"""The metadata with the whole seconds after which a repeat makes sense, as HTTP's header of this name has it."""

_CODES: Final = {kind: grpc.StatusCode[kind.value] for kind in Kind}


def code_of(refusal: Refusal) -> grpc.StatusCode:
    return _CODES[refusal.kind]


def status_of(refusal: Refusal, domain: str) -> status_pb2.Status:
    """Render a refusal with everything a program or a person needs to act on it."""
    status = status_pb2.Status(code=code_of(refusal).value[0], message=refusal.message)
    info = error_details_pb2.ErrorInfo(reason=refusal.reason, domain=domain)
    if isinstance(refusal, InvalidArgument):
        bad_request = error_details_pb2.BadRequest()
        for violation in refusal.shown:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        _pack(status, info)
        _pack(status, bad_request)
    else:
        info.metadata.update(refusal.facts)
        _pack(status, info)
    if refusal.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(refusal.retry_after_ms)
        _pack(status, retry)
    if refusal.resource is not None:
        resource_type, resource_name = refusal.resource
        _pack(status, error_details_pb2.ResourceInfo(resource_type=resource_type, resource_name=resource_name))
    return status


def http_hints(refusal: Refusal) -> tuple[tuple[str, str], ...]:
    """Return what a REST gateway puts into the head of its answer, as metadata."""
    hints: list[tuple[str, str]] = []
    if refusal.http_status is not None:
        hints.append((HTTP_STATUS, str(refusal.http_status)))
    if refusal.retry_after_ms is not None:
        hints.append((RETRY_AFTER, str(max(-(-refusal.retry_after_ms // 1000), 1))))
    return tuple(hints)


def internal_status(error_id: str, domain: str) -> status_pb2.Status:
    """Render a bug: a fixed text and the id under which the log has the rest."""
    status = status_pb2.Status(
        code=grpc.StatusCode.INTERNAL.value[0],
        message="An internal error occurred; the service's log has the details under the error id.",
    )
    info = error_details_pb2.ErrorInfo(reason=INTERNAL_REASON, domain=domain, metadata={"error_id": error_id})
    _pack(status, info)
    return status


def status_of_item(error: Exception, domain: str) -> status_pb2.Status:
    """Render what became of one item of a batch; of a bug it says no more than the answer to a single call would."""
    if isinstance(error, Refusal):
        return status_of(error, domain)
    error_id = new_id()
    _log.error("item failed", error_id=error_id, exc_info=error)
    return internal_status(error_id, domain)


def _pack(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.RetryInfo
    | error_details_pb2.ResourceInfo,
) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def status_in(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """Return the status a server sent with an error, or None where there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def error_info_in(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    """Return the ErrorInfo of a status, or None where there is none."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    """Return the ErrorInfo a server sent with an error, or None where there is none."""
    status = status_in(error)
    return None if status is None else error_info_in(status)


def reason_of(error: grpc.aio.AioRpcError) -> str | None:
    """Return the machine-readable reason a server gave, or None where it gave none."""
    info = error_info(error)
    return None if info is None else info.reason


def field_violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Return the fields a server found at fault, each with what is wrong; empty where it named none."""
    status = status_in(error)
    for detail in status.details if status else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            return {violation.field: violation.description for violation in bad_request.field_violations}
    return {}
