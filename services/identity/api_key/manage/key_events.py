"""Events about keys: one was leaked, and one expires soon.

The address of a key's owner is for operators alone, and encrypted. That a key expires soon is announced once for each
time at which it expires, in the transaction that notes that it is.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import Refusal
from libs.common.events.outbox import NewEvent, announce
from libs.common.sealing import SealingKeys, seal_data
from libs.common.timestamps import rfc3339
from services.identity.api_key.domain import ApiKey
from services.identity.api_key.manage import key_event_store as store

_log = structlog.get_logger("expiring_keys")
_ROUND_S: Final = 60.0
_AT_ONCE: Final = 200
TOLD_BEFORE: Final = timedelta(days=7)
"""How long before it expires a key is announced."""


async def announce_leak(
    tx: Transaction, api_key: ApiKey, found: Mapping[str, str], keys: SealingKeys | None, now: datetime
) -> None:
    """Announce that a key was found in public, and is revoked; `found` says by whom and where."""
    email = None if api_key.user_id is None else await store.find_email(tx, api_key.user_id)
    data = {**_about(api_key), **found}
    await announce(
        tx, [_event("tollhouse.api_key.leaked", api_key.organization_id, api_key.api_key_id, data, email, keys)], now
    )


class KeyExpiry:
    """Announces keys that expire soon, every minute. Several processes may do so at once."""

    def __init__(self, database: Database, clock: Clock, keys: SealingKeys | None) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys

    async def run(self) -> None:
        while True:
            try:
                await self.announce_due()
            except Refusal as refusal:
                _log.warning("expiring keys could not be announced; trying again", reason=refusal.reason)
            await asyncio.sleep(_ROUND_S)

    async def announce_due(self) -> None:
        """Announce all keys that expire soon and are not announced."""
        while await self._announce_some() == _AT_ONCE:
            pass

    async def _announce_some(self) -> int:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            due = await store.lock_expiring(tx, now, now + TOLD_BEFORE, _AT_ONCE)
            if due:
                await store.note_told(tx, due)
                events = [_expiring(one, self._keys) for one in due]
                await announce(tx, sorted(events, key=lambda event: (event.organization_id, event.subject)), now)
        return len(due)


def _about(api_key: ApiKey) -> dict[str, object]:
    return {
        "api_key_id": api_key.api_key_id,
        "name": api_key.name,
        "user_id": api_key.user_id,
        "service_account_id": api_key.service_account_id,
        "project_id": api_key.project_id,
    }


def _expiring(due: store.ExpiringKey, keys: SealingKeys | None) -> NewEvent:
    data = {
        "api_key_id": due.api_key_id,
        "name": due.name,
        "user_id": due.user_id,
        "service_account_id": due.service_account_id,
        "project_id": due.project_id,
        "expire_time": rfc3339(due.expire_time),
    }
    return _event("tollhouse.api_key.expiring", due.organization_id, due.api_key_id, data, due.email, keys)


def _event(
    event_type: str,
    organization_id: str,
    api_key_id: str,
    data: Mapping[str, object],
    email: str | None,
    keys: SealingKeys | None,
) -> NewEvent:
    subject = f"api_key/{api_key_id}"
    sealed = seal_data(keys, organization_id, subject, {"email": email}) if email else None
    return NewEvent(organization_id, event_type, subject, data, sealed)
