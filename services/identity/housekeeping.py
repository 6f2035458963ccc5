"""Deletes rows whose retention is over: request ids, changes, invitations, tokens, sessions and counts of attempts."""

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from services.identity.api_key.verify.store import forget_changes, forget_requests
from services.identity.organization.invitation_store import forget_invitations
from services.identity.session.attempt_store import forget_attempts
from services.identity.session.domain import ATTEMPTS_WINDOW
from services.identity.session.store import forget_refresh_tokens, forget_sessions

_log = structlog.get_logger("housekeeping")
_ROUND_S: Final = 60.0
_ROWS_AT_ONCE: Final = 5_000
REQUESTS_KEPT: Final = timedelta(days=30)
CHANGES_KEPT: Final = timedelta(days=7)
INVITATIONS_KEPT: Final = timedelta(days=90)
"""How long an invitation is kept after its expire time, with the address it was for."""
SESSIONS_KEPT: Final = timedelta(days=30)
"""How long a session is kept after its expire time; its refresh tokens are deleted at once."""


class Housekeeping:
    """Deletes a bounded number of old rows every minute."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_S)
            try:
                await self.forget()
            except Refusal as refusal:
                _log.warning("old rows could not be deleted; trying again in the next round", reason=refusal.reason)

    async def forget(self) -> None:
        """Delete rows whose retention is over."""
        now = self._clock.now()
        await forget_changes(self._database, now - CHANGES_KEPT, _ROWS_AT_ONCE)
        await forget_requests(self._database, now - REQUESTS_KEPT, _ROWS_AT_ONCE)
        await forget_invitations(self._database, now - INVITATIONS_KEPT, _ROWS_AT_ONCE)
        await forget_refresh_tokens(self._database, now, _ROWS_AT_ONCE)
        await forget_sessions(self._database, now - SESSIONS_KEPT, _ROWS_AT_ONCE)
        await forget_attempts(self._database, now - ATTEMPTS_WINDOW, _ROWS_AT_ONCE)
