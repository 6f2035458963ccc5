"""Limits of organizations: read, set and deleted.

Whoever creates or changes a limit holds the shard's only row of `limit_state` from then until the end of the
transaction. So limits of a shard are changed one after another, and no two calls can exceed how many there may be.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from libs.common.audit.recording import record_event
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import Conflict, InvalidArgument, NotFound, StaleEtag
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.clients.subjects import Kind, Subjects
from services.metering.errors import LimitExists, LimitScopeNotFound, OrganizationNotFound, TooManyLimits
from services.metering.quota import store
from services.metering.quota.book import LimitBook
from services.metering.quota.changes import changes, differing, flaws_of_terms, merged
from services.metering.quota.domain import Entry, Limit, Scope, Shape, Terms
from services.metering.quota.store import LIMITS_MAX

_ATTEMPTS_MAX: Final = 3
_RESOURCE: Final = "limit"
_KINDS: Final = {
    Scope.PROJECT: Kind.PROJECT,
    Scope.USER: Kind.USER,
    Scope.SERVICE_ACCOUNT: Kind.SERVICE_ACCOUNT,
    Scope.API_KEY: Kind.API_KEY,
    Scope.SUBSCRIPTION: Kind.SUBSCRIPTION,
}
"""The scopes whose values are ids of other services."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a limit is to be."""

    name: str
    shape: Shape | None
    """None where only terms are changed, of a limit that there is."""
    terms: Terms
    fields: Collection[str]
    """The fields of the terms that are set, as requests name them; the others stay."""
    etag: str


class Limits:
    """Reads and changes limits."""

    def __init__(
        self, shards: Shards, book: LimitBook, organizations: Organizations, subjects: Subjects, clock: Clock
    ) -> None:
        self._shards = shards
        self._book = book
        self._organizations = organizations
        self._subjects = subjects
        self._clock = clock

    async def get(self, organization_id: str, name: str) -> Entry:
        """Return a limit; raises NotFound."""
        entry = await self._find(organization_id, name)
        if entry is None:
            raise _not_found(name)
        return entry

    async def page(self, organization_id: str, after: str, limit: int) -> Sequence[Entry]:
        """Return the limits that follow a name, in the order of their names."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.page(connection, organization_id, after, limit)

    async def set(self, organization_id: str, setting: Setting) -> Entry:
        """Create a limit or change its terms, and return it. Where nothing changes, nothing is written.

        Raises:
            InvalidArgument: the terms would not go with what the limit counts.
            OrganizationNotFound: identity does not know the organization.
            LimitScopeNotFound: a new limit is for something that the organization does not have.
            LimitExists: the limit of this name counts something else.
            NotFound: terms of a limit that does not exist were to be changed.
            StaleEtag: the limit has changed since it had this etag, or does not exist.
            TooManyLimits: the organization has as many limits as it may have.
            Unavailable: whoever knows what the organization has cannot be asked.
            Conflict: the limit was created and deleted meanwhile, again and again.
        """
        if await self._organizations.find_unknown([organization_id]):
            raise OrganizationNotFound(organization_id=organization_id)
        for _ in range(_ATTEMPTS_MAX):
            known = await self._find(organization_id, setting.name)
            if known is None and setting.shape is not None:
                await self._require_subject(organization_id, setting.shape)
            try:
                return await self._set(organization_id, setting, is_new=known is None)
            except Conflict:
                continue
        raise Conflict

    async def delete(self, organization_id: str, name: str, etag: str) -> None:
        """Delete a limit, if there is one. Its counters stop counting, and are deleted by the sweep.

        Raises:
            StaleEtag: the limit has changed since it had this etag.
        """
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = await store.lock(connection, organization_id, name)
            if before is None:
                return
            if etag and etag != before.etag:
                raise StaleEtag(resource_type=_RESOURCE)
            await store.next_revision(connection)
            await store.delete(connection, organization_id, before.limit.limit_id)
            await _record(connection, self._clock.now(), organization_id, before.limit, None)
        self._book.forget(organization_id)

    async def _set(self, organization_id: str, setting: Setting, *, is_new: bool) -> Entry:
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = await store.lock(connection, organization_id, setting.name)
            if (before is None) is not is_new:
                raise Conflict
            limit = _changed(before, setting)
            if before is not None and limit == before.limit:
                return before
            revision, now = await store.next_revision(connection), self._clock.now()
            if before is not None:
                after = Entry(limit, revision, before.create_time, now)
                await store.change(connection, organization_id, after)
            else:
                if await store.count(connection, organization_id) >= LIMITS_MAX:
                    raise TooManyLimits(limits=LIMITS_MAX)
                after = Entry(limit, revision, now, now)
                if not await store.add(connection, organization_id, after):
                    raise Conflict
            await _record(connection, now, organization_id, None if before is None else before.limit, limit)
        self._book.forget(organization_id)
        return after

    async def _find(self, organization_id: str, name: str) -> Entry | None:
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.find(connection, organization_id, name)

    async def _require_subject(self, organization_id: str, shape: Shape) -> None:
        kind = _KINDS.get(shape.scope) if shape.scope_value else None
        if kind is not None and not await self._subjects.belongs(organization_id, kind, shape.scope_value):
            raise LimitScopeNotFound(scope=kind.value, scope_value=shape.scope_value)


def _changed(before: Entry | None, setting: Setting) -> Limit:
    """Return a limit as it is to be."""
    if before is None:
        if setting.shape is None:
            raise _not_found(setting.name)
        if setting.etag:
            raise StaleEtag(resource_type=_RESOURCE)
        return Limit(new_id(), setting.name, setting.shape, setting.terms)
    if setting.etag and setting.etag != before.etag:
        raise StaleEtag(resource_type=_RESOURCE)
    limit = before.limit
    field = None if setting.shape is None else differing(limit.shape, setting.shape)
    if field is not None:
        raise LimitExists(limit=setting.name, field=field)
    terms = merged(limit.terms, setting.terms, setting.fields)
    flaws = flaws_of_terms(limit.shape, terms)
    if flaws:
        raise InvalidArgument(flaws)
    return Limit(limit.limit_id, limit.name, limit.shape, terms)


async def _record(
    connection: RawConnection, now: datetime, organization_id: str, before: Limit | None, after: Limit | None
) -> None:
    limit = after or before
    await record_event(
        connection,
        now=now,
        organization_id=organization_id,
        resource_type=_RESOURCE,
        resource_id="" if limit is None else limit.name,
        changed=changes(before, after),
    )


def _not_found(name: str) -> NotFound:
    return NotFound(resource_type=_RESOURCE, resource_name=name)
