"""Adding, changing, removing and listing members of projects."""

from datetime import datetime

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_rights
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound, StaleEtag
from services.identity.errors import RoleNotHeld
from services.identity.organization.member_store import lock_member
from services.identity.organization.store import find_organization, lock_organization
from services.identity.project import member_store as store
from services.identity.project.domain import ProjectMember, ProjectRole, holds_project_role
from services.identity.project.store import find_project, lock_project
from services.identity.requests import claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change


class ProjectMembers:
    """Manages the members of projects."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def add(
        self, organization_id: str, project_id: str, user_id: str, role: ProjectRole, *, request_id: str
    ) -> tuple[ProjectMember, bool]:
        """Add a member of the organization to a project, or return the one an earlier call with this request id added.

        Raises:
            NotFound: the organization has no such project or member.
            RoleNotHeld: the role may do something that the caller may not.
            ProjectMemberAlreadyExists: the member works in the project already.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await _hold(tx, organization_id, project_id)
            earlier_id = await claim_request(
                tx,
                organization_id=organization_id,
                method="AddProjectMember",
                request_id=request_id,
                body={"project_id": project_id, "user_id": user_id, "role": role.value},
                resource_id=user_id,
                now=now,
            )
            if earlier_id is None:
                _require_held(project_id, role)
                if not await lock_member(tx, organization_id, user_id):
                    raise NotFound(resource_type="member", resource_name=user_id)
                await store.insert_project_member(tx, organization_id, project_id, user_id, role, now)
            member = _working(await store.find_project_member(tx, organization_id, project_id, user_id), user_id)
            if earlier_id is None:
                await _record(tx, member, now, before=None, after=role)
        return member, earlier_id is not None

    async def update(
        self, organization_id: str, project_id: str, user_id: str, role: ProjectRole, *, etag: str
    ) -> tuple[ProjectMember, int]:
        """Change a member's role in a project; return them, and a revision that holds the role.

        Raises:
            NotFound: the user does not work in the project, or there is none.
            StaleEtag: the member has changed since the etag was read.
            RoleNotHeld: the old or the new role may do something that the caller may not.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            before = await _take(tx, organization_id, project_id, user_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="project_member")
            _require_held(project_id, before.role, role)
            if role is before.role:
                return before, await current_revision(tx)
            await store.update_project_role(tx, before, role, now)
            after = _working(await store.find_project_member(tx, organization_id, project_id, user_id), user_id)
            revision = await _record(tx, after, now, before=before.role, after=role)
        return after, revision

    async def remove(self, organization_id: str, project_id: str, user_id: str) -> tuple[int, int]:
        """Remove a member and revoke their keys of the project; return how many, and a revision that holds the removal.

        Raises:
            NotFound: the user does not work in the project, or there is none.
            RoleNotHeld: the member may do something that the caller may not.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            member = await _take(tx, organization_id, project_id, user_id)
            _require_held(project_id, member.role)
            await store.delete_project_member(tx, member)
            revoked = await store.revoke_keys_of_project_member(tx, member, now)
            revision = await _record(tx, member, now, before=member.role, after=None)
        return revoked, revision

    async def page(
        self, organization_id: str, project_id: str, *, after: str | None, size: int
    ) -> tuple[list[ProjectMember], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            organization = await find_organization(tx, organization_id)
            if organization is None or await find_project(tx, organization_id, project_id) is None:
                raise NotFound(resource_type="project", resource_name=project_id)
            members = await store.list_project_members(tx, organization_id, project_id, after=after, limit=size + 1)
        return members[:size], len(members) > size


def _require_held(project_id: str, *roles: ProjectRole) -> None:
    """Raise unless the caller may do in the project everything the roles allow."""
    rights = current_rights()
    for role in roles:
        if rights is not None and not holds_project_role(rights, project_id, role):
            raise RoleNotHeld(role=role.value)


async def _hold(tx: Transaction, organization_id: str, project_id: str) -> None:
    """Lock the organization and the project, so that neither is deleted before commit."""
    if not await lock_organization(tx, organization_id) or not await lock_project(tx, organization_id, project_id):
        raise NotFound(resource_type="project", resource_name=project_id)


async def _take(tx: Transaction, organization_id: str, project_id: str, user_id: str) -> ProjectMember:
    """Lock a member of a project exclusively, after the organization and the project."""
    await _hold(tx, organization_id, project_id)
    return _working(await store.find_project_member(tx, organization_id, project_id, user_id, lock=True), user_id)


def _working(member: ProjectMember | None, user_id: str) -> ProjectMember:
    if member is None:
        raise NotFound(resource_type="project_member", resource_name=user_id)
    return member


async def _record(
    tx: Transaction, member: ProjectMember, now: datetime, *, before: ProjectRole | None, after: ProjectRole | None
) -> int:
    """Record the change of a role in the audit trail and announce it; the last statements of a transaction."""
    await record_event(
        tx,
        now=now,
        organization_id=member.organization_id,
        resource_type="project_member",
        resource_id=member.user_id,
        changed=(
            Changed("project_id", after=member.project_id),
            Changed("role", before=before.value if before else None, after=after.value if after else None),
        ),
    )
    return await record_change(
        tx,
        ChangeKind.ROLE_CHANGED,
        SubjectType.USER,
        member.user_id,
        organization_id=member.organization_id,
        now=now,
    )
