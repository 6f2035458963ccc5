"""What every call passes through, written once and in order.

    telemetry → errors → admission → deadline → authentication → access → parsing → validation → handler

The pipeline is laid around each handler when it is registered. gRPC's own interceptors would be asked again on every
call, which costs more than all of the above.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from opentelemetry import trace

from libs.common import validation
from libs.common.access import ANONYMOUS, AccessRule, Caller, enter_as
from libs.common.authentication import Authenticator
from libs.common.deadline import enter_deadline
from libs.common.errors import DeadlineExceeded, FieldViolation, InvalidArgument, Overloaded, Refusal, Unauthenticated
from libs.common.ids import new_id
from libs.common.status import STATUS_DETAILS_KEY, internal_status, status_of
from libs.common.telemetry import TRACEPARENT, Telemetry, inbound_context, remember_inbound

_log = structlog.get_logger("call")
_AUTHORIZATION: Final = "authorization"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[bytes, Message]
Unary = Callable[[Message, Context], Awaitable[Message]]
Streaming = Callable[[Message, Context], AsyncIterator[Message]]
_T = TypeVar("_T")


class Handlers(Protocol):
    """What the generated `add_…_to_server` functions hand over: one method handler a name."""

    def __getitem__(self, name: str) -> "grpc.RpcMethodHandler[Message, Message]": ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one process takes on, and how long a call may last that names no time of its own."""

    calls_max: int
    deadline_default_s: float


@dataclass(frozen=True, slots=True)
class _Method:
    """All that is known of an RPC before it is called."""

    name: str
    access: AccessRule
    parse: Callable[[bytes], Message]

    @classmethod
    def of(cls, descriptor: MethodDescriptor) -> "_Method":
        request_class = GetMessageClass(descriptor.input_type)
        return cls(descriptor.full_name, AccessRule.of(descriptor), request_class.FromString)


