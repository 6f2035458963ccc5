"""A proxy that makes one Postgres server answer as the coordinator of a Citus cluster would.

It words errors as Citus does, and can lose the worker. What reaches the worker then is carried out all the same, and
the caller is told that the worker is lost: the hardest case, since a statement outside of a transaction is committed.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from tests.support.postgres_protocol import Message, packed, read, read_startup

SHARD = "_102040"
_CONSTRAINT = re.compile(r'(constraint|relation) "(\w+)"')
_AT_COORDINATOR = re.compile(r"^\s*(BEGIN|ROLLBACK|SET|SHOW|SELECT pg_is_in_recovery)\b|pg_catalog|set_config")
_ESSENTIAL = "failure on connection marked as essential: 10.0.0.2:5432"


@dataclass
class Cluster:
    """The proxy's state, which a test may change while it runs."""

    by_copy: bool
    """Whether an error of a worker loses its SQLSTATE, as where Citus sends an INSERT as COPY."""
    lost: bool = False
    """Whether the worker is lost."""
    reworded: int = 0
    """How many violated constraints were worded as Citus does."""
    broken_off: int = 0
    """How many statements were answered with the loss of the worker."""

    def result(self, statement: str, result: list[Message], ready: Message) -> list[Message]:
        """What the coordinator says instead of a result, where the worker is lost."""
        if not (self.lost and result) or _AT_COORDINATOR.search(statement):
            return [*result, ready]
        self.broken_off += 1
        kind, status = ready
        return [(b"E", _error_body("XX000", _ESSENTIAL)), (kind, b"E" if status == b"T" else status)]

    def error(self, body: bytes) -> Message:
        """What the coordinator says for an error of the worker."""
        fields = {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}
        sqlstate = fields[b"C"]
        if not sqlstate.startswith("23"):
            return b"E", body
        self.reworded += 1
        message = _CONSTRAINT.sub(rf'\1 "\2{SHARD}"', fields[b"M"])
        return b"E", _error_body("XX000" if self.by_copy else sqlstate, message)


@asynccontextmanager
async def clustered(url: str, *, by_copy: bool = False) -> AsyncIterator[tuple[str, Cluster]]:
    """Put the proxy before a server that is reached by a socket; yield the URL through it, and the proxy's state."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    socket = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
    cluster = Cluster(by_copy)
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve(reader, writer, socket, cluster))
        serving.add(task)
        await asyncio.wait((task,))
        serving.discard(task)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}{parts.path}?sslmode=disable", cluster
    finally:
        listener.close()
        # What a client has just left is still being closed, and on a busy machine not yet when the test has ended.
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: str, cluster: Cluster) -> None:
    """Serve a client until it or the server leaves, or the proxy is closed."""
    ends, pumps = [writer], list[asyncio.Task[None]]()
    try:
        upstream, server = await asyncio.open_unix_connection(socket)
        ends.append(server)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            server.write(await read_startup(reader, writer))
            asked: deque[str] = deque()
            pumps.append(asyncio.create_task(_ask(reader, server, asked)))
            pumps.append(asyncio.create_task(_answer(upstream, writer, asked, cluster)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in ends:
            end.close()
        for end in ends:
            with suppress(ConnectionError):
                await end.wait_closed()


async def _ask(client: asyncio.StreamReader, server: asyncio.StreamWriter, asked: deque[str]) -> None:
    """Pass messages on, and note the statement that each of the server's answers will be to."""
    prepared: dict[bytes, str] = {}
    statement = ""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            kind, body = await read(client)
            if kind == b"P":
                name, text, _ = body.split(b"\0", 2)
                prepared[name] = text.decode()
            elif kind == b"B":
                statement = prepared[body.split(b"\0", 2)[1]]
            elif kind == b"Q":
                asked.append(body.rstrip(b"\0").decode())
            elif kind == b"S":
                asked.append(statement or "SET")  # a statement that is only prepared stays at the coordinator
                statement = ""
            server.write(packed(kind, body))
            await server.drain()


async def _answer(
    server: asyncio.StreamReader, client: asyncio.StreamWriter, asked: deque[str], cluster: Cluster
) -> None:
    """Pass answers on, and a statement's result only when it is complete."""
    result: list[Message] = []
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            kind, body = await read(server)
            if kind in (b"D", b"C"):
                result.append((kind, body))
                continue
            messages = [cluster.error(body) if kind == b"E" else (kind, body)]
            if kind == b"Z":
                messages = cluster.result(asked.popleft() if asked else "SET", result, (kind, body))
                result = []
            client.writelines(packed(*message) for message in messages)
            await client.drain()


def _error_body(sqlstate: str, message: str) -> bytes:
    return f"SERROR\0VERROR\0C{sqlstate}\0M{message}\0\0".encode()
