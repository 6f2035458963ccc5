"""The subscribers of WatchApiKeys: each gets every change in order, to keep its own cache valid."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from libs.common.database import Database
from libs.common.deadline import STREAM_LIFE_S
from libs.common.streams import Stream, Streams
from services.identity.api_key.verify.store import read_changes
from services.identity.api_key.watch.feed import CHANGES_AT_ONCE
from services.identity.revisions import Change

_PENDING_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class News:
    """A message: all changes up to `revision`, or with `resync` an order to drop everything cached before."""

    revision: int
    changes: tuple[Change, ...] = ()
    resync: bool = False


class _Watcher(Stream):
    """The undelivered changes of one subscriber. Bounded: a subscriber that falls behind is told to start over."""

    __slots__ = ("known_revision", "pending", "resync", "revision")

    def __init__(self, revision: int, known_revision: int) -> None:
        super().__init__()
        self.revision = revision
        self.known_revision = known_revision
        self.pending: list[Change] = []
        self.resync = False

    def tell(self, changes: list[Change], revision: int) -> None:
        # A subscriber that came from another process may know changes this process has not seen yet.
        self.pending.extend(change for change in changes if change.revision > self.known_revision)
        self.revision = revision
        if len(self.pending) > _PENDING_MAX:
            self.start_over(revision)
        self.wake.set()

    def start_over(self, revision: int) -> None:
        self.pending.clear()
        self.revision = revision
        self.resync = True
        self.wake.set()

    def take(self) -> News:
        """Return the next message; the watcher stays awake while there are more."""
        told, self.pending = self.pending[:CHANGES_AT_ONCE], self.pending[CHANGES_AT_ONCE:]
        resync, self.resync = self.resync, False
        if self.pending:
            return News(told[-1].revision, tuple(told), resync)
        self.wake.clear()
        return News(self.revision, tuple(told), resync)


class Watchers:
    """The subscribers of this process."""

    def __init__(self, database: Database, watchers_max: int, stream_life_s: float = STREAM_LIFE_S) -> None:
        self._database = database
        self._watchers = Streams[_Watcher](watchers_max, stream_life_s)
        self._seen_revision = 0

    @property
    def count(self) -> int:
        """The number of subscribers now."""
        return len(self._watchers)

    def note(self, changes: list[Change], *, seen_revision: int, confirmed_s: float) -> None:
        """Deliver changes. An empty list is the heartbeat, which is sent only while the feed is up to date."""
        self._seen_revision = seen_revision
        for watcher in self._watchers:
            watcher.tell(changes, seen_revision)

    def forget_all(self, *, seen_revision: int, confirmed_s: float) -> None:
        """Tell every subscriber to start over."""
        self._seen_revision = seen_revision
        self._watchers.start()
        for watcher in self._watchers:
            watcher.start_over(seen_revision)

    async def close(self) -> None:
        """End all streams, so that a stopping server does not wait for them."""
        self._watchers.close()

    async def watch(self, after_revision: int) -> AsyncIterator[News]:
        """Yield the changes after a revision, then every new one, until the stream has lasted for its time.

        Raises:
            TooManyWatchers: this process serves as many as it may.
            Unavailable: this process has no news of changes yet, or is stopping.
        """
        await self._watchers.started()
        watcher = _Watcher(self._seen_revision, after_revision)
        with self._watchers.opened(watcher) as end_s:
            async for news in self._backlog(after_revision, watcher.revision):
                yield news
            while watcher.pending or time.monotonic() < end_s:
                await watcher.sleep()
                yield watcher.take()

    async def _backlog(self, after_revision: int, until: int) -> AsyncIterator[News]:
        """Deliver the changes between the subscriber's revision and the one at which it subscribed."""
        if after_revision == 0:
            yield News(until)
            return
        after = after_revision
        while after != until:
            async with self._database.raw_connection() as connection:
                read = await read_changes(connection, after, CHANGES_AT_ONCE)
            if after > until and after <= read.current:
                return  # The subscriber knows a later revision than this process, whose feed will reach it.
            missed = [change for change in read.changes if change.revision <= until]
            if not missed or missed[0].revision != after + 1:
                yield News(until, resync=True)
                return
            after = missed[-1].revision
            yield News(after, tuple(missed))
        yield News(until)
