"""The databases tests run on: a server of their own, one migrated template, a clone for each test."""

import asyncio
import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from libs.common import postgres
from libs.common.database_url import with_database, with_role
from libs.common.databases import execute
from libs.common.migrate import CONTEXTS, has_migrations, migrate
from libs.common.roles import role_of
from tests.support.sharded import SHARDS, prepare_shards

SERVER_VARIABLE = "TOLLHOUSE_TEST_DATABASE_URL"
"""Names a real server to test on, by a login that may make databases and roles. It must serve tests alone: the
services' login roles get new passwords. There is no default: without it the tests start a server of their own."""

_SETTINGS = {
    "shared_buffers": "64MB",
    # Some tests start four servers of a service, each with a pool for its shards and another for reports.
    "max_connections": "300",
    # Nothing of this server outlives the tests. Those that test durability start servers of their own.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


@dataclass(frozen=True, slots=True)
class TestPostgres:
    """The server all tests of this process share."""

    __test__ = False

    admin_url: str
    password: str | None
    """What the services' roles log in with; none on our own server, where the socket's folder guards it."""
    server: postgres.PostgresServer | None
    """The embedded server, unless a real one was named."""

    def admin_url_of(self, database: str) -> str:
        return with_database(self.admin_url, database)

    def url(self, database: str, context: str) -> str:
        """The URL by which a context's service logs in."""
        return with_role(with_database(self.admin_url, database), role_of(context), self.password)

    async def migrate(self, database: str) -> None:
        """Migrates every context that has migrations."""
        passwords = dict.fromkeys(CONTEXTS, self.password) if self.password else None
        await migrate(migrated_contexts(), self.admin_url_of(database), shards=SHARDS, passwords=passwords)
        await prepare_shards(self.admin_url_of(database))


@contextmanager
def open_server() -> Iterator[TestPostgres]:
    """The named server, or a fresh one in a folder of its own that is gone afterwards."""
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex(16)
        yield TestPostgres(admin_url=named, password=run, server=None)
        return
    folder = Path(tempfile.mkdtemp(prefix="tollhouse-test-"))
    try:
        server = postgres.start(folder / "postgres", settings=_SETTINGS)
        yield TestPostgres(admin_url=server.admin_url, password=None, server=server)
    finally:
        postgres.remove(folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)


def migrated_contexts() -> list[str]:
    """The contexts that have anything to migrate."""
    return [context for context in CONTEXTS if has_migrations(context)]


def new_database_name() -> str:
    """A name no other test, worker or run has."""
    return f"test_{uuid.uuid4().hex}"


class Clones:
    """Clones of one template. The next is made, and those given back are dropped, while tests run.

    A thread does it, because a test may hold up the event loop, as those do that wait for a command to end.
    """

    def __init__(self, server: TestPostgres, template: str) -> None:
        self._server = server
        self._template = template
        # Copying files needs a checkpoint, which takes long only on a server that waits for the disk.
        self._strategy = "file_copy" if server.server else "wal_log"
        self._thread = ThreadPoolExecutor(1, "clones")
        self._next = self._thread.submit(self._make)
        self._drops: list[Future[None]] = []

    async def take(self) -> str:
        """The name of a clone nobody else has."""
        taken, self._next = self._next, self._thread.submit(self._make)
        return await asyncio.wrap_future(taken)

    def give_back(self, name: str) -> None:
        """Drops a clone soon, with whoever is still connected to it."""
        self._drops.append(self._thread.submit(self._execute, f'DROP DATABASE "{name}" WITH (FORCE)'))

    def close(self) -> None:
        """Drops the clone that nobody took, and waits until all are dropped; raises what went wrong with them."""
        self.give_back(self._next.result())
        self._thread.shutdown()
        for drop in self._drops:
            drop.result()

    def _make(self) -> str:
        name = new_database_name()
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{self._template}" STRATEGY {self._strategy}')
        return name

    def _execute(self, statement: str) -> None:
        asyncio.run(execute(with_database(self._server.admin_url, "postgres"), [statement]))
