"""Retrying calls until a service answers, so that a replay survives crashes of the services."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc

from libs.cli.failures import CommandFailed
from libs.common.status import reason_of

_T = TypeVar("_T")
_FIRST_PAUSE_S: Final = 0.05
_PAUSE_MAX_S: Final = 1.0
_WORTH_ANOTHER_TRY: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
}
# Codes that gRPC itself reports when a server dies in the middle of a call; our servers always add a reason.
_SAID_BY_TRANSPORT: Final = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}


def is_worth_another_try(code: int) -> bool:
    """Return whether a refusal inside a response is worth a retry."""
    return any(code == worth.value[0] for worth in _WORTH_ANOTHER_TRY)


class Persistence:
    """Retries calls with the same ids until none has succeeded for `patience_s`."""

    def __init__(self, patience_s: float) -> None:
        self.retries = 0
        self._patience_s = patience_s
        self._last_success_s = time.monotonic()

    async def call(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Call until there is an answer, and return it.

        Raises:
            CommandFailed: the services have not answered for too long.
            grpc.aio.AioRpcError: the call was refused for a reason that a retry does not change.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                answer = await call()
            except grpc.aio.AioRpcError as error:
                if not _may_pass(error):
                    raise
                self.check_patience(f"{error.code().name}: {error.details()}")
            else:
                self.succeeded()
                return answer
            await self.pause(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def pause(self, pause_s: float = _FIRST_PAUSE_S) -> None:
        self.retries += 1
        await asyncio.sleep(random.uniform(pause_s / 2, pause_s))

    def succeeded(self) -> None:
        self._last_success_s = time.monotonic()

    def check_patience(self, last_error: str) -> None:
        if time.monotonic() - self._last_success_s > self._patience_s:
            raise CommandFailed(
                f"The services have not answered for {self._patience_s:g} s; the last error was {last_error}. "
                "Run the same command again: what was metered is kept, and nothing is charged twice."
            )


def _may_pass(error: grpc.aio.AioRpcError) -> bool:
    return error.code() in _WORTH_ANOTHER_TRY or (error.code() in _SAID_BY_TRANSPORT and reason_of(error) is None)
