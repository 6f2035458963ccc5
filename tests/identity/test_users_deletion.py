"""Deleting users: what is erased, what is kept, and what is refused."""

import asyncio

import grpc
from sqlalchemy import text

from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.status import error_info
from tests.identity.people import People, Person
from tests.identity.refusals import NOT_FOUND, refused
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2
from tollhouse.identity.v1 import user_pb2 as pb

TURNED_AWAY = ("UNAUTHENTICATED", "UNAUTHENTICATED")
OWNER = organization_pb2.MEMBER_ROLE_OWNER


async def _delete(identity: Identity, user_id: str, person: Person | None = None) -> pb.DeleteUserResponse:
    request = pb.DeleteUserRequest(user_id=user_id)
    return await identity.users.DeleteUser(request, metadata=person.metadata if person else identity.metadata)


async def _furnish(identity: Identity, person: Person) -> None:
    """Create one of every kind of data that is erased with the user."""
    user_id = person.user_id
    update = pb.UpdateUserRequest(
        user_id=user_id, username="countess", full_name="Ada Lovelace", picture_url="https://x.example/ada.png"
    )
    update.update_mask.paths.extend(("username", "full_name", "picture_url"))
    await identity.users.UpdateUser(update, metadata=identity.metadata)
    identity_ = pb.LinkedIdentity(provider="google", subject="ada-at-google")
    await identity.users.LinkIdentity(
        pb.LinkIdentityRequest(user_id=user_id, linked_identity=identity_), metadata=identity.metadata
    )
    await identity.users.UpdateUserConfiguration(
        pb.UpdateUserConfigurationRequest(user_id=user_id, entries={"theme": "countess of dark"}),
        metadata=identity.metadata,
    )


async def test_deletion_leaves_the_name_and_frees_the_rest(
    identity: Identity, people: People, identity_database: Database
) -> None:
    ada = await people.person("ada@example.com")
    await _furnish(identity, ada)

    deleted = (await _delete(identity, ada.user_id, ada)).user

    assert (deleted.user_id, deleted.full_name, deleted.active) == (ada.user_id, "Ada Lovelace", False)
    assert deleted.HasField("delete_time")
    assert [deleted.email, deleted.username, deleted.picture_url, *deleted.linked_identities] == ["", "", ""]
    assert not deleted.has_password
    assert await refused(_get(identity, ada.user_id)) == NOT_FOUND
    assert await _get(identity, ada.user_id, show_deleted=True) == deleted
    listed = await identity.users.ListUsers(pb.ListUsersRequest(), metadata=identity.metadata)
    assert list(listed.users) == []
    again = await identity.create_user("ADA@example.com", "Countess")
    link = pb.LinkIdentityRequest(
        user_id=again.user_id, linked_identity=pb.LinkedIdentity(provider="google", subject="ada-at-google")
    )
    await identity.users.LinkIdentity(link, metadata=identity.metadata)
    async with identity_database.transaction() as tx:
        found = await tx.execute(text("SELECT u::text FROM identity.users u WHERE user_id = :id"), {"id": ada.user_id})
        row = found.scalar_one()
    assert "example" not in row
    assert "countess" not in row


async def _get(identity: Identity, user_id: str, *, show_deleted: bool = False) -> pb.User:
    request = pb.GetUserRequest(user_id=user_id, show_deleted=show_deleted)
    return (await identity.users.GetUser(request, metadata=identity.metadata)).user


async def test_user_without_a_name_leaves_their_username_or_nothing(identity: Identity) -> None:
    for username in ("ada", ""):
        user = await identity.create_user(username=username)
        assert (await _delete(identity, user.user_id)).user.full_name == username


async def test_deletion_signs_out_revokes_keys_and_ends_memberships(identity: Identity, people: People) -> None:
    ada, grace = await people.person(), await people.person()
    shared, _ = await identity.create_organization(grace.user_id)
    project = await identity.create_project(shared)
    await identity.organizations.AddMember(
        organization_pb2.AddMemberRequest(organization_id=shared, user_id=ada.user_id, role=OWNER),
        metadata=identity.metadata,
    )
    await identity.projects.AddProjectMember(
        project_pb2.AddProjectMemberRequest(
            organization_id=shared,
            project_id=project.project_id,
            user_id=ada.user_id,
            role=project_pb2.PROJECT_MEMBER_ROLE_MEMBER,
        ),
        metadata=identity.metadata,
    )
    own = (await _get(identity, ada.user_id)).personal_organization_id
    keys = [
        await identity.create_key(api_key_pb2.CreateApiKeyRequest(organization_id=id_, user_id=ada.user_id))
        for id_ in (shared, own)
    ]
    assert [await identity.code(key.secret) for key in keys] == ["VALID", "VALID"]

    deletion = await _delete(identity, ada.user_id)

    assert deletion.revoked_api_key_count == 2
    codes = [await identity.code(key.secret, min_revision=deletion.revision) for key in keys]
    assert "VALID" not in codes
    read_self = identity.users.GetUser(pb.GetUserRequest(user_id=ada.user_id), metadata=ada.metadata)
    assert await refused(read_self) == TURNED_AWAY
    members = await identity.organizations.ListMembers(
        organization_pb2.ListMembersRequest(organization_id=shared), metadata=identity.metadata
    )
    assert [member.user_id for member in members.members] == [grace.user_id]
    of_project = await identity.projects.ListProjectMembers(
        project_pb2.ListProjectMembersRequest(organization_id=shared, project_id=project.project_id),
        metadata=identity.metadata,
    )
    assert ada.user_id not in [member.user_id for member in of_project.members]
    personal = organization_pb2.GetOrganizationRequest(organization_id=own)
    assert await refused(identity.organizations.GetOrganization(personal, metadata=identity.metadata)) == NOT_FOUND


