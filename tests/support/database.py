"""The databases tests run on: a server of their own, one migrated template, a clone for each test."""

import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from libs.common import postgres
from libs.common.database_url import with_database, with_role
from libs.common.migrate import CONTEXTS, has_migrations, migrate
from libs.common.roles import role_of
from tests.support.sharded import SHARDS, prepare_shards

SERVER_VARIABLE = "TOLLHOUSE_TEST_DATABASE_URL"
"""Names a real server to test on, by a login that may make databases and roles. It must serve tests alone: the
services' login roles get new passwords. There is no default: without it the tests start a server of their own."""


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
        server = postgres.start(folder / "postgres", settings={"shared_buffers": "64MB"})
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
