"""Projects: unique names in an organization, updates under an etag, members, and deletion."""

from collections.abc import Awaitable

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from libs.common.database import Database
from libs.common.ids import new_id
from tests.identity.people import People, Person
from tests.identity.refusals import DENIED, NOT_FOUND, ROLE_NOT_HELD, STALE, refused, refused_field, violated_fields
from tests.identity.support import Identity
from tests.support.callers import bearer
from tollhouse.identity.v1 import api_key_pb2, organization_pb2
from tollhouse.identity.v1 import project_pb2 as pb

ADMIN, MEMBER = pb.PROJECT_MEMBER_ROLE_ADMIN, pb.PROJECT_MEMBER_ROLE_MEMBER


class Names:
    """An organization with one project, and requests about both."""

    def __init__(self, project: pb.Project) -> None:
        self.project = project
        self.organization_id = project.organization_id
        self.project_id = project.project_id

    def get(self) -> pb.GetProjectRequest:
        return pb.GetProjectRequest(organization_id=self.organization_id, project_id=self.project_id)

    def update(self, *paths: str, name: str = "", description: str = "", etag: str = "") -> pb.UpdateProjectRequest:
        return pb.UpdateProjectRequest(
            organization_id=self.organization_id,
            project_id=self.project_id,
            update_mask=FieldMask(paths=paths),
            etag=etag,
            name=name,
            description=description,
        )

    def delete(self) -> pb.DeleteProjectRequest:
        return pb.DeleteProjectRequest(organization_id=self.organization_id, project_id=self.project_id)

    def add(
        self, user_id: str, role: pb.ProjectMemberRole.ValueType = MEMBER, request_id: str = ""
    ) -> pb.AddProjectMemberRequest:
        return pb.AddProjectMemberRequest(
            request_id=request_id,
            organization_id=self.organization_id,
            project_id=self.project_id,
            user_id=user_id,
            role=role,
        )

    def change(
        self, user_id: str, role: pb.ProjectMemberRole.ValueType, etag: str = ""
    ) -> pb.UpdateProjectMemberRequest:
        return pb.UpdateProjectMemberRequest(
            organization_id=self.organization_id,
            project_id=self.project_id,
            user_id=user_id,
            role=role,
            etag=etag,
        )

    def remove(self, user_id: str) -> pb.RemoveProjectMemberRequest:
        return pb.RemoveProjectMemberRequest(
            organization_id=self.organization_id, project_id=self.project_id, user_id=user_id
        )

    def members(self) -> pb.ListProjectMembersRequest:
        return pb.ListProjectMembersRequest(organization_id=self.organization_id, project_id=self.project_id)

    def key(self, user_id: str) -> api_key_pb2.CreateApiKeyRequest:
        return api_key_pb2.CreateApiKeyRequest(
            organization_id=self.organization_id, project_id=self.project_id, user_id=user_id
        )


@pytest.fixture
async def names(identity: Identity) -> Names:
    organization_id, _ = await identity.create_organization()
    return Names(await identity.create_project(organization_id))


async def _worker(
    identity: Identity, people: People, names: Names, role: pb.ProjectMemberRole.ValueType = MEMBER
) -> Person:
    """Return a new member of the organization who works in the project."""
    person = await people.member(names.organization_id, organization_pb2.MEMBER_ROLE_MEMBER)
    await identity.projects.AddProjectMember(names.add(person.user_id, role), metadata=identity.metadata)
    return person


async def test_update_changes_what_the_mask_names_and_nothing_else(identity: Identity, names: Names) -> None:
    update = identity.projects.UpdateProject
    described = (
        await update(names.update("description", name="Ignored", description="Talks"), metadata=identity.metadata)
    ).project
    renamed = (
        await update(names.update("name", name="Voice", etag=described.etag), metadata=identity.metadata)
    ).project
    same = (await update(names.update("name", name="Voice"), metadata=identity.metadata)).project

    assert (described.name, described.description) == ("Chat", "Talks")
    assert (renamed.name, renamed.description) == ("Voice", "Talks")
    assert len({names.project.etag, described.etag, renamed.etag}) == 3
    assert same == renamed
    assert (await identity.projects.GetProject(names.get(), metadata=identity.metadata)).project == renamed


async def test_update_with_a_stale_etag_changes_nothing(identity: Identity, names: Names) -> None:
    update = identity.projects.UpdateProject
    await update(names.update("name", name="Voice"), metadata=identity.metadata)
    stale = names.update("name", name="Crash", etag=names.project.etag)
    assert await refused(update(stale, metadata=identity.metadata)) == STALE
    assert (await identity.projects.GetProject(names.get(), metadata=identity.metadata)).project.name == "Voice"


