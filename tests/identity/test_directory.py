"""Users, organizations, members and projects."""

import asyncio
from collections.abc import Awaitable

import grpc
import pytest
from google.protobuf.message import Message

from libs.common.ids import new_id
from libs.common.status import error_info, reason_of
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2, project_pb2, user_pb2
from tollhouse.identity.v1 import organization_pb2 as pb


async def test_email_and_username_are_unique_without_regard_to_case(identity: Identity) -> None:
    await identity.create_user("Ada@Example.com", "Ada")
    for email, username, field in (("aDA@example.COM", "", "email"), ("other@example.com", "aDa", "username")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await identity.create_user(email, username)
        info = error_info(refused.value)
        assert info is not None
        assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
        assert (info.reason, info.metadata["field"]) == ("USER_ALREADY_EXISTS", field)


async def test_user_is_created_found_and_listed(identity: Identity) -> None:
    request = user_pb2.CreateUserRequest(
        email="grace@example.com", username="grace", full_name="Grace Hopper", picture_url="https://example.com/g.png"
    )
    user = (await identity.users.CreateUser(request, metadata=identity.metadata)).user
    got = await identity.users.GetUser(user_pb2.GetUserRequest(user_id=user.user_id), metadata=identity.metadata)
    listed = await identity.users.ListUsers(
        user_pb2.ListUsersRequest(email="GRACE@example.com"), metadata=identity.metadata
    )

    assert got.user == user
    assert list(listed.users) == [user]
    assert user.active
    assert user.full_name == "Grace Hopper"


@pytest.mark.own_database
async def test_users_without_username_are_many(identity: Identity) -> None:
    made = [(await identity.create_user()).user_id for _ in range(3)]
    listed = await identity.users.ListUsers(user_pb2.ListUsersRequest(), metadata=identity.metadata)

    assert [user.user_id for user in listed.users] == made[::-1]


async def test_create_user_repeated_with_same_request_id_makes_one(identity: Identity) -> None:
    request = user_pb2.CreateUserRequest(request_id="signup-1", email="once@example.com")
    first = await identity.users.CreateUser(request, metadata=identity.metadata)
    again = await identity.users.CreateUser(request, metadata=identity.metadata)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.user == first.user
    request.full_name = "Somebody else"

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.users.CreateUser(request, metadata=identity.metadata)

    info = error_info(refused.value)
    assert info is not None
    assert (info.reason, info.metadata["field"]) == ("REQUEST_ID_REUSED", "full_name")


async def test_refused_create_leaves_its_request_id_free(identity: Identity) -> None:
    await identity.create_user("taken@example.com")
    request = user_pb2.CreateUserRequest(request_id="signup-2", email="taken@example.com")
    with pytest.raises(grpc.aio.AioRpcError):
        await identity.users.CreateUser(request, metadata=identity.metadata)
    request.email = "free@example.com"

    assert not (await identity.users.CreateUser(request, metadata=identity.metadata)).replayed


async def test_deactivated_user_and_their_keys_can_come_back(identity: Identity) -> None:
    created = await identity.create_key()
    user_id = created.api_key.user_id
    stopped = await identity.users.DeactivateUser(
        user_pb2.DeactivateUserRequest(user_id=user_id), metadata=identity.metadata
    )
    again = await identity.users.DeactivateUser(
        user_pb2.DeactivateUserRequest(user_id=user_id), metadata=identity.metadata
    )
    assert not stopped.user.active
    assert again.user.deactivate_time == stopped.user.deactivate_time
    assert await identity.code(created.secret, min_revision=stopped.revision) == "OWNER_INACTIVE"

    back = await identity.users.ReactivateUser(
        user_pb2.ReactivateUserRequest(user_id=user_id), metadata=identity.metadata
    )

    assert back.user.active
    assert await identity.code(created.secret, min_revision=back.revision) == "VALID"


async def test_organization_lists_its_members_and_members_their_organizations(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    user = await identity.create_user()
    other = user.user_id
    add = pb.AddMemberRequest(
        request_id="join", organization_id=organization_id, user_id=other, role=pb.MEMBER_ROLE_BILLING
    )
    added = await identity.organizations.AddMember(add, metadata=identity.metadata)
    again = await identity.organizations.AddMember(add, metadata=identity.metadata)
    members = await identity.organizations.ListMembers(
        pb.ListMembersRequest(organization_id=organization_id), metadata=identity.metadata
    )
    organizations = await identity.organizations.ListOrganizations(
        pb.ListOrganizationsRequest(user_id=other), metadata=identity.metadata
    )

    assert (added.replayed, again.replayed) == (False, True)
    assert {member.user_id: member.role for member in members.members} == {
        owner: pb.MEMBER_ROLE_OWNER,
        other: pb.MEMBER_ROLE_BILLING,
    }
    listed = [organization.organization_id for organization in organizations.organizations]
    assert listed == [user.personal_organization_id, organization_id]


async def test_user_belongs_to_an_organization_once(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    add = pb.AddMemberRequest(organization_id=organization_id, user_id=owner, role=pb.MEMBER_ROLE_VIEWER)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.organizations.AddMember(add, metadata=identity.metadata)

    assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(refused.value) == "MEMBER_ALREADY_EXISTS"


async def test_last_owner_can_be_neither_removed_nor_demoted(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    names = {"organization_id": organization_id, "user_id": owner}
    for call in (
        identity.organizations.RemoveMember(pb.RemoveMemberRequest(**names), metadata=identity.metadata),
        identity.organizations.UpdateMember(
            pb.UpdateMemberRequest(**names, role=pb.MEMBER_ROLE_ADMIN), metadata=identity.metadata
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(refused.value) == "LAST_OWNER"


async def test_two_owners_leaving_at_once_leave_one(identity: Identity) -> None:
    for _ in range(5):
        organization_id, owner = await identity.create_organization()
        other = (await identity.create_user()).user_id
        await identity.organizations.AddMember(
            pb.AddMemberRequest(organization_id=organization_id, user_id=other, role=pb.MEMBER_ROLE_OWNER),
            metadata=identity.metadata,
        )

        outcomes = await asyncio.gather(
            *(
                identity.organizations.RemoveMember(
                    pb.RemoveMemberRequest(organization_id=organization_id, user_id=user_id),
                    metadata=identity.metadata,
                )
                for user_id in (owner, other)
            ),
            return_exceptions=True,
        )

        refusals = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert [reason_of(refusal) for refusal in refusals] == ["LAST_OWNER"]


async def test_project_name_is_unique_within_its_organization_only(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    elsewhere, _ = await identity.create_organization()
    project = await identity.create_project(organization_id, "Chat")
    await identity.create_project(elsewhere, "Chat")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.create_project(organization_id, "CHAT")

    assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(refused.value) == "PROJECT_ALREADY_EXISTS"
    listed = await identity.projects.ListProjects(
        project_pb2.ListProjectsRequest(organization_id=organization_id), metadata=identity.metadata
    )
    assert list(listed.projects) == [project]


async def test_another_organizations_project_looks_exactly_like_a_missing_one(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    elsewhere, _ = await identity.create_organization()
    theirs = await identity.create_project(elsewhere)
    answers = []
    for project_id in (theirs.project_id, new_id()):
        request = project_pb2.GetProjectRequest(organization_id=organization_id, project_id=project_id)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await identity.projects.GetProject(request, metadata=identity.metadata)
        answers.append((refused.value.code(), reason_of(refused.value), refused.value.details()))

    assert answers[0] == answers[1]
    assert answers[0][0] == grpc.StatusCode.NOT_FOUND


async def test_everything_below_a_missing_organization_is_not_found(identity: Identity) -> None:
    missing, user = new_id(), (await identity.create_user()).user_id
    rpc = identity
    calls: list[Awaitable[Message]] = [
        rpc.organizations.GetOrganization(pb.GetOrganizationRequest(organization_id=missing), metadata=rpc.metadata),
        rpc.organizations.ListMembers(pb.ListMembersRequest(organization_id=missing), metadata=rpc.metadata),
        rpc.organizations.AddMember(
            pb.AddMemberRequest(organization_id=missing, user_id=user, role=pb.MEMBER_ROLE_OWNER),
            metadata=rpc.metadata,
        ),
        rpc.organizations.RemoveMember(
            pb.RemoveMemberRequest(organization_id=missing, user_id=user), metadata=rpc.metadata
        ),
        rpc.projects.CreateProject(
            project_pb2.CreateProjectRequest(organization_id=missing, name="x"), metadata=rpc.metadata
        ),
        rpc.projects.ListProjects(project_pb2.ListProjectsRequest(organization_id=missing), metadata=rpc.metadata),
        rpc.api_keys.ListApiKeys(api_key_pb2.ListApiKeysRequest(organization_id=missing), metadata=rpc.metadata),
        rpc.api_keys.CreateApiKey(
            api_key_pb2.CreateApiKeyRequest(organization_id=missing, user_id=user), metadata=rpc.metadata
        ),
        rpc.organizations.CreateOrganization(
            pb.CreateOrganizationRequest(name="x", owner_user_id=new_id()), metadata=rpc.metadata
        ),
        rpc.users.GetUser(user_pb2.GetUserRequest(user_id=missing), metadata=rpc.metadata),
        rpc.users.DeactivateUser(user_pb2.DeactivateUserRequest(user_id=missing), metadata=rpc.metadata),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
