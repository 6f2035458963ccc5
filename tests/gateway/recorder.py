"""Servers that take every RPC of the contract and remember what came, in the place of the three services.

What the services do is tested elsewhere. Here it is to be seen what the gateway makes of a request, byte for byte.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from libs.cli.gateway.descriptors import services
from libs.common.server import RECEIVE_MAX_BYTES

CONTEXTS: Final = ("identity", "billing", "metering")
if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]
else:
    Context = grpc.aio.ServicerContext
Behaviour = Callable[[Context], Awaitable[None]]


@dataclass(frozen=True)
class Recorded:
    """One call as a service saw it."""

    context: str
    method: str
    """The RPC, as `tollhouse.billing.v1.LedgerService/Debit`."""
    request: bytes
    metadata: Sequence[tuple[str, str]]
    remaining_s: float | None

    def all_of(self, name: str) -> list[str]:
        return [value for key, value in self.metadata if key == name]


@dataclass
class Recorder:
    """What came since it was last asked for, and what is to happen to calls beside an empty answer."""

    calls: list[Recorded] = field(default_factory=list)
    behaviour: Behaviour | None = None
    answer: bytes = b""
    """What calls with one answer are answered with."""
    pieces: Sequence[bytes] = (b"", b"")
    """What streams send."""
    ports: dict[str, int] = field(default_factory=dict)

    def take(self) -> list[Recorded]:
        taken, self.calls = self.calls, []
        return taken

    def take_one(self) -> Recorded:
        (call,) = self.take()
        return call


def method_of(name: str) -> MethodDescriptor:
    service, _, method = name.partition("/")
    found: MethodDescriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
    return found


def _handler(context: str, recorder: Recorder, method: MethodDescriptor) -> "grpc.RpcMethodHandler[bytes, bytes]":
    name = f"{method.containing_service.full_name}/{method.name}"

    async def note(data: bytes, call: Context) -> None:
        metadata = [(str(key), str(value)) for key, value in call.invocation_metadata() or ()]
        recorder.calls.append(Recorded(context, name, data, metadata, call.time_remaining()))
        if recorder.behaviour is not None:
            await recorder.behaviour(call)

    async def unary(data: bytes, call: Context) -> bytes:
        await note(data, call)
        return recorder.answer

    async def stream(data: bytes, call: Context) -> AsyncIterator[bytes]:
        await note(data, call)
        for piece in recorder.pieces:
            yield piece

    # The types of grpcio know handlers that are no coroutines alone.
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(unary)


@asynccontextmanager
async def recording() -> AsyncIterator[Recorder]:
    """Run a server for each context for as long as the block lasts."""
    recorder = Recorder()
    async with AsyncExitStack() as stack:
        for context in CONTEXTS:
            server = grpc.aio.server(options=[("grpc.max_receive_message_length", RECEIVE_MAX_BYTES)])
            for service in services():
                handlers = {method.name: _handler(context, recorder, method) for method in service.methods}
                server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
            recorder.ports[context] = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield recorder
