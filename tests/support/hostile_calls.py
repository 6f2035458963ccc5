"""Sends requests with odd contents beside another organization's ordinary calls; collects the failures of both."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from libs.common.status import reason_of
from tests.support.callers import Metadata
from tests.support.odd_requests import as_sent

_AT_ONCE: Final = 24


class HostileCalls:
    """Calls made from descriptors, and their outcomes."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self._channel = channel
        self._metadata = metadata
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.failures: list[str] = []
        self.answered: set[str] = set()

    async def send(self, method: MethodDescriptor, requests: Iterable[Message]) -> None:
        """Send requests of one RPC, many at a time. One that is neither answered nor refused counts as a failure."""
        await asyncio.gather(*(self._send(method, request) for request in requests))

    async def beside(self, neighbour: Callable[[int], Awaitable[object]], hostile: Awaitable[None]) -> int:
        """Repeat another organization's call until the hostile calls are done; return how many were made."""
        count, sending = 0, asyncio.ensure_future(hostile)
        while not sending.done():
            count += 1
            try:
                await neighbour(count)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"the neighbour's call {count}: {error.code().name} {error.details()}")
        await sending
        return count

    async def _send(self, method: MethodDescriptor, request: Message) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        deserialize = GetMessageClass(method.output_type).FromString
        async with self._room:
            try:
                if method.server_streaming:
                    stream: grpc.aio.UnaryStreamMultiCallable[bytes, Message]
                    stream = self._channel.unary_stream(path, None, deserialize)
                    async for _ in stream(as_sent(request), metadata=self._metadata, timeout=60):
                        if method.name.startswith("Watch"):
                            break  # It would go on for minutes.
                else:
                    call: grpc.aio.UnaryUnaryMultiCallable[bytes, Message]
                    call = self._channel.unary_unary(path, None, deserialize)
                    await call(as_sent(request), metadata=self._metadata, timeout=60)
                self.answered.add(method.name)
            except grpc.aio.AioRpcError as error:
                if reason_of(error) in (None, "INTERNAL", "DEADLINE_EXCEEDED"):
                    self.failures.append(
                        f"{method.name} {error.code().name} {error.details()} of {str(request)[:300]!r}"
                    )
