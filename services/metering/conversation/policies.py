"""What organizations keep of their conversations: read and changed."""

from collections.abc import Collection
from dataclasses import replace

from libs.common.audit.recording import record_event
from libs.common.clock import Clock
from libs.common.errors import Conflict, StaleEtag
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.conversation import policy_store
from services.metering.conversation.domain import Policy, policy_changes
from services.metering.errors import OrganizationNotFound


class Policies:
    """Reads and changes policies."""

    def __init__(self, shards: Shards, organizations: Organizations, clock: Clock, *, retention_days: int) -> None:
        self._shards = shards
        self._organizations = organizations
        self._clock = clock
        self.retention_days = retention_days
        """For how many days the platform keeps contents where an organization says nothing."""

    async def get(self, organization_id: str) -> Policy:
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await policy_store.find(connection, organization_id)

    async def update(self, organization_id: str, new: Policy, fields: Collection[str], etag: str) -> Policy:
        """Change some fields of a policy.

        Raises:
            OrganizationNotFound: identity does not know the organization.
            StaleEtag: the policy has changed since it had this etag.
            Conflict: another call gave the organization its first policy at the same time.
        """
        if await self._organizations.find_unknown([organization_id]):
            raise OrganizationNotFound(organization_id=organization_id)
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = await policy_store.lock(connection, organization_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="conversation policy")
            after = replace(before, **{name: getattr(new, name) for name in fields})
            if after == before:
                return before
            after = replace(after, revision=before.revision + 1, update_time=self._clock.now())
            if not await policy_store.write(connection, organization_id, after):
                raise Conflict
            await record_event(
                connection,
                now=self._clock.now(),
                organization_id=organization_id,
                resource_type="conversation_policy",
                resource_id=organization_id,
                changed=policy_changes(before, after),
            )
        return after
