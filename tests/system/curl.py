"""Replaces grpcurl in tests: it takes the same arguments, prints the same JSON and makes real calls.

A script named `grpcurl` passes its arguments to this process, which makes the call with the descriptors of our protos
and records the outcome.
"""

import argparse
import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from libs.cli.installation.environment import repository
from tests.support.secrecy import WATCH

LONGEST_CALL_S = 20.0
_PROGRAM = """#!{python}
import json, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as connection:
    connection.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    answer = json.loads(connection.makefile().read())
sys.stdout.write(answer["output"])
sys.stderr.write(answer["errors"])
sys.exit(answer["status"])
"""


@dataclass(frozen=True)
class Answer:
    """The outcome of one call."""

    method: str
    code: str
    """Empty for success, else as grpcurl writes it, such as `NotFound`."""
    documents: list[dict[str, object]] = field(repr=False)


class Curl:
    """Makes the calls that a shell requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = await self._call(_parse(json.loads(await reader.readline())))
        self.answers.append(answer)
        written = "".join(json.dumps(document, indent=2) + "\n" for document in answer.documents)
        said: dict[str, str | int] = {"output": written, "errors": "", "status": 0}
        if answer.code:
            said = {"output": "", "errors": f"ERROR:\n  Code: {answer.code}\n{written}", "status": 64}
        writer.write(json.dumps(said).encode())
        await writer.drain()
        writer.close()

    async def _call(self, asked: argparse.Namespace) -> Answer:
        method = _method(asked.method)
        name = f"{method.containing_service.full_name}/{method.name}".removeprefix("tollhouse.")
        document = json.loads(asked.data)
        if isinstance(mask := document.get("update_mask"), dict):
            # grpcurl takes a field mask as a message with `paths`; the protobuf library expects its text form.
            document["update_mask"] = ",".join(_camel_case(path) for path in mask["paths"])
        request = ParseDict(document, GetMessageClass(method.input_type)())
        WATCH.note_message(request)
        metadata = tuple((key.strip().lower(), value.strip()) for key, _, value in _split(asked.header))
        documents: list[dict[str, object]] = []
        try:
            async with grpc.aio.insecure_channel(asked.address) as channel:
                async for message in _ask(channel, method, request, metadata, asked.timeout):
                    WATCH.note_message(message)
                    documents.append(MessageToDict(message))
        except grpc.aio.AioRpcError as error:
            # The stream was to be watched for a limited time only, so reaching the limit is no error.
            if not (documents and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED):
                code = "".join(word.capitalize() for word in error.code().name.split("_"))
                return Answer(name, code, [{"Code": code, "Message": error.details()}])
        return Answer(name, "", documents)


def _camel_case(path: str) -> str:
    first, *others = path.split("_")
    return first + "".join(word.capitalize() for word in others)


def _split(headers: list[str]) -> list[tuple[str, str, str]]:
    return [header.partition(":") for header in headers]


async def _ask(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    request: Message,
    metadata: tuple[tuple[str, str], ...],
    timeout_s: float,
) -> AsyncIterator[Message]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = GetMessageClass(method.output_type).FromString
    if method.server_streaming:
        receiving = channel.unary_stream(path, _serialize, parse)
        async for message in receiving(request, metadata=metadata, timeout=timeout_s):
            yield message
    else:
        yield await channel.unary_unary(path, _serialize, parse)(request, metadata=metadata, timeout=timeout_s)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Read the arguments of grpcurl that our pages use; any other is an error."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-max-time", dest="timeout", type=float, default=LONGEST_CALL_S)
    parser.add_argument("-H", dest="header", action="append", default=[])
    parser.add_argument("-d", dest="data", required=True)
    parser.add_argument("address")
    parser.add_argument("method")
    return parser.parse_args(arguments)


def _method(path: str) -> MethodDescriptor:
    service, _, name = path.partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def rpcs_of(*packages: str) -> set[str]:
    """Every RPC that the protos of these packages declare, such as `identity.v1.UserService/GetUser`."""
    root = repository() / "protos"
    found: set[str] = set()
    for package in packages:
        for path in sorted(root.glob(f"tollhouse/{package}/v1/*_pb2.py")):
            importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
            proto = descriptor_pool.Default().FindFileByName(str(path.relative_to(root)).replace("_pb2.py", ".proto"))
            for service in proto.services_by_name.values():
                found |= {f"{service.full_name}/{method.name}".removeprefix("tollhouse.") for method in service.methods}
    return found


@asynccontextmanager
async def curl_in(folder: Path) -> AsyncIterator[Curl]:
    """Put a program named `grpcurl` into the folder for as long as the context lasts."""
    curl = Curl()
    server = await asyncio.start_server(curl.handle, "127.0.0.1", 0)
    program = folder / "grpcurl"
    program.write_text(_PROGRAM.format(python=sys.executable, port=server.sockets[0].getsockname()[1]))
    program.chmod(0o700)
    (folder / "python3").symlink_to(sys.executable)
    async with server:
        yield curl
