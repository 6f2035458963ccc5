"""The peer of single calls: a bare grpc.aio server that answers each request with the same message.

It parses and serializes the message, as every gRPC service in Python must, and does nothing else: no interceptor, no
authentication, no database. The ratio to its rate shows what the work of a real service costs.

    python -m benchmarks.echo PORT_FILE MESSAGE_TYPE PATH [MESSAGE_TYPE PATH …]
"""

import asyncio
import signal
import sys
from importlib import import_module
from pathlib import Path

import grpc
from google.protobuf.message import Message

# Importing the stubs registers the message types, which are then looked up by name.
_STUBS = (
    "envoy.service.ratelimit.v3.rls_pb2",
    "tollhouse.identity.v1.api_key_pb2",
    "tollhouse.billing.v1.ledger_pb2",
    "tollhouse.metering.v1.admission_pb2",
    "tollhouse.metering.v1.usage_pb2",
)


async def echo(request: Message, _context: object) -> Message:
    """Answers the request with itself."""
    return request


def message_type(name: str) -> type[Message]:
    """Returns the class of a message by its full name."""
    for module in map(import_module, _STUBS):
        found = getattr(module, name.rpartition(".")[2], None)
        if found is not None and found.DESCRIPTOR.full_name == name:
            return found  # type: ignore[no-any-return]  # the name was compared, so it is a message class
    raise SystemExit(f"{name} is not a message type of the echo server")


async def serve(port_file: Path, methods: list[tuple[str, str]]) -> None:
    """Serves the methods, given as message type and path, until it is told to stop."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    for name, path in methods:
        _, service, method = path.split("/")
        request = message_type(name)
        handler = grpc.unary_unary_rpc_method_handler(
            echo, request_deserializer=request.FromString, response_serializer=request.SerializeToString
        )
        server.add_registered_method_handlers(service, {method: handler})
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ready = port_file.with_suffix(".part")
    ready.write_text(str(port))
    ready.rename(port_file)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    arguments = sys.argv[2:]
    asyncio.run(serve(Path(sys.argv[1]), list(zip(arguments[::2], arguments[1::2], strict=True))))
