"""Writes the times of last use of keys in batches: a busy key costs one row a round, and no verification waits for it.

Times that were not written when a process is killed are lost; they are only shown, nothing depends on them.
"""

import asyncio
from datetime import datetime
from typing import Final

import structlog

from libs.common.database import Database
from libs.common.errors import Refusal
from services.identity.api_key.verify.store import write_last_used

_log = structlog.get_logger("last_used")
_NOTED_MAX: Final = 100_000
_ROWS_AT_ONCE: Final = 1_000


class LastUsed:
    """The latest use of each key since the last round."""

    def __init__(self, database: Database, flush_s: float) -> None:
        self._database = database
        self._flush_s = flush_s
        self._noted: dict[str, datetime] = {}

    def note(self, api_key_id: str, now: datetime) -> None:
        """Note a use; dropped when too many keys are waiting to be written."""
        if len(self._noted) < _NOTED_MAX or api_key_id in self._noted:
            self._noted[api_key_id] = now

    async def run(self) -> None:
        """Write the noted times every few seconds."""
        while True:
            await asyncio.sleep(self._flush_s)
            await self.flush()

    async def flush(self) -> None:
        """Write the noted times; those that cannot be written are dropped and logged."""
        noted, self._noted = list(self._noted.items()), {}
        for start in range(0, len(noted), _ROWS_AT_ONCE):
            try:
                await self._write(noted[start : start + _ROWS_AT_ONCE])
            except Refusal as refusal:
                _log.warning("times of last use were lost", keys=len(noted) - start, reason=refusal.reason)
                return

    async def _write(self, used: list[tuple[str, datetime]]) -> None:
        """Write times in one statement; where that fails, in halves, so that in the end only the odd row is lost.

        Raises:
            Refusal: the database does not answer, or is busy.
        """
        try:
            await write_last_used(self._database, used)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever one row causes must not cost the others their times.
            if len(used) == 1:
                _log.error("the time of last use of a key was lost", api_key_id=used[0][0], exc_info=error)
                return
            middle = len(used) // 2
            await self._write(used[:middle])
            await self._write(used[middle:])
