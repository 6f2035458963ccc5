"""Errors that Envoy answers with by itself, in the shape of the services' own."""

from dataclasses import dataclass
from typing import Final

Json = dict[str, object]

_DOMAIN: Final = "gateway.tollhouse"


@dataclass(frozen=True, slots=True)
class _Reply:
    """What is answered with an HTTP status."""

    status: int
    code: int
    """The code of gRPC."""
    reason: str
    message: str = "%LOCAL_REPLY_BODY%"
    retry_after_s: int | None = None


_REPLIES: Final = (
    _Reply(400, 3, "INVALID_REQUEST"),
    _Reply(404, 5, "PATH_NOT_FOUND", "There is no such path with this method."),
    _Reply(408, 4, "REQUEST_TIMEOUT", "The request did not arrive in time."),
    _Reply(413, 3, "REQUEST_TOO_LARGE", "The body is larger than 5 MiB."),
    _Reply(431, 3, "HEADERS_TOO_LARGE", "The headers are larger than 12 KiB, or more than 100."),
    _Reply(503, 14, "SERVICE_UNAVAILABLE", "The service cannot be reached now; repeat the call.", retry_after_s=1),
    _Reply(504, 4, "DEADLINE_EXCEEDED", "The call did not finish in time; repeat it with the same id."),
)
_OTHERS: Final = _Reply(400, 2, "GATEWAY_ERROR")
"""Any other error. What Envoy answers with 200 is left as it is."""


def local_replies() -> Json:
    """Return the configuration of Envoy's own errors; a status that none is written for gets its text."""
    return {"mappers": [_answered(), *(_mapper(reply, "EQ") for reply in _REPLIES), _mapper(_OTHERS, "GE")]}


def _answered() -> Json:
    """Leave an answer as it is that rest.lua wrote as a whole."""
    matcher = {"filter": "tollhouse", "path": [{"key": "answered"}], "value": {"bool_match": True}}
    return {
        "filter": {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}},
        "body_format_override": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": "application/json",
        },
    }


def _mapper(reply: _Reply, comparing: str) -> Json:
    comparison = {"op": comparing, "value": {"default_value": reply.status, "runtime_key": "gateway.status"}}
    added = [{"header": {"key": "retry-after", "value": str(reply.retry_after_s)}}] if reply.retry_after_s else []
    return {
        "filter": {"status_code_filter": {"comparison": comparison}},
        "body_format_override": _format(reply),
        **({"headers_to_add": added} if added else {}),
    }


def _format(reply: _Reply) -> Json:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reply.reason,
        "domain": _DOMAIN,
    }
    return {"json_format": {"code": reply.code, "message": reply.message, "details": [info]}}