async def test_renamed_project_takes_no_others_name(identity: Identity, names: Names) -> None:
    await identity.create_project(names.organization_id, "Voice")
    call = identity.projects.UpdateProject(names.update("name", name="vOICE"), metadata=identity.metadata)
    assert await refused_field(call) == ("PROJECT_ALREADY_EXISTS", "name")
    own = await identity.projects.UpdateProject(names.update("name", name="CHAT"), metadata=identity.metadata)
    assert own.project.name == "CHAT"


@pytest.mark.parametrize(
    ("paths", "name", "fields"),
    [
        (["name", "organization_id"], "", {"update_mask", "name"}),
        ([], "Voice", {"update_mask"}),
        (["name"], "\x00", {"name"}),
    ],
)
async def test_update_names_every_field_at_fault(
    identity: Identity, names: Names, paths: list[str], name: str, fields: set[str]
) -> None:
    call = identity.projects.UpdateProject(names.update(*paths, name=name), metadata=identity.metadata)
    assert await violated_fields(call) == fields


async def test_deleted_project_is_gone_with_its_members_and_its_keys_stop(
    identity: Identity, people: People, names: Names, identity_database: Database
) -> None:
    worker = await _worker(identity, people, names)
    key = await identity.create_key(names.key(worker.user_id))
    free = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=names.organization_id, user_id=worker.user_id)
    )
    async with identity_database.transaction() as tx:
        await tx.execute(
            text(
                "UPDATE users SET last_selected_organization_id = :organization_id,"
                " last_selected_project_id = :project_id WHERE user_id = :user_id"
            ),
            {"organization_id": names.organization_id, "project_id": names.project_id, "user_id": worker.user_id},
        )

    deleted = await identity.projects.DeleteProject(names.delete(), metadata=identity.metadata)
    again = await identity.projects.DeleteProject(names.delete(), metadata=identity.metadata)

    assert again.delete_time == deleted.delete_time
    assert await identity.code(key.secret, min_revision=deleted.revision) != "VALID"
    assert await identity.code(free.secret) == "VALID"
    rpc, metadata = identity.projects, identity.metadata
    calls: list[Awaitable[object]] = [
        rpc.GetProject(names.get(), metadata=metadata),
        rpc.UpdateProject(names.update("name", name="Voice"), metadata=metadata),
        rpc.AddProjectMember(names.add(worker.user_id), metadata=metadata),
        rpc.RemoveProjectMember(names.remove(worker.user_id), metadata=metadata),
        rpc.ListProjectMembers(names.members(), metadata=metadata),
        identity.api_keys.CreateApiKey(names.key(worker.user_id), metadata=metadata),
    ]
    for call in calls:
        assert await refused(call) == NOT_FOUND
    async with identity_database.transaction() as tx:
        left = await tx.execute(
            text(
                "SELECT (SELECT count(*) FROM projects WHERE delete_time IS NOT NULL),"
                " (SELECT count(*) FROM project_members), (SELECT last_selected_organization_id::text FROM users"
                " WHERE user_id = :user_id), (SELECT last_selected_project_id FROM users WHERE user_id = :user_id)"
            ),
            {"user_id": worker.user_id},
        )
    assert tuple(left.one()) == (1, 0, names.organization_id, None)
    assert (await identity.create_project(names.organization_id, "Chat")).project_id != names.project_id


async def test_missing_and_foreign_projects_look_alike(identity: Identity, names: Names) -> None:
    elsewhere, owner = await identity.create_organization()
    theirs = Names(await identity.create_project(elsewhere))
    missing = Names(pb.Project(organization_id=names.organization_id, project_id=new_id()))
    theirs.organization_id = names.organization_id
    for one in (theirs, missing):
        rpc, metadata = identity.projects, identity.metadata
        for call in (
            rpc.UpdateProject(one.update("name", name="Voice"), metadata=metadata),
            rpc.DeleteProject(one.delete(), metadata=metadata),
            rpc.AddProjectMember(one.add(owner), metadata=metadata),
            rpc.UpdateProjectMember(one.change(owner, ADMIN), metadata=metadata),
            rpc.RemoveProjectMember(one.remove(owner), metadata=metadata),
            rpc.ListProjectMembers(one.members(), metadata=metadata),
        ):
            assert await refused(call) == NOT_FOUND


