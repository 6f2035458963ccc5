"""Deletes what people wrote: contents of messages and titles of conversations. Counts, quantities and costs stay.

It is noted first which conversations have contents that have to go, in the transaction that deletes the title. The
contents go after that, some at a time, each in a transaction of its own. Killed in between, retention does the rest.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from libs.common.database import Database, RawConnection
from libs.common.timestamps import moment_of
from services.metering.conversation import message_store, store
from services.metering.conversation.domain import Conversation, TextState, emptied
from services.metering.conversation.store import Place

AT_ONCE: Final = 200
"""How many contents go in one transaction."""
_CONVERSATIONS_AT_ONCE: Final = 100
_ORGANIZATIONS_AT_ONCE: Final = 200
_FIRST: Final = Place(moment_of(0), "")


def without_texts(conversation: Conversation, now: datetime) -> Conversation:
    """Return a conversation without its title, whose contents have to go."""
    return replace(
        conversation,
        title=emptied(conversation.title, TextState.DELETED),
        fingerprint=b"",
        contents_due=True,
        revision=conversation.revision + 1,
        update_time=now,
    )


async def empty(database: Database, organization_id: str, conversation_id: str, *, at_most: int) -> bool:
    """Delete the contents of a conversation that is noted as one whose contents have to go; tell whether all are gone.

    At most so many go now. The others are left to retention.
    """
    for _ in range(0, at_most, AT_ONCE):
        async with database.raw_transaction() as connection:
            # A message is added under this lock, so none comes between the last look and the note.
            if await store.lock(connection, organization_id, conversation_id) is None:
                return True
            if await message_store.empty(connection, organization_id, conversation_id, AT_ONCE) < AT_ONCE:
                await store.end_due(connection, organization_id, conversation_id)
                return True
    return False


async def forget_user_after(database: Database, user_id: str, after: str, now: datetime) -> tuple[int, str]:
    """Do what `forget_user` does in the next organizations of a shard.

    Return how many conversations of the user those have, and the organization to go on after, empty at the end.
    """
    async with database.raw_connection() as connection:
        looked = await store.organizations_of_user(connection, after, user_id, _ORGANIZATIONS_AT_ONCE)
    count = 0
    for organization_id, has_any in looked:
        if has_any:
            count += await forget_user(database, organization_id, user_id, now)
    return count, looked[-1][0] if len(looked) == _ORGANIZATIONS_AT_ONCE else ""


async def forget_user(database: Database, organization_id: str, user_id: str, now: datetime) -> int:
    """Delete the titles and contents of all conversations of a user; return how many conversations those are.

    Safe to repeat, also after it was killed. A message that is added meanwhile may keep its content.
    """
    after, count = _FIRST, 0
    while True:
        async with database.raw_connection() as connection:
            page = await store.of_user_after(connection, organization_id, user_id, after, _CONVERSATIONS_AT_ONCE)
        for one in page:
            async with database.raw_transaction() as connection:
                await _note(connection, one, now)
            while not await empty(database, organization_id, one.conversation_id, at_most=AT_ONCE):
                pass
        count += len(page)
        if len(page) < _CONVERSATIONS_AT_ONCE:
            return count
        after = Place(page[-1].create_time, page[-1].conversation_id)


async def _note(connection: RawConnection, found: Conversation, now: datetime) -> None:
    locked = await store.lock(connection, found.organization_id, found.conversation_id)
    if locked is not None and not locked.contents_due:
        await store.change(connection, without_texts(locked, now))
