"""The change feed: reads new changes from the database and delivers them to the caches and subscribers of this process.

Notifications of Postgres only make it faster: each round reads all changes after the last revision seen, so a lost
notification or connection delays changes but loses none.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from libs.common.database import Database, RawConnection
from libs.common.errors import Refusal
from services.identity.api_key.verify.prefixes import ImportedPrefixes
from services.identity.api_key.verify.store import listen, read_changes
from services.identity.revisions import Change

_log = structlog.get_logger("change_feed")
CHANGES_AT_ONCE: Final = 500
_ROUND_S: Final = 1.0
_RECONNECT_MIN_S: Final = 0.05
_RECONNECT_MAX_S: Final = 1.0


class Audience(Protocol):
    """Receives changes from the feed."""

    def note(self, changes: list[Change], *, seen_revision: int, confirmed_s: float) -> None:
        """Apply the changes up to a revision, in order; at `confirmed_s` there were no later ones."""

    def forget_all(self, *, seen_revision: int, confirmed_s: float) -> None:
        """Start over: changes up to a revision were not delivered."""


class ChangeFeed:
    """Follows the changes as long as the process runs."""

    def __init__(
        self,
        database: Database,
        audiences: list[Audience],
        prefixes: ImportedPrefixes | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._audiences = audiences
        self._prefixes = prefixes or ImportedPrefixes()
        self._monotonic_s = monotonic_s
        self._seen_revision: int | None = None
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Follow the changes, and reconnect for ever with at most a second between attempts."""
        delay_s = _RECONNECT_MIN_S
        while True:
            seen_revision = self._seen_revision
            try:
                if self._database.is_pooled:
                    await self._poll()
                async with self._database.raw_connection() as connection:
                    await self._follow(connection)
            except (Refusal, OSError) as error:
                _log.warning("the change feed was disconnected", error=type(error).__name__, again_in_s=delay_s)
            if self._seen_revision != seen_revision:
                delay_s = _RECONNECT_MIN_S
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _RECONNECT_MAX_S)

    async def _poll(self) -> None:
        """Look for changes every second, where a pooler carries no announcements."""
        while True:
            async with self._database.raw_connection() as connection:
                await self.catch_up(connection)
            await asyncio.sleep(_ROUND_S)

    async def _follow(self, connection: RawConnection) -> None:
        stop_listening = await listen(connection, self._wake.set)
        try:
            while True:
                self._wake.clear()
                await self.catch_up(connection)
                try:
                    async with asyncio.timeout(_ROUND_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass  # A round without a notification still confirms that nothing has changed.
        finally:
            await stop_listening()

    async def catch_up(self, connection: RawConnection) -> None:
        """Read every change after the last revision seen, and deliver it."""
        while True:
            confirmed_s = self._monotonic_s()
            after = self._seen_revision
            read = await read_changes(connection, 0 if after is None else after, CHANGES_AT_ONCE)
            current, changes = read.current, read.changes
            if after is None or _is_torn(after, current, changes):
                self._seen_revision = current
                for audience in self._audiences:
                    audience.forget_all(seen_revision=current, confirmed_s=confirmed_s)
                self._prefixes.learn(read.prefixes, seen_revision=current)
                return
            complete = len(changes) < CHANGES_AT_ONCE
            self._seen_revision = current if complete else changes[-1].revision
            for audience in self._audiences:
                _tell(audience, changes, self._seen_revision, confirmed_s)
            self._prefixes.learn(read.prefixes, seen_revision=self._seen_revision)
            if complete:
                return


def _tell(audience: Audience, changes: list[Change], seen_revision: int, confirmed_s: float) -> None:
    """Pass changes to one receiver. If it fails, it drops its cache and starts over; the others are not affected."""
    try:
        audience.note(changes, seen_revision=seen_revision, confirmed_s=confirmed_s)
    except Exception as error:  # noqa: BLE001 -- changes are read once; a receiver must not miss any.
        _log.error("a receiver of changes failed", audience=type(audience).__name__, exc_info=error)
        audience.forget_all(seen_revision=seen_revision, confirmed_s=confirmed_s)


def _is_torn(after: int, current: int, changes: list[Change]) -> bool:
    """Return whether changes after the revision were deleted, or the database was restored to an earlier state."""
    return current < after or (current > after and (not changes or changes[0].revision != after + 1))