async def test_members_of_the_organization_join_once_and_others_never(
    identity: Identity, people: People, names: Names
) -> None:
    person = await people.member(names.organization_id, organization_pb2.MEMBER_ROLE_MEMBER)
    stranger = await people.person()
    rpc = identity.projects
    request = names.add(person.user_id, request_id="join")

    added = await rpc.AddProjectMember(request, metadata=identity.metadata)
    again = await rpc.AddProjectMember(request, metadata=identity.metadata)

    assert (added.replayed, again.replayed) == (False, True)
    assert again.member == added.member
    assert (added.member.email, added.member.role) == (person.email, MEMBER)
    call = rpc.AddProjectMember(names.add(person.user_id, ADMIN), metadata=identity.metadata)
    assert await refused_field(call) == ("PROJECT_MEMBER_ALREADY_EXISTS", "user_id")
    assert await refused(rpc.AddProjectMember(names.add(stranger.user_id), metadata=identity.metadata)) == NOT_FOUND
    listed = await rpc.ListProjectMembers(names.members(), metadata=person.metadata)
    assert list(listed.members) == [added.member]
    assert await refused(rpc.ListProjectMembers(names.members(), metadata=stranger.metadata)) == NOT_FOUND


async def test_project_members_are_listed_in_pages(identity: Identity, people: People, names: Names) -> None:
    everybody = {(await _worker(identity, people, names)).user_id for _ in range(3)}
    request, seen = names.members(), []
    request.page_size = 2
    while True:
        page = await identity.projects.ListProjectMembers(request, metadata=identity.metadata)
        seen += [member.user_id for member in page.members]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert seen == sorted(everybody)


async def test_role_in_a_project_changes_under_its_etag(identity: Identity, people: People, names: Names) -> None:
    worker = await _worker(identity, people, names)
    update = identity.projects.UpdateProjectMember

    changed = await update(names.change(worker.user_id, ADMIN, etag="1"), metadata=identity.metadata)

    assert (changed.member.role, changed.member.etag) == (ADMIN, "2")
    stale = names.change(worker.user_id, MEMBER, etag="1")
    assert await refused(update(stale, metadata=identity.metadata)) == STALE
    same = await update(names.change(worker.user_id, ADMIN), metadata=identity.metadata)
    assert same.member == changed.member


async def test_project_admins_change_their_project_and_no_other(
    identity: Identity, people: People, names: Names
) -> None:
    admin = await _worker(identity, people, names, ADMIN)
    colleague = await people.member(names.organization_id, organization_pb2.MEMBER_ROLE_VIEWER)
    other = Names(await identity.create_project(names.organization_id, "Voice"))
    rpc = identity.projects

    await rpc.UpdateProject(names.update("name", name="Talk"), metadata=admin.metadata)
    await rpc.AddProjectMember(names.add(colleague.user_id, ADMIN), metadata=admin.metadata)
    await rpc.UpdateProjectMember(names.change(colleague.user_id, MEMBER), metadata=admin.metadata)
    await rpc.RemoveProjectMember(names.remove(colleague.user_id), metadata=admin.metadata)

    create = pb.CreateProjectRequest(organization_id=names.organization_id, name="More")
    for call in (
        rpc.CreateProject(create, metadata=admin.metadata),
        rpc.UpdateProject(other.update("name", name="Mine"), metadata=admin.metadata),
        rpc.AddProjectMember(other.add(admin.user_id), metadata=admin.metadata),
        rpc.DeleteProject(other.delete(), metadata=admin.metadata),
    ):
        assert await refused(call) == DENIED
    await rpc.DeleteProject(names.delete(), metadata=admin.metadata)
    assert await refused(rpc.GetProject(names.get(), metadata=identity.metadata)) == NOT_FOUND


async def test_workers_change_nothing_in_their_project(identity: Identity, people: People, names: Names) -> None:
    worker = await _worker(identity, people, names)
    rpc = identity.projects
    for call in (
        rpc.UpdateProject(names.update("name", name="Mine"), metadata=worker.metadata),
        rpc.DeleteProject(names.delete(), metadata=worker.metadata),
        rpc.UpdateProjectMember(names.change(worker.user_id, ADMIN), metadata=worker.metadata),
        rpc.RemoveProjectMember(names.remove(worker.user_id), metadata=worker.metadata),
    ):
        assert await refused(call) == DENIED


async def test_scheme_of_a_key_is_read_in_any_case(identity: Identity, people: People) -> None:
    owner = await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    names = Names(await identity.create_project(organization_id))
    maker = names.key(owner.user_id)
    maker.scopes.extend(["tollhouse:projects.write"])
    secret = (await identity.create_key(maker)).secret

    for scheme in ("Bearer", "bearer", "BEARER"):
        metadata = (("authorization", f"{scheme} {secret}"),)
        renamed = await identity.projects.UpdateProject(names.update("name", name=scheme), metadata=metadata)
        assert renamed.project.name == scheme


