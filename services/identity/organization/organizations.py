"""Creating, finding, changing and deleting organizations."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from libs.common.audit.recording import Changed, differences, record_event
from libs.common.call import is_limited
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import NotFound, StaleEtag
from libs.common.ids import new_id
from services.identity.attributes import (
    Attributes,
    AttributesChange,
    attribute_differences,
    require_operator_for,
)
from services.identity.errors import PersonalOrganization
from services.identity.organization import member_store, store
from services.identity.organization.domain import Organization, Role
from services.identity.requests import NO_ORGANIZATION, claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change
from services.identity.revocation import revoke_invitations_to
from services.identity.user.store import lock_user


class Organizations:
    """Manages organizations."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, *, name: str, owner_user_id: str, attributes: Attributes, request_id: str
    ) -> tuple[Organization, bool]:
        """Create an organization with its first owner, or return the one an earlier call with this request id made.

        Raises:
            NotFound: there is no such user.
            PermissionDenied: somebody other than an operator names an external id.
            OrganizationAlreadyExists: another one has the external id.
            RequestIdReused: the request id was sent before with another body.
        """
        require_operator_for(attributes.external_id or None)
        organization_id, now = new_id(), self._clock.now()
        async with self._database.transaction() as tx:
            earlier_id = await claim_request(
                tx,
                # Request ids of users are scoped to the user: nobody can use up or probe another user's ids.
                organization_id=owner_user_id if is_limited() else NO_ORGANIZATION,
                method="CreateOrganization",
                request_id=request_id,
                body={"name": name, "owner_user_id": owner_user_id, **attributes.as_body()},
                resource_id=organization_id,
                now=now,
            )
            if earlier_id is None:
                if not await lock_user(tx, owner_user_id):
                    raise NotFound(resource_type="user", resource_name=owner_user_id)
                await store.insert_organization(tx, organization_id, name, attributes, now)
                await member_store.insert_member(tx, organization_id, owner_user_id, Role.OWNER, now)
                await record_event(
                    tx,
                    now=now,
                    organization_id=organization_id,
                    resource_type="organization",
                    resource_id=organization_id,
                    changed=(
                        Changed("name", after=name),
                        Changed("owner_user_id", after=owner_user_id),
                        *attribute_differences(Attributes(), attributes),
                    ),
                )
            found = await store.find_organization(tx, earlier_id or organization_id)
        return existing(found, earlier_id or organization_id), earlier_id is not None

    async def get(self, organization_id: str) -> Organization:
        async with self._database.transaction() as tx:
            return existing(await store.find_organization(tx, organization_id), organization_id)

    async def page(
        self, *, user_id: str, external_id: str, before: str | None, size: int
    ) -> tuple[list[Organization], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            found = await store.list_organizations(
                tx, user_id=user_id, external_id=external_id, before=before, limit=size + 1
            )
        return found[:size], len(found) > size

    async def known(self, organization_ids: Collection[str]) -> list[str]:
        """Return those of the ids that are or were an organization's."""
        async with self._database.transaction() as tx:
            return await store.known_organizations(tx, organization_ids)

    async def update(
        self,
        organization_id: str,
        *,
        etag: str,
        name: str | None,
        api_key_max_lifetime_s: int | None,
        attributes: AttributesChange,
    ) -> Organization:
        """Change the fields that are not None; a lifetime of zero removes the limit.

        Raises:
            NotFound: there is no such organization.
            StaleEtag: it has changed since the etag was read.
            PermissionDenied: somebody other than an operator changes the external id.
            OrganizationAlreadyExists: another one has the external id.
        """
        require_operator_for(attributes.external_id)
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await store.lock_organization(tx, organization_id, alone=True)
            before = existing(await store.find_organization(tx, organization_id), organization_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="organization")
            after = replace(
                before,
                name=before.name if name is None else name,
                attributes=before.attributes.changed(attributes),
            )
            if api_key_max_lifetime_s is not None:
                after = replace(after, api_key_max_lifetime_s=api_key_max_lifetime_s or None)
            changed = (
                *differences(_audited(before), _audited(after)),
                *attribute_differences(before.attributes, after.attributes),
            )
            if not changed:
                return before
            after = replace(after, update_time=now, version=before.version + 1)
            await store.replace_organization(tx, after)
            await record_event(
                tx,
                now=now,
                organization_id=organization_id,
                resource_type="organization",
                resource_id=organization_id,
                changed=changed,
            )
        return after

    async def delete(self, organization_id: str) -> tuple[datetime, int]:
        """Delete an organization, unless it is deleted; return the time of deletion, and a revision that holds it.

        Members, projects and keys are not changed: every lookup of them checks that the organization exists.

        Raises:
            NotFound: there never was such an organization.
            PersonalOrganization: it goes with its user alone.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            held = await store.lock_to_delete(tx, organization_id)
            if held is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            personal, delete_time = held
            if delete_time is not None:
                return delete_time, await current_revision(tx)
            if personal:
                raise PersonalOrganization(organization_id=organization_id)
            await store.delete_organization(tx, organization_id, now)
            await revoke_invitations_to(tx, organization_id, now)
            await store.forget_selection(tx, organization_id)
            await record_event(
                tx,
                now=now,
                organization_id=organization_id,
                resource_type="organization",
                resource_id=organization_id,
            )
            revision = await record_change(
                tx,
                ChangeKind.ORGANIZATION_DELETED,
                SubjectType.ORGANIZATION,
                organization_id,
                organization_id=organization_id,
                now=now,
            )
        return now, revision


def existing(organization: Organization | None, organization_id: str) -> Organization:
    """Return the organization; raise NotFound for None."""
    if organization is None:
        raise NotFound(resource_type="organization", resource_name=organization_id)
    return organization


def _audited(organization: Organization) -> dict[str, str | None]:
    """Return the fields whose values the audit trail shows."""
    lifetime_s = organization.api_key_max_lifetime_s
    return {
        "name": organization.name,
        "api_key_max_lifetime_s": None if lifetime_s is None else str(lifetime_s),
    }
