"""Where a server keeps its files, and how two starts are kept apart."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import gettempdir, mkdtemp

from libs.common.postgres.errors import PostgresError
from libs.common.postgres.privilege import Mode, Privilege

_SOCKET_PATH_MAX = 103
"""The shortest of the systems' limits on a socket's path."""
_SHARED = Path("/tmp")  # noqa: S108  # mkdtemp makes a folder there that nobody else may enter
_ELSEWHERE = Path("/var/lib/tollhouse")


@dataclass(frozen=True, slots=True)
class Folders:
    """The files of one server, all below its data folder or linked from there."""

    data: Path

    @property
    def cluster(self) -> Path:
        """Postgres's own data directory."""
        return (self.data / "cluster").resolve()

    @property
    def socket(self) -> Path:
        return (self.data / "socket").resolve()

    @property
    def log(self) -> Path:
        return self.data / "postgres.log"

    @property
    def admin_password(self) -> Path:
        return self.data / "admin_password"

    @property
    def about(self) -> Path:
        """What was started: the source and version of the binaries."""
        return self.data / "postgres.json"

    def prepare(self, privilege: Privilege) -> None:
        """Makes the folders for the cluster and the socket, each open to the server's user alone."""
        if not self.cluster.exists():
            self._make(self.data / "cluster", self._cluster_home(privilege))
        privilege.own(self.cluster)
        if not self._socket_is_ours(privilege) or not _is_short(self.socket):
            self._make(self.data / "socket", self._socket_home(privilege))
        privilege.own(self.socket)

    def _make(self, link: Path, home: Path | None) -> None:
        if link.is_dir() and not link.is_symlink():
            # Of a data folder that was moved or copied to where its path is too long.
            rmtree(link)
        link.unlink(missing_ok=True)
        if home is None:
            link.mkdir(mode=0o700)
        else:
            link.symlink_to(home)

    def _cluster_home(self, privilege: Privilege) -> Path | None:
        """None for the data folder itself, else a folder that a user who may not enter the data folder can reach."""
        if privilege.reaches(self.data):
            return None
        _ELSEWHERE.mkdir(mode=0o755, parents=True, exist_ok=True)
        return Path(mkdtemp(dir=_ELSEWHERE))

    def _socket_home(self, privilege: Privilege) -> Path | None:
        """None for the data folder itself, else a short path, since a socket's path may not be long."""
        if _is_short(self.data / "socket") and privilege.reaches(self.data):
            return None
        return Path(mkdtemp(prefix="tollhouse-", dir=_SHARED if privilege.mode is Mode.SETUID else gettempdir()))

    def _socket_is_ours(self, privilege: Privilege) -> bool:
        """Whether the folder exists and no other user could have planted it."""
        try:
            found = os.lstat(self.socket)
        except FileNotFoundError:
            return False
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        return private and found.st_uid in (os.geteuid(), privilege.uid) and privilege.reaches(self.socket.parent)


def _is_short(socket: Path) -> bool:
    """Whether the path of any socket in a folder is short enough."""
    return len(os.fsencode(socket / ".s.PGSQL.65535.lock")) <= _SOCKET_PATH_MAX


@contextmanager
def exclusive(data: Path, timeout_s: float) -> Iterator[None]:
    """Locks the data folder against other starts and stops. The lock ends with the process that holds it."""
    data.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    give_up = time.monotonic() + timeout_s
    with (data / "lock").open("wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise PostgresError(f"Another process has been starting Postgres in {data} too long.") from None
                time.sleep(0.02)
        yield
