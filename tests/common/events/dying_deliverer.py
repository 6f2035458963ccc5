"""A process that delivers events, and is killed at a named point."""

import asyncio
import functools
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from libs.common.database import open_database
from libs.common.events import delivery_store, dispatch, post, worker
from libs.common.events.homes import one_home
from tests.common.events.support import House
from tests.support.clock import FixedClock

_T = TypeVar("_T")

POINTS: Final[dict[str, tuple[object, str]]] = {
    # Within the transaction that makes deliveries, and after it.
    "deliveries added": (delivery_store, "add"),
    "events marked": (delivery_store, "mark_dispatched"),
    "dispatched": (dispatch.Dispatcher, "dispatch"),
    # After the statement that takes deliveries.
    "taken": (delivery_store, "claim"),
    "read": (worker.Deliverer, "_read"),
    # After the endpoint has answered, before that is noted.
    "sent": (post.Poster, "post"),
    # Within the transaction that notes it, and after it.
    "finished": (delivery_store, "finish"),
    "noted": (worker.Deliverer, "_note"),
}


def dying(call: Callable[..., Awaitable[_T]], after: int) -> Callable[..., Awaitable[_T]]:
    """Return the same function, after which the process dies when it has been called a number of times."""
    calls = 0

    @functools.wraps(call)
    async def run(*given: object, **named: object) -> _T:
        nonlocal calls
        answer = await call(*given, **named)
        calls += 1
        if calls >= after:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return run


def run(url: str, point: str, after: int) -> None:
    """Deliver until the point is reached so many times, or nothing is left to do."""
    asyncio.run(_deliver(url, point, after))


async def _deliver(url: str, point: str, after: int) -> None:
    owner, name = POINTS[point]
    setattr(owner, name, dying(getattr(owner, name), after))
    database = open_database(url, schema="identity")
    house = House(one_home(database), FixedClock())
    await house.deliver()
    await database.close()
