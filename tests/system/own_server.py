"""Runs `tollhouse` commands against databases of a Postgres server that a module of tests has for itself.

The services' login roles belong to a whole server, and migrating gives them new passwords.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from libs.cli.installation.environment import repository
from libs.common.database_url import plain_url
from libs.common.databases import create_database, drop_database
from libs.common.postgres import PostgresServer
from tests.support.database import new_database_name
from tests.system.forked_commands import run_command

_WITHIN_S = 120
_DATABASE_VARIABLES = ("DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "TOLLHOUSE_SHARDS")


@dataclass(frozen=True)
class Target:
    """A database, and a folder with the data folder of its installation."""

    url: str
    folder: Path

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `tollhouse ARGUMENT…` in the folder, without settings from outside except those given."""
        return subprocess.Popen(
            [sys.executable, "-m", "libs.cli", *self._arguments(arguments)],
            cwd=self.folder,
            env=_environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tollhouse(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `tollhouse ARGUMENT…` to its end."""
        return run_command(self._arguments(arguments), _environment(variables), _WITHIN_S, self.folder)

    def done(self, *arguments: str, **variables: str) -> str:
        """Return the output of a command that must succeed."""
        finished = self.tollhouse(*arguments, **variables)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def _arguments(self, arguments: Sequence[str]) -> list[str]:
        options = ("--data-dir", str(self.folder / "data"), "--database-url", self.url)
        return [arguments[0], *options, *arguments[1:]]

    def refused(self, status: int, *arguments: str, **variables: str) -> str:
        """Return the single line that a failing command prints."""
        finished = self.tollhouse(*arguments, **variables)
        assert finished.returncode == status, finished.stdout + finished.stderr
        assert finished.stdout == ""
        assert finished.stderr.startswith("tollhouse: ")
        assert finished.stderr.count("\n") == 1, finished.stderr
        return finished.stderr

    async def fetch(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(plain_url(self.url))
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def schemas(self) -> list[object]:
        """The schemas that are neither Postgres's own nor public."""
        query = (
            "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$|^public$' ORDER BY 1"
        )
        return [name for (name,) in await self.fetch(query)]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _DATABASE_VARIABLES}
    return environment | {"PYTHONPATH": f"{repository()}:{repository() / 'protos'}"} | dict(variables)


@asynccontextmanager
async def new_target(server: PostgresServer, folder: Path) -> AsyncIterator[Target]:
    """Make an empty database on the server, reached over TCP with a password, and drop it in the end."""
    name = new_database_name()
    await create_database(server.admin_url, name)
    try:
        yield Target(server.tcp_url(name, "postgres", server.admin_password), folder)
    finally:
        await drop_database(server.admin_url, name)
