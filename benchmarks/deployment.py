"""The processes of a run: Postgres, the services, the echo server and the client, each separate as in production."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from socket import socket
from types import TracebackType

import asyncpg
import psutil

from benchmarks.load import LoadError, Round, Timing, run_round
from libs.common import postgres
from libs.common.authentication import SigningKey, TrustBundle, mint_token
from libs.common.clock import SystemClock
from libs.common.databases import ensure_database
from libs.common.migrate import CONTEXTS, migrate
from libs.common.ports import free_port
from libs.common.roles import role_of

_ROOT = Path(__file__).resolve().parent.parent
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 15.0
_DATABASE = "tollhouse"


class Deployment(AbstractContextManager["Deployment"]):
    """Starts the processes of a run in a temporary folder; stops them and deletes the folder at the end."""

    def __init__(
        self,
        shards: int = 1,
        server_settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`server_settings` are Postgres's, `environment` is what the services get beside what they need."""
        self.shards = shards
        self._server_settings = server_settings or {}
        self._environment = environment or {}
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="tollhouse-benchmarks-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._targets: dict[str, str] = {}
        self._processes: dict[str, psutil.Process] = {}

    def __enter__(self) -> "Deployment":
        with self._stack:
            data_dir = self.folder / "postgres"
            self._stack.callback(postgres.server.remove, data_dir)
            # The pgbench peers use many connections beside those of the services.
            self.postgres = postgres.start(data_dir, settings={"max_connections": "150", **self._server_settings})
            self.binaries = postgres.find_binaries()
            self._write_credentials()
            asyncio.run(self._prepare_database())
            self._client = self._stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            self._other_client = self._stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            self._processes["client"] = psutil.Process(self._client.submit(os.getpid).result(_START_LIMIT_S))
            self._processes["postgres"] = psutil.Process(self.postgres.pid)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, round_: Round) -> Timing:
        """Runs a round in the client process."""
        return self._client.submit(run_round, round_).result()

    def run_beside(self, round_: Round) -> Future[Timing]:
        """Starts a round in a second client process, beside another round."""
        return self._other_client.submit(run_round, round_)

    def service(self, context: str) -> str:
        """Returns the address of a service; starts it and the services it calls if it is not running."""
        if context not in self._targets:
            peers = {"METERING_IDENTITY_TARGET": "identity", "METERING_BILLING_TARGET": "billing"}
            named = peers.items() if context == "metering" else ()
            self._targets[context] = self._start_service(context, {name: self.service(peer) for name, peer in named})
        return self._targets[context]

    def echo(self, methods: tuple[tuple[str, str], ...]) -> str:
        """Returns the address of an echo server for the methods; starts it if it is not running."""
        name = f"echo {methods[0][1]}"
        if name not in self._targets:
            port_file = self.folder / f"echo-{len(self._targets)}"
            arguments = [part for method in methods for part in method]
            process = self._launch(name, ["benchmarks.echo", str(port_file), *arguments], {})
            self._wait(process, name, port_file.exists)
            self._targets[name] = f"127.0.0.1:{port_file.read_text()}"
        return self._targets[name]

    def peer_database(self, name: str) -> str:
        """Creates a separate database for a peer on the same server; returns its URL."""
        return asyncio.run(ensure_database(self.postgres.admin_url, name))

    @property
    def database_url(self) -> str:
        """The services' database, logged in as its owner."""
        return self.postgres.url(_DATABASE, "postgres")

    @property
    def peppers_file(self) -> Path:
        return self.folder / "peppers.json"

    def resident_bytes(self, name: str) -> int:
        """Returns how much memory a process has in use now."""
        return int(self._processes[name].memory_info().rss)

    def cpu_seconds(self) -> dict[str, float]:
        """Returns the CPU time each process has used so far; the sessions of Postgres are added up."""
        return {name: _cpu_s(process) for name, process in self._processes.items()}

    def server_settings(self) -> dict[str, str]:
        """Returns the durability settings as the server reports them."""
        return asyncio.run(_shown(self.database_url, ("fsync", "synchronous_commit", "full_page_writes")))

    def _write_credentials(self) -> None:
        operator = SigningKey.generate(issuer="benchmarks", subject="operator:benchmarks")
        metering = SigningKey.generate(issuer="metering", subject="service:metering")
        metering.write(self.folder / "metering_key.json")
        sessions = SigningKey.generate(issuer="sessions", subject="user:*")
        sessions.write(self.folder / "session_key.json")
        bundle = TrustBundle(issuers=[operator.trusted(), metering.trusted(), sessions.trusted()])
        (self.folder / "trust.json").write_text(bundle.model_dump_json())
        self.peppers_file.write_text(json.dumps({"1": secrets.token_hex(32)}))
        audiences = [f"{context}.tollhouse" for context in CONTEXTS]
        self.token = mint_token(operator, audiences=audiences, lifetime=timedelta(hours=1), clock=SystemClock())

    async def _prepare_database(self) -> None:
        await ensure_database(self.postgres.admin_url, _DATABASE)
        await migrate(CONTEXTS, self.database_url, shards=self.shards)

    def _start_service(self, context: str, peers: Mapping[str, str]) -> str:
        port = free_port()
        settings = {
            "DATABASE_URL": self.postgres.url(_DATABASE, role_of(context)),
            "PORT": str(port),
            "TRUST_BUNDLE_FILE": str(self.folder / "trust.json"),
            "LOG_LEVEL": "WARNING",
        }
        if context == "identity":
            settings["PEPPERS"] = str(self.peppers_file)
            settings["SESSION_KEY_FILE"] = str(self.folder / "session_key.json")
            # One client signs in as all users, so the limits against guessing are raised.
            settings["SIGN_IN_ATTEMPTS_PER_ADDRESS_MAX"] = "100000"
            settings["SIGN_IN_ATTEMPTS_PER_ACCOUNT_MAX"] = "1000"
        if context == "metering":
            settings["SIGNING_KEY_FILE"] = str(self.folder / "metering_key.json")
        environment = {f"{context.upper()}_{name}": value for name, value in settings.items()} | dict(peers)
        process = self._launch(
            context,
            [f"services.{context}"],
            {f"TOLLHOUSE_{name}": value for name, value in environment.items()}
            | {"TOLLHOUSE_SHARDS": str(self.shards)},
        )
        self._wait(process, context, lambda: _listens(port))
        return f"127.0.0.1:{port}"

    def _launch(self, name: str, module: list[str], settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.folder / f"{name.rpartition('/')[2]}.log").open("wb"))
        environment = {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'protos'}"}
        environment = {**environment, **self._environment, **settings}
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=_ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        self._stack.callback(_stop, process)
        self._processes[name] = psutil.Process(process.pid)
        return process

    def _wait(self, process: subprocess.Popen[bytes], name: str, ready: Callable[[], bool]) -> None:
        give_up = time.monotonic() + _START_LIMIT_S
        while not ready():
            if process.poll() is not None or time.monotonic() > give_up:
                log = (self.folder / f"{name.rpartition('/')[2]}.log").read_text(errors="replace")
                raise LoadError(f"{name} did not start:\n{log[-3000:]}")
            time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cpu_s(process: psutil.Process) -> float:
    # The parent holds the CPU time of sessions that have ended.
    own = process.cpu_times()
    total = own.children_user + own.children_system
    for member in (process, *process.children(recursive=True)):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue  # a session that has ended meanwhile
        total += times.user + times.system
    return total


def _listens(port: int) -> bool:
    with socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _shown(url: str, names: tuple[str, ...]) -> dict[str, str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", list(names))
        return {row["name"]: row["setting"] for row in rows}
    finally:
        await connection.close()