class Pipeline:
    """Lays the common behaviour of one service around its handlers."""

    def __init__(
        self, *, domain: str, authenticator: Authenticator, limits: Limits, telemetry: Telemetry | None
    ) -> None:
        self._domain = domain
        self._authenticator = authenticator
        self._limits = limits
        self._telemetry = telemetry
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many calls are being handled now."""
        return self._calls

    def wrap(
        self, service: ServiceDescriptor, handlers: Mapping[str, "grpc.RpcMethodHandler[Message, Message]"]
    ) -> dict[str, "grpc.RpcMethodHandler[bytes, Message]"]:
        """Return the handlers of one proto service with the pipeline around each.

        Raises:
            UndeclaredAccess: an RPC does not say who may call it.
        """
        return {
            name: self._wrap_method(_Method.of(service.methods_by_name[name]), handler)
            for name, handler in handlers.items()
        }

    def _wrap_method(
        self, method: _Method, handler: "grpc.RpcMethodHandler[Message, Message]"
    ) -> "grpc.RpcMethodHandler[bytes, Message]":
        serialize = handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            stream = self._streaming(method, self._with_stream(method, handler.stream_stream))
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serialize)
        if handler.response_streaming:
            stream = self._streaming(method, self._with_message(method, handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(stream, response_serializer=serialize)
        if handler.request_streaming:
            unary = self._unary(method, self._with_stream(method, handler.stream_unary))
            return grpc.stream_unary_rpc_method_handler(unary, response_serializer=serialize)
        unary = self._unary(method, self._with_message(method, handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(unary, response_serializer=serialize)

    def _with_message(
        self, method: _Method, handle: Callable[[Message, Context], _T]
    ) -> Callable[[bytes, Context], _T]:
        def with_message(data: bytes, context: Context) -> _T:
            return handle(_parse(method, data), context)

        return with_message

    def _with_stream(
        self, method: _Method, handle: Callable[[AsyncIterator[Message], Context], _T]
    ) -> Callable[[AsyncIterator[bytes], Context], _T]:
        async def parsed(stream: AsyncIterator[bytes]) -> AsyncIterator[Message]:
            async for data in stream:
                yield _parse(method, data)

        def with_stream(stream: AsyncIterator[bytes], context: Context) -> _T:
            return handle(parsed(stream), context)

        return with_stream

    def _unary(
        self, method: _Method, handle: Callable[..., Awaitable[Message]]
    ) -> Callable[..., Awaitable[Message]]:
        limits, longest_s = self._limits, self._limits.deadline_default_s

        async def answer(data: object, context: Context) -> Message:
            began_s = time.perf_counter()
            if self._telemetry is None:
                return await guarded(data, context, began_s)
            with self._span(method, context) as span:
                try:
                    return await guarded(data, context, began_s)
                finally:
                    self._measure(method, context, began_s, span)

        async def guarded(data: object, context: Context, began_s: float) -> Message:
            self._calls += 1
            try:
                if self._calls > limits.calls_max:
                    raise Overloaded
                remaining_s = self._enter(method, context)
                if remaining_s is None or remaining_s > longest_s:
                    enter_deadline(longest_s)
                    async with asyncio.timeout(longest_s):
                        return await handle(data, context)
                enter_deadline(remaining_s)
                return await handle(data, context)
            except Exception as error:  # noqa: BLE001 -- the border: nothing internal may pass it.
                return await self._refuse(method, context, error, began_s)
            finally:
                self._calls -= 1

        return answer

    def _streaming(
        self, method: _Method, handle: Callable[..., AsyncIterator[Message]]
    ) -> Callable[..., AsyncIterator[Message]]:
        async def answer(data: object, context: Context) -> AsyncIterator[Message]:
            began_s = time.perf_counter()
            try:
                self._enter(method, context)
                async for message in handle(data, context):
                    yield message
            except Exception as error:  # noqa: BLE001 -- the border: nothing internal may pass it.
                await self._refuse(method, context, error, began_s)
            finally:
                if self._telemetry is not None:
                    self._measure(method, context, began_s, None)

        return answer

    def _enter(self, method: _Method, context: Context) -> float | None:
        """Let the caller in, or refuse; return the seconds the call has left, or None where it set no deadline."""
        authorization = traceparent = ""
        for key, value in context.invocation_metadata() or ():
            if key == _AUTHORIZATION:
                authorization = str(value)
            elif key == TRACEPARENT:
                traceparent = str(value)
        if traceparent and self._telemetry is None:
            remember_inbound(traceparent)
        caller = self._caller(authorization, method)
        method.access.require(caller)
        enter_as(caller)
        return context.time_remaining()

    def _caller(self, authorization: str, method: _Method) -> Caller:
        if authorization:
            return self._authenticator.caller_of(authorization)
        if method.access.public:
            return ANONYMOUS
        raise Unauthenticated

    async def _refuse(self, method: _Method, context: Context, error: Exception, began_s: float) -> Message:
        if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
            raise error
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded()
        if isinstance(error, Refusal):
            status = status_of(error, self._domain)
        else:
            status = self._internal(method, error, began_s)
        return await _abort(context, status)

    def _internal(self, method: _Method, error: Exception, began_s: float) -> status_pb2.Status:
        error_id = new_id()
        _log.error(
            "call failed",
            rpc=method.name,
            error_id=error_id,
            duration_ms=round((time.perf_counter() - began_s) * 1000),
            exc_info=error,
        )
        return internal_status(error_id, self._domain)

    def _span(self, method: _Method, context: Context) -> "trace._agnosticcontextmanager._AgnosticContextManager[trace.Span]":
        assert self._telemetry is not None
        traceparent = ""
        for key, value in context.invocation_metadata() or ():
            if key == TRACEPARENT:
                traceparent = str(value)
        return self._telemetry.tracer.start_as_current_span(
            method.name,
            context=inbound_context(traceparent),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": method.name},
        )

    def _measure(self, method: _Method, context: Context, began_s: float, span: trace.Span | None) -> None:
        assert self._telemetry is not None
        code = _CODES[context.code() or 0].name
        attributes = {"rpc.system.name": "grpc", "rpc.method": method.name, "rpc.response.status_code": code}
        self._telemetry.call_duration.record(time.perf_counter() - began_s, attributes)
        if span is not None and span.is_recording():
            span.set_attribute("rpc.response.status_code", code)


def _parse(method: _Method, data: bytes) -> Message:
    try:
        request = method.parse(data)
    except DecodeError:
        raise InvalidArgument([FieldViolation("", "the request is not a message of the expected type")]) from None
    validation.check(request)
    return request


async def _abort(context: Context, status: status_pb2.Status) -> Message:
    await context.abort(
        _CODES[status.code],
        status.message,
        trailing_metadata=((STATUS_DETAILS_KEY, status.SerializeToString()),),
    )
    raise AssertionError("abort always raises")
