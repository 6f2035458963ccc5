"""Identity's audit trail: whose change it was, who may read it, and what is never written to it."""

import grpc
import pytest

from tests.identity.people import People
from tests.identity.support import Identity
from tests.support.callers import Metadata, bearer
from tollhouse.common.v1 import audit_pb2 as pb
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, user_pb2

ADMIN = organization_pb2.MEMBER_ROLE_ADMIN


async def events(identity: Identity, organization_id: str, metadata: Metadata | None = None) -> list[pb.AuditEvent]:
    """The events of an organization that a caller may read, oldest first. The default caller is an operator."""
    request = pb.ListAuditEventsRequest(organization_id=organization_id, page_size=1000)
    page = await identity.audit.ListAuditEvents(request, metadata=metadata or identity.metadata)
    return list(page.events)[::-1]


async def _create_project(identity: Identity, organization_id: str, name: str, metadata: Metadata) -> str:
    request = project_pb2.CreateProjectRequest(organization_id=organization_id, name=name)
    return (await identity.projects.CreateProject(request, metadata=metadata)).project.project_id


async def _key(identity: Identity, organization_id: str, *scopes: str, **owner: str) -> tuple[str, Metadata]:
    request = api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, scopes=scopes, **owner)  # type: ignore[arg-type]
    created = await identity.create_key(request)
    return created.api_key.api_key_id, bearer(created.secret)


async def test_an_event_tells_a_session_from_a_key_and_names_both_their_owner(
    identity: Identity, people: People
) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    api_key_id, with_key = await _key(identity, organization_id, "tollhouse:projects.write", user_id=admin.user_id)
    by_operator = await _create_project(identity, organization_id, "Operator's", identity.metadata)
    by_session = await _create_project(identity, organization_id, "Session's", admin.metadata)
    by_key = await _create_project(identity, organization_id, "Key's", with_key)
    told = {
        event.resource_id: (event.actor, event.api_key_id)
        for event in await events(identity, organization_id)
        if event.action == "CreateProject"
    }
    assert told == {
        by_operator: ("operator:alice", ""),
        by_session: (f"user:{admin.user_id}", ""),
        by_key: (f"user:{admin.user_id}", api_key_id),
    }


async def test_a_change_of_several_organizations_is_told_in_each(identity: Identity, people: People) -> None:
    person = await people.person()
    mine = [(await identity.create_organization())[0] for _ in range(2)]
    for organization_id in mine:
        await identity.organizations.AddMember(
            organization_pb2.AddMemberRequest(organization_id=organization_id, user_id=person.user_id, role=ADMIN),
            metadata=identity.metadata,
        )
    await identity.users.DeleteUser(user_pb2.DeleteUserRequest(user_id=person.user_id), metadata=person.metadata)
    for organization_id in mine:
        last = (await events(identity, organization_id))[-1]
        assert (last.action, last.actor) == ("DeleteUser", f"user:{person.user_id}")
        assert (last.resource_type, last.resource_id) == ("member", person.user_id)


@pytest.mark.parametrize(
    ("role", "code"),
    [
        (organization_pb2.MEMBER_ROLE_ADMIN, grpc.StatusCode.OK),
        (organization_pb2.MEMBER_ROLE_MEMBER, grpc.StatusCode.PERMISSION_DENIED),
        (organization_pb2.MEMBER_ROLE_BILLING, grpc.StatusCode.PERMISSION_DENIED),
        (organization_pb2.MEMBER_ROLE_VIEWER, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_the_trail_is_for_those_who_run_the_organization(
    identity: Identity, people: People, role: organization_pb2.MemberRole.ValueType, code: grpc.StatusCode
) -> None:
    organization_id, _ = await identity.create_organization()
    member = await people.member(organization_id, role)
    assert await _codes(identity, organization_id, member.metadata) == {code}


async def test_another_organization_s_trail_and_the_platform_s_look_like_missing_ones(
    identity: Identity, people: People
) -> None:
    mine, _ = await identity.create_organization()
    other, _ = await identity.create_organization()
    admin = await people.member(mine, ADMIN)
    for organization_id in (other, "", "00000000-0000-0000-0000-000000000000"):
        assert await _codes(identity, organization_id, admin.metadata) == {grpc.StatusCode.NOT_FOUND}


async def test_a_key_reads_the_trail_with_the_scope_alone(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    _, reader = await _key(identity, organization_id, "tollhouse:audit.read", user_id=admin.user_id)
    _, writer = await _key(identity, organization_id, "tollhouse:projects.write", user_id=admin.user_id)
    assert await _codes(identity, organization_id, reader) == {grpc.StatusCode.OK}
    assert await _codes(identity, organization_id, writer) == {grpc.StatusCode.PERMISSION_DENIED}


async def test_no_secret_and_no_email_is_in_the_trail(identity: Identity, people: People) -> None:
    organization_id, owner = await identity.create_organization()
    person = await people.member(organization_id, ADMIN)
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner, name="Jane's laptop")
    )
    await identity.revoke(created.api_key)
    invited = await identity.organizations.CreateInvitation(
        organization_pb2.CreateInvitationRequest(
            organization_id=organization_id, email="jane@example.org", role=organization_pb2.MEMBER_ROLE_MEMBER
        ),
        metadata=person.metadata,
    )
    told = await events(identity, organization_id)
    assert [event.action for event in told[-3:]] == ["CreateApiKey", "RevokeApiKey", "CreateInvitation"]
    text = "".join(map(str, told))
    for hidden in (created.secret, created.secret[12:-4], person.email, "jane@example.org", invited.token):
        assert hidden
        assert hidden not in text


async def _codes(identity: Identity, organization_id: str, metadata: Metadata) -> set[grpc.StatusCode]:
    """Return the status codes of a caller's requests to list and to verify a trail."""
    calls = (
        identity.audit.ListAuditEvents(pb.ListAuditEventsRequest(organization_id=organization_id), metadata=metadata),
        identity.audit.VerifyAuditChain(pb.VerifyAuditChainRequest(organization_id=organization_id), metadata=metadata),
    )
    return {await call.code() for call in calls}
