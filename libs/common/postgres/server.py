"""Starting, finding and stopping the embedded server."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from libs.common.ports import free_port
from libs.common.postgres.binaries import find_binaries
from libs.common.postgres.errors import PostgresError
from libs.common.postgres.folders import Folders, exclusive
from libs.common.postgres.postmaster import is_running, orphans, read_postmaster
from libs.common.postgres.privilege import Mode, Privilege, choose_privilege

ADMIN = "postgres"
_FIRST_BUILTIN_LOCALE = 17
_LOG_BYTES_MAX = 10_000_000
_LOG_LINES_SHOWN = 12

_SETTINGS = {
    "checkpoint_timeout": "5min",
    "fsync": "on",
    "full_page_writes": "on",
    "log_timezone": "UTC",
    "max_connections": "60",
    "max_wal_size": "512MB",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "unix_socket_permissions": "0700",
}

_children: dict[int, subprocess.Popen[bytes]] = {}
"""The servers this process launched: a dead child must be collected, or it looks alive for ever."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server. It goes on running when this process ends, until somebody calls `stop`."""

    data_dir: Path
    pid: int
    version: str
    source: str
    socket_dir: Path
    port: int
    """The number in the socket's name, and of the TCP port where there is one."""
    listens: bool
    started: bool
    """Whether this call launched the server, rather than found it running."""

    def url(self, database: str, role: str) -> str:
        """The URL of a database over the socket, where the folder's mode stands for a password."""
        port = f"&port={self.port}" if self.listens else ""
        return f"postgresql://{quote(role)}@/{quote(database, safe='')}?host={quote(str(self.socket_dir))}{port}"

    def tcp_url(self, database: str, role: str, password: str) -> str:
        """The URL over loopback, where every role needs its password."""
        if not self.listens:
            raise PostgresError("The server has no TCP port; start it with port=0 for a free one.")
        return f"postgresql://{quote(role)}:{quote(password, safe='')}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    @property
    def admin_url(self) -> str:
        return self.url("postgres", ADMIN)

    @property
    def admin_password(self) -> str:
        return Folders(self.data_dir).admin_password.read_text()

    @property
    def log(self) -> Path:
        return Folders(self.data_dir).log

    def stop(self, timeout_s: float = 30) -> None:
        """Ends sessions, writes everything out and stops. A server that hangs is killed; its log repairs the rest."""
        cluster = Folders(self.data_dir).cluster
        with exclusive(self.data_dir, timeout_s):
            for name, wait_s in (("SIGINT", timeout_s), ("SIGQUIT", 10.0)):
                _signal(self.pid, cluster, signal.Signals[name])
                if _wait_for_end(self.pid, cluster, wait_s):
                    return
        raise PostgresError(f"The Postgres process {self.pid} does not stop.")

    def kill(self) -> None:
        """Kills the main process at once, as a crash would; for tests of recovery."""
        cluster = Folders(self.data_dir).cluster
        _signal(self.pid, cluster, signal.SIGKILL)
        _wait_for_end(self.pid, cluster, 10)

    def is_running(self) -> bool:
        return _is_running(self.pid, Folders(self.data_dir).cluster)

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} from {self.source}, process {self.pid}"


def start(
    data_dir: str | Path,
    *,
    port: int | None = None,
    settings: Mapping[str, str] | None = None,
    source: str | None = None,
    mode: str | None = None,
    timeout_s: float = 60,
) -> PostgresServer:
    """The server of a data folder: found if it runs, launched if not, with the cluster made on first use.

    There is no TCP port unless `port` is given; 0 takes a free one. `settings` are added to ours. `source` and `mode`
    force one installation and one way to run it; `TOLLHOUSE_POSTGRES_MODE` does the latter from outside.
    """
    folders = Folders(Path(data_dir).absolute())
    give_up = time.monotonic() + timeout_s
    with exclusive(folders.data, timeout_s):
        running = _find_ready(folders, give_up)
        if running is not None:
            return running
        forced = mode or os.environ.get("TOLLHOUSE_POSTGRES_MODE")
        privilege = choose_privilege(
            find_binaries(source, _major_of(folders.cluster)), Mode(forced) if forced else None
        )
        folders.prepare(privilege)
        _clear_remains(folders, give_up)
        if _major_of(folders.cluster) is None:
            _make_cluster(folders, privilege)
        return _launch(folders, privilege, port, settings or {}, give_up)


def find(data_dir: str | Path) -> PostgresServer | None:
    """The server that runs on a data folder, whoever started it, or None."""
    folders = Folders(Path(data_dir).absolute())
    postmaster = read_postmaster(folders.cluster)
    if postmaster is None or not _is_running(postmaster.pid, folders.cluster) or not postmaster.ready:
        return None
    about = json.loads(folders.about.read_text())
    return _server(folders, about["version"], about["source"], started=False)


def remove(data_dir: str | Path) -> None:
    """Stops the server of a data folder and deletes the folder with all that belongs to it."""
    running = find(data_dir)
    if running is not None:
        running.stop()
    folders = Folders(Path(data_dir).absolute())
    for folder in (folders.cluster, folders.socket, folders.data):
        shutil.rmtree(folder, ignore_errors=True)


