"""Makes the calls of the matrix, and classifies their outcomes."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from libs.common.status import error_info_in, status_in
from tests.system.authorization.oracle import Verdict
from tests.system.authorization.rpcs import Rpc

# An endless stream counts as having let its caller in once it has not refused them for this long.
_STREAM_S = 1.0
_CALL_S = 20.0
_AGAIN_MAX = 2
_AGAIN_AFTER_S = 0.5
_BY_REASON = {
    "UNAUTHENTICATED": Verdict.UNAUTHENTICATED,
    **dict.fromkeys(("TOKEN_EXPIRED", "TOKEN_NOT_YET_VALID", "WRONG_AUDIENCE"), Verdict.UNAUTHENTICATED),
    "WRONG_TOKEN_TYPE": Verdict.UNAUTHENTICATED,
    "PERMISSION_DENIED": Verdict.PERMISSION_DENIED,
}
_BY_MISSING = {
    "organization": Verdict.NO_ORGANIZATION,
    "user": Verdict.NO_USER,
    "conversation": Verdict.NO_CONVERSATION,
}
# Statuses that no request may cause: a bug, an RPC that is not served, an unreachable service.
_NEVER = {
    *(grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED),
    *(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED),
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call."""

    code: grpc.StatusCode
    status: status_pb2.Status | None = None
    message: str = ""
    answer: Message | None = None

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason} {self.message}".strip()

    @property
    def reason(self) -> str:
        info = error_info_in(self.status) if self.status else None
        return info.reason if info else ""

    @property
    def is_fault(self) -> bool:
        """Whether the call failed for a reason other than a refusal."""
        return self.code in _NEVER

    @property
    def verdict(self) -> Verdict:
        """The access decision shown by the outcome. Other refusals come from the use case, after access is granted."""
        if self.reason in _BY_REASON:
            return _BY_REASON[self.reason]
        if self.code is grpc.StatusCode.UNAUTHENTICATED and not self.reason:
            return Verdict.UNAUTHENTICATED
        if self.code is grpc.StatusCode.NOT_FOUND:
            return _BY_MISSING.get(self._missing(), Verdict.ADMITTED)
        return Verdict.ADMITTED

    def _missing(self) -> str:
        for detail in self.status.details if self.status else ():
            info = error_details_pb2.ResourceInfo()
            if detail.Unpack(info):
                return info.resource_type
        return ""


class Wire:
    """One open channel to each service, which adds no credential."""

    def __init__(self, endpoints: Mapping[str, str]) -> None:
        self._endpoints = endpoints
        self._stack = AsyncExitStack()
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> "Wire":
        for context, target in self._endpoints.items():
            self._channels[context] = await self._stack.enter_async_context(grpc.aio.insecure_channel(target))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def call(self, rpc: Rpc, token: str, request: Message) -> Outcome:
        """Make a call and return its outcome; retry it if the service says that waiting helps."""
        outcome = await self._call(rpc, token, request)
        for _ in range(_AGAIN_MAX):
            if outcome.code is not grpc.StatusCode.UNAVAILABLE:
                break
            await asyncio.sleep(_AGAIN_AFTER_S)
            outcome = await self._call(rpc, token, request)
        return outcome

    async def _call(self, rpc: Rpc, token: str, request: Message) -> Outcome:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            answer = await self._send(rpc, metadata, request)
        except grpc.aio.AioRpcError as error:
            if rpc.streams and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return Outcome(grpc.StatusCode.OK)
            return Outcome(error.code(), status_in(error), error.details() or "")
        return Outcome(grpc.StatusCode.OK, answer=answer)

    async def _send(self, rpc: Rpc, metadata: tuple[tuple[str, str], ...], request: Message) -> Message | None:
        """Return the response of a call that gives exactly one."""
        channel, method = self._channels[rpc.context], rpc.method
        path = f"/{method.containing_service.full_name}/{method.name}"
        parse = GetMessageClass(method.output_type).FromString
        if method.client_streaming:
            # Access is decided before the first message, and writing to a call that has ended would hide its status.
            await channel.stream_stream(path, _serialize, parse)(metadata=metadata, timeout=_STREAM_S).read()
        elif method.server_streaming:
            receiving = channel.unary_stream(path, _serialize, parse)
            async for _ in receiving(request, metadata=metadata, timeout=_STREAM_S):
                break
        else:
            return await channel.unary_unary(path, _serialize, parse)(request, metadata=metadata, timeout=_CALL_S)
        return None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
