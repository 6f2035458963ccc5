"""Deletes contents and titles that are too old, and what a deletion left when its process was killed."""

from typing import Final, NoReturn

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.conversation import message_store, policy_store, store
from services.metering.conversation.erasure import AT_ONCE, empty

_LOOK_EVERY_S: Final = 30.0
_DUE_AT_ONCE: Final = 100
_EMPTIED_MAX: Final = 20_000
"""How many contents of one conversation a visit deletes."""
_ORGANIZATIONS_MAX: Final = 1_000
"""How many organizations a visit looks at; the next goes on after them."""
_EXPIRED_MAX: Final = 20_000
"""How many contents, and how many titles, of one organization a visit deletes."""


class Retention:
    """Looks at the shards again and again. Several processes may do so at once."""

    def __init__(self, shards: Shards, clock: Clock, *, retention_days: int) -> None:
        self._shards = shards
        self._clock = clock
        self._retention_days = retention_days
        self._after: dict[Database, str] = {}
        """The organization after which the next visit of a shard goes on."""

    async def run(self) -> NoReturn:
        await self._shards.visit(self.tidy, every_s=_LOOK_EVERY_S)

    async def tidy(self, database: Database) -> None:
        """Delete what has to go in a shard."""
        await self._finish_deletions(database)
        await self._expire(database)

    async def _finish_deletions(self, database: Database) -> None:
        after = (NIL, "")
        while True:
            async with database.raw_connection() as connection:
                due = await store.due_after(connection, after, _DUE_AT_ONCE)
            for organization_id, conversation_id in due:
                await empty(database, organization_id, conversation_id, at_most=_EMPTIED_MAX)
            if len(due) < _DUE_AT_ONCE:
                return
            after = due[-1]

    async def _expire(self, database: Database) -> None:
        after = self._after.pop(database, NIL)
        for _ in range(_ORGANIZATIONS_MAX):
            async with database.raw_connection() as connection:
                nexts = (await message_store.next_kept(connection, after), await store.next_titled(connection, after))
                found = [one for one in nexts if one is not None]
                if not found:
                    return
                after = min(found)
                policy = await policy_store.find(connection, after)
            before = policy.expired_before(self._clock.now(), self._retention_days)
            if before is None:
                continue
            for expire in (message_store.expire, store.expire_titles):
                for _ in range(0, _EXPIRED_MAX, AT_ONCE):
                    async with database.raw_transaction() as connection:
                        if await expire(connection, after, before, AT_ONCE) < AT_ONCE:
                            break
        self._after[database] = after
