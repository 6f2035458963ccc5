"""A transaction-pooling proxy that speaks Postgres's protocol as PgBouncer 1.18 does in transaction mode.

It refuses startup parameters that it does not know, and gives each transaction the server connection that has been idle
longest, so that two transactions of one client seldom meet on the same one.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.support.postgres_protocol import PROTOCOL_3, Message, error, packed, read, startup

KNOWN_PARAMETERS = {"user", "database", "application_name", "client_encoding", "datestyle", "timezone"}
_END: Message = (b"X", b"")


class _Peer:
    """One end of a connection. Its messages are read into a queue, so that waiting for one can be cancelled."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._reader = reader
        self._reading = asyncio.create_task(self._read_all())

    async def _read_all(self) -> None:
        try:
            while True:
                self.inbox.put_nowait(await read(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.inbox.put_nowait(_END)

    def send(self, message: Message) -> None:
        self.writer.write(packed(*message))

    async def close(self) -> None:
        self._reading.cancel()
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class TransactionPooler:
    """The proxy: its port, and what it saw."""

    socket_path: str
    connections: int
    port: int = 0
    transactions: int = 0
    refused: list[str] = field(default_factory=list)
    _idle: "asyncio.Queue[_Peer]" = field(default_factory=asyncio.Queue)
    _opened: int = 0
    _serving: "set[asyncio.Task[None]]" = field(default_factory=set)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client until it leaves, or until the pooler is closed."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        await asyncio.wait((task,))
        self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parameters = await startup(reader, writer)
        client = _Peer(reader, writer)
        try:
            unknown = sorted(set(map(str.lower, parameters)) - KNOWN_PARAMETERS)
            if unknown:
                self.refused.append(unknown[0])
                writer.write(error(f"unsupported startup parameter: {unknown[0]}"))
                return
            client.send((b"R", struct.pack("!i", 0)))
            for name, value in (("server_version", "15.0"), ("client_encoding", "UTF8"), ("integer_datetimes", "on")):
                client.send((b"S", f"{name}\0{value}\0".encode()))
            client.send((b"K", struct.pack("!ii", 1, 1)))
            client.send((b"Z", b"I"))
            while (first := await client.inbox.get()) != _END:
                await self._one_transaction(client, first, parameters)
        finally:
            await client.close()

    async def close(self) -> None:
        """Close all connections. A client that was stopped in the middle of a transaction may be served still."""
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        while not self._idle.empty():
            await self._idle.get_nowait().close()

    async def _one_transaction(self, client: _Peer, first: Message, parameters: dict[str, str]) -> None:
        """Lend the client a server connection until the server says that it is in no transaction."""
        server = await self._take(parameters)
        self.transactions += 1
        usable = False
        try:
            usable = await _carry(client, server, first)
        finally:
            if usable:
                self._idle.put_nowait(server)
            else:
                await server.close()
                self._opened -= 1

    async def _take(self, parameters: dict[str, str]) -> _Peer:
        if self._opened < self.connections:
            self._opened += 1
            return await self._open(parameters)
        return await self._idle.get()

    async def _open(self, parameters: dict[str, str]) -> _Peer:
        reader, writer = await asyncio.open_unix_connection(self.socket_path)
        wanted = "".join(f"{name}\0{parameters[name]}\0" for name in ("user", "database"))
        body = struct.pack("!i", PROTOCOL_3) + wanted.encode() + b"\0"
        writer.write(struct.pack("!i", len(body) + 4) + body)
        server = _Peer(reader, writer)
        while (answer := await server.inbox.get())[0] != b"Z":
            assert answer[0] != b"E", answer
        return server


async def _carry(client: _Peer, server: _Peer, first: Message) -> bool:
    """Relay messages in both directions for one transaction; return whether both ends are usable after it."""
    waiting, status, message = 0, b"T", first
    while True:
        server.send(message)
        waiting += message[0] in (b"Q", b"S")
        asking = asyncio.create_task(client.inbox.get())
        answering = asyncio.create_task(server.inbox.get())
        while not asking.done():
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                continue
            answer = answering.result()
            if answer == _END:
                asking.cancel()
                return False
            client.send(answer)
            if answer[0] == b"Z":
                waiting, status = waiting - 1, answer[1]
            if waiting == 0 and status == b"I" and not asking.done():
                asking.cancel()
                return True
            answering = asyncio.create_task(server.inbox.get())
        answering.cancel()
        message = asking.result()
        if message == _END:
            return False


@asynccontextmanager
async def pooled(url: str, connections: int = 2) -> AsyncIterator[tuple[str, TransactionPooler]]:
    """Put a pooler before a server that is reached by a socket; yield the URL through it, and the pooler."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    pooler = TransactionPooler(f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}", connections)
    server = await asyncio.start_server(pooler.accept, "127.0.0.1", 0)
    pooler.port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")[0]
    yield f"postgresql://{login}@127.0.0.1:{pooler.port}{parts.path}?sslmode=disable", pooler
    server.close()
    await pooler.close()
