"""Follows the changes of entitlements in all shards, and serves WatchEntitlements.

A shard's counter says whether anything has changed there. Announcements name the shards to look at; a few others are
looked at in each round, so that a lost announcement delays news and loses none. A subscriber holds no queue here: it
knows up to which revision of each shard it has been told, and reads on from there when it has sent the last message.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Final

import structlog

from libs.common.announcements import follow
from libs.common.database import Database, RawConnection
from libs.common.deadline import STREAM_LIFE_S
from libs.common.errors import Refusal
from libs.common.shards import Shards
from libs.common.streams import Stream, Streams
from services.billing.subscription import entitlement_store as store
from services.billing.subscription.entitlement_position import Position, read_position
from services.billing.tables import ENTITLEMENTS_CHANNEL

_log = structlog.get_logger("entitlements")
ORGANIZATIONS_AT_ONCE: Final = 1_000
_ROUND_S: Final = 0.5
"""Behind a pooler there are no announcements, and a change is told within a second all the same."""
_HEARTBEAT_S: Final = 1.0
_GATHER_S: Final = 0.05
"""Changes that are announced within this time are read together, so that many of them cost few statements."""
_SHARDS_OF_A_ROUND: Final = 4
"""How many shards a round looks at of which nothing was heard."""
_LOOKS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class News:
    """A message: all that changed up to a position, or with `resync` an order to drop everything cached before."""

    position: Position
    organization_ids: tuple[str, ...] = ()
    resync: bool = False


class _Reader(Stream):
    """One subscriber."""

    __slots__ = ("resync", "told")

    def __init__(self, told: list[int]) -> None:
        super().__init__()
        self.told = told
        """Of each shard the revision up to which it was told everything."""
        self.resync = False


class EntitlementFeed:
    """Looks for changes as long as the process runs, and tells the subscribers."""

    def __init__(
        self, platform: Database, shards: Shards, watchers_max: int, stream_life_s: float = STREAM_LIFE_S
    ) -> None:
        self._platform = platform
        self._shards = shards
        self._numbers = {database.schema: number for number, database in enumerate(shards)}
        self._readers = Streams[_Reader](watchers_max, stream_life_s)
        self._newest = [0] * len(shards)
        self._default_version = 0
        self._heard: set[int] = set()
        self._unseen = set(range(len(shards)))
        """The shards that have not been looked at yet, or not since something may have been missed."""
        self._next_of_round = 0
        self._woken_s = 0.0

    async def run(self) -> None:
        """Look for changes and wake the subscribers until cancelled."""
        await follow(self._platform, ENTITLEMENTS_CHANNEL, self.catch_up, every_s=_ROUND_S, hear=self._hear)

    async def close(self) -> None:
        """End all streams, so that a stopping server does not wait for them."""
        self._readers.close()

    def _hear(self, schema: str) -> None:
        number = self._numbers.get(schema)
        if number is None:
            self._unseen.update(range(len(self._shards)))
        else:
            self._heard.add(number)

    async def catch_up(self, connection: RawConnection) -> None:
        """Look at the shards that may have changed, and wake the subscribers where one has, or a heartbeat is due.

        The statement on the connection that listens also shows that it still does.
        """
        await asyncio.sleep(_GATHER_S)
        default = await store.find_default(connection)
        heard, self._heard = self._heard, set()
        numbers = heard | self._unseen | set(self._turn())
        before = list(self._newest)
        unread = await self._look_at(numbers)
        self._unseen = (self._unseen - numbers) | unread
        version = default.version if default else 0
        # The default is everybody's. What has changed in a shard that cannot be read is not known. A revision that is
        # lower than before is one of a database that was restored.
        restored = any(now < then for now, then in zip(self._newest, before, strict=True))
        resync = version != self._default_version or bool(unread & heard) or restored
        self._default_version = version
        self._readers.start()
        now_s = time.monotonic()
        if resync or self._newest != before or now_s >= self._woken_s + _HEARTBEAT_S:
            self._woken_s = now_s
            for reader in self._readers:
                reader.resync |= resync
                reader.wake.set()

    async def watch(self, resume: str) -> AsyncIterator[News]:
        """Yield what changed after a position, then every change, until the stream has lasted for its time.

        Raises:
            TooManyWatchers: this process serves as many as it may.
            Unavailable: this process has not looked for changes yet, or is stopping.
        """
        await self._readers.started()
        reader = _Reader(list(self._newest))
        with self._readers.opened(reader) as end_s:
            if resume:
                await self._resume(reader, resume)
            reader.wake.set()
            while True:
                await reader.sleep()
                if time.monotonic() >= end_s:
                    return
                reader.wake.clear()
                yield await self._news(reader)

    async def _resume(self, reader: _Reader, resume: str) -> None:
        """Set a new subscriber back to where it was, or let it start over if that is nowhere."""
        position = read_position(resume)
        if (
            position is None
            or len(position.revisions) != len(self._shards)
            or position.default_version != self._default_version
            or await self._is_ahead(position)
        ):
            reader.resync = True
            return
        reader.told = [
            newest if told is None else told for told, newest in zip(position.revisions, reader.told, strict=True)
        ]

    async def _is_ahead(self, position: Position) -> bool:
        """Tell whether a position has a revision that was never given, or may not have been.

        Another process may have seen newer ones than this one.
        """
        for number, told in enumerate(position.revisions):
            if told is None or told <= self._newest[number]:
                continue
            try:
                async with self._shards[number].raw_connection() as connection:
                    if told > await store.current_revision(connection):
                        return True
            except Refusal as refusal:
                _log.warning("changes of entitlements cannot be read", shard=number, reason=refusal.reason)
                return True
        return False

    async def _news(self, reader: _Reader) -> News:
        """Return the next message to a subscriber, who stays awake while there is more."""
        if reader.resync:
            reader.resync = False
            reader.told = list(self._newest)
            return News(self._position(reader), resync=True)
        organization_ids: list[str] = []
        for number, newest in enumerate(self._newest):
            if reader.told[number] >= newest:
                continue
            if len(organization_ids) == ORGANIZATIONS_AT_ONCE:
                reader.wake.set()
                break
            try:
                organization_ids += await self._page(reader, number, ORGANIZATIONS_AT_ONCE - len(organization_ids))
            except Refusal as refusal:
                _log.warning("changes of entitlements cannot be read", shard=number, reason=refusal.reason)
                reader.resync = True
                reader.wake.set()
        return News(self._position(reader), tuple(organization_ids))

    async def _page(self, reader: _Reader, number: int, limit: int) -> list[str]:
        """Return the next organizations of a shard that a subscriber must be told of, and note that it is."""
        async with self._shards[number].raw_connection() as connection:
            newest, changed = await store.read_changed(connection, reader.told[number], limit)
        if len(changed) == limit:
            newest = changed[-1][1]
            reader.wake.set()
        reader.told[number] = newest
        return [organization_id for organization_id, _ in changed]

    def _position(self, reader: _Reader) -> Position:
        return Position(self._default_version, tuple(reader.told))

    def _turn(self) -> Collection[int]:
        """Return the numbers of the next shards to look at, whatever was heard."""
        count = len(self._shards)
        turn = [(self._next_of_round + step) % count for step in range(min(_SHARDS_OF_A_ROUND, count))]
        self._next_of_round = (turn[-1] + 1) % count
        return turn

    async def _look_at(self, numbers: Collection[int]) -> set[int]:
        """Read the newest revision of shards; return those that could not be read."""
        turns = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def look_at(number: int) -> bool:
            try:
                async with turns, self._shards[number].raw_connection() as connection:
                    self._newest[number] = await store.current_revision(connection)
            except Refusal as refusal:
                _log.warning("changes of entitlements cannot be read", shard=number, reason=refusal.reason)
                return False
            return True

        looked = sorted(numbers)
        seen = await asyncio.gather(*(look_at(number) for number in looked))
        return {number for number, was_seen in zip(looked, seen, strict=True) if not was_seen}
