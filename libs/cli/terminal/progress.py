"""How far a long command is, on standard error: bars in a terminal, else a line every ten seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

_LINE_EVERY_S: Final = 10.0


@dataclass(slots=True)
class _Step:
    done: int = 0
    total: int | None = None


class Progress:
    """The steps that are under way. By itself it shows nothing."""

    def __init__(self) -> None:
        self._steps: dict[str, _Step] = {}

    def note(self, step: str, done: int = 0, total: int | None = None) -> None:
        """Note that a step is under way, and how much of it is done; `total` is None where nobody knows."""
        self._steps[step] = _Step(done, total)

    def end(self, step: str) -> None:
        """Note that a step is finished."""
        self._steps.pop(step, None)

    def line(self) -> str:
        """Return the steps under way in one line; empty where there is none."""
        return "; ".join(_text(name, step) for name, step in self._steps.items())

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the steps for as long as the context lasts."""
        yield


def _text(name: str, step: _Step) -> str:
    if not step.done:
        return name
    of = f" of {step.total:,}" if step.total else ""
    return f"{name}: {step.done:,}{of}"


class Lines(Progress):
    """Prints a line every ten seconds."""

    def __init__(self, console: Console, every_s: float = _LINE_EVERY_S) -> None:
        super().__init__()
        self._console = console
        self._every_s = every_s

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        printing = asyncio.create_task(self._print())
        try:
            yield
        finally:
            printing.cancel()

    async def _print(self) -> None:
        began_s = time.monotonic()
        while True:
            await asyncio.sleep(self._every_s)
            self._console.print(f"{time.monotonic() - began_s:.0f} s: {self.line()}", markup=False, soft_wrap=True)


class TerminalBars(Progress):
    """Draws a bar for each step, and removes them all at the end."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[amount]}")
        self._bars = Bars(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._tasks: dict[str, int] = {}

    def note(self, step: str, done: int = 0, total: int | None = None) -> None:
        task = self._tasks.get(step)
        if task is None:
            task = self._tasks[step] = self._bars.add_task(step, total=None, amount="")
        self._bars.update(task, completed=done, total=total or None, amount=f"{done:,}" if done else "")  # type: ignore[arg-type]

    def end(self, step: str) -> None:
        task = self._tasks.pop(step, None)
        if task is not None:
            self._bars.remove_task(task)  # type: ignore[arg-type]

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        with self._bars:
            yield


def progress_for(*, quiet: bool) -> Progress:
    """Return the progress that suits standard error; one that shows nothing if it is to be quiet."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        return Progress()
    return TerminalBars(console) if console.is_terminal else Lines(console)
