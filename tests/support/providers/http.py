"""A small HTTP server on loopback, which fails on demand."""

import asyncio
import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, urlsplit

_REASONS = {200: "OK", 201: "Created", 307: "Temporary Redirect"}


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


Reply = tuple[int, Mapping[str, object]]


class Fault(StrEnum):
    """What goes wrong with a request."""

    DROPPED_BEFORE = "DROPPED_BEFORE"
    """The connection ends before anything was done."""
    DROPPED_AFTER = "DROPPED_AFTER"
    """It was done, and the connection ends without an answer."""
    OVERLOADED = "OVERLOADED"
    FAILED = "FAILED"
    NO_JSON = "NO_JSON"
    REDIRECT = "REDIRECT"
    COMPRESSED = "COMPRESSED"
    """A small answer that is a huge one when it is unpacked."""


@dataclass
class FakeApi(ABC):
    """The server; subclasses answer."""

    requests: list[Request] = field(default_factory=list)
    faults: list[Fault | None] = field(default_factory=list)
    """What happens to the next requests, one each."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def answer(self, request: Request) -> Reply:
        """Answer a request as the provider does."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve for as long as the block lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                fault = self.faults.pop(0) if self.faults else None
                if not self._reply(writer, request, fault):
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _reply(self, writer: asyncio.StreamWriter, request: Request, fault: Fault | None) -> bool:
        """Answer a request, or do what the fault says; return whether the connection stays."""
        if fault is Fault.DROPPED_BEFORE:
            return False
        known: Mapping[Fault | None, Callable[[], tuple[int, bytes]]] = {
            Fault.OVERLOADED: lambda: (429, b"{}"),
            Fault.FAILED: lambda: (500, b"{}"),
            Fault.NO_JSON: lambda: (200, b"<html>"),
            Fault.REDIRECT: lambda: (307, b""),
            Fault.COMPRESSED: lambda: (200, gzip.compress(b" " * 20_000_000, 1)),
        }
        status, content = known.get(fault, lambda: self._content(request))()
        if fault is Fault.DROPPED_AFTER:
            return False
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\ncontent-length: {len(content)}\r\n"
        if fault is Fault.COMPRESSED:
            head += "content-encoding: gzip\r\n"
        writer.write(
            head.encode() + b"content-type: application/json\r\nlocation: http://127.0.0.1:1/\r\n\r\n" + content
        )
        return True

    def _content(self, request: Request) -> tuple[int, bytes]:
        status, document = self.answer(request)
        return status, json.dumps(document).encode()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    address = urlsplit(target)
    return Request(method, address.path, dict(parse_qsl(address.query, keep_blank_values=True)), headers, body)
