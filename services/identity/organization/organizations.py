"""Creating and finding organizations, and changing who belongs to them."""

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import NotFound
from libs.common.ids import new_id
from services.identity.errors import LastOwner
from services.identity.organization import store
from services.identity.organization.model import Member, Organization, Role, leaves_no_owner
from services.identity.requests import NO_ORGANIZATION, claim_request
from services.identity.revisions import ChangeKind, SubjectType, record_change
from services.identity.user.store import lock_user


class Organizations:
    """The tenants."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, *, name: str, owner_user_id: str, request_id: str) -> tuple[Organization, bool]:
        """Create an organization with its first owner, or return the one an earlier call with this request id made.

        Raises:
            NotFound: there is no such user.
            RequestIdReused: the request id was sent before with another body.
        """
        organization_id, now = new_id(), self._clock.now()
        async with self._database.transaction() as tx:
            earlier_id = await claim_request(
                tx,
                organization_id=NO_ORGANIZATION,
                method="CreateOrganization",
                request_id=request_id,
                body={"name": name, "owner_user_id": owner_user_id},
                resource_id=organization_id,
                now=now,
            )
            if earlier_id is None:
                if not await lock_user(tx, owner_user_id):
                    raise NotFound(resource_type="user", resource_name=owner_user_id)
                await store.insert_organization(tx, organization_id, name, now)
                await store.insert_member(tx, Member(organization_id, owner_user_id, Role.OWNER, now, now))
            found = await store.find_organization(tx, earlier_id or organization_id)
        return _existing(found, earlier_id or organization_id), earlier_id is not None

    async def get(self, organization_id: str) -> Organization:
        async with self._database.transaction() as tx:
            return _existing(await store.find_organization(tx, organization_id), organization_id)

    async def page(self, *, user_id: str, before: str | None, size: int) -> tuple[list[Organization], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            found = await store.list_organizations(tx, user_id=user_id, before=before, limit=size + 1)
        return found[:size], len(found) > size

    async def add_member(
        self, organization_id: str, user_id: str, role: Role, *, request_id: str
    ) -> tuple[Member, bool]:
        """Add a user, or return the member an earlier call with this request id added.

        Raises:
            NotFound: there is no such organization or user.
            MemberAlreadyExists: the user belongs to it already.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if not await store.lock_organization(tx, organization_id):
                raise NotFound(resource_type="organization", resource_name=organization_id)
            earlier_id = await claim_request(
                tx,
                organization_id=organization_id,
                method="AddMember",
                request_id=request_id,
                body={"user_id": user_id, "role": role.value},
                resource_id=user_id,
                now=now,
            )
            if earlier_id is None:
                if not await lock_user(tx, user_id):
                    raise NotFound(resource_type="user", resource_name=user_id)
                await store.insert_member(tx, Member(organization_id, user_id, role, now, now))
            member = _belonging(await store.find_member(tx, organization_id, user_id), user_id)
        return member, earlier_id is not None

    async def update_member(self, organization_id: str, user_id: str, role: Role) -> Member:
        """Give a member another role.

        Raises:
            NotFound: the user does not belong to the organization.
            LastOwner: nobody would own the organization.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await store.lock_organization(tx, organization_id, alone=True)
            member = _belonging(await store.find_member(tx, organization_id, user_id), user_id)
            owners = await store.count_owners(tx, organization_id)
            if leaves_no_owner(member, owners=owners, new_role=role):
                raise LastOwner(organization_id=organization_id, user_id=user_id)
            await store.update_role(tx, organization_id, user_id, role, now)
            return _belonging(await store.find_member(tx, organization_id, user_id), user_id)

    async def remove_member(self, organization_id: str, user_id: str) -> tuple[int, int]:
        """Remove a member and revoke their keys; return how many keys that were, and the revision.

        Raises:
            NotFound: the user does not belong to the organization.
            LastOwner: nobody would own the organization.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await store.lock_organization(tx, organization_id, alone=True)
            member = _belonging(await store.find_member(tx, organization_id, user_id), user_id)
            owners = await store.count_owners(tx, organization_id)
            if leaves_no_owner(member, owners=owners, new_role=None):
                raise LastOwner(organization_id=organization_id, user_id=user_id)
            await store.delete_member(tx, organization_id, user_id)
            revoked = await store.revoke_keys_of_member(tx, organization_id, user_id, now)
            revision = await record_change(
                tx, ChangeKind.MEMBER_REMOVED, SubjectType.USER, user_id, organization_id=organization_id, now=now
            )
        return revoked, revision

    async def page_of_members(self, organization_id: str, *, after: str | None, size: int) -> tuple[list[Member], bool]:
        """Return a page of members, and whether more follow."""
        async with self._database.transaction() as tx:
            _existing(await store.find_organization(tx, organization_id), organization_id)
            members = await store.list_members(tx, organization_id, after=after, limit=size + 1)
        return members[:size], len(members) > size


def _existing(organization: Organization | None, organization_id: str) -> Organization:
    if organization is None:
        raise NotFound(resource_type="organization", resource_name=organization_id)
    return organization


def _belonging(member: Member | None, user_id: str) -> Member:
    if member is None:
        raise NotFound(resource_type="member", resource_name=user_id)
    return member
