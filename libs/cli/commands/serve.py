"""`tollhouse serve CONTEXT`: one service, configured by its environment variables."""

import asyncio
import os
import signal
from typing import Annotated

import typer
from rich.console import Console

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.installation.environment import repository, reserve_shared_port
from libs.cli.installation.processes import ChildProcess, service_program
from libs.common.environment import read_environment


def known_context(context: str) -> str:
    """Return the context; raises WrongUse if there is none of that name."""
    if context not in CONTEXTS:
        raise WrongUse(f"There is no service {context!r}; choose from {', '.join(CONTEXTS)}.")
    return context


def serve(
    context: Annotated[str, typer.Argument(help="identity, billing or metering.")],
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many processes share the port.")] = 1,
) -> None:
    """Run one service; its settings come from TOLLHOUSE_<CONTEXT>_… variables."""
    known_context(context)
    if workers > 1:
        asyncio.run(_serve_together(context, workers))
        return
    # A `.env` file of this folder is read before the folder changes.
    environment = read_environment()
    os.chdir(repository())
    program = service_program(context)
    os.execve(program[0], program, environment)  # noqa: S606 -- without a shell.


async def _serve_together(context: str, workers: int) -> None:
    """Run several processes on one port; the kernel distributes the connections among them."""
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    prefix = f"TOLLHOUSE_{context.upper()}_"
    given = read_environment()
    host = given.get(f"{prefix}HOST", "127.0.0.1")
    wanted = given.get(f"{prefix}PORT", "0")
    if not wanted.isdigit():
        raise WrongUse(f"{prefix}PORT is not a port number.")
    holder, port = reserve_shared_port(host, int(wanted))
    environment = given | {f"{prefix}PORT": str(port), f"{prefix}REUSE_PORT": "true"}
    children = [
        ChildProcess(f"{context}-{number + 1}", service_program(context), environment) for number in range(workers)
    ]
    with holder:
        for child in children:
            await child.start()
        Console(stderr=True).print(f"{context} is serving on {host}:{port} with {workers} processes.", highlight=False)
        await asked_to_stop.wait()
        await asyncio.gather(*(child.stop() for child in children))
