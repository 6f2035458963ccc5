"""Empties the texts of users in what metering has of them, in the background.

It goes through the shards and tables in order, a range of rows with each statement, and stores after each how far it
is. A process that dies in between leaves a range that is emptied twice, which changes nothing.

Usage and the lines of corrections are emptied here, conversations by what the service gives. Whatever else comes to
hold texts of a person in metering is emptied by a further step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NoReturn, TypeAlias

import structlog

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import NotFound, Refusal
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.retention import forget_store
from services.metering.retention.forget_store import STEPS, Forgotten

_log = structlog.get_logger("forgetting")

LEASE: Final = timedelta(seconds=60)

EmptyConversations: TypeAlias = Callable[[Database, str, str, datetime], Awaitable[tuple[int, str]]]
"""Empties the conversations of a user in the next organizations of a shard: see `conversation.erasure`."""


class Forgetting:
    """Takes users who are to be forgotten, and forgets them for as long as the service runs."""

    def __init__(
        self,
        platform: Database,
        shards: Shards,
        empty_conversations: EmptyConversations,
        clock: Clock,
        *,
        every_s: float,
    ) -> None:
        self._platform = platform
        self._shards = shards
        self._empty_conversations = empty_conversations
        self._clock = clock
        self._every_s = every_s

    async def ask(self, user_id: str) -> Forgotten:
        """Begin to forget a user; return how far it is."""
        now = self._clock.now()
        async with self._platform.raw_transaction() as connection:
            begun = await forget_store.begin(connection, user_id, now)
            if begun is not None:
                await record_event(
                    connection,
                    now=now,
                    organization_id=PLATFORM,
                    resource_type="forgotten_user",
                    resource_id=user_id,
                    changed=[Changed("texts", after="emptied")],
                )
                return begun
            known = await forget_store.find(connection, user_id)
        assert known is not None, "it is in progress"
        return known

    async def get(self, user_id: str) -> Forgotten:
        async with self._platform.raw_connection() as connection:
            known = await forget_store.find(connection, user_id)
        if known is None:
            raise NotFound(resource_type="forgotten user", resource_name=user_id)
        return known

    async def run(self) -> NoReturn:
        """Forget users until cancelled."""
        while True:
            try:
                while await self.step():
                    pass
            except Refusal as refusal:
                _log.warning("forgetting a user waits", reason=refusal.reason)
            except Exception as error:  # noqa: BLE001 -- another process, or the next round, goes on.
                _log.error("forgetting a user failed and is tried again", exc_info=error)
            await asyncio.sleep(self._every_s)

    async def step(self) -> bool:
        """Take a user and empty all texts; tell whether there was one."""
        now = self._clock.now()
        async with self._platform.raw_connection() as connection:
            taken = await forget_store.take(connection, now, now + LEASE)
        if taken is None:
            return False
        while taken.done_time is None:
            emptied, after = await self._empty(taken)
            following = self._following(taken)._replace(after=()) if not after else taken._replace(after=after)
            async with self._platform.raw_connection() as connection:
                await forget_store.save(connection, taken, following, emptied, self._clock.now() + LEASE)
            taken = following
        return True

    async def _empty(self, one: Forgotten) -> tuple[int, Sequence[str]]:
        """Empty the next rows of a step; return how many had texts, and the key to go on after."""
        database = self._shards[one.shard]
        if one.step == forget_store.CONVERSATIONS:
            count, after = await self._empty_conversations(
                database, one.user_id, one.after[0] if one.after else NIL, self._clock.now()
            )
            return count, (after,) if after else ()
        async with database.raw_connection() as connection:
            return await forget_store.empty(connection, one)

    def _following(self, one: Forgotten) -> Forgotten:
        """Return the next step, that of the next shard, or the end."""
        if one.step + 1 < STEPS:
            return one._replace(step=one.step + 1)
        if one.shard + 1 < len(self._shards):
            return one._replace(shard=one.shard + 1, step=0)
        return one._replace(done_time=self._clock.now())
