"""Adding, changing, removing and listing members."""

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_caller
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound, StaleEtag
from services.identity.errors import LastOwner, PersonalOrganization
from services.identity.organization import member_store
from services.identity.organization.domain import Member, Role, leaves_no_owner, roles_beyond
from services.identity.organization.roles import require_held
from services.identity.organization.store import find_organization, lock_organization
from services.identity.requests import claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change
from services.identity.revocation import revoke_invitations_of
from services.identity.user.domain import subject_of
from services.identity.user.store import lock_user


class Members:
    """Manages the members of organizations."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def add(self, organization_id: str, user_id: str, role: Role, *, request_id: str) -> tuple[Member, bool]:
        """Add a user, or return the member an earlier call with this request id added.

        Raises:
            NotFound: there is no such organization or user.
            MemberAlreadyExists: the user belongs to it already.
            PersonalOrganization: nobody joins what was made for one user.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await lock_organization(tx, organization_id)
            organization = await find_organization(tx, organization_id)
            if organization is None:
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
            if earlier_id is not None:
                return _belonging(await member_store.find_member(tx, organization_id, user_id), user_id), True
            if organization.personal:
                raise PersonalOrganization(organization_id=organization_id)
            if not await lock_user(tx, user_id):
                raise NotFound(resource_type="user", resource_name=user_id)
            await member_store.insert_member(tx, organization_id, user_id, role, now)
            member = _belonging(await member_store.find_member(tx, organization_id, user_id), user_id)
            await record_member(tx, member, None)
        return member, False

    async def update(self, organization_id: str, user_id: str, role: Role, *, etag: str) -> tuple[Member, int]:
        """Change a member's role, and revoke their open invitations to roles they could not invite to any more.

        Return the member, and a revision that holds the role.

        Raises:
            NotFound: the user does not belong to the organization.
            StaleEtag: the member has changed since the etag was read.
            RoleNotHeld: the old or the new role may do something that the caller may not.
            LastOwner: nobody would own the organization.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            before = await self._take(tx, organization_id, user_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="member")
            require_held(before.role, role)
            owners = await member_store.count_owners(tx, organization_id)
            if leaves_no_owner(before, owners=owners, new_role=role):
                raise LastOwner(organization_id=organization_id, user_id=user_id)
            if role is before.role:
                return before, await current_revision(tx)
            await member_store.update_role(tx, organization_id, user_id, role, now)
            invitations = await revoke_invitations_of(
                tx, subject_of(user_id), now, organization_id=organization_id, roles=roles_beyond(role)
            )
            after = _belonging(await member_store.find_member(tx, organization_id, user_id), user_id)
            revision = await record_member(
                tx, after, before.role, revoked_invitations=invitations.get(organization_id, 0)
            )
        return after, revision

    async def remove(self, organization_id: str, user_id: str) -> tuple[int, int]:
        """Remove a member and their project memberships; revoke their keys and open invitations.

        Return how many keys were revoked, and a revision that holds the removal.

        Raises:
            NotFound: the user does not belong to the organization, or there is none.
            RoleNotHeld: the member may do something that the caller, who is somebody else, may not.
            LastOwner: nobody would own the organization.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            member = await self._take(tx, organization_id, user_id)
            if not _is_own_session(user_id):
                require_held(member.role)
            owners = await member_store.count_owners(tx, organization_id)
            if leaves_no_owner(member, owners=owners, new_role=None):
                raise LastOwner(organization_id=organization_id, user_id=user_id)
            await member_store.delete_member(tx, organization_id, user_id)
            await member_store.forget_selection_of_member(tx, organization_id, user_id)
            revoked = await member_store.revoke_keys_of_member(tx, organization_id, user_id, now)
            invitations = await revoke_invitations_of(tx, subject_of(user_id), now, organization_id=organization_id)
            await record_event(
                tx,
                now=now,
                organization_id=organization_id,
                resource_type="member",
                resource_id=user_id,
                changed=(
                    Changed("role", before=member.role.value),
                    Changed("revoked_api_keys", after=str(revoked)),
                    *_revoked_invitations(invitations.get(organization_id, 0)),
                ),
            )
            revision = await record_change(
                tx, ChangeKind.MEMBER_REMOVED, SubjectType.USER, user_id, organization_id=organization_id, now=now
            )
        return revoked, revision

    async def page(
        self, organization_id: str, *, user_id: str | None, after: str | None, size: int
    ) -> tuple[list[Member], bool]:
        """Return a page, and whether more follow; with a user_id that member alone."""
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            members = await member_store.list_members(tx, organization_id, user_id=user_id, after=after, limit=size + 1)
        return members[:size], len(members) > size

    async def _take(self, tx: Transaction, organization_id: str, user_id: str) -> Member:
        """Lock the organization exclusively, so that its owners cannot change, and return the member."""
        if not await lock_organization(tx, organization_id, alone=True):
            raise NotFound(resource_type="member", resource_name=user_id)
        return _belonging(await member_store.find_member(tx, organization_id, user_id), user_id)


async def record_member(tx: Transaction, member: Member, before: Role | None, *, revoked_invitations: int = 0) -> int:
    """Record a member's role in the audit trail, and announce the change to caches; the last statements of a
    transaction."""
    await record_event(
        tx,
        now=member.update_time,
        organization_id=member.organization_id,
        resource_type="member",
        resource_id=member.user_id,
        changed=(
            Changed("role", before=before.value if before else None, after=member.role.value),
            *_revoked_invitations(revoked_invitations),
        ),
    )
    return await record_change(
        tx,
        ChangeKind.ROLE_CHANGED,
        SubjectType.USER,
        member.user_id,
        organization_id=member.organization_id,
        now=member.update_time,
    )


def _revoked_invitations(count: int) -> tuple[Changed, ...]:
    return (Changed("revoked_invitations", after=str(count)),) if count else ()


def _belonging(member: Member | None, user_id: str) -> Member:
    if member is None:
        raise NotFound(resource_type="member", resource_name=user_id)
    return member


def _is_own_session(user_id: str) -> bool:
    """Return whether the caller is the user themselves, signed in; a key of theirs does not count."""
    caller = current_caller()
    return bool(caller.session_id) and caller.name == user_id
