"""Watches gRPC servers for leaks: collects the secrets in requests and responses, and searches refusals for them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from libs.common.status import STATUS_DETAILS_KEY
from tests.support.secrecy import SecretWatch, has_secrets

_OURS = "/tollhouse."
_make_server = grpc.aio.server


def watch_servers(watch: SecretWatch) -> None:
    """Watch every gRPC server that this process creates from now on."""
    interceptor = WatchedCalls(watch)

    def server(*arguments: Any, **options: Any) -> grpc.aio.Server:
        options["interceptors"] = [*(options.get("interceptors") or ()), interceptor]
        return _make_server(*arguments, **options)

    grpc.aio.server = server


class WatchedCalls(grpc.aio.ServerInterceptor):
    """Interceptor for all handlers of one process. It changes no message."""

    def __init__(self, watch: SecretWatch) -> None:
        self._watch = watch

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        method = _method_named(details.method)
        if handler.request_streaming or handler.response_streaming:
            return _rewrapped(handler, self._streaming(method, handler))
        return _rewrapped(handler, self._unary(method, handler.unary_unary))

    def _unary(self, method: MethodDescriptor, handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(request: bytes, context: grpc.aio.ServicerContext) -> Any:
            self._note(method.input_type, request)
            try:
                response = await handle(request, context)
            finally:
                self._look_at_status(method, context)
            self._note(method.output_type, response)
            return response

        return answer

    def _streaming(self, method: MethodDescriptor, handler: Any) -> Callable[..., Any]:
        async def noted(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for request in requests:
                self._note(method.input_type, request)
                yield request

        def received(request: Any) -> Any:
            if handler.request_streaming:
                return noted(request)
            self._note(method.input_type, request)
            return request

        async def answer_once(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await handler.stream_unary(received(request), context)
            finally:
                self._look_at_status(method, context)

        async def answer_many(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            handle = handler.stream_stream if handler.request_streaming else handler.unary_stream
            try:
                async with aclosing(handle(received(request), context)) as responses:
                    async for response in responses:
                        self._note(method.output_type, response)
                        yield response
            finally:
                self._look_at_status(method, context)

        return answer_many if handler.response_streaming else answer_once

    def _note(self, descriptor: Descriptor, message: Message | bytes) -> None:
        if not has_secrets(descriptor):
            return
        if isinstance(message, bytes):
            try:
                message = GetMessageClass(descriptor).FromString(message)
            except DecodeError:
                return
        self._watch.note_message(message)

    def _look_at_status(self, method: MethodDescriptor, context: grpc.aio.ServicerContext) -> None:
        """Search the message and the details of a refusal for secrets."""
        details = context.details()
        if not details:
            return
        trailing = [value for key, value in context.trailing_metadata() or () if key == STATUS_DETAILS_KEY]
        text = "".join(value.decode("latin-1") if isinstance(value, bytes) else value for value in trailing)
        self._watch.scan(f"the refusal of {method.full_name}", f"{details} {text}")


def _method_named(path: str) -> MethodDescriptor:
    service, _, name = path.removeprefix("/").partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def _rewrapped(handler: Any, behaviour: Callable[..., Any]) -> Any:
    """Return a handler of the same kind that calls another function."""
    shapes = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = shapes[handler.request_streaming, handler.response_streaming]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)
