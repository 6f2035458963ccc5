"""Messages: added, with the usage that they took, and listed.

The usage comes first, recorded and charged under the message's operation id by what records all usage. The message
comes after it, in one transaction with its place, its conversation's sums and the counts of the month. Killed in
between, there is usage without a message: the repeat finds the usage recorded, and adds the message. So nothing is
charged twice, and no message has usage that is not recorded. Adding a message locks its conversation, which gives it
its place.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database
from libs.common.errors import Conflict, NotFound, OperationIdReused
from libs.common.shards import Shards
from services.metering.conversation import message_store, policy_store, store
from services.metering.conversation.contents import Contents
from services.metering.conversation.conversations import Conversations
from services.metering.conversation.domain import (
    Beginning,
    Conversation,
    Message,
    Role,
    TextState,
    Used,
    costs_with,
    digest,
    used_of,
)
from services.metering.errors import ConversationOfAnother
from services.metering.usage.domain import Accepted, Work
from services.metering.usage.usages import Usages

_TRIES_MAX: Final = 3


class Appended(NamedTuple):
    """A message that is to be added."""

    organization_id: str
    conversation_id: str
    operation_id: str
    role: Role
    content: str | None
    model: str
    """Empty where the conversation's is meant."""
    begun: Beginning | None
    """What the conversation begins with if there is none."""
    usage: bytes
    """The usage as it was sent, to be compared; empty where the message has none."""
    work: Callable[[Conversation], Awaitable[Work]] | None
    """Reads the usage, for the conversation; None where the message has none."""

    @property
    def fingerprint(self) -> bytes:
        """A digest of the request without its content, which must not be guessed once it is deleted."""
        return digest(self.role.value, self.model, self.usage.hex())


class Added(NamedTuple):
    """The message is stored, now or before."""

    message: Message
    replayed: bool
    work: Work | None = None
    recorded: Accepted | None = None


