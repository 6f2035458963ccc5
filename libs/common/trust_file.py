"""Follows the file of the trust bundle, so that a change of it needs no restart.

The file is looked at twice a second. Whoever changes it puts a complete new file in its place (write, then rename). A
file that is missing, half-written or otherwise wrong changes nothing: the last good bundle stays in force, each look
that fails is counted, and the log says what is wrong once.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import structlog
from opentelemetry import metrics
from pydantic import ValidationError

from libs.common.authentication import TrustBundle

_log = structlog.get_logger("trust")
METRIC: Final = "tollhouse.trust_bundle_failures"
LOOK_EVERY_S: Final = 0.5
TRUST_BUNDLE_MAX_BYTES: Final = 4 * 1024 * 1024
_PROBLEMS_MAX: Final = 3

_State = tuple[int, int, int, int, int]


class TrustFile:
    """The trust bundle in a file. It is read once when this is made, and again after each change."""

    def __init__(self, path: Path, meter: metrics.Meter | None = None) -> None:
        """Read the file.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds no trust bundle.
        """
        self._path = path
        self._state, self.bundle = _read(path)
        self._problem = ""
        self._counter = (meter or metrics.get_meter("tollhouse")).create_counter(
            METRIC, description="Looks at a trust bundle file that could not be used; the last good one stays in force."
        )
        self.failures = 0
        """How many looks failed since the process began."""

    async def follow(self, take: Callable[[TrustBundle], None]) -> NoReturn:
        """Give each new bundle to `take`, which raises ValueError where it cannot use one, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look(take)

    async def look(self, take: Callable[[TrustBundle], None]) -> None:
        """Look at the file once, and give its bundle to `take` if it has changed."""
        try:
            if await asyncio.to_thread(_state_of, self._path) == self._state:
                return
            state, bundle = await asyncio.to_thread(_read, self._path)
            take(bundle)
        except (OSError, ValueError) as error:
            self._note_failure(_problem_in(error))
            return
        self._state, self.bundle, self._problem = state, bundle, ""
        _log.info("trust bundle taken up", issuers=len(bundle.issuers))

    def _note_failure(self, problem: str) -> None:
        self.failures += 1
        self._counter.add(1)
        if problem != self._problem:
            self._problem = problem
            _log.error("trust bundle cannot be used; the last good one stays in force", problem=problem)


def _state_of(path: Path) -> _State:
    """Return what tells one version of the file from another. A rename, a write and a change of its rights alter it."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> tuple[_State, TrustBundle]:
    """Return the bundle with the state of the very file that was read."""
    with open(path, "rb", opener=_open) as file:
        found = os.fstat(file.fileno())
        if found.st_size > TRUST_BUNDLE_MAX_BYTES:
            raise ValueError(f"it is larger than {TRUST_BUNDLE_MAX_BYTES} bytes")
        content = file.read(TRUST_BUNDLE_MAX_BYTES)
    state = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return state, TrustBundle.model_validate_json(content)


def _open(path: str, flags: int) -> int:
    """Open a file without waiting: in place of a file there may be a pipe that nobody writes into."""
    return os.open(path, flags | os.O_NONBLOCK)


def _problem_in(error: OSError | ValueError) -> str:
    """Return what is wrong, without anything the file holds beyond the names of its fields."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_context=False, include_input=False)[:_PROBLEMS_MAX]
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in problems)
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
