"""Members: who may change whom, the last owner, and what is removed when a member leaves."""

import asyncio

import grpc
import pytest
from sqlalchemy import text

from libs.common.database import Database
from libs.common.status import reason_of
from tests.identity.people import People
from tests.identity.refusals import DENIED, NOT_FOUND, ROLE_NOT_HELD, STALE, refused
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2, project_pb2
from tollhouse.identity.v1 import organization_pb2 as pb

LAST_OWNER = ("FAILED_PRECONDITION", "LAST_OWNER")
OWNER, ADMIN, MEMBER = pb.MEMBER_ROLE_OWNER, pb.MEMBER_ROLE_ADMIN, pb.MEMBER_ROLE_MEMBER
LESSER_ROLES = (MEMBER, pb.MEMBER_ROLE_BILLING, pb.MEMBER_ROLE_VIEWER)


def _update(
    organization_id: str, user_id: str, role: pb.MemberRole.ValueType, etag: str = ""
) -> pb.UpdateMemberRequest:
    return pb.UpdateMemberRequest(organization_id=organization_id, user_id=user_id, role=role, etag=etag)


def _remove(organization_id: str, user_id: str) -> pb.RemoveMemberRequest:
    return pb.RemoveMemberRequest(organization_id=organization_id, user_id=user_id)


async def _roles(identity: Identity, organization_id: str) -> dict[str, int]:
    listed = await identity.organizations.ListMembers(
        pb.ListMembersRequest(organization_id=organization_id), metadata=identity.metadata
    )
    return {member.user_id: member.role for member in listed.members}


async def test_members_can_be_recognised_by_email_and_name(identity: Identity, people: People) -> None:
    ada = await people.person("ada@example.com")
    organization_id, _ = await identity.create_organization(ada.user_id)

    listed = await identity.organizations.ListMembers(
        pb.ListMembersRequest(organization_id=organization_id), metadata=ada.metadata
    )

    assert [(member.user_id, member.email) for member in listed.members] == [(ada.user_id, "ada@example.com")]


