"""The subscribers of WatchApiKeys: each gets every change in order, to keep its own cache valid.

One that may know of a single organization gets the changes that can concern keys there, and learns nothing of others.
"""

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Final

from libs.common.database import Database
from libs.common.deadline import STREAM_LIFE_S
from libs.common.errors import TooManyWatchers
from libs.common.streams import Stream, Streams
from services.identity.api_key.verify.store import read_changes
from services.identity.api_key.watch.feed import CHANGES_AT_ONCE
from services.identity.revisions import Change, ChangeKind, SubjectType

_PENDING_MAX: Final = 10_000
_WATCHERS_OF_ONE_MAX: Final = 64
"""Streams of one organization at a time, so that its gateway leaves some to others."""


@dataclass(frozen=True, slots=True)
class News:
    """A message: all changes up to `revision`, or with `resync` an order to drop everything cached before."""

    revision: int
    changes: tuple[Change, ...] = ()
    resync: bool = False


def shown_to(organization_id: str, changes: Iterable[Change]) -> list[Change]:
    """Return the changes as somebody may know them who reaches one organization; all of them where it is empty.

    A change of a user belongs to no organization. Whether the user has keys in this one is not told, so it comes as an
    unnamed change of the organization.
    """
    if not organization_id:
        return list(changes)
    return [
        change
        if change.organization_id == organization_id
        else replace(
            change,
            kind=ChangeKind.OTHER,
            subject_type=SubjectType.ORGANIZATION,
            subject_id=organization_id,
            organization_id=organization_id,
        )
        for change in changes
        if change.organization_id in (organization_id, None)
    ]


class _Watcher(Stream):
    """The undelivered changes of one subscriber. Bounded: a subscriber that falls behind is told to start over."""

    __slots__ = ("known_revision", "organization_id", "pending", "resync", "revision")

    def __init__(self, revision: int, known_revision: int, organization_id: str) -> None:
        super().__init__()
        self.revision = revision
        self.known_revision = known_revision
        self.organization_id = organization_id
        self.pending: list[Change] = []
        self.resync = False

    def tell(self, changes: list[Change], revision: int) -> None:
        # A subscriber that came from another process may know changes this process has not seen yet.
        new = (change for change in changes if change.revision > self.known_revision)
        self.pending += shown_to(self.organization_id, new)
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

    async def watch(self, after_revision: int, organization_id: str = "") -> AsyncIterator[News]:
        """Yield the changes after a revision, then every new one, until the stream has lasted for its time.

        With an `organization_id` they are the changes that concern it.

        Raises:
            TooManyWatchers: this process serves as many as it may, in all or of this organization.
            Unavailable: this process has no news of changes yet, or is stopping.
        """
        await self._watchers.started()
        watcher = _Watcher(self._seen_revision, after_revision, organization_id)
        others = sum(one.organization_id == organization_id for one in self._watchers)
        if organization_id and others >= _WATCHERS_OF_ONE_MAX:
            raise TooManyWatchers(watchers=others)
        with self._watchers.opened(watcher) as end_s:
            async for news in self._backlog(watcher):
                yield news
            while watcher.pending or time.monotonic() < end_s:
                await watcher.sleep()
                yield watcher.take()

    async def _backlog(self, watcher: _Watcher) -> AsyncIterator[News]:
        """Deliver the changes between the subscriber's revision and the one at which it subscribed."""
        after, until = watcher.known_revision, watcher.revision
        if after == 0:
            yield News(until)
            return
        shown: list[Change] = []
        while after != until:
            async with self._database.raw_connection() as connection:
                read = await read_changes(connection, after, CHANGES_AT_ONCE)
            if after > until and after <= read.current:
                return  # The subscriber knows a later revision than this process, whose feed will reach it.
            missed = [change for change in read.changes if change.revision <= until]
            if not missed or missed[0].revision != after + 1 or until - after > _PENDING_MAX:
                yield News(until, resync=True)
                return
            after = missed[-1].revision
            shown += shown_to(watcher.organization_id, missed)
            # A message with fewer says that nothing is missing until now.
            if len(shown) >= CHANGES_AT_ONCE:
                told, shown = shown[:CHANGES_AT_ONCE], shown[CHANGES_AT_ONCE:]
                yield News(told[-1].revision, tuple(told))
        yield News(until, tuple(shown))
