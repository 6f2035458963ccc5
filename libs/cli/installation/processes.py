"""Services as child processes: started, restarted with a backoff when they end, and stopped in order."""

import asyncio
import logging
import logging.handlers
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from libs.cli.installation import launch

_LOG_BYTES_MAX: Final = 8 * 1024 * 1024
_LOG_FILES_KEPT: Final = 2
_LOG_LINE_BYTES_MAX: Final = 1024 * 1024
_FIRST_DELAY_S: Final = 0.1
_DELAY_MAX_S: Final = 10.0
_STEADY_AFTER_S: Final = 10.0
_KILL_AFTER_S: Final = 15.0
_REPOSITORY: Final = Path(__file__).resolve().parents[3]


def service_program(context: str) -> list[str]:
    """Return the command line that runs one service."""
    return [sys.executable, "-m", f"services.{context}"]


class ChildProcess:
    """One program that is restarted whenever it ends, until it is told to stop."""

    def __init__(
        self,
        name: str,
        program: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._program = program
        self._environment = environment
        self._log = _bounded_log(name, log_file)
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the current or last process; None before the first start."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_running(), name=f"watch {self.name}")

    async def stop(self) -> None:
        """Ask the process to drain and wait for its end; kill it when that takes too long."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._watch is not None:
            try:
                async with asyncio.timeout(_KILL_AFTER_S):
                    await asyncio.shield(self._watch)
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await self._watch
        for handler in list(self._log.handlers):
            self._log.removeHandler(handler)
            handler.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _keep_running(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            started_s = time.monotonic()
            await self._drain_output()
            if self._stopping.is_set():
                return
            delay_s = _FIRST_DELAY_S if time.monotonic() - started_s > _STEADY_AFTER_S else delay_s
            self._log.info('{"event": "died", "exit": %s, "again_in_s": %s}', self._exit_status(), delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _DELAY_MAX_S)
            # `stop` may have been called during the pause.
            if self._stopping.is_set():
                return
            self.restarts += 1
            await self._spawn()

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            # -S and -E keep the start of the launcher fast.
            *(sys.executable, "-S", "-E", str(Path(launch.__file__)), str(os.getpid()), *self._program),
            env=dict(self._environment),
            cwd=_REPOSITORY,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LOG_LINE_BYTES_MAX,
            # Ctrl-C goes to the whole process group of the terminal; the services are to be stopped by us, in order.
            start_new_session=True,
        )
        self._on_change()

    async def _drain_output(self) -> None:
        """Write the output of the process to its log until it ends."""
        process = self._process
        if process is None or process.stdout is None:
            return
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # A line over the limit is dropped; reading continues after it.
            if not line:
                break
            self._log.info("%s", line.decode(errors="replace").rstrip("\n"))
        await process.wait()

    def _exit_status(self) -> int | None:
        return self._process.returncode if self._process else None


def _bounded_log(name: str, path: Path | None) -> logging.Logger:
    """Return a log that writes to rotated files of bounded size, or to standard error where there is no path."""
    logger = logging.getLogger(f"tollhouse.child.{path or name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES_MAX, backupCount=_LOG_FILES_KEPT)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    return logger


def tail(path: Path) -> str:
    """Return the last three lines of a log, for a message about a service that does not start."""
    try:
        return " | ".join(path.read_text(errors="replace").splitlines()[-3:])
    except OSError:
        return "its log cannot be read"


def end_leftover(pid: int, context: str) -> None:
    """End a service that an earlier `up` left running. A process id that another program has now is left alone."""
    if not _is_service(pid, context):
        return
    for number, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        give_up = time.monotonic() + patience_s
        while time.monotonic() < give_up:
            if not _is_service(pid, context):
                return
            time.sleep(0.05)


def _is_service(pid: int, context: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
    return f"services.{context}".encode() in command.split(b"\0") and not ended
