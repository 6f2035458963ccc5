"""A receiver of events for tests: a small HTTP server that answers as it is told and keeps what came."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

Answer = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)
        return found

    def verified(self, secret: str) -> dict[str, object]:
        """Return the event after a check of its signature by the library of standardwebhooks; raises if it is wrong."""
        found: dict[str, object] = Webhook(secret).verify(self.body, self.headers)
        return found

    def is_signed_by(self, secret: str) -> bool:
        """Tell whether one of the signatures is of this secret, by the library; whenever it was sent."""
        moment = datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), UTC)
        expected = Webhook(secret).sign(self.headers["webhook-id"], moment, self.body.decode())
        return expected in self.headers["webhook-signature"].split()


def status(code: int, *headers: str, body: bytes = b"") -> Answer:
    """Answer with a status."""

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} x", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return answer


async def hang(_: Received, __: asyncio.StreamWriter) -> None:
    """Answer nothing."""
    await asyncio.sleep(60)


async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
    """Answer 1 GB, as far as anybody reads it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    for _part in range(1024):
        writer.write(bytes(1024 * 1024))
        await writer.drain()


async def endless_without_length(_: Received, writer: asyncio.StreamWriter) -> None:
    """The same, without saying so before."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _part in range(1024):
        writer.write(bytes(1024 * 1024))
        await writer.drain()


def raw(text: bytes) -> Answer:
    """Answer with bytes that may be no HTTP."""

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return answer


@dataclass
class Receiver:
    """What came, and what is answered: the next of `answers`, or 204."""

    port: int = 0
    answer: Answer = field(default_factory=lambda: status(204))
    received: list[Received] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    connections: int = 0
    under_way: int = 0
    most_under_way: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events?from=tollhouse"

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.received]

    @property
    def sequences(self) -> list[tuple[str, int]]:
        return [(str(one.event["subject"]), int(str(one.event["sequence"]))) for one in self.received]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(": ") for line in head[1:] if line)
            headers = {name.lower(): value for name, _, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            request = Received(head[0].split(" ")[1], headers, body)
            self.received.append(request)
            answer = self.answers.pop(0) if self.answers else self.answer
            await answer(request, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.under_way -= 1
            writer.close()


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of loopback."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
