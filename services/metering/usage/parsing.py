"""Reads the fields of usage that only describe the call.

No usage is refused because of them, since its charge would be lost. Text is cut or replaced, numbers and labels out of
bounds are left out, and the answer names each field that was changed. The fingerprint of a usage is taken from the
request as it was sent, so that a repeat is recognised.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from libs.common.text import NUL, lengths_of, storable
from services.metering.usage.store import label_text
from tollhouse.metering.v1 import admission_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

UsageRequest = pb.RecordUsageRequest | admission_pb2.SettleRequest

LATENCY_MAX_MS: Final = 86_400_000
STATUS_CODE_MAX: Final = 999
LABELS_MAX: Final = 16
LABEL_KEY_MAX: Final = 64
_ADJUSTED_MAX: Final = 32

_LENGTHS: Final = lengths_of(pb.RecordUsageRequest.DESCRIPTOR)
_ERROR_MESSAGE_MAX: Final = _LENGTHS["error_message"]
_ENDPOINT_MAX: Final = _LENGTHS["endpoint"]
_CONVERSATION_ID_MAX: Final = _LENGTHS["conversation_id"]
_LABEL_VALUE_MAX: Final = _LENGTHS["labels"]


class Description(NamedTuple):
    """What describes a call beside what is charged; None where nothing is recorded."""

    latency_ms: int | None
    status_code: int | None
    error_message: str | None
    endpoint: str | None
    conversation_id: str | None
    labels: str | None
    """The labels as JSON with sorted keys."""
    adjusted: tuple[str, ...]
    """The fields that are not recorded as they were sent, in the order of their numbers."""


def read_description(request: UsageRequest) -> Description:
    """Read what describes the call; nothing in it is refused."""
    adjusted: list[str] = []
    return Description(
        latency_ms=_latency(request.latency_ms, adjusted) if request.HasField("latency_ms") else None,
        status_code=_status(request.status_code, adjusted) if request.HasField("status_code") else None,
        error_message=_text("error_message", request.error_message, _ERROR_MESSAGE_MAX, adjusted, with_length=True),
        endpoint=_text("endpoint", request.endpoint, _ENDPOINT_MAX, adjusted),
        conversation_id=_text("conversation_id", request.conversation_id, _CONVERSATION_ID_MAX, adjusted),
        labels=_labels(request.labels, adjusted) if request.labels else None,
        adjusted=tuple(adjusted[:_ADJUSTED_MAX]),
    )


def read_endpoint(request: admission_pb2.AuthorizeRequest) -> str | None:
    """Read the endpoint that is to be called."""
    return _text("endpoint", request.endpoint, _ENDPOINT_MAX, [])


def read_labels(labels: Mapping[str, str]) -> tuple[str | None, Sequence[str]]:
    """Read labels, as JSON with sorted keys, and the names of those that are not recorded as they were sent."""
    adjusted: list[str] = []
    return (_labels(labels, adjusted) if labels else None), adjusted[:_ADJUSTED_MAX]


def _latency(latency_ms: int, adjusted: list[str]) -> int | None:
    if 0 <= latency_ms <= LATENCY_MAX_MS:
        return latency_ms
    adjusted.append("latency_ms")
    return LATENCY_MAX_MS if latency_ms > 0 else None


def _status(status_code: int, adjusted: list[str]) -> int | None:
    if 0 <= status_code <= STATUS_CODE_MAX:
        return status_code
    adjusted.append("status_code")
    return None


def _text(field: str, text: str, chars_max: int, adjusted: list[str], *, with_length: bool = False) -> str | None:
    if not text:
        return None
    stored = storable(text, chars_max, with_length=with_length)
    if stored is not text:
        adjusted.append(field)
    return stored


def _labels(labels: Mapping[str, str], adjusted: list[str]) -> str | None:
    kept: dict[str, str] = {}
    for key in sorted(labels):
        if len(kept) == LABELS_MAX or not 0 < len(key) <= LABEL_KEY_MAX or NUL in key:
            adjusted.append(f"labels[{storable(key, LABEL_KEY_MAX)}]")
        else:
            kept[key] = storable(labels[key], _LABEL_VALUE_MAX)
            if kept[key] != labels[key]:
                adjusted.append(f"labels[{key}]")
    return label_text(kept) if kept else None


def read_corrects(request: pb.RecordUsageRequest | admission_pb2.SettleRequest) -> str | None:
    """Return the operation id of the dropped usage that usage corrects."""
    return (request.corrects_operation_id or None) if isinstance(request, pb.RecordUsageRequest) else None