def _server(folders: Folders, version: str, source: str, *, started: bool) -> PostgresServer:
    postmaster = read_postmaster(folders.cluster)
    if postmaster is None:
        raise PostgresError(f"The server in {folders.data} has just stopped.")
    return PostgresServer(
        data_dir=folders.data,
        pid=postmaster.pid,
        version=version,
        source=source,
        socket_dir=Path(postmaster.socket),
        port=postmaster.port,
        listens=postmaster.listens,
        started=started,
    )


def _find_ready(folders: Folders, give_up: float) -> PostgresServer | None:
    """The running server; one that is still recovering, left by a killed parent, is waited for."""
    while True:
        postmaster = read_postmaster(folders.cluster)
        if postmaster is None or not _is_running(postmaster.pid, folders.cluster):
            return None
        if postmaster.ready:
            return find(folders.data)
        if time.monotonic() >= give_up:
            raise PostgresError(f"The Postgres process {postmaster.pid} does not get ready; see {folders.log}.")
        time.sleep(0.02)


def _major_of(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _clear_remains(folders: Folders, give_up: float) -> None:
    """Cleans up after a killed server.

    Postgres guards a cluster by the process number in `postmaster.pid`. When that number was reused by another
    program, as after a restart of the machine, it would refuse for ever. The file is taken away only once no process of
    the old server is left, since two servers on one cluster would destroy it.
    """
    while orphans(folders.cluster):
        if time.monotonic() >= give_up:
            raise PostgresError(f"Processes of a killed Postgres still work in {folders.cluster}: end them first.")
        time.sleep(0.02)
    postmaster = read_postmaster(folders.cluster)
    if postmaster is not None and _exists(postmaster.pid):
        (folders.cluster / "postmaster.pid").unlink()
    for left in folders.socket.glob(".s.PGSQL.*"):
        left.unlink()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _make_cluster(folders: Folders, privilege: Privilege) -> None:
    """Runs initdb. What a killed start left in the folder, without its version file, is deleted first."""
    for left in folders.cluster.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    password_file = folders.socket / "initial_password"
    password_file.touch(mode=0o600)
    password_file.write_text(secrets.token_urlsafe(24))
    os.chown(password_file, privilege.uid, privilege.gid)
    command: list[str | Path] = [privilege.binaries.folder / "initdb", "--pgdata", folders.cluster, "--username", ADMIN]
    command += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password_file}"]
    command += ["--data-checksums", "--encoding=UTF8", "--locale=C", "--no-instructions"]
    if privilege.binaries.major >= _FIRST_BUILTIN_LOCALE:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    made = privilege.run(command, _environment(folders))
    if made.returncode != 0:
        raise PostgresError(f"The database cluster could not be made in {folders.cluster}: {made.stderr.strip()}")
    folders.admin_password.unlink(missing_ok=True)
    folders.admin_password.touch(mode=0o600)
    folders.admin_password.write_text(password_file.read_text())
    password_file.unlink()


def _launch(
    folders: Folders, privilege: Privilege, port: int | None, settings: Mapping[str, str], give_up: float
) -> PostgresServer:
    binaries = privilege.binaries
    command: list[str | Path] = [binaries.folder / "postgres", "-D", folders.cluster]
    chosen = _SETTINGS | dict(settings) | _addresses(folders, port)
    command += [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
    if folders.log.exists() and folders.log.stat().st_size > _LOG_BYTES_MAX:
        folders.log.replace(folders.log.with_suffix(".log.1"))
    folders.about.write_text(json.dumps({"source": binaries.source, "version": binaries.version}))
    with open(folders.log, "ab", opener=_private) as log:
        process = privilege.launch(command, _environment(folders), log)
    _children[process.pid] = process
    while True:
        postmaster = read_postmaster(folders.cluster)
        if postmaster is not None and postmaster.pid == process.pid and postmaster.ready:
            return _server(folders, binaries.version, binaries.source, started=True)
        if not _is_running(process.pid, folders.cluster):
            raise PostgresError(f"{binaries} did not start:\n{_last_lines(folders.log)}")
        if time.monotonic() >= give_up:
            process.kill()
            raise PostgresError(f"{binaries} did not get ready in time; see {folders.log}.")
        time.sleep(0.01)


def _addresses(folders: Folders, port: int | None) -> dict[str, str]:
    socket_directory = str(folders.socket)
    # The setting is a list whose commas and quotes would be read as such.
    addresses = {"unix_socket_directories": '"' + socket_directory.replace('"', '""') + '"', "listen_addresses": ""}
    if port is not None:
        addresses |= {"listen_addresses": "127.0.0.1", "port": str(port or free_port())}
    return addresses


def _environment(folders: Folders) -> dict[str, str]:
    """The server gets only few of our variables. HOME must be a readable folder: its libpq looks for files there."""
    return {"HOME": str(folders.cluster), "LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _last_lines(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as lines:
        return "".join(lines.readlines()[-_LOG_LINES_SHOWN:]).strip()


def _is_running(pid: int, cluster: Path) -> bool:
    child = _children.get(pid)
    if child is None:
        return is_running(pid, cluster)
    if child.poll() is None:
        return True
    del _children[pid]
    return False


def _signal(pid: int, cluster: Path, number: signal.Signals) -> None:
    """Signals the server, after checking that the process id is still its own."""
    if _is_running(pid, cluster):
        os.kill(pid, number)


def _wait_for_end(pid: int, cluster: Path, timeout_s: float) -> bool:
    give_up = time.monotonic() + timeout_s
    while _is_running(pid, cluster):
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.01)
    return True