class Messages:
    """The use cases of messages."""

    def __init__(
        self, shards: Shards, conversations: Conversations, contents: Contents, usages: Usages, clock: Clock
    ) -> None:
        self._shards = shards
        self._conversations = conversations
        self._contents = contents
        self._usages = usages
        self._clock = clock

    async def append(self, wanted: Appended) -> Added:
        """Add a message, and record its usage.

        Raises:
            NotFound: there is no such conversation, and none is to be begun; or it is deleted and there is no usage.
            ConversationOfAnother: it belongs to another user or project than the one that would be begun.
            OperationIdReused: the operation id was used by another message or other usage.
            Refusal: why the usage cannot be recorded.
        """
        database = self._shards.of(wanted.organization_id)
        async with database.raw_connection() as connection:
            known = await message_store.find(connection, wanted.organization_id, wanted.operation_id)
        if known is not None:
            self._check_repeat(known, wanted)
        conversation = await self._conversation(wanted)
        if known is None and conversation.delete_time is not None and wanted.work is None:
            raise NotFound(resource_type="conversation", resource_name=wanted.conversation_id)
        work, recorded = None, None
        if wanted.work is not None:
            work, recorded = await self._record(wanted, wanted.work, conversation)
        for _ in range(_TRIES_MAX):
            if known is not None:
                self._check_repeat(known, wanted)
                return Added(known, True, work, recorded)
            try:
                used = None if recorded is None else used_of(recorded.recorded)
                message = await self._add(database, wanted, "" if work is None else work.model, used)
            except ConstraintViolation:
                # Another call has used the operation id meanwhile: its message is there now.
                async with database.raw_connection() as connection:
                    known = await message_store.find(connection, wanted.organization_id, wanted.operation_id)
                continue
            return Added(message, False, work, recorded)
        raise Conflict

    async def page(
        self, conversation: Conversation, after: int, *, newest_first: bool, with_content: bool, limit: int
    ) -> list[tuple[Message, str | None]]:
        """Return messages of a conversation that follow a position, with their contents; as many as fit into a page.

        Raises:
            ContentNotReadable: a content cannot be decrypted.
        """
        with_content = with_content and conversation.delete_time is None
        async with self._shards.of(conversation.organization_id).raw_connection() as connection:
            messages = await message_store.page(
                connection,
                conversation.organization_id,
                conversation.conversation_id,
                after,
                newest_first=newest_first,
                with_content=with_content,
                limit=limit,
            )
        if conversation.delete_time is not None:
            messages = [_deleted(one) for one in messages]
        return [(one, self._contents.text(one)) for one in messages]

    async def _record(
        self, wanted: Appended, read: Callable[[Conversation], Awaitable[Work]], conversation: Conversation
    ) -> tuple[Work, Accepted]:
        """Record the usage of a message. A repeat without a model means the one that the conversation had at first."""
        work = await read(conversation)
        (outcome,) = await self._usages.record([work])
        if isinstance(outcome, OperationIdReused) and not wanted.model:
            model = await self._usages.model_of(wanted.organization_id, wanted.operation_id)
            if model not in (None, work.model):
                work = await read(replace(conversation, model=model))
                (outcome,) = await self._usages.record([work])
        if isinstance(outcome, Exception):
            raise outcome
        return work, outcome

    async def _conversation(self, wanted: Appended) -> Conversation:
        if wanted.begun is None:
            # Whoever may record usage may add messages, and needs no scope for conversations.
            async with self._shards.of(wanted.organization_id).raw_connection() as connection:
                known = await store.find(connection, wanted.organization_id, wanted.conversation_id)
            if known is None:
                raise NotFound(resource_type="conversation", resource_name=wanted.conversation_id)
            return known
        found, _ = await self._conversations.find_or_begin(wanted.begun)
        for field in ("user_id", "project_id"):
            if getattr(found, field) != getattr(wanted.begun, field):
                raise ConversationOfAnother(conversation_id=wanted.conversation_id, field=field.removesuffix("_id"))
        return found

    async def _add(self, database: Database, wanted: Appended, model: str, used: Used | None) -> Message:
        """Add the message at the end of its conversation, in one transaction.

        Without a model of its usage it has the one that was sent, or the conversation's.
        """
        key = wanted.organization_id, wanted.conversation_id
        async with database.raw_transaction() as connection:
            conversation = await store.lock(connection, *key)
            if conversation is None or (conversation.delete_time is not None and used is None):
                raise NotFound(resource_type="conversation", resource_name=wanted.conversation_id)
            policy = await policy_store.find(connection, wanted.organization_id)
            position = conversation.message_count + 1
            now = self._clock.now()
            content = self._contents.stored(
                wanted.content,
                policy,
                deleted=conversation.delete_time is not None,
                organization_id=wanted.organization_id,
                conversation_id=wanted.conversation_id,
                position=position,
            )
            model = model or wanted.model or conversation.model
            message = Message(
                *(*key, position, wanted.operation_id, wanted.role, wanted.fingerprint, content, model, now, used)
            )
            await message_store.add(connection, message, conversation.user_id)
            costs = costs_with(conversation.costs, used)
            await store.advance(connection, replace(conversation, message_count=position, costs=costs, update_time=now))
        return message

    def _check_repeat(self, known: Message, wanted: Appended) -> None:
        """Raise OperationIdReused if a message is not the one that is to be added."""
        if known.conversation_id != wanted.conversation_id:
            raise OperationIdReused(operation_id=wanted.operation_id, field="conversation_id")
        if known.role is not wanted.role:
            raise OperationIdReused(operation_id=wanted.operation_id, field="role")
        if known.fingerprint != wanted.fingerprint:
            raise OperationIdReused(operation_id=wanted.operation_id, field="model or usage")
        was_given = {TextState.KEPT: True, TextState.NONE: False}.get(known.content.state)
        differs = was_given is not None and was_given is not (wanted.content is not None)
        if differs or (was_given and self._contents.text(known) != wanted.content):
            raise OperationIdReused(operation_id=wanted.operation_id, field="content")


def _deleted(message: Message) -> Message:
    """Return a message of a deleted conversation: its content may be there still, and is not shown."""
    if message.content.state is not TextState.KEPT:
        return message
    return replace(message, content=message.content._replace(stored=None, state=TextState.DELETED))
