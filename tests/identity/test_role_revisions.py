"""VerifyApiKey sees a removed role at once if the caller passes the revision that the change returned."""

from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, service_account_pb2

SCOPE = "tollhouse:accounts.read"


async def test_demoted_member_and_what_their_key_may_do(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    user = await identity.create_user()
    membership = organization_pb2.AddMemberRequest(
        organization_id=organization_id, user_id=user.user_id, role=organization_pb2.MEMBER_ROLE_ADMIN
    )
    await identity.organizations.AddMember(membership, metadata=identity.metadata)
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=user.user_id, scopes=[SCOPE])
    )
    assert await identity.code(created.secret, scopes=(SCOPE,)) == "VALID"
    demotion = organization_pb2.UpdateMemberRequest(
        organization_id=organization_id, user_id=user.user_id, role=organization_pb2.MEMBER_ROLE_MEMBER
    )
    revision = (await identity.organizations.UpdateMember(demotion, metadata=identity.metadata)).revision
    assert await identity.code(created.secret, scopes=(SCOPE,), min_revision=revision) == "INSUFFICIENT_SCOPE"

    project = await identity.create_project(organization_id)
    place = project_pb2.AddProjectMemberRequest(
        organization_id=organization_id,
        project_id=project.project_id,
        user_id=user.user_id,
        role=project_pb2.PROJECT_MEMBER_ROLE_MEMBER,
    )
    await identity.projects.AddProjectMember(place, metadata=identity.metadata)
    promotion = project_pb2.UpdateProjectMemberRequest(
        organization_id=organization_id,
        project_id=project.project_id,
        user_id=user.user_id,
        role=project_pb2.PROJECT_MEMBER_ROLE_ADMIN,
    )
    promoted = (await identity.projects.UpdateProjectMember(promotion, metadata=identity.metadata)).revision
    assert promoted > revision
    assert await identity.code(created.secret, scopes=(SCOPE,), min_revision=promoted) == "VALID"
    again = (await identity.projects.UpdateProjectMember(promotion, metadata=identity.metadata)).revision
    assert again >= promoted


async def test_demoted_service_account_and_what_its_key_may_do(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    creation = service_account_pb2.CreateServiceAccountRequest(
        organization_id=organization_id, name="Robot", role=organization_pb2.MEMBER_ROLE_ADMIN
    )
    account = (
        await identity.service_accounts.CreateServiceAccount(creation, metadata=identity.metadata)
    ).service_account
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, service_account_id=account.service_account_id, scopes=[SCOPE]
        )
    )
    assert await identity.code(created.secret, scopes=(SCOPE,)) == "VALID"
    demotion = service_account_pb2.UpdateServiceAccountRequest(
        organization_id=organization_id,
        service_account_id=account.service_account_id,
        role=organization_pb2.MEMBER_ROLE_MEMBER,
    )
    demotion.update_mask.paths.append("role")
    changed = await identity.service_accounts.UpdateServiceAccount(demotion, metadata=identity.metadata)
    assert await identity.code(created.secret, scopes=(SCOPE,), min_revision=changed.revision) == "INSUFFICIENT_SCOPE"
