"""Turns what Tollhouse refuses into the HTTP errors that OpenAI's clients know.

Their libraries show `error.message`, and make `error.type` and `error.code` fields of the exception. By the status they
choose its class: 401 AuthenticationError, 403 PermissionDeniedError, 429 RateLimitError, which they repeat after
Retry-After.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc

from tollhouse_client.errors import Denied, TollhouseError


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error of HTTP: `code` is Tollhouse's reason in lower case."""

    status: int
    kind: str
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


_NO_MONEY: Final = (402, "insufficient_quota")
_NOT_ALLOWED: Final = (403, "permission_error")
_BY_REASON: Final[Mapping[str, tuple[int, str]]] = {
    "KEY_OWNER_INACTIVE": _NOT_ALLOWED,
    "KEY_INSUFFICIENT_SCOPE": _NOT_ALLOWED,
    "KEY_MODEL_NOT_ALLOWED": _NOT_ALLOWED,
    "KEY_ADDRESS_NOT_ALLOWED": _NOT_ALLOWED,
    "MODEL_UNKNOWN": (404, "invalid_request_error"),
    "MODEL_INACTIVE": (404, "invalid_request_error"),
    "PRICE_UNKNOWN": _NOT_ALLOWED,
    "INSUFFICIENT_BALANCE": _NO_MONEY,
    "CURRENCY_MISMATCH": _NO_MONEY,
    "ACCOUNT_CLOSED": _NO_MONEY,
    "SUBSCRIPTION_NOT_LIVE": _NOT_ALLOWED,
    "LIMIT_EXCEEDED": (429, "rate_limit_error"),
    "TOO_MANY_UNKNOWN_KEYS": (429, "rate_limit_error"),
    "COST_TOO_LARGE": (400, "invalid_request_error"),
}
_BAD_KEY: Final = (401, "authentication_error")
_AWAY_FOR_S: Final = 1


def http_error_of_key(code: str) -> HttpError:
    """Return the HTTP error for a key that identity does not let in, by its code, such as REVOKED."""
    reason = f"KEY_{code}"
    status, kind = _BY_REASON.get(reason, _BAD_KEY)
    message = f"The API key is not accepted: {code.lower().replace('_', ' ')}."
    return HttpError(status, kind, reason.lower(), message)


def http_error_of(error: TollhouseError) -> HttpError:
    """Return the HTTP error for a denial, or for a call to Tollhouse that failed.

    Where Tollhouse cannot be reached no work may begin: that is 503, which clients repeat. What is wrong with this
    gateway's own credentials is told to its log and not to end users.
    """
    known = _BY_REASON.get(error.reason)
    if known is None and isinstance(error, Denied) and error.reason.startswith("KEY_"):
        known = _BAD_KEY
    if known is None and error.code is grpc.StatusCode.INVALID_ARGUMENT:
        known = (400, "invalid_request_error")
    if known is None:
        message = "The call cannot be metered at the moment. Try again."
        return HttpError(503, "server_error", "metering_unavailable", message, {"retry-after": str(_AWAY_FOR_S)})
    status, kind = known
    headers = {}
    if status == 429 and error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return HttpError(status, kind, error.reason.lower() or "invalid_request", _message(error), headers)


def _message(error: TollhouseError) -> str:
    return error.message or f"Tollhouse refuses the call: {error.reason}."
