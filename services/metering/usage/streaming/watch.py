"""Tells watchers what is recorded of an organization. Each reads by itself, so that a slow one holds nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.deadline import STREAM_LIFE_S
from libs.common.errors import FieldViolation, InvalidArgument, TooManyWatchers, Unavailable
from libs.common.ids import first_id_of
from libs.common.shards import Shards
from services.metering.usage import store as usage_store
from services.metering.usage.correction import store as correction_store
from services.metering.usage.correction.domain import Correction
from services.metering.usage.domain import Recorded
from services.metering.usage.streaming import store
from services.metering.usage.streaming.position import Position, lowest_id, next_transaction

PAGE_MAX: Final = 200
"""The most usages, and the most corrections, of a message."""
WATCHERS_MAX: Final = 256
WATCHERS_OF_ONE_MAX: Final = 16
"""The most watchers of one organization in a process."""
_HEARTBEAT_S: Final = 5.0
_LOOK_EVERY_S: Final = 1.0
_PAUSE_FACTOR: Final = 9
"""A watcher pauses so many times as long as its last look took: it keeps Postgres busy for a tenth of the time."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class News(NamedTuple):
    """A message to a watcher."""

    position: Position
    usages: Sequence[Recorded] = ()
    corrections: Sequence[Correction] = ()


class UsageWatch:
    """Serves the watchers of this process."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock
        self._watchers: list[str] = []
        self._closing = asyncio.Event()

    async def close(self) -> None:
        """End all streams, so that a stopping server does not wait for them."""
        self._closing.set()

    async def watch(
        self, organization_id: str, position: Position | None, start_time: datetime | None
    ) -> AsyncIterator[News]:
        """Yield what is recorded from a position, a time or now on, until the stream has lasted for its time.

        Raises:
            InvalidArgument: the position is of the future of this database, which was restored then.
            TooManyWatchers: this process serves as many as it may.
            Unavailable: this process is stopping.
        """
        if len(self._watchers) >= WATCHERS_MAX or self._watchers.count(organization_id) >= WATCHERS_OF_ONE_MAX:
            raise TooManyWatchers(watchers=len(self._watchers))
        self._watchers.append(organization_id)
        try:
            end_s = time.monotonic() + STREAM_LIFE_S
            database = self._shards.of(organization_id)
            position = await self._begin(database, position, start_time)
            told_s = time.monotonic()
            yield News(position)
            while time.monotonic() < end_s:
                began_s = time.monotonic()
                async for news in self._step(database, organization_id, position):
                    position = news.position
                    if news.usages or news.corrections or time.monotonic() - told_s >= _HEARTBEAT_S:
                        told_s = time.monotonic()
                        yield news
                await self._pause(max(_LOOK_EVERY_S, (time.monotonic() - began_s) * _PAUSE_FACTOR))
        finally:
            self._watchers.remove(organization_id)

    async def _begin(self, database: Database, position: Position | None, start_time: datetime | None) -> Position:
        now = self._clock.now()
        async with database.raw_connection() as connection:
            current = await store.snapshot(connection)
        if position is None:
            return Position(current, lowest_id(now)) if start_time is None else Position("", first_id_of(start_time))
        if any(one and next_transaction(one) > next_transaction(current) for one in (position.since, position.until)):
            raise InvalidArgument([FieldViolation("position", "is not a position of this database")])
        return position

    async def _step(self, database: Database, organization_id: str, position: Position) -> AsyncIterator[News]:
        """Yield what was committed since the last step, page by page, and at last the place after it."""
        if not position.until:
            now = self._clock.now()
            async with database.raw_connection() as connection:
                position = position.begun(await store.snapshot(connection), now)
        while True:
            async with database.raw_connection() as connection:
                found = await store.usages_between(
                    connection, organization_id, position.usage_id, position.since, position.until, PAGE_MAX
                )
                keys = [(organization_id, operation_id) for operation_id, _ in found]
                stored = await usage_store.find(connection, keys) if keys else {}
            if not found:
                break
            position = position._replace(usage_id=found[-1][1])
            yield News(position, usages=[stored[key][0] for key in keys if key in stored])
        while True:
            async with database.raw_connection() as connection:
                made = await store.corrections_between(
                    connection, organization_id, _after(position), position.since, position.until, PAGE_MAX
                )
                keys = [(organization_id, operation_id) for operation_id, _ in made]
                whole = await correction_store.find_corrections(connection, keys) if keys else {}
            if not made:
                break
            position = position.after(whole[keys[-1]])
            yield News(position, corrections=[whole[key] for key in keys])
        yield News(position.ended())

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return
        raise Unavailable(dependency="change feed")


def _after(position: Position) -> tuple[datetime, str]:
    """Return the time and operation id after which the corrections of a step go on."""
    microseconds, operation_id = position.correction
    if operation_id:
        return _EPOCH + timedelta(microseconds=int(microseconds)), operation_id
    # The time of an id is in its first 48 bits, in milliseconds.
    return _EPOCH + timedelta(milliseconds=int(position.lowest.replace("-", "")[:12], 16)), ""