async def test_every_role_sees_the_members_and_strangers_do_not(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    request = pb.ListMembersRequest(organization_id=organization_id)
    for role in (OWNER, ADMIN, *LESSER_ROLES):
        member = await people.member(organization_id, role)
        listed = await identity.organizations.ListMembers(request, metadata=member.metadata)
        assert member.user_id in {one.user_id for one in listed.members}
    stranger = await people.person()
    assert await refused(identity.organizations.ListMembers(request, metadata=stranger.metadata)) == NOT_FOUND


async def test_members_are_listed_in_pages(identity: Identity, people: People) -> None:
    organization_id, owner = await identity.create_organization()
    everybody = {owner, *[(await people.member(organization_id, MEMBER)).user_id for _ in range(4)]}
    seen: list[str] = []
    token = ""
    while True:
        page = await identity.organizations.ListMembers(
            pb.ListMembersRequest(organization_id=organization_id, page_size=2, page_token=token),
            metadata=identity.metadata,
        )
        seen += [member.user_id for member in page.members]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(everybody)


async def test_users_do_not_add_members_without_asking_them(identity: Identity, people: People) -> None:
    owner, other = await people.person(), await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    add = pb.AddMemberRequest(organization_id=organization_id, user_id=other.user_id, role=MEMBER)
    assert await refused(identity.organizations.AddMember(add, metadata=owner.metadata)) == DENIED


async def test_admins_change_everybody_but_owners(identity: Identity, people: People) -> None:
    organization_id, owner = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    other = await people.member(organization_id, MEMBER)
    rpc = identity.organizations
    for role in (ADMIN, *LESSER_ROLES):
        changed = await rpc.UpdateMember(_update(organization_id, other.user_id, role), metadata=admin.metadata)
        assert changed.member.role == role

    for user_id, role in ((other.user_id, OWNER), (admin.user_id, OWNER), (owner, ADMIN), (owner, OWNER)):
        call = rpc.UpdateMember(_update(organization_id, user_id, role), metadata=admin.metadata)
        assert await refused(call) == ROLE_NOT_HELD
    assert await refused(rpc.RemoveMember(_remove(organization_id, owner), metadata=admin.metadata)) == ROLE_NOT_HELD
    await rpc.RemoveMember(_remove(organization_id, other.user_id), metadata=admin.metadata)
    assert await _roles(identity, organization_id) == {owner: OWNER, admin.user_id: ADMIN}


async def test_owners_make_and_unmake_owners(identity: Identity, people: People) -> None:
    owner = await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    other = await people.member(organization_id, pb.MEMBER_ROLE_VIEWER)
    rpc = identity.organizations

    await rpc.UpdateMember(_update(organization_id, other.user_id, OWNER), metadata=owner.metadata)
    await rpc.UpdateMember(_update(organization_id, owner.user_id, MEMBER), metadata=owner.metadata)

    assert await _roles(identity, organization_id) == {owner.user_id: MEMBER, other.user_id: OWNER}
    call = rpc.UpdateMember(_update(organization_id, owner.user_id, OWNER), metadata=owner.metadata)
    assert await refused(call) == DENIED


@pytest.mark.parametrize("role", LESSER_ROLES)
async def test_lesser_roles_change_nobody_and_may_leave(
    identity: Identity, people: People, role: pb.MemberRole.ValueType
) -> None:
    organization_id, owner = await identity.create_organization()
    member = await people.member(organization_id, role)
    rpc = identity.organizations
    for call in (
        rpc.UpdateMember(_update(organization_id, member.user_id, ADMIN), metadata=member.metadata),
        rpc.UpdateMember(_update(organization_id, owner, MEMBER), metadata=member.metadata),
    ):
        assert await refused(call) == DENIED
    assert (await refused(rpc.RemoveMember(_remove(organization_id, owner), metadata=member.metadata)))[0] in {
        "PERMISSION_DENIED",
        "NOT_FOUND",
    }

    await rpc.RemoveMember(_remove(organization_id, member.user_id), metadata=member.metadata)

    assert await _roles(identity, organization_id) == {owner: OWNER}
    get = pb.GetOrganizationRequest(organization_id=organization_id)
    assert await refused(rpc.GetOrganization(get, metadata=member.metadata)) == NOT_FOUND


async def test_leaving_tells_a_stranger_nothing(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    gone, _ = await identity.create_organization()
    await identity.organizations.DeleteOrganization(
        pb.DeleteOrganizationRequest(organization_id=gone), metadata=identity.metadata
    )
    stranger = await people.person()
    answers = set()
    for named in (organization_id, gone, stranger.user_id):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await identity.organizations.RemoveMember(_remove(named, stranger.user_id), metadata=stranger.metadata)
        answers.add((error.value.code(), reason_of(error.value), error.value.details()))
    assert len(answers) == 1


async def test_last_owner_stays_whatever_is_tried(identity: Identity, people: People) -> None:
    owner = await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    await people.member(organization_id, ADMIN)
    rpc = identity.organizations
    for metadata in (owner.metadata, identity.metadata):
        assert await refused(rpc.RemoveMember(_remove(organization_id, owner.user_id), metadata=metadata)) == LAST_OWNER
        for role in (ADMIN, *LESSER_ROLES):
            call = rpc.UpdateMember(_update(organization_id, owner.user_id, role), metadata=metadata)
            assert await refused(call) == LAST_OWNER
    assert (await _roles(identity, organization_id))[owner.user_id] == OWNER


async def test_owners_who_remove_or_demote_each_other_at_once_leave_one(identity: Identity, people: People) -> None:
    for _ in range(3):
        owners = [await people.person(), await people.person()]
        organization_id, _ = await identity.create_organization(owners[0].user_id)
        rpc = identity.organizations
        await rpc.UpdateMember(
            _update(organization_id, await _joined(identity, organization_id, owners[1].user_id), OWNER),
            metadata=identity.metadata,
        )
        outcomes = await asyncio.gather(
            rpc.RemoveMember(_remove(organization_id, owners[0].user_id), metadata=owners[1].metadata),
            rpc.UpdateMember(_update(organization_id, owners[1].user_id, MEMBER), metadata=owners[0].metadata),
            return_exceptions=True,
        )

        assert sum(isinstance(outcome, grpc.aio.AioRpcError) for outcome in outcomes) == 1
        assert list((await _roles(identity, organization_id)).values()).count(OWNER) == 1


async def _joined(identity: Identity, organization_id: str, user_id: str) -> str:
    await identity.organizations.AddMember(
        pb.AddMemberRequest(organization_id=organization_id, user_id=user_id, role=MEMBER), metadata=identity.metadata
    )
    return user_id


async def test_update_with_a_stale_etag_changes_no_role(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    user_id = await _joined(identity, organization_id, (await people.person()).user_id)
    first = await identity.organizations.UpdateMember(
        _update(organization_id, user_id, ADMIN, etag="1"), metadata=identity.metadata
    )
    stale = _update(organization_id, user_id, MEMBER, etag="1")

    assert await refused(identity.organizations.UpdateMember(stale, metadata=identity.metadata)) == STALE
    assert (await _roles(identity, organization_id))[user_id] == ADMIN
    assert first.member.etag == "2"


async def test_removal_ends_project_memberships_and_keys_in_that_organization_alone(
    identity: Identity, people: People
) -> None:
    ada = await people.person()
    kept: list[str] = []
    removed: list[str] = []
    for place in (kept, removed):
        organization_id, _ = await identity.create_organization()
        await _joined(identity, organization_id, ada.user_id)
        project = await identity.create_project(organization_id)
        await identity.projects.AddProjectMember(
            project_pb2.AddProjectMemberRequest(
                organization_id=organization_id,
                project_id=project.project_id,
                user_id=ada.user_id,
                role=project_pb2.PROJECT_MEMBER_ROLE_MEMBER,
            ),
            metadata=identity.metadata,
        )
        key = await identity.create_key(
            api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=ada.user_id)
        )
        place += [organization_id, project.project_id, key.secret]

    answer = await identity.organizations.RemoveMember(_remove(removed[0], ada.user_id), metadata=identity.metadata)

    assert answer.revoked_api_keys == 1
    assert await identity.code(removed[2], min_revision=answer.revision) == "REVOKED"
    assert await identity.code(kept[2]) == "VALID"
    for (organization_id, project_id, _), members in ((kept, {ada.user_id}), (removed, set())):
        listed = await identity.projects.ListProjectMembers(
            project_pb2.ListProjectMembersRequest(organization_id=organization_id, project_id=project_id),
            metadata=identity.metadata,
        )
        assert {member.user_id for member in listed.members} == members


async def test_role_changes_are_announced_and_repeats_are_not(
    identity: Identity, people: People, identity_database: Database
) -> None:
    organization_id, _ = await identity.create_organization()
    user_id = await _joined(identity, organization_id, (await people.person()).user_id)
    for role in (ADMIN, ADMIN, MEMBER):
        await identity.organizations.UpdateMember(_update(organization_id, user_id, role), metadata=identity.metadata)

    async with identity_database.transaction() as tx:
        changes = await tx.execute(
            text("SELECT kind FROM key_changes WHERE subject_id = :id AND organization_id = :organization_id"),
            {"id": user_id, "organization_id": organization_id},
        )
        events = await tx.execute(
            text("SELECT action FROM audit_events WHERE resource_id = :id AND organization_id = :organization_id"),
            {"id": user_id, "organization_id": organization_id},
        )
    assert list(changes.scalars()) == ["role_changed"] * 3
    assert sorted(events.scalars()) == ["AddMember", "UpdateMember", "UpdateMember"]


async def test_removed_member_is_not_found_again(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    user_id = await _joined(identity, organization_id, (await people.person()).user_id)
    rpc = identity.organizations
    await rpc.RemoveMember(_remove(organization_id, user_id), metadata=identity.metadata)

    assert await refused(rpc.RemoveMember(_remove(organization_id, user_id), metadata=identity.metadata)) == NOT_FOUND
    update = _update(organization_id, user_id, ADMIN)
    assert await refused(rpc.UpdateMember(update, metadata=identity.metadata)) == NOT_FOUND
