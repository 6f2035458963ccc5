"""Looks at the database whenever Postgres announces something, and at intervals in any case.

Announcements only make it faster: a look reads all that is new, so a lost announcement or connection delays news but
loses none.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, NoReturn

import asyncpg
import structlog

from libs.common.database import Database, RawConnection
from libs.common.errors import Refusal

_log = structlog.get_logger("announcements")
_RECONNECT_MIN_S: Final = 0.05
_RECONNECT_MAX_S: Final = 1.0

Look = Callable[[RawConnection], Awaitable[None]]
Hear = Callable[[str], None]


def _ignore(_: str) -> None:
    """Hear nothing: the look reads all that is new."""


async def follow(database: Database, channel: str, look: Look, *, every_s: float, hear: Hear = _ignore) -> NoReturn:
    """Call `look` at every announcement on the channel, and after `every_s` seconds at the latest, for ever.

    `hear` is called before it with what each announcement says, and with an empty text where some may have been missed:
    at the beginning of a connection, and always behind a pooler, which carries none. While the database cannot be
    reached it is tried again with at most a second between the attempts.
    """
    delay_s = _RECONNECT_MIN_S
    looks = 0

    async def count_and_look(connection: RawConnection) -> None:
        nonlocal looks
        await look(connection)
        looks += 1

    while True:
        looks_before = looks
        try:
            if database.is_pooled:
                await _poll(database, count_and_look, every_s, hear)
            else:
                await _listen(database, channel, count_and_look, every_s, hear)
        except (Refusal, OSError) as error:
            if looks != looks_before:
                delay_s = _RECONNECT_MIN_S
            _log.warning(
                "the announcements were disconnected", channel=channel, error=type(error).__name__, again_in_s=delay_s
            )
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _RECONNECT_MAX_S)


async def _poll(database: Database, look: Look, every_s: float, hear: Hear) -> NoReturn:
    """Look at intervals only, where a pooler carries no announcements."""
    while True:
        hear("")
        async with database.raw_connection() as connection:
            await look(connection)
        await asyncio.sleep(every_s)


async def _listen(database: Database, channel: str, look: Look, every_s: float, hear: Hear) -> NoReturn:
    wake = asyncio.Event()
    async with database.raw_connection() as connection, _listening(connection, channel, wake, hear):
        hear("")
        while True:
            wake.clear()
            await look(connection)
            # A round without an announcement still confirms that nothing has changed.
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await wake.wait()


@asynccontextmanager
async def _listening(connection: RawConnection, channel: str, wake: asyncio.Event, hear: Hear) -> AsyncIterator[None]:
    """Set `wake` on every announcement and when the connection ends."""

    def take(_connection: object, _process_id: int, _channel: str, said: object) -> None:
        hear(str(said))
        wake.set()

    def end(_connection: object) -> None:
        wake.set()

    await connection.add_listener(channel, take)
    connection.add_termination_listener(end)
    try:
        yield
    finally:
        connection.remove_termination_listener(end)
        with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
            await connection.remove_listener(channel, take)
