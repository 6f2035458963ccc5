"""Starts `tollhouse up` in a data folder, and runs `tollhouse` commands against it."""

import asyncio
import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import IO

import psutil

from libs.cli.installation.data_folder import DataFolder
from libs.cli.installation.environment import repository
from libs.cli.terminal.connection import Channels, Connection, Location, find_connection
from libs.cli.traces.bill import Bill, read_bill
from libs.cli.traces.population import Population, make_population
from libs.cli.traces.trace import Trace
from libs.common.authentication import SigningKey
from libs.common.ids import new_id
from tests.support.secrecy import WATCH
from tests.system.forked_commands import run_command
from tollhouse.identity.v1 import organization_pb2, organization_pb2_grpc, user_pb2, user_pb2_grpc

READY_WITHIN_S = 60
ENDED_WITHIN_S = 40
COMMAND_WITHIN_S = 200


@dataclass
class Installation:
    """One data folder, and the `tollhouse up` process that runs on it, if any."""

    folder: Path
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    prepared: bool = False
    """Whether it begins with a copy of a data folder that `tollhouse migrate` has made, and not with an empty one: for
    tests of what follows. To make a cluster and migrate it takes longer than all else of a start."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def ready_file(self) -> Path:
        return self.folder / "ready.json"

    @property
    def data(self) -> DataFolder:
        return DataFolder(self.data_dir)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.ready_file.unlink(missing_ok=True)
        if self.prepared and not self.data_dir.exists():
            shutil.copytree(_prepared_folder(), self.data_dir)
        with self._output() as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "libs.cli", "up"),
                    *("--data-dir", str(self.data_dir), "--ready-file", str(self.ready_file), *self.options),
                ],
                cwd=repository(),
                env=dict(os.environ) | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        give_up = time.monotonic() + READY_WITHIN_S
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < give_up, self.output()
            time.sleep(0.05)

    def stop(self) -> int:
        """Ask it to stop, wait, and return its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(ENDED_WITHIN_S)
        self.process = None
        return status

    def kill(self) -> None:
        """Kill it with SIGKILL; the processes that it started have to detect this themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(ENDED_WITHIN_S)
        self.process = None

    def ready(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.ready_file.read_bytes())
        return document

    def pids(self) -> dict[str, int]:
        pids = self.ready()["pids"]
        assert isinstance(pids, dict)
        return pids

    def endpoints(self) -> dict[str, str]:
        endpoints = self.ready()["endpoints"]
        assert isinstance(endpoints, dict)
        return endpoints

    def connection(self) -> Connection:
        return find_connection(Location(ready_file=self.ready_file))

    def log(self, context: str) -> str:
        """Everything the processes of a service have written."""
        return "".join(path.read_text() for path in sorted(self.data.logs.glob(f"{context}*.log*")))

    def secrets(self) -> list[str]:
        """The secrets in the data folder, which may appear in no other place."""
        peppers: dict[str, str] = json.loads(self.data.pepper_file.read_bytes())
        keys = [SigningKey.read(path).key for path in (self.data.path / "keys").glob("*.json")]
        return [*peppers.values(), *self.data.passwords().values(), *(str(key["d"]) for key in keys)]

    @property
    def up_log(self) -> Path:
        return self.folder / "up.log"

    def output(self) -> str:
        return self.up_log.read_text()

    def _output(self) -> IO[bytes]:
        return self.up_log.open("ab")

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `tollhouse ARGUMENT…` against this installation."""
        return subprocess.Popen(
            [sys.executable, "-m", "libs.cli", *arguments],
            cwd=repository(),
            env=self._command_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _command_environment(self) -> dict[str, str]:
        return dict(os.environ) | {"TOLLHOUSE_READY_FILE": str(self.ready_file)}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `tollhouse ARGUMENT…` against this installation to its end."""
        done = run_command(arguments, self._command_environment(), COMMAND_WITHIN_S)
        # Standard output may contain a secret, because new keys are printed there. Standard error never may.
        WATCH.scan(f"the errors of `tollhouse {' '.join(arguments[:2])}`", done.stderr)
        return done

    def verify(self) -> dict[str, object]:
        """Return the report of `tollhouse verify`, whose exit status must agree with it."""
        done = self.command("verify", "--json")
        assert done.stdout, done.stderr
        verdict: dict[str, object] = json.loads(done.stdout)
        assert (done.returncode == 0) == (verdict["violations"] == 0), done.stderr
        return verdict

    async def bill(self, trace: Trace, prefix: str) -> Bill:
        """Return the usage metered and charged in the hours of the replay, whether or not the replay has finished."""
        async with self.connection().open() as channels:
            population = await make_population(channels)
            return await bill_of(channels, population, trace, prefix)


@cache
def _prepared_folder() -> Path:
    """Make a data folder that other installations begin with. It is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tollhouse-prepared-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    done = run_command(["migrate", "--data-dir", str(folder / "data")], os.environ, COMMAND_WITHIN_S)
    assert done.returncode == 0, done.stderr
    return folder / "data"


async def create_organization(channels: Channels) -> str:
    """Create an organization with an owner of its own; return its id."""
    return (await create_organization_and_owner(channels))[0]


async def create_organization_and_owner(channels: Channels) -> tuple[str, str]:
    """Create an organization with an owner of its own; return the ids of both."""
    users = user_pb2_grpc.UserServiceStub(channels.identity)
    organizations = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    owner = (await users.CreateUser(user_pb2.CreateUserRequest(email=f"{new_id()}@example.com"))).user
    request = organization_pb2.CreateOrganizationRequest(name="Acme", owner_user_id=owner.user_id)
    return (await organizations.CreateOrganization(request)).organization.organization_id, owner.user_id


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command if it still runs, and close its output files."""
    with process:
        process.kill()


async def bill_of(channels: Channels, population: Population, trace: Trace, prefix: str) -> Bill:
    """Return the bill of a replay that ended within about the last hour."""
    now = datetime.now(UTC)
    start = now - (trace.end - trace.start) - timedelta(hours=2)
    return await read_bill(channels, population.organizations, start=start, end=now, prefix=prefix)


@asynccontextmanager
async def running(installation: Installation) -> AsyncIterator[Installation]:
    """Run the installation for as long as the context lasts, and leave no process behind, even after an error.

    At the end, everything it wrote to its database and its logs is searched for secrets.
    """
    installation.start()
    try:
        yield installation
        await look_through_database(installation)
    finally:
        await asyncio.to_thread(installation.stop)
        look_through_logs(installation)


async def look_through_database(installation: Installation) -> None:
    """Search every table for secrets, unless the test has already stopped the installation."""
    if installation.process is None:
        return
    WATCH.note(*installation.secrets())
    await WATCH.scan_database(str(installation.ready()["database_url"]))


def look_through_logs(installation: Installation) -> None:
    """Search the logs of the services, Postgres and `tollhouse up` for secrets."""
    WATCH.note(*installation.secrets())
    logs = [*installation.data.logs.glob("*.log*"), *installation.data.postgres.rglob("*.log*"), installation.up_log]
    for path in logs:
        WATCH.scan(f"the log {path.name}", path.read_text(errors="replace"))


def is_running(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def until(condition: Callable[[], Awaitable[bool]], within_s: float, what: str) -> None:
    """Poll until the condition holds; fail after `within_s` seconds."""
    give_up = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < give_up, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.05)
