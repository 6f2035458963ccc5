"""What can be learnt about a server's main process from outside."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What the main process says of itself in its `postmaster.pid`."""

    pid: int
    port: int
    socket: str
    listens: bool
    """Whether it takes TCP connections."""
    ready: bool


def read_postmaster(cluster: Path) -> Postmaster | None:
    """The contents of `postmaster.pid`, as far as written; whether that process lives is another question."""
    try:
        lines = (cluster / "postmaster.pid").read_text().split("\n")
        return Postmaster(
            pid=int(lines[0]),
            port=int(lines[3]),
            socket=lines[4],
            listens=bool(lines[5].strip()),
            ready=len(lines) > 7 and lines[7].strip() == "ready",
        )
    except (FileNotFoundError, IndexError, ValueError):
        return None


def is_running(pid: int, cluster: Path) -> bool:
    """Whether that process is the server of that cluster, and not another that reuses the process id."""
    return "postgres" in (command := _command(pid)) and str(cluster) in command


def orphans(cluster: Path) -> list[int]:
    """Processes of a killed server that still run. Each of them works in the cluster's folder."""
    found = []
    for entry in _PROC.glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(cluster) and _command(int(entry.name)).startswith("postgres"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _command(pid: int) -> str:
    """The command line of a process, empty where there is none or it has ended."""
    if _PROC.is_dir():
        try:
            return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    answer = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, timeout=10)
    return answer.stdout
