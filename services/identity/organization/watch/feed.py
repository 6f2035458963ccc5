"""The feed of organizations: gives each new or changed one the next revision, and sends them to the subscribers.

Whoever creates, changes or deletes an organization only increments its version. The feed of some process finds the rows
whose version has no place yet, and numbers them one transaction after another. So no call waits for a number, and what
an older version of this service writes is found as well.

A subscriber holds no queue here: it reads the next page when it has sent the last, from wherever it is.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

from libs.common.database import Database
from libs.common.deadline import STREAM_LIFE_S
from libs.common.errors import Refusal
from libs.common.streams import Stream, Streams
from services.identity.organization.watch import store
from services.identity.organization.watch.store import FeedEntry

_log = structlog.get_logger("organizations")
ENTRIES_AT_ONCE: Final = 500
_ROUND_S: Final = 0.4
"""Less than half of the second within which a change is told: one process numbers it in its round, and another finds
the number in its own."""
_HEARTBEAT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class OrganizationNews:
    """A message: everything up to `revision`; with `resync` the stream begins from the beginning."""

    revision: int
    entries: tuple[FeedEntry, ...] = ()
    resync: bool = False


class OrganizationFeed:
    """Numbers organizations as long as the process runs, and serves WatchOrganizations."""

    def __init__(self, database: Database, watchers_max: int, stream_life_s: float = STREAM_LIFE_S) -> None:
        self._database = database
        self._streams = Streams[Stream](watchers_max, stream_life_s)
        self._newest = 0
        self._woken_s = 0.0

    async def run(self) -> NoReturn:
        """Number organizations and wake the subscribers until cancelled."""
        while True:
            try:
                await self.catch_up()
            except Refusal as refusal:
                _log.warning("organizations are not numbered; trying again in the next round", reason=refusal.reason)
            await asyncio.sleep(_ROUND_S)

    async def close(self) -> None:
        """End all streams, so that a stopping server does not wait for them."""
        self._streams.close()

    async def catch_up(self) -> None:
        """Number what has changed, and wake the subscribers where there is something new or a heartbeat is due."""
        async with self._database.raw_connection() as connection:
            newest, changed = await store.look(connection)
        while changed:
            async with self._database.raw_transaction() as tx:
                numbered = await store.number_changed(tx, ENTRIES_AT_ONCE)
                newest, _ = await store.look(tx)
            changed = numbered == ENTRIES_AT_ONCE
        self._streams.start()
        self._wake(newest)

    def _wake(self, newest: int) -> None:
        now_s = time.monotonic()
        if newest != self._newest or now_s >= self._woken_s + _HEARTBEAT_S:
            self._newest, self._woken_s = newest, now_s
            for stream in self._streams:
                stream.wake.set()

    async def watch(self, after_revision: int) -> AsyncIterator[OrganizationNews]:
        """Yield the organizations after a revision, then every one that changes, until the stream has lasted its time.

        Raises:
            TooManyWatchers: this process serves as many as it may.
            Unavailable: the database cannot be reached, or this process is stopping.
        """
        await self._streams.started()
        stream = Stream()
        with self._streams.opened(stream) as end_s:
            news, complete = await self._page(after_revision)
            while True:
                yield news
                if not complete:
                    stream.wake.set()
                await stream.sleep()
                if time.monotonic() >= end_s:
                    return
                stream.wake.clear()
                if complete and self._newest == news.revision:
                    news = OrganizationNews(news.revision)
                else:
                    news, complete = await self._page(news.revision)

    async def _page(self, after: int) -> tuple[OrganizationNews, bool]:
        """Return the message after a revision, and whether it is complete, so that nothing follows for now."""
        async with self._database.raw_connection() as connection:
            newest, entries = await store.read_entries(connection, after, ENTRIES_AT_ONCE)
            resync = after > newest
            if resync:
                newest, entries = await store.read_entries(connection, 0, ENTRIES_AT_ONCE)
        complete = len(entries) < ENTRIES_AT_ONCE
        return OrganizationNews(newest if complete else entries[-1].revision, tuple(entries), resync), complete
