"""The steps that every call passes through, in this order:

    telemetry → errors → admission → deadline → authentication → access → parsing → validation → handler

The access of users and keys depends on the organization that their request names, so it is decided after parsing.

Each handler is wrapped once, when it is registered. gRPC's interceptors would run again on every call, which costs more
than all of these steps.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, cast

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2
from opentelemetry import trace

from libs.common import validation
from libs.common.access import ANONYMOUS
from libs.common.addresses import Network
from libs.common.authentication import Authenticator
from libs.common.call import Call, enter_call
from libs.common.callers import KEY_PREFIXES, Credential, Directory, NoDirectory
from libs.common.deadline import enter_deadline
from libs.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    Refusal,
    ShuttingDown,
    Unauthenticated,
)
from libs.common.ids import is_id, new_id
from libs.common.rpc_method import Recall, RpcMethod, id_in
from libs.common.status import STATUS_DETAILS_KEY, http_hints, internal_status, status_of
from libs.common.telemetry import TRACEPARENT, Telemetry, inbound_context, remember_inbound
from libs.common.validation import Reader

_log = structlog.get_logger("call")
_AUTHORIZATION: Final = "authorization"
_SCHEME: Final = "bearer "
_SCHEME_LENGTH: Final = len(_SCHEME)

_Raw = TypeVar("_Raw")
_Asked = TypeVar("_Asked")
# What is read of a stream after it was refused; 64 MiB is the largest document that an RPC takes in parts.
_REST_BYTES_MAX: Final = 67_108_864
_REST_WITHIN_S: Final = 30.0
_REST_BEGINS_WITHIN_S: Final = 0.2
_REST_PAUSE_MAX_S: Final = 1.0
_RESTS_MAX: Final = 16
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[bytes, Message]
Handler: TypeAlias = "grpc.RpcMethodHandler[Message, Message]"
WrappedHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, Message]"

# The four kinds of servicer methods. The library's own types cover the synchronous ones only.
UnaryUnary = Callable[[Message, Context], Awaitable[Message]]
UnaryStream = Callable[[Message, Context], AsyncIterator[Message]]
StreamUnary = Callable[[AsyncIterator[Message], Context], Awaitable[Message]]
StreamStream = Callable[[AsyncIterator[Message], Context], AsyncIterator[Message]]
AdmitAgain = Callable[[], Awaitable[None]]
"""Raises a Refusal where the caller of a stream may not go on; asked with each message."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many calls one process handles at a time, and how long a call without a deadline may last."""

    calls_max: int
    deadline_default_s: float