async def test_key_gives_nobody_a_role_that_does_more_than_the_key(identity: Identity, people: People) -> None:
    owner = await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    names = Names(await identity.create_project(organization_id))
    colleague = await people.member(organization_id, organization_pb2.MEMBER_ROLE_MEMBER)
    narrow = names.key(owner.user_id)
    narrow.scopes.extend(["tollhouse:projects.write"])
    key = bearer((await identity.create_key(narrow)).secret)
    rpc = identity.projects

    renamed = await rpc.UpdateProject(names.update("name", name="Voice"), metadata=key)
    assert renamed.project.name == "Voice"
    for role in (ADMIN, MEMBER):
        call = rpc.AddProjectMember(names.add(colleague.user_id, role), metadata=key)
        assert await refused(call) == ROLE_NOT_HELD


async def test_removal_from_a_project_revokes_the_keys_that_needed_the_place(
    identity: Identity, people: People, names: Names
) -> None:
    worker = await _worker(identity, people, names)
    admin = await people.member(names.organization_id, organization_pb2.MEMBER_ROLE_ADMIN)
    await identity.projects.AddProjectMember(names.add(admin.user_id), metadata=identity.metadata)
    bound = {
        user_id: (await identity.create_key(names.key(user_id))).secret for user_id in (worker.user_id, admin.user_id)
    }
    free = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=names.organization_id, user_id=worker.user_id)
    )
    removed = {}
    for user_id in bound:
        removed[user_id] = await identity.projects.RemoveProjectMember(
            names.remove(user_id), metadata=identity.metadata
        )

    assert [removed[person.user_id].revoked_api_keys for person in (worker, admin)] == [1, 0]
    revision = removed[admin.user_id].revision
    assert await identity.code(bound[worker.user_id], min_revision=revision) == "REVOKED"
    assert await identity.code(bound[admin.user_id], min_revision=revision) == "VALID"
    assert await identity.code(free.secret, min_revision=revision) == "VALID"
    gone = identity.projects.RemoveProjectMember(names.remove(worker.user_id), metadata=identity.metadata)
    assert await refused(gone) == NOT_FOUND


async def test_every_change_is_in_the_trail_and_changes_of_rights_are_announced(
    identity: Identity, people: People, names: Names, identity_database: Database
) -> None:
    worker = await _worker(identity, people, names)
    rpc, metadata = identity.projects, identity.metadata
    await rpc.UpdateProjectMember(names.change(worker.user_id, ADMIN), metadata=metadata)
    await rpc.UpdateProject(names.update("name", name="Voice"), metadata=metadata)
    await rpc.RemoveProjectMember(names.remove(worker.user_id), metadata=metadata)
    await rpc.DeleteProject(names.delete(), metadata=metadata)

    async with identity_database.transaction() as tx:
        events = await tx.execute(
            text(
                "SELECT action FROM audit_events WHERE organization_id = :id AND resource_type LIKE 'project%'"
                " ORDER BY sequence"
            ),
            {"id": names.organization_id},
        )
        changes = await tx.execute(
            text(
                "SELECT kind FROM key_changes WHERE organization_id = :id"
                " AND subject_id IN (:user_id, :project_id) ORDER BY revision"
            ),
            {"id": names.organization_id, "user_id": worker.user_id, "project_id": names.project_id},
        )
    assert list(events.scalars()) == [
        *("CreateProject", "AddProjectMember", "UpdateProjectMember", "UpdateProject"),
        *("RemoveProjectMember", "DeleteProject"),
    ]
    assert list(changes.scalars()) == [*["role_changed"] * 4, "project_deleted"]


async def test_bad_request_names_every_field_at_fault(identity: Identity) -> None:
    add = pb.AddProjectMemberRequest(organization_id="7", project_id="8", user_id="9", request_id="has space")
    call = identity.projects.AddProjectMember(add, metadata=identity.metadata)
    fields = {"organization_id", "project_id", "user_id", "role", "request_id"}
    assert await violated_fields(call) == fields
    change = pb.UpdateProjectMemberRequest(organization_id=new_id(), project_id=new_id(), role=99)  # type: ignore[arg-type]  # unknown.
    call_ = identity.projects.UpdateProjectMember(change, metadata=identity.metadata)
    assert await violated_fields(call_) == {"user_id", "role"}
