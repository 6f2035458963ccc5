"""A channel for generated stubs: credentials, a deadline, retries and errors of this package are added to each call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, Protocol, TypeVar, cast

import grpc

from tollhouse_client.connection import Connection, Metadata, closed, is_cancelled
from tollhouse_client.errors import TollhouseError, error_of_call
from tollhouse_client.retries import Retries
from tollhouse_client.routes import malformed

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")
_Message = TypeVar("_Message", covariant=True)
_Serializer = Callable[[_Request], bytes]
_Deserializer = Callable[[bytes], _Answer]
_ConnectionOf = Callable[[str], Connection]


class StubChannel:
    """What a generated stub takes for a channel. Each RPC goes to the service that its path names."""

    def __init__(self, connection_of: _ConnectionOf, timeout_s: float, retries: Retries) -> None:
        """`timeout_s` is for calls that give none; streams from a service last as long as they do."""
        self._connection_of = connection_of
        self._timeout_s = timeout_s
        self._retries = retries

    def unary_unary(
        self,
        path: str,
        request_serializer: _Serializer[_Request],
        response_deserializer: _Deserializer[_Answer],
        **_: bool,
    ) -> "UnaryCalls[_Request, _Answer]":
        connection = self._connection_of(path)
        rpc: grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer] = connection.channel.unary_unary(
            path, request_serializer, response_deserializer
        )
        return UnaryCalls(path, rpc, connection, self._timeout_s, self._retries)

    def unary_stream(
        self,
        path: str,
        request_serializer: _Serializer[_Request],
        response_deserializer: _Deserializer[_Answer],
        **_: bool,
    ) -> "Callable[..., AsyncIterator[_Answer]]":
        connection = self._connection_of(path)
        rpc: grpc.aio.UnaryStreamMultiCallable[_Request, _Answer] = connection.channel.unary_stream(
            path, request_serializer, response_deserializer
        )

        def call(request: _Request, *, timeout: float | None = None, metadata: Metadata = ()) -> AsyncIterator[_Answer]:
            return _answers(path, lambda: rpc(request, timeout=timeout, metadata=(*metadata, *connection.metadata())))

        return call

    def stream_unary(
        self,
        path: str,
        request_serializer: _Serializer[_Request],
        response_deserializer: _Deserializer[_Answer],
        **_: bool,
    ) -> "Callable[..., Awaitable[_Answer]]":
        connection = self._connection_of(path)
        rpc: grpc.aio.StreamUnaryMultiCallable[_Request, _Answer] = connection.channel.stream_unary(
            path, request_serializer, response_deserializer
        )

        async def call(
            requests: AsyncIterator[_Request] | Iterator[_Request],
            *,
            timeout: float | None = None,
            metadata: Metadata = (),
        ) -> _Answer:
            sent = (*metadata, *connection.metadata())
            return await _translated(path, lambda: rpc(requests, timeout=timeout or self._timeout_s, metadata=sent))

        return call

    def stream_stream(
        self,
        path: str,
        request_serializer: _Serializer[_Request],
        response_deserializer: _Deserializer[_Answer],
        **_: bool,
    ) -> "Callable[..., AsyncIterator[_Answer]]":
        connection = self._connection_of(path)
        rpc: grpc.aio.StreamStreamMultiCallable[_Request, _Answer] = connection.channel.stream_stream(
            path, request_serializer, response_deserializer
        )

        def call(
            requests: AsyncIterator[_Request] | Iterator[_Request],
            *,
            timeout: float | None = None,
            metadata: Metadata = (),
        ) -> AsyncIterator[_Answer]:
            return _answers(path, lambda: rpc(requests, timeout=timeout, metadata=(*metadata, *connection.metadata())))

        return call


class UnaryCalls(Generic[_Request, _Answer]):
    """One RPC of a stub."""

    def __init__(
        self,
        path: str,
        rpc: grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer],
        connection: Connection,
        timeout_s: float,
        retries: Retries,
    ) -> None:
        self._path = path
        self._rpc = rpc
        self._connection = connection
        self._timeout_s = timeout_s
        self._retries = retries

    async def __call__(self, request: _Request, *, timeout: float | None = None, metadata: Metadata = ()) -> _Answer:
        """Make a call, and again where that helps.

        Raises:
            TollhouseError: the call failed.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + (self._timeout_s if timeout is None else timeout)
        attempts = 0
        while True:
            attempts += 1
            left_s = deadline_s - loop.time()
            sent = (*metadata, *self._connection.metadata())
            try:
                return await _translated(
                    self._path,
                    lambda: self._rpc(request, timeout=left_s, metadata=sent),  # noqa: B023 -- called at once.
                )
            except TollhouseError as error:
                pause_s = self._retries.pause_before(attempts, error, deadline_s - loop.time())
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)


async def _translated(path: str, call: Callable[[], Awaitable[_Answer | None]]) -> _Answer:
    try:
        answer = await call()
    except grpc.aio.AioRpcError as error:
        raise error_of_call(error) from None
    except grpc.aio.UsageError:
        raise closed() from None
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise closed() from None
    return _read(path, answer)


def _read(path: str, answer: _Answer | None) -> _Answer:
    """Return an answer. For one that it cannot read gRPC gives None."""
    if answer is None:
        raise malformed(path)
    return answer


async def _answers(path: str, open_stream: Callable[[], "_Stream[_Answer]"]) -> AsyncIterator[_Answer]:
    stream: _Stream[_Answer] | None = None
    try:
        stream = open_stream()
        async for answer in stream:
            yield _read(path, answer)
    except grpc.aio.AioRpcError as error:
        raise error_of_call(error) from None
    except grpc.aio.UsageError:
        raise closed() from None
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise closed() from None
    finally:
        if stream is not None:
            stream.cancel()  # Whoever stops reading wants no more of it.


class _Stream(Protocol[_Message]):
    """A call whose answers are a stream."""

    def __aiter__(self) -> AsyncIterator[_Message]: ...

    def cancel(self) -> bool: ...


def as_channel(channel: "StubChannel | CredentialChannel") -> grpc.aio.Channel:
    """Return it as what the types of generated stubs ask for."""
    return cast(grpc.aio.Channel, channel)


class CredentialChannel:
    """A channel that adds credentials, for code that handles gRPC's own errors and retries by itself."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def unary_unary(
        self,
        path: str,
        request_serializer: _Serializer[_Request],
        response_deserializer: _Deserializer[_Answer],
        **_: bool,
    ) -> Callable[..., Awaitable[_Answer]]:
        rpc: grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer] = self._connection.channel.unary_unary(
            path, request_serializer, response_deserializer
        )

        async def call(request: _Request, *, timeout: float | None = None, metadata: Metadata = ()) -> _Answer:
            sent = (*metadata, *self._connection.metadata())
            answer: _Answer | None = await rpc(request, timeout=timeout, metadata=sent)
            if answer is None:
                raise grpc.aio.AioRpcError(
                    grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), malformed(path).message
                )
            return answer

        return call
