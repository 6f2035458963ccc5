"""A peer whose answers come late, for tests of caches that follow its stream of changes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from tests.support.callers import Metadata, in_the_name_of

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class HeldAnswers(grpc.aio.UnaryUnaryClientInterceptor):
    """Forwards metering's calls to a peer, and holds the answers back while it is closed."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.answered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryUnaryCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> grpc.aio.UnaryUnaryCall[_Request, _Response] | _Response:
        details = in_the_name_of(self._metadata, client_call_details)
        answer = await (await continuation(details, request))
        self.answered.set()
        await self.open.wait()
        return answer


class Streams(grpc.aio.UnaryStreamClientInterceptor):
    """Forwards metering's streams to a peer."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def intercept_unary_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryStreamCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> grpc.aio.UnaryStreamCall[_Request, _Response]:
        details = in_the_name_of(self._metadata, client_call_details)
        return await continuation(details, request)
