"""An export in a process that kills itself at a step: a piece received, a sync, or a file renamed."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from libs.cli.exports import writing
from libs.cli.terminal.connection import Connection
from libs.cli.terminal.progress import Progress
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc

_T = TypeVar("_T")


class _Steps(Progress):
    """Counts steps, and dies at one."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self._left = dies_at

    def note(self, step: str, done: int = 0, total: int | None = None) -> None:
        self.count()

    def count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, call: Callable[..., _T]) -> Callable[..., _T]:
        def counted(*arguments: object) -> _T:
            self.count()
            return call(*arguments)

        return counted


def run(connection: Connection, request: bytes, file: Path, form: str, dies_at: int) -> None:
    """Export; die at the step of this number, or end where there are fewer."""
    steps = _Steps(dies_at)
    writing._SAFE_EVERY_S = 0.0  # type: ignore[misc]
    os.fsync, os.replace = steps.before(os.fsync), steps.before(os.replace)
    asyncio.run(_export(connection, request, file, form, steps))


async def _export(connection: Connection, request: bytes, file: Path, form: str, progress: Progress) -> None:
    async with connection.open() as channels:
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        asked = pb.ExportUsageRequest.FromString(request)
        await writing.write_export(stub, asked, file, {"format": form}, resume=False, progress=progress)
