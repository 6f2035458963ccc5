"""Answers as Envoy's CheckResponse."""

import json
from collections.abc import Sequence
from typing import Final

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2 as pb
from envoy.type.v3 import http_status_pb2

from services.metering.external_auth.domain import PREFIX, Denied, Passes, Status

_NAMES: Final = (
    *("organization-id", "project-id", "user-id", "service-account-id", "api-key-id", "subscription-id"),
    "environment",
)
_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_CODES: Final = {
    Status.UNAUTHORIZED: (http_status_pb2.Unauthorized, grpc.StatusCode.UNAUTHENTICATED),
    Status.PAYMENT_REQUIRED: (http_status_pb2.PaymentRequired, grpc.StatusCode.PERMISSION_DENIED),
    Status.FORBIDDEN: (http_status_pb2.Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    Status.TOO_MANY_REQUESTS: (http_status_pb2.TooManyRequests, grpc.StatusCode.RESOURCE_EXHAUSTED),
}


def render(outcome: Passes | Denied, removed: Sequence[str]) -> pb.CheckResponse:
    """Render an answer; `removed` are the client's headers that are not passed on."""
    response = pb.CheckResponse()
    if isinstance(outcome, Denied):
        _fill_denied(response, outcome)
    else:
        _fill_passes(response.ok_response, outcome, removed)
    return response


def _fill_passes(response: pb.OkHttpResponse, passes: Passes, removed: Sequence[str]) -> None:
    told = _told(passes)
    for name, value in told.items():
        response.headers.append(_header(name, value))
    names = dict.fromkeys([*(PREFIX + name for name in _NAMES), *removed])
    response.headers_to_remove.extend(name for name in names if name not in told)
    for name, value in passes.hints:
        response.response_headers_to_add.append(_header(name, value))


def _fill_denied(response: pb.CheckResponse, denied: Denied) -> None:
    status, code = _CODES[denied.status]
    response.status.code = code.value[0]
    response.status.message = denied.message
    answer = response.denied_response
    answer.status.code = status
    answer.headers.append(_header("content-type", "application/json"))
    if denied.status is Status.UNAUTHORIZED:
        answer.headers.append(_header("www-authenticate", "Bearer"))
    for name, value in denied.hints:
        answer.headers.append(_header(name, value))
    # In ASCII, so that no text can end the body or be taken for anything else.
    answer.body = json.dumps({"reason": denied.reason, "message": denied.message, "facts": dict(denied.facts)})


def _told(passes: Passes) -> dict[str, str]:
    """Return the headers that tell whose request it is."""
    principal = passes.principal
    values = (
        principal.organization_id,
        principal.project_id,
        principal.user_id,
        principal.service_account_id,
        principal.api_key_id,
        passes.subscription_id,
        "test" if principal.is_test else "live",
    )
    return {PREFIX + name: value for name, value in zip(_NAMES, values, strict=True) if value}


def _header(name: str, value: str) -> base_pb2.HeaderValueOption:
    header = base_pb2.HeaderValue(key=name, value=value)
    return base_pb2.HeaderValueOption(header=header, append_action=_OVERWRITE)
