"""How work is decided anew because another process has changed meanwhile what it was decided on."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Final

TRIES_MAX: Final = 10
_PAUSE_MAX_S: Final = 0.1


async def tries() -> AsyncIterator[None]:
    """Yield once for each try, after a short random pause from the second on. Whoever has succeeded leaves the loop."""
    for attempt in range(TRIES_MAX):
        if attempt:
            await asyncio.sleep(random.uniform(0, _PAUSE_MAX_S))
        yield
