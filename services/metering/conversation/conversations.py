"""Conversations: begun, read, listed, changed and deleted.

The answer about a conversation that the caller may not see is that about a missing one.
"""

from dataclasses import replace
from typing import Final

from libs.common.access import Scope
from libs.common.audit.recording import record_event
from libs.common.call import current_caller, is_limited, may
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import NotFound, StaleEtag
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.clients.subjects import Kind, Subjects
from services.metering.conversation import policy_store, store
from services.metering.conversation.domain import Beginning, Conversation
from services.metering.conversation.erasure import empty, without_texts
from services.metering.conversation.store import Listed, Place
from services.metering.errors import ConversationExists, OrganizationNotFound

_EMPTIED_AT_ONCE_MAX: Final = 10_000
"""How many contents are deleted before a deletion is answered; retention deletes the others."""


class Conversations:
    """The use cases of conversations."""

    def __init__(self, shards: Shards, organizations: Organizations, subjects: Subjects, clock: Clock) -> None:
        self._shards = shards
        self._organizations = organizations
        self._subjects = subjects
        self._clock = clock

    async def begin(self, begun: Beginning) -> tuple[Conversation, bool]:
        """Begin a conversation, and return it, and whether it was there before.

        Raises:
            OrganizationNotFound: identity does not know the organization.
            NotFound: a user or key names a project or user that the organization does not have.
            ConversationExists: it began with other fields.
            Unavailable: identity cannot be asked about them.
        """
        if is_limited():
            await self._check_owners(begun)
        conversation, added = await self.find_or_begin(begun)
        differing = None if added else _differing(conversation, begun)
        if differing is not None:
            raise ConversationExists(conversation_id=begun.conversation_id, field=differing)
        return conversation, not added

    async def _check_owners(self, begun: Beginning) -> None:
        """Refuse what users and keys would begin for somebody who does not belong to the organization."""
        is_own = current_caller().is_user(begun.user_id or "")
        for kind, owner_id in ((Kind.PROJECT, begun.project_id), (Kind.USER, None if is_own else begun.user_id)):
            if owner_id and not await self._subjects.belongs(begun.organization_id, kind, owner_id):
                raise NotFound(resource_type=kind.value, resource_name=owner_id)

    async def find_or_begin(self, begun: Beginning) -> tuple[Conversation, bool]:
        """Return the conversation of this id, and whether it began now.

        Raises:
            OrganizationNotFound: there is none, and identity does not know the organization.
        """
        key = begun.organization_id, begun.conversation_id
        database = self._shards.of(begun.organization_id)
        async with database.raw_connection() as connection:
            found = await store.find(connection, *key)
        if found is not None:
            return found, False
        if await self._organizations.find_unknown([begun.organization_id]):
            raise OrganizationNotFound(organization_id=begun.organization_id)
        async with database.raw_transaction() as connection:
            policy = await policy_store.find(connection, begun.organization_id)
            added = await store.add(connection, begun, policy.title(begun.title), self._clock.now())
            if added:
                await _record(connection, begun.organization_id, begun.conversation_id, self._clock)
            found = await store.find(connection, *key)
        if found is None:
            raise NotFound(resource_type="conversation", resource_name=begun.conversation_id)
        return found, added

    async def get(self, organization_id: str, conversation_id: str) -> Conversation:
        """Return a conversation that the caller may see.

        Raises:
            NotFound: there is none, or the caller may not see it.
        """
        async with self._shards.of(organization_id).raw_connection() as connection:
            found = await store.find(connection, organization_id, conversation_id)
        return _visible(found, conversation_id, Scope.SCOPE_CONVERSATIONS_READ)

    async def page(self, organization_id: str, listed: Listed, limit: int) -> tuple[list[Conversation], Place | None]:
        """Return a page of a list, and where the next begins."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.list_conversations(connection, organization_id, listed, limit)

    async def update(
        self, organization_id: str, conversation_id: str, values: dict[str, object], etag: str
    ) -> Conversation:
        """Change title, model or archived.

        Raises:
            NotFound: there is none, it is deleted, or the caller may not change it.
            StaleEtag: it has changed since it had this etag.
        """
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = await self._locked(connection, organization_id, conversation_id, etag)
            if before.delete_time is not None:
                raise NotFound(resource_type="conversation", resource_name=conversation_id)
            changed = dict(values)
            if "title" in changed:
                policy = await policy_store.find(connection, organization_id)
                changed["title"] = policy.title(str(changed["title"]))
            after = replace(before, **changed)  # type: ignore[arg-type]  # Parsing gives these three fields alone.
            if after == before:
                return before
            after = replace(after, revision=before.revision + 1, update_time=self._clock.now())
            await store.change(connection, after)
            await _record(connection, organization_id, conversation_id, self._clock)
        return after

    async def delete(self, organization_id: str, conversation_id: str, etag: str) -> Conversation:
        """Delete title and contents, and return what is left.

        Raises:
            NotFound: there is none, or the caller may not change it.
            StaleEtag: it has changed since it had this etag.
        """
        database = self._shards.of(organization_id)
        async with database.raw_transaction() as connection:
            left = await self._locked(connection, organization_id, conversation_id, etag)
            if left.delete_time is None:
                now = self._clock.now()
                left = replace(without_texts(left, now), delete_time=now)
                await store.change(connection, left)
                await _record(connection, organization_id, conversation_id, self._clock)
        if left.contents_due:
            await empty(database, organization_id, conversation_id, at_most=_EMPTIED_AT_ONCE_MAX)
        return left

    @staticmethod
    async def _locked(connection: RawConnection, organization_id: str, conversation_id: str, etag: str) -> Conversation:
        found = await store.lock(connection, organization_id, conversation_id)
        locked = _visible(found, conversation_id, Scope.SCOPE_CONVERSATIONS_WRITE)
        if etag and etag != locked.etag:
            raise StaleEtag(resource_type="conversation")
        return locked


def _visible(found: Conversation | None, conversation_id: str, scope: Scope.ValueType) -> Conversation:
    """Return the conversation, if the caller holds the scope for it."""
    if found is None or not may(scope, project_id=found.project_id or "", user_id=found.user_id or ""):
        raise NotFound(resource_type="conversation", resource_name=conversation_id)
    return found


def _differing(found: Conversation, begun: Beginning) -> str | None:
    """Return the field in which a conversation began differently; None where it did not."""
    if found.project_id != begun.project_id:
        return "project_id"
    if found.user_id != begun.user_id:
        return "user_id"
    if found.fingerprint and found.fingerprint != begun.fingerprint:
        return "title or model"
    return None


async def _record(connection: RawConnection, organization_id: str, conversation_id: str, clock: Clock) -> None:
    """Add to the audit trail who changed a conversation. Titles are not repeated there: it is never emptied."""
    await record_event(
        connection,
        now=clock.now(),
        organization_id=organization_id,
        resource_type="conversation",
        resource_id=conversation_id,
    )
