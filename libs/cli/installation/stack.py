"""A running installation: Postgres, migrations and the three services, supervised until it is stopped."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from libs.cli.failures import CommandFailed
from libs.cli.installation.data_folder import CONTEXTS, READY_FILE, DataFolder, write_private
from libs.cli.installation.environment import service_environment
from libs.cli.installation.gateway import GatewayOptions, GatewayProcess, with_trusted_gateway
from libs.cli.installation.health import wait_until_serving
from libs.cli.installation.processes import ChildProcess, end_leftover, service_program, tail
from libs.cli.installation.tls import OPERATOR, TlsFolder
from libs.common import postgres, roles
from libs.common.channel import ClientTls
from libs.common.clock import SystemClock
from libs.common.database_url import with_role
from libs.common.databases import ensure_database
from libs.common.ports import free_port, is_free

if TYPE_CHECKING:
    from libs.common.migrate import MigrationStatus, Progress

DATABASE: Final = "tollhouse"
OPERATOR_TOKEN_LIFETIME: Final = timedelta(hours=12)
_RENEW_TOKEN_EVERY_S: Final = 3600.0
_POSTGRES_LOOKED_AT_EVERY_S: Final = 0.2
_POSTGRES_AGAIN_AFTER_S: Final = 1.0
_SERVING_WITHIN_S: Final = 60.0
_HOPELESS_RESTARTS: Final = 4
_CONNECTIONS_OF_A_WORKER: Final = 98
"""How many connections one process of each service opens together, with the largest pools that shards bring."""
_OTHER_CONNECTIONS: Final = 20
"""Connections of commands and of people beside the services."""


async def bring_schemas_up_to_date(
    contexts: Sequence[str],
    database_url: str,
    passwords: Mapping[str, str],
    *,
    shards: int | None = None,
    on_progress: "Callable[[Progress], None]" = lambda _: None,
) -> None:
    """Apply the migrations that are missing; raises CommandFailed with one line when that cannot be done.

    `shards` is the number of shards that the database has or gets. None stands for what it has, and 1 where it is new.
    """
    # Alembic takes longer to import than most commands take to run.
    from sqlalchemy.exc import SQLAlchemyError

    from libs.common.migrate import MigrationLocked, ShardCountFixed, migrate

    try:
        await migrate(contexts, database_url, shards=shards, passwords=passwords, on_progress=on_progress)
    except (MigrationLocked, ShardCountFixed) as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise CommandFailed(f"The database cannot be reached: {error}.") from None
    except (SQLAlchemyError, asyncpg.PostgresError) as error:
        raise CommandFailed(f"The migration failed: {str(error).splitlines()[0]}") from None


@asynccontextmanager
async def embedded_server(folder: DataFolder, *, needed: bool) -> AsyncIterator[str]:
    """Yield the URL of the embedded Postgres. It is started if it is not running, and then stopped again."""
    server = await asyncio.to_thread(postgres.start, folder.postgres) if needed else None
    try:
        yield server.admin_url if server else ""
    finally:
        if server is not None and server.started:
            await asyncio.to_thread(server.stop)


async def read_shard_count(database_url: str) -> int | None:
    """Return how many shards a database has; None where that is not decided yet, or the database does not exist."""
    from sqlalchemy.exc import SQLAlchemyError

    from libs.common.migrate import ShardCountFixed, shard_count

    try:
        return await shard_count(database_url)
    except asyncpg.InvalidCatalogNameError:
        return None
    except ShardCountFixed as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise CommandFailed(f"The database cannot be reached: {error}.") from None
    except (SQLAlchemyError, asyncpg.PostgresError) as error:
        raise CommandFailed(f"The number of shards cannot be read: {str(error).splitlines()[0]}") from None


async def read_migration_status(contexts: Sequence[str], database_url: str | None) -> "dict[str, MigrationStatus]":
    """Return which migrations are applied to a database; none where the database does not exist yet."""
    from sqlalchemy.exc import SQLAlchemyError

    from libs.common.migrate import migration_status

    try:
        return await migration_status(contexts, database_url)
    except asyncpg.InvalidCatalogNameError:
        return await migration_status(contexts, None)
    except OSError as error:
        raise CommandFailed(f"The database cannot be reached: {error}.") from None
    except (SQLAlchemyError, asyncpg.PostgresError) as error:
        raise CommandFailed(f"The migrations cannot be read: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True, slots=True)
class StackOptions:
    """The options of an installation."""

    data_dir: Path
    database_url: str | None = None
    ready_file: Path | None = None
    workers: int = 1
    host: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=dict)
    tls: TlsFolder | None = None
    shards: int | None = None
    """How many shards the database must have, or gets. None takes what it has."""
    shards_of_new: int = 1
    """How many shards a new database gets, where `shards` says nothing."""
    gateway: GatewayOptions | None = None
    """The REST gateway; None for none."""


class Stack:
    """Starts everything in order, keeps it running, and stops it in reverse order."""

    def __init__(self, options: StackOptions, on_progress: "Callable[[Progress], None]" = lambda _: None) -> None:
        self._on_progress = on_progress
        self.folder = DataFolder(options.data_dir)
        self._options = options
        self._ports = {name: options.ports.get(name) or free_port(options.host) for name in CONTEXTS}
        self._ready_files = {self.folder.path / READY_FILE, *([options.ready_file] if options.ready_file else [])}
        self._postgres: postgres.PostgresServer | None = None
        self._database_url = options.database_url or ""
        self._shards = 1
        self._children: dict[str, list[ChildProcess]] = {name: [] for name in CONTEXTS}
        self._gateway = self._new_gateway()
        self._tasks: list[asyncio.Task[None]] = []
        self._token, self._token_renew_s = "", 0.0
        self._ready = False

    @property
    def endpoints(self) -> dict[str, str]:
        return {name: f"{self._options.host}:{port}" for name, port in self._ports.items()}

    @property
    def gateway_url(self) -> str | None:
        """Where the contract is served over REST; None where it is not."""
        return self._gateway.url if self._gateway else None

    @property
    def tls(self) -> TlsFolder | None:
        return self._options.tls

    @property
    def database_url(self) -> str:
        return self._database_url

    @property
    def shards(self) -> int:
        """How many shards the running installation has."""
        return self._shards

    @property
    def operator_token(self) -> str:
        return self._token

    def service_pids(self) -> dict[str, list[int]]:
        """Return the process ids of each service."""
        return {name: [child.pid for child in children if child.pid] for name, children in self._children.items()}

    async def start(self) -> None:
        """Start everything; return when every service is serving."""
        self.folder.prepare()
        for file in self._ready_files:
            file.unlink(missing_ok=True)
        await asyncio.to_thread(self._end_leftovers)
        for context, port in self._ports.items():
            if not is_free(self._options.host, port):
                raise CommandFailed(f"The port {port} on {self._options.host} for {context} is in use.")
        if self._gateway is not None:
            self._gateway.check_port()
        await self._open_database()
        self._shards = self._options.shards or await read_shard_count(self._database_url) or self._options.shards_of_new
        await bring_schemas_up_to_date(
            CONTEXTS, self._database_url, self.folder.passwords(), shards=self._shards, on_progress=self._on_progress
        )
        for context in CONTEXTS:
            await self._start_service(context)
        await asyncio.gather(*(self._wait_for(context) for context in CONTEXTS))
        if self._gateway is not None:
            await self._gateway.start(self.endpoints, self._operator_files())
        self._ready = True
        self._write_ready_files()
        self._tasks.append(asyncio.create_task(self._renew_token(), name="operator token"))

    async def stop(self) -> None:
        """Let the services drain, then stop Postgres."""
        self._ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Metering first, because it calls the other two while it drains.
        for context in reversed(CONTEXTS):
            await asyncio.gather(*(child.stop() for child in self._children[context]))
        if self._gateway is not None:
            # Last, so that calls under way over REST get their answers.
            await self._gateway.stop()
        for file in self._ready_files:
            file.unlink(missing_ok=True)
        self.folder.pids_file.unlink(missing_ok=True)
        server = None if self._options.database_url else postgres.find(self.folder.postgres)
        if server is not None:
            await asyncio.to_thread(server.stop)

    async def _open_database(self) -> None:
        if self._options.database_url is None:
            self._postgres = await self._start_postgres()
            self._database_url = await ensure_database(self._postgres.admin_url, DATABASE)
            self._tasks.append(asyncio.create_task(self._keep_postgres_running(), name="postgres"))

    async def _start_postgres(self) -> postgres.PostgresServer:
        connections = _OTHER_CONNECTIONS + self._options.workers * _CONNECTIONS_OF_A_WORKER
        settings = {"max_connections": str(connections)}
        return await asyncio.to_thread(postgres.start, self.folder.postgres, settings=settings)

    async def _start_service(self, context: str) -> None:
        environment = service_environment(
            context,
            folder=self.folder,
            database_url=self._service_database_url(context),
            host=self._options.host,
            ports=self._ports,
            reuse_port=self._options.workers > 1,
            shards=self._shards,
            tls=self._options.tls,
        )
        if self._gateway is not None:
            environment = with_trusted_gateway(context, environment, self._gateway.url)
        for number in range(self._options.workers):
            name = context if self._options.workers == 1 else f"{context}-{number + 1}"
            log_file = self.folder.logs / f"{name}.log"
            child = ChildProcess(name, service_program(context), environment, log_file, self._on_change)
            self._children[context].append(child)
            await child.start()

    def _service_database_url(self, context: str) -> str:
        # The embedded server's socket needs no password: the mode of its folder protects it.
        password = self.folder.passwords()[context] if self._options.database_url else None
        return with_role(self._database_url, roles.role_of(context), password)

    async def _wait_for(self, context: str) -> None:
        give_up = time.monotonic() + _SERVING_WITHIN_S
        tls = self._operator_files()
        while not await wait_until_serving(self.endpoints[context], 0.5, tls):
            hopeless = any(child.restarts >= _HOPELESS_RESTARTS for child in self._children[context])
            if hopeless or time.monotonic() >= give_up:
                log = self.folder.logs / f"{self._children[context][0].name}.log"
                raise CommandFailed(f"{context} does not start. Its log {log} ends with: {tail(log)}")

    def _operator_files(self) -> ClientTls | None:
        return self._options.tls.files_of(OPERATOR) if self._options.tls else None

    def _new_gateway(self) -> GatewayProcess | None:
        options = self._options.gateway
        if options is None:
            return None
        return GatewayProcess(options, self.folder.path / "gateway", self.folder.logs / "gateway.log", self._on_change)

    async def _keep_postgres_running(self) -> None:
        while True:
            await asyncio.sleep(_POSTGRES_LOOKED_AT_EVERY_S)
            if self._postgres is None or self._postgres.is_running():
                continue
            try:
                self._postgres = await self._start_postgres()
            except postgres.PostgresError:
                await asyncio.sleep(_POSTGRES_AGAIN_AFTER_S)
            self._on_change()

    async def _renew_token(self) -> None:
        """Renew the token in the ready file, so that a copy of it is valid for most of its lifetime."""
        while True:
            await asyncio.sleep(_RENEW_TOKEN_EVERY_S)
            self._write_ready_files()

    def _on_change(self) -> None:
        """Write the running processes to the ready file, and to the file that the next start reads after a crash."""
        write_private(self.folder.pids_file, json.dumps(self.service_pids()))
        if self._ready:
            self._write_ready_files()

    def _write_ready_files(self) -> None:
        if time.monotonic() >= self._token_renew_s:
            self._token = self.folder.operator_token(OPERATOR_TOKEN_LIFETIME, SystemClock())
            self._token_renew_s = time.monotonic() + _RENEW_TOKEN_EVERY_S / 2
        services = self.service_pids()
        pids = {name: running[0] for name, running in services.items() if running}
        if self._gateway is not None and self._gateway.pid:
            pids["gateway"] = self._gateway.pid
        document = {
            "endpoints": self.endpoints,
            "operator_token": self._token,
            "database_url": self._database_url,
            "pids": ({"postgres": self._postgres.pid} if self._postgres else {}) | pids,
            "workers": services,
            "data_dir": str(self.folder.path),
            "shards": self._shards,
        }
        document |= {"tls_dir": str(self._options.tls.path)} if self._options.tls else {}
        document |= {"gateway": self._gateway.url} if self._gateway else {}
        for file in self._ready_files:
            write_private(file, json.dumps(document, indent=2))

    def _end_leftovers(self) -> None:
        """End services that an earlier `up` left running because it was killed."""
        try:
            left: dict[str, list[int]] = json.loads(self.folder.pids_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return
        for context, pids in left.items():
            for pid in pids:
                end_leftover(pid, context)
