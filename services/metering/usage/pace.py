"""When a writer takes its next batch: larger batches cost less, and nobody waits for long so that they grow."""

import asyncio
from typing import Final

_GATHER_WITHIN_S: Final = 0.05
_WORTH_A_BATCH: Final = 100
"""From how many waiting works on a batch gains little by growing."""


class Pace:
    """Knows the batches under way. Alone, a call never waits: there is no batch whose end it could wait for."""

    def __init__(self) -> None:
        self.under_way: set[asyncio.Task[None]] = set()
        self._go_on = asyncio.Event()

    def start(self, batch: asyncio.Task[None]) -> None:
        """Note that a batch is under way."""
        self.under_way.add(batch)
        batch.add_done_callback(self._note_end)

    def note_waiting(self, count: int) -> None:
        """Note how many works wait; enough of them are taken at once."""
        if count >= _WORTH_A_BATCH:
            self._go_on.set()

    async def let_some_gather(self, waiting: int) -> None:
        """Return when a batch has ended or enough works wait, and shortly in any case: a slow peer holds nobody up."""
        if not self.under_way or waiting >= _WORTH_A_BATCH:
            return
        self._go_on.clear()
        try:
            async with asyncio.timeout(_GATHER_WITHIN_S):
                await self._go_on.wait()
        except TimeoutError:
            return

    def _note_end(self, batch: asyncio.Task[None]) -> None:
        self.under_way.discard(batch)
        self._go_on.set()
