"""The change feed: reads new changes from the database and delivers them to the caches and subscribers of this process.

Each round reads all changes after the last revision seen.
"""

import time
from typing import Final, Protocol

import structlog

from libs.common.announcements import follow
from libs.common.database import Database, RawConnection
from services.identity.api_key.verify.prefixes import ImportedPrefixes
from services.identity.api_key.verify.store import read_changes
from services.identity.revisions import Change
from services.identity.tables import CHANGES_CHANNEL

_log = structlog.get_logger("change_feed")
CHANGES_AT_ONCE: Final = 500
_ROUND_S: Final = 1.0


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
    ) -> None:
        self._database = database
        self._audiences = audiences
        self._prefixes = prefixes or ImportedPrefixes()
        self._seen_revision: int | None = None

    async def run(self) -> None:
        """Follow the changes until cancelled."""
        await follow(self._database, CHANGES_CHANNEL, self.catch_up, every_s=_ROUND_S)

    async def catch_up(self, connection: RawConnection) -> None:
        """Read every change after the last revision seen, and deliver it."""
        while True:
            confirmed_s = time.monotonic()
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