class Pipeline:
    """Wraps the handlers of one service."""

    def __init__(
        self,
        *,
        domain: str,
        authenticator: Authenticator,
        limits: Limits,
        telemetry: Telemetry | None,
        directory: Directory | None = None,
        proxies: tuple[Network, ...] = (),
    ) -> None:
        self._domain = domain
        self._authenticator = authenticator
        self._directory = directory or NoDirectory()
        self._proxies = proxies
        self._deadline_default_s = limits.deadline_default_s
        self._telemetry = telemetry
        self._calls = 0
        self._calls_max = limits.calls_max
        self._rests = 0

    @property
    def calls(self) -> int:
        """How many calls are being handled now."""
        return self._calls

    def turn_away(self) -> None:
        """Refuse every new call; those in progress go on."""
        self._calls_max = 0

    def _no_room(self) -> Refusal:
        """Return the refusal for a call beyond the limit."""
        return Overloaded() if self._calls_max else ShuttingDown()

    def wrap(
        self,
        service: ServiceDescriptor,
        handlers: Mapping[str, Handler],
        recalls: Mapping[str, Recall],
        readers: Mapping[str, Reader],
    ) -> dict[str, WrappedHandler]:
        """Return the handlers of one proto service with the pipeline around each.

        `recalls` and `readers` go by the names of the RPCs.

        Raises:
            UndeclaredAccess: an RPC does not say who may call it.
            ValueError: a name in `recalls` or `readers` is none of this service's RPCs.
        """
        strange = (recalls.keys() | readers.keys()) - handlers.keys()
        if strange:
            raise ValueError(f"{service.full_name} has no RPC {', '.join(sorted(strange))}")
        return {
            name: self._wrap_method(
                RpcMethod.of(service.methods_by_name[name], recalls.get(name), readers.get(name)), handler
            )
            for name, handler in handlers.items()
        }

    def _wrap_method(self, method: RpcMethod, handler: Handler) -> WrappedHandler:
        serialize = _serializer(handler.response_serializer)
        wrapped: object
        if handler.request_streaming and handler.response_streaming:
            wrapped = grpc.stream_stream_rpc_method_handler(
                self._streaming(method, cast(StreamStream, handler.stream_stream), _parse_each), None, serialize
            )
        elif handler.response_streaming:
            wrapped = grpc.unary_stream_rpc_method_handler(
                self._streaming(method, cast(UnaryStream, handler.unary_stream), _parse_one), None, serialize
            )
        elif handler.request_streaming:
            wrapped = grpc.stream_unary_rpc_method_handler(
                self._stream_unary(method, cast(StreamUnary, handler.stream_unary)), None, serialize
            )
        else:
            answer = self._unary_unary(method, cast(UnaryUnary, handler.unary_unary))
            if self._telemetry is not None:
                answer = self._traced(method, self._telemetry, answer)
            wrapped = grpc.unary_unary_rpc_method_handler(answer, None, serialize)
        return cast("WrappedHandler", wrapped)

    def _unary_unary(self, method: RpcMethod, handle: UnaryUnary) -> Callable[[bytes, Context], Awaitable[Message]]:
        """Wrap the most common kind of call in a single coroutine, because each further one costs time."""
        longest_s, recall = self._deadline_default_s, method.recall

        async def answer(data: bytes, context: Context) -> Message:
            self._calls += 1
            try:
                if self._calls > self._calls_max:
                    raise self._no_room()
                call = self._enter(method, context)
                if call.credential is None:
                    if recall is not None and (known := recall(data)) is not None:
                        return cast("Message", known)
                    request = method.parse(data)
                else:
                    request = await self._admit_by_rights(method, call, call.credential, data)
                call.note(data, request)
                remaining_s: float | None = context.time_remaining()
                if remaining_s is None or remaining_s > longest_s:
                    enter_deadline(longest_s)
                    async with asyncio.timeout(longest_s):
                        return await handle(request, context)
                enter_deadline(remaining_s)
                return await handle(request, context)
            except Exception as error:  # noqa: BLE001 -- no internal error may reach the caller.
                return await self._refuse(method, context, error)
            finally:
                self._calls -= 1

        return answer

    def _stream_unary(
        self, method: RpcMethod, handle: StreamUnary
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[Message]]:
        async def answer(stream: AsyncIterator[bytes], context: Context) -> Message:
            self._calls += 1
            try:
                if self._calls > self._calls_max:
                    raise self._no_room()
                call = self._enter(method, context)
                await self._admit_stream(method, call)
                return await handle(_parse_each(method, stream, self._again(method, call, context)), context)
            except Exception as error:  # noqa: BLE001 -- no internal error may reach the caller.
                await self._read_rest(stream)
                return await self._refuse(method, context, error)
            finally:
                self._calls -= 1

        return answer

    def _streaming(
        self,
        method: RpcMethod,
        handle: Callable[[_Asked, Context], AsyncIterator[Message]],
        read: Callable[[RpcMethod, _Raw, AdmitAgain], _Asked],
    ) -> Callable[[_Raw, Context], AsyncIterator[Message]]:
        """Wrap a call that answers with a stream; `read` parses the request, or each request of a stream."""

        async def answer(raw: _Raw, context: Context) -> AsyncIterator[Message]:
            self._calls += 1
            try:
                if self._calls > self._calls_max:
                    raise self._no_room()
                call = self._enter(method, context)
                asked = raw if isinstance(raw, bytes) else b""
                await self._admit_stream(method, call, asked)
                admit_again = self._again(method, call, context, asked)
                async for message in handle(read(method, raw, admit_again), context):
                    if not isinstance(raw, AsyncIterator):  # What came in a stream was taken, so it is acknowledged.
                        await admit_again()
                    yield message
            except Exception as error:  # noqa: BLE001 -- no internal error may reach the caller.
                if isinstance(raw, AsyncIterator):
                    await self._read_rest(raw)
                await self._refuse(method, context, error)
            finally:
                self._calls -= 1

        return answer

    def _traced(
        self,
        method: RpcMethod,
        telemetry: Telemetry,
        handle: Callable[[bytes, Context], Awaitable[Message]],
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        """Measure a call, and record it as a span of the caller's trace."""

        async def answer(data: bytes, context: Context) -> Message:
            began_s = time.perf_counter()
            with _span(method, telemetry, context) as span:
                try:
                    return await handle(data, context)
                finally:
                    code = _code_name(context)
                    attributes = {"rpc.system.name": "grpc", "rpc.method": method.name}
                    attributes["rpc.response.status_code"] = code
                    telemetry.call_duration.record(time.perf_counter() - began_s, attributes)
                    if span.is_recording():
                        span.set_attribute("rpc.response.status_code", code)

        return answer

    def _enter(self, method: RpcMethod, context: Context) -> Call:
        """Authenticate the caller, or refuse. The rights of users and keys are looked up later, by their credential."""
        authorization = traceparent = ""
        for key, value in context.invocation_metadata() or ():
            if key == _AUTHORIZATION:
                authorization = str(value)
            elif key == TRACEPARENT:
                traceparent = str(value)
        if traceparent and self._telemetry is None:
            remember_inbound(traceparent)
        if method.access.public:
            # Public RPCs ignore credentials, so that an expired token does not keep anybody from refreshing a session.
            call = Call(method.name, ANONYMOUS, context, self._proxies)
        elif (
            authorization.startswith(KEY_PREFIXES, _SCHEME_LENGTH) and authorization[:_SCHEME_LENGTH].lower() == _SCHEME
        ):
            call = Call(method.name, ANONYMOUS, context, self._proxies)
            key = authorization[_SCHEME_LENGTH:]
            call.credential = Credential(api_key=key, client_address=call.peer_address)
        else:
            caller = self._authenticator.caller_of(authorization)
            call = Call(method.name, caller, context, self._proxies)
            if caller.session_id:
                call.credential = Credential(user_id=caller.name, session_id=caller.session_id)
            else:
                method.admit(caller)
        enter_call(call)
        return call

    async def _admit_by_rights(self, method: RpcMethod, call: Call, credential: Credential, data: bytes) -> Message:
        """Check that a user or key may make this request, or refuse; return the valid request.

        A caller without valid credentials is not told what is wrong with its request.
        """
        try:
            request, malformed = method.decode(data), None
        except InvalidArgument as refusal:
            request, malformed = None, refusal
        # A gateway's key reaches the same organizations whichever one is asked about: one answer serves all its calls.
        organization_id = "" if method.access.gateway_scope else id_in(request, "organization_id")
        await self._resolve(method, call, credential, organization_id if is_id(organization_id) else "")
        if request is None:
            raise malformed or Unauthenticated
        if not (call.as_operator or method.access.for_users or method.access.admits_gateway(call.known_rights)):
            raise PermissionDenied
        validation.check(request, method.read)
        if not call.as_operator:
            method.access.admit_by_rights(call.caller, call.known_rights, method.target_of(request))
        return request

    async def _admit_stream(self, method: RpcMethod, call: Call, asked: bytes = b"") -> None:
        """Admit users to a streaming RPC where they count as operators, and keys of gateways.

        Other users are admitted where they ask once, for one organization, and may read there: as to any other RPC.
        """
        if call.credential is not None and method.access.for_users and asked:
            await self._admit_by_rights(method, call, call.credential, asked)
        elif call.credential is not None:
            await self._resolve(method, call, call.credential, "")
            if not (call.as_operator or method.access.admits_gateway(call.known_rights)):
                raise PermissionDenied

    def _again(self, method: RpcMethod, call: Call, context: Context, asked: bytes = b"") -> AdmitAgain:
        """Return what checks the caller of a stream with each message: a stream may last longer than trust in them."""
        bundles = self._authenticator.bundles
        authorization = "" if call.credential and call.credential.api_key else _authorization_in(context)

        async def admit_again() -> None:
            nonlocal bundles
            if method.access.public:
                return
            if authorization and bundles != self._authenticator.bundles:
                self._authenticator.require_trusted(authorization)
                bundles = self._authenticator.bundles
            await self._admit_stream(method, call, asked)

        return admit_again

    async def _resolve(self, method: RpcMethod, call: Call, credential: Credential, organization_id: str) -> None:
        """Look up who the caller is and what it may do."""
        found = await self._directory.resolve(credential, organization_id)
        call.know(found, as_operator=method.access.admits_as_operator(found.caller, found.rights))

    async def _read_rest(self, stream: AsyncIterator[bytes]) -> None:
        """Read and discard what a caller still sends, before it is refused.

        gRPC's client says INTERNAL, and not why it was refused, when a call ends while it sends. A caller that sends
        nothing, or pauses, is answered soon. So is one that sends too much or too long, or beside too many others, as
        without this.
        """
        if self._rests >= _RESTS_MAX:
            return
        self._rests += 1
        size_bytes, pause_max_s = 0, _REST_BEGINS_WITHIN_S
        try:
            async with asyncio.timeout(_REST_WITHIN_S):
                while size_bytes <= _REST_BYTES_MAX:
                    async with asyncio.timeout(pause_max_s):
                        part = await anext(stream, None)
                    if part is None:
                        return
                    size_bytes, pause_max_s = size_bytes + len(part), _REST_PAUSE_MAX_S
        except TimeoutError:
            return
        finally:
            self._rests -= 1

    async def _refuse(self, method: RpcMethod, context: Context, error: Exception) -> Message:
        """Answer with the refusal. Any other error is a bug: its details go to the log only."""
        if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
            raise error
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded()
        if type(error) is PermissionDenied:
            error = PermissionDenied(callers=method.access.callers)
        if isinstance(error, Refusal):
            return await _abort(context, status_of(error, self._domain), http_hints(error))
        error_id = new_id()
        _log.error("call failed", rpc=method.name, error_id=error_id, exc_info=error)
        return await _abort(context, internal_status(error_id, self._domain))


def _serializer(serialize: Callable[[Message], bytes] | None) -> Callable[[Message | bytes], bytes] | None:
    """Return a serializer that sends an answer that is already serialized as it is."""
    if serialize is None:
        return None
    return lambda answer: answer if isinstance(answer, bytes) else serialize(answer)


def _parse_one(method: RpcMethod, data: bytes, _: AdmitAgain) -> Message:
    return method.parse(data)


async def _parse_each(
    method: RpcMethod, stream: AsyncIterator[bytes], admit_again: AdmitAgain
) -> AsyncIterator[Message]:
    async for data in stream:
        await admit_again()
        yield method.parse(data)


def _authorization_in(context: Context) -> str:
    metadata = context.invocation_metadata() or ()
    return next((str(value) for key, value in reversed(tuple(metadata)) if key == _AUTHORIZATION), "")


async def _abort(context: Context, status: status_pb2.Status, hints: Sequence[tuple[str, str]] = ()) -> Message:
    await context.abort(
        _CODES[status.code],
        status.message,
        trailing_metadata=((STATUS_DETAILS_KEY, status.SerializeToString()), *hints),
    )
    raise AssertionError("abort always raises")


def _span(method: RpcMethod, telemetry: Telemetry, context: Context) -> AbstractContextManager[trace.Span]:
    traceparent = next((str(value) for key, value in context.invocation_metadata() or () if key == TRACEPARENT), "")
    return telemetry.tracer.start_as_current_span(
        method.name,
        context=inbound_context(traceparent),
        kind=trace.SpanKind.SERVER,
        attributes={"rpc.system.name": "grpc", "rpc.method": method.name},
        record_exception=False,  # An exception's text may hold what a trace must not.
        set_status_on_exception=False,
    )


def _code_name(context: Context) -> str:
    """Return the name of the code a call ended with; gRPC keeps it as a number, or as nothing before it is set."""
    code: object = context.code()
    return _CODES[code].name if isinstance(code, int) else grpc.StatusCode.OK.name