async def test_last_owner_of_another_organization_stays(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    try:
        await _delete(identity, owner)
        raise AssertionError("the last owner was deleted")
    except grpc.aio.AioRpcError as error:
        info = error_info(error)
    assert info is not None
    assert (info.reason, info.metadata["organization_id"]) == ("LAST_OWNER", organization_id)
    assert (await _get(identity, owner)).active
    other = await identity.create_user()
    await identity.organizations.AddMember(
        organization_pb2.AddMemberRequest(organization_id=organization_id, user_id=other.user_id, role=OWNER),
        metadata=identity.metadata,
    )

    assert (await _delete(identity, owner)).user.HasField("delete_time")


async def test_two_owners_deleted_at_once_leave_one(identity: Identity) -> None:
    for _ in range(5):
        organization_id, owner = await identity.create_organization()
        other = (await identity.create_user()).user_id
        await identity.organizations.AddMember(
            organization_pb2.AddMemberRequest(organization_id=organization_id, user_id=other, role=OWNER),
            metadata=identity.metadata,
        )
        outcomes = await asyncio.gather(_delete(identity, owner), _delete(identity, other), return_exceptions=True)
        assert sum(isinstance(outcome, pb.DeleteUserResponse) for outcome in outcomes) == 1
        members = await identity.organizations.ListMembers(
            organization_pb2.ListMembersRequest(organization_id=organization_id), metadata=identity.metadata
        )
        assert len(members.members) == 1


async def test_deleting_again_succeeds_and_changes_nothing(identity: Identity) -> None:
    user = await identity.create_user()
    first = await _delete(identity, user.user_id)
    again = await _delete(identity, user.user_id)
    assert again.user == first.user
    assert again.revoked_api_key_count == 0
    assert await refused(_delete(identity, new_id())) == NOT_FOUND


async def test_nothing_can_be_done_with_a_deleted_user(identity: Identity) -> None:
    user = await identity.create_user()
    await _delete(identity, user.user_id)
    update = pb.UpdateUserRequest(user_id=user.user_id, full_name="Ada")
    update.update_mask.paths.append("full_name")
    identity_ = pb.LinkedIdentity(provider="google", subject="1")
    users, metadata = identity.users, identity.metadata
    for call in (
        users.UpdateUser(update, metadata=metadata),
        users.ReactivateUser(pb.ReactivateUserRequest(user_id=user.user_id), metadata=metadata),
        users.LinkIdentity(pb.LinkIdentityRequest(user_id=user.user_id, linked_identity=identity_), metadata=metadata),
        users.SetPassword(
            pb.SetPasswordRequest(user_id=user.user_id, new_password="correct horse battery"), metadata=metadata
        ),
        users.GetUserConfiguration(pb.GetUserConfigurationRequest(user_id=user.user_id), metadata=metadata),
        identity.create_organization(user.user_id),
    ):
        assert await refused(call) == NOT_FOUND


async def test_joining_and_being_deleted_at_once_leaves_no_membership(
    identity: Identity, identity_database: Database
) -> None:
    organization_id, _ = await identity.create_organization()
    for _ in range(5):
        user = await identity.create_user()
        join = organization_pb2.AddMemberRequest(organization_id=organization_id, user_id=user.user_id, role=OWNER)
        _, deletion = await asyncio.gather(
            identity.organizations.AddMember(join, metadata=identity.metadata),
            _delete(identity, user.user_id),
            return_exceptions=True,
        )
        if isinstance(deletion, grpc.aio.AioRpcError):
            # The user joined in between; the caller gets a refusal that asks to retry.
            assert deletion.code() == grpc.StatusCode.ABORTED
            await _delete(identity, user.user_id)
        async with identity_database.transaction() as tx:
            left = await tx.execute(
                text("SELECT count(*) FROM identity.members WHERE user_id = :id"), {"id": user.user_id}
            )
            assert left.scalar_one() == 0


async def test_every_organization_that_lost_the_user_is_told(
    identity: Identity, people: People, identity_database: Database
) -> None:
    ada = await people.person()
    shared, _ = await identity.create_organization()
    await identity.organizations.AddMember(
        organization_pb2.AddMemberRequest(organization_id=shared, user_id=ada.user_id, role=OWNER),
        metadata=identity.metadata,
    )
    own = (await _get(identity, ada.user_id)).personal_organization_id

    await _delete(identity, ada.user_id, ada)

    async with identity_database.transaction() as tx:
        found = await tx.execute(
            text(
                "SELECT organization_id::text, resource_type, actor FROM identity.audit_events"
                " WHERE action = 'DeleteUser' ORDER BY resource_type"
            )
        )
        told = [tuple(row) for row in found]
    assert told == [(shared, "member", f"user:{ada.user_id}"), (own, "user", f"user:{ada.user_id}")]
