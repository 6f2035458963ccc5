"""Processes of tests, forked from one that has imported everything: an interpreter spends a second and more on imports.

Each process of pytest has one that forks, made for the first test that wants it. What a test runs here is a function of
a module in tests/, such as one that kills itself at a point.
"""

import asyncio
import gc
import importlib
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Final

from libs.cli.__main__ import COMMANDS, GROUPS

_MODULES: Final = (
    *(f"libs.cli.commands.{name.replace('-', '_')}" for name in (*COMMANDS, *GROUPS)),
    "tests.billing.dying_inbox",
    "tests.billing.dying_issue",
    "tests.billing.dying_payment",
    "tests.billing.dying_run",
    "tests.billing.dying_usage_charge",
    "tests.billing.organization_follower",
    "tests.client.journaled_load",
    "tests.common.events.dying_deliverer",
    "tests.metering.corrections.sleeping_sender",
    "tests.metering.export.dying_export",
    "tests.metering.leases.processes",
    "tests.metering.rerates.dying_worker",
    "tests.metering.retention.dying_drop",
    "tests.system.forked_commands",
)
PROCESSES: Final = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([f"{__package__}.forked_modules"])


def import_all() -> None:
    """Import what the processes need. Collections of garbage in them need not go through it."""
    for name in _MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def forked(run: Callable[..., object], *arguments: object) -> AsyncIterator[BaseProcess]:
    """Run a function in a process of its own, which is killed at the end of the block if it has not ended."""
    process = PROCESSES.Process(target=_run, args=(dict(os.environ), run, *arguments))
    await asyncio.to_thread(process.start)
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.join)
        process.close()


async def exit_code_of(run: Callable[..., object], *arguments: object) -> int | None:
    """Run a function in a process of its own to its end; return how it ended, such as `-signal.SIGKILL`."""
    async with forked(run, *arguments) as process:
        await asyncio.to_thread(process.join)
        return process.exitcode


def _run(environment: dict[str, str], run: Callable[..., object], *arguments: object) -> None:
    os.environ.clear()
    os.environ.update(environment)
    run(*arguments)


def dying(call: Callable[..., Awaitable[Any]], at: int, *, before: bool) -> Callable[..., Awaitable[Any]]:
    """Return a function that does what another does, and kills the process when it is called for the `at`-th time."""
    reached = 0

    async def die(*arguments: Any, **named: Any) -> Any:
        nonlocal reached
        reached += 1
        is_reached = reached == at  # Another task may reach it meanwhile.
        if before and is_reached:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await call(*arguments, **named)
        if is_reached:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return die
