"""What is kept of a request message, and how it differs from another with the same id."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from libs.common.repeats.once import Repeatable

_M = TypeVar("_M", bound=Message)


def repeatable(request_id: str, rpc: str, request: Message) -> Repeatable:
    """Return what is kept of a request that a caller may send again with the same id."""
    return Repeatable(request_id, rpc, request.SerializeToString(deterministic=True), _differing_field(request))


def _differing_field(request: _M) -> Callable[[bytes], str]:
    def find(earlier: bytes) -> str:
        before = type(request).FromString(earlier)
        for descriptor in request.DESCRIPTOR.fields:
            if getattr(before, descriptor.name) != getattr(request, descriptor.name):
                return descriptor.name
        return "body"

    return find
