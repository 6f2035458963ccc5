"""Organizations: creation by users, updates under an etag, and deletion."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from libs.common.database import Database
from libs.common.ids import new_id
from tests.identity.people import People
from tests.identity.refusals import NOT_FOUND, STALE, refused, violated_fields
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2, project_pb2, service_account_pb2
from tollhouse.identity.v1 import organization_pb2 as pb

PERSONAL = ("FAILED_PRECONDITION", "PERSONAL_ORGANIZATION")


def _update(organization_id: str, *paths: str, etag: str = "", name: str = "") -> pb.UpdateOrganizationRequest:
    return pb.UpdateOrganizationRequest(
        organization_id=organization_id, update_mask=FieldMask(paths=paths), etag=etag, name=name
    )


async def _personal(identity: Identity, user_id: str) -> pb.Organization:
    listed = await identity.organizations.ListOrganizations(
        pb.ListOrganizationsRequest(user_id=user_id), metadata=identity.metadata
    )
    [personal] = [organization for organization in listed.organizations if organization.personal]
    return personal


async def test_users_create_organizations_for_themselves_alone(identity: Identity, people: People) -> None:
    ada, bob = await people.person(), await people.person()
    mine = pb.CreateOrganizationRequest(name="Acme", owner_user_id=ada.user_id)
    created = (await identity.organizations.CreateOrganization(mine, metadata=ada.metadata)).organization
    theirs = pb.CreateOrganizationRequest(name="Acme", owner_user_id=bob.user_id)

    assert await refused(identity.organizations.CreateOrganization(theirs, metadata=ada.metadata)) == NOT_FOUND
    got = await identity.organizations.GetOrganization(
        pb.GetOrganizationRequest(organization_id=created.organization_id), metadata=ada.metadata
    )
    assert got.organization == created
    assert not created.personal


async def test_request_id_of_one_user_means_nothing_for_another(identity: Identity, people: People) -> None:
    made = set()
    for person in (await people.person(), await people.person()):
        request = pb.CreateOrganizationRequest(request_id="first", name="Acme", owner_user_id=person.user_id)
        created = await identity.organizations.CreateOrganization(request, metadata=person.metadata)
        again = await identity.organizations.CreateOrganization(request, metadata=person.metadata)
        assert (created.replayed, again.replayed) == (False, True)
        assert again.organization == created.organization
        made.add(created.organization.organization_id)
    assert len(made) == 2


async def test_list_marks_the_personal_organization(identity: Identity, people: People) -> None:
    ada = await people.person()
    organization_id, _ = await identity.create_organization(ada.user_id)

    listed = await identity.organizations.ListOrganizations(
        pb.ListOrganizationsRequest(user_id=ada.user_id), metadata=ada.metadata
    )

    assert {o.organization_id: o.personal for o in listed.organizations} == {
        organization_id: False,
        (await _personal(identity, ada.user_id)).organization_id: True,
    }


async def test_users_list_their_own_organizations_only(identity: Identity, people: People) -> None:
    ada, bob = await people.person(), await people.person()
    for user_id, answer in ((bob.user_id, NOT_FOUND), ("", ("PERMISSION_DENIED", "PERMISSION_DENIED"))):
        request = pb.ListOrganizationsRequest(user_id=user_id)
        assert await refused(identity.organizations.ListOrganizations(request, metadata=ada.metadata)) == answer


async def test_update_changes_what_the_mask_names_and_nothing_else(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    request = pb.UpdateOrganizationRequest(
        organization_id=organization_id,
        update_mask=FieldMask(paths=["api_key_max_lifetime_s"]),
        name="Ignored",
        api_key_max_lifetime_s=86_400,
    )
    limited = (await identity.organizations.UpdateOrganization(request, metadata=identity.metadata)).organization
    renamed = (
        await identity.organizations.UpdateOrganization(
            _update(organization_id, "name", etag=limited.etag, name="Bolt"), metadata=identity.metadata
        )
    ).organization
    request.api_key_max_lifetime_s = 0
    free = (await identity.organizations.UpdateOrganization(request, metadata=identity.metadata)).organization

    assert (limited.name, limited.api_key_max_lifetime_s) == ("Acme", 86_400)
    assert (renamed.name, renamed.api_key_max_lifetime_s) == ("Bolt", 86_400)
    assert (free.name, free.api_key_max_lifetime_s) == ("Bolt", 0)
    assert len({limited.etag, renamed.etag, free.etag}) == 3


async def test_update_with_a_stale_etag_changes_nothing(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    get = pb.GetOrganizationRequest(organization_id=organization_id)
    before = (await identity.organizations.GetOrganization(get, metadata=identity.metadata)).organization
    await identity.organizations.UpdateOrganization(
        _update(organization_id, "name", name="Bolt"), metadata=identity.metadata
    )

    stale = _update(organization_id, "name", etag=before.etag, name="Crash")
    assert await refused(identity.organizations.UpdateOrganization(stale, metadata=identity.metadata)) == STALE
    after = (await identity.organizations.GetOrganization(get, metadata=identity.metadata)).organization
    assert after.name == "Bolt"


async def test_update_that_changes_nothing_keeps_the_etag(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    answers = [
        await identity.organizations.UpdateOrganization(
            _update(organization_id, "name", name="Acme"), metadata=identity.metadata
        )
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0].organization.etag == "1"


@pytest.mark.parametrize(
    ("paths", "name", "lifetime_s", "fields"),
    [
        (["name", "personal"], "", 0, {"update_mask", "name"}),
        ([], "Bolt", 0, {"update_mask"}),
        (["*"], "Bolt", 0, {"update_mask"}),
        (["name"], " \t", -1, {"name", "api_key_max_lifetime_s"}),
    ],
)
async def test_update_names_every_field_at_fault(
    identity: Identity, paths: list[str], name: str, lifetime_s: int, fields: set[str]
) -> None:
    request = pb.UpdateOrganizationRequest(
        organization_id=new_id(),
        update_mask=FieldMask(paths=paths),
        name=name,
        api_key_max_lifetime_s=lifetime_s,
    )
    call = identity.organizations.UpdateOrganization(request, metadata=identity.metadata)
    assert await violated_fields(call) == fields


async def test_deleted_organization_is_gone_for_everyone_and_everything_of_it_stops(
    identity: Identity, people: People
) -> None:
    owner = await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    project = await identity.create_project(organization_id)
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner.user_id)
    )
    invited = await identity.organizations.CreateInvitation(
        pb.CreateInvitationRequest(
            organization_id=organization_id, email="late@example.com", role=pb.MEMBER_ROLE_MEMBER
        ),
        metadata=identity.metadata,
    )
    assert await identity.code(key.secret) == "VALID"

    deleted = await identity.organizations.DeleteOrganization(
        pb.DeleteOrganizationRequest(organization_id=organization_id), metadata=owner.metadata
    )

    assert await identity.code(key.secret, min_revision=deleted.revision) != "VALID"
    late = await people.person("late@example.com")
    for metadata in (identity.metadata, owner.metadata):
        rpc = identity.organizations
        for call in (
            rpc.GetOrganization(pb.GetOrganizationRequest(organization_id=organization_id), metadata=metadata),
            rpc.UpdateOrganization(_update(organization_id, "name", name="Bolt"), metadata=metadata),
            rpc.ListMembers(pb.ListMembersRequest(organization_id=organization_id), metadata=metadata),
            rpc.ListInvitations(pb.ListInvitationsRequest(organization_id=organization_id), metadata=metadata),
            rpc.RemoveMember(
                pb.RemoveMemberRequest(organization_id=organization_id, user_id=owner.user_id), metadata=metadata
            ),
            identity.projects.GetProject(
                project_pb2.GetProjectRequest(organization_id=organization_id, project_id=project.project_id),
                metadata=metadata,
            ),
            identity.service_accounts.ListServiceAccounts(
                service_account_pb2.ListServiceAccountsRequest(organization_id=organization_id), metadata=metadata
            ),
        ):
            assert await refused(call) == NOT_FOUND
    accept = pb.AcceptInvitationRequest(token=invited.token)
    assert await refused(identity.organizations.AcceptInvitation(accept, metadata=late.metadata)) == NOT_FOUND
    listed = await identity.organizations.ListOrganizations(
        pb.ListOrganizationsRequest(user_id=owner.user_id), metadata=owner.metadata
    )
    assert organization_id not in {o.organization_id for o in listed.organizations}


async def test_deletion_leaves_the_tombstone_and_the_history(identity: Identity, identity_database: Database) -> None:
    organization_id, owner = await identity.create_organization()
    await identity.create_key(api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner))
    request = pb.DeleteOrganizationRequest(organization_id=organization_id)
    first = await identity.organizations.DeleteOrganization(request, metadata=identity.metadata)
    again = await identity.organizations.DeleteOrganization(request, metadata=identity.metadata)

    async with identity_database.transaction() as tx:
        kept = await tx.execute(
            text(
                "SELECT (SELECT count(*) FROM organizations WHERE organization_id = :id AND delete_time IS NOT NULL),"
                " (SELECT count(*) FROM members WHERE organization_id = :id),"
                " (SELECT count(*) FROM api_keys WHERE organization_id = :id)"
            ),
            {"id": organization_id},
        )
    assert tuple(kept.one()) == (1, 1, 1)
    assert again.delete_time == first.delete_time


async def test_deletion_takes_the_organization_from_who_had_it_selected(
    identity: Identity, identity_database: Database
) -> None:
    organization_id, owner = await identity.create_organization()
    project = await identity.create_project(organization_id)
    async with identity_database.transaction() as tx:
        await tx.execute(
            text(
                "UPDATE users SET last_selected_organization_id = :organization_id,"
                " last_selected_project_id = :project_id WHERE user_id = :user_id"
            ),
            {"organization_id": organization_id, "project_id": project.project_id, "user_id": owner},
        )
    await identity.organizations.DeleteOrganization(
        pb.DeleteOrganizationRequest(organization_id=organization_id), metadata=identity.metadata
    )

    async with identity_database.transaction() as tx:
        selected = await tx.execute(
            text("SELECT last_selected_organization_id, last_selected_project_id FROM users WHERE user_id = :user_id"),
            {"user_id": owner},
        )
    assert tuple(selected.one()) == (None, None)


async def test_organization_that_never_was_cannot_be_deleted(identity: Identity) -> None:
    request = pb.DeleteOrganizationRequest(organization_id=new_id())
    assert await refused(identity.organizations.DeleteOrganization(request, metadata=identity.metadata)) == NOT_FOUND


async def test_only_owners_delete_an_organization(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    request = pb.DeleteOrganizationRequest(organization_id=organization_id)
    for role in (pb.MEMBER_ROLE_ADMIN, pb.MEMBER_ROLE_MEMBER, pb.MEMBER_ROLE_BILLING, pb.MEMBER_ROLE_VIEWER):
        member = await people.member(organization_id, role)
        call = identity.organizations.DeleteOrganization(request, metadata=member.metadata)
        assert await refused(call) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    stranger = await people.person()
    assert await refused(identity.organizations.DeleteOrganization(request, metadata=stranger.metadata)) == NOT_FOUND


async def test_personal_organization_takes_nobody_in_and_is_not_deleted(identity: Identity, people: People) -> None:
    ada, bob = await people.person(), await people.person()
    organization_id = (await _personal(identity, ada.user_id)).organization_id
    rpc = identity.organizations
    add = pb.AddMemberRequest(organization_id=organization_id, user_id=bob.user_id, role=pb.MEMBER_ROLE_VIEWER)
    invite = pb.CreateInvitationRequest(organization_id=organization_id, email=bob.email, role=pb.MEMBER_ROLE_VIEWER)
    delete = pb.DeleteOrganizationRequest(organization_id=organization_id)
    leave = pb.RemoveMemberRequest(organization_id=organization_id, user_id=ada.user_id)

    assert await refused(rpc.AddMember(add, metadata=identity.metadata)) == PERSONAL
    assert await refused(rpc.CreateInvitation(invite, metadata=ada.metadata)) == PERSONAL
    assert await refused(rpc.DeleteOrganization(delete, metadata=ada.metadata)) == PERSONAL
    assert await refused(rpc.DeleteOrganization(delete, metadata=identity.metadata)) == PERSONAL
    assert await refused(rpc.RemoveMember(leave, metadata=ada.metadata)) == ("FAILED_PRECONDITION", "LAST_OWNER")


async def test_check_knows_organizations_deleted_ones_too_and_no_others(identity: Identity, people: People) -> None:
    here, _ = await identity.create_organization()
    deleted, _ = await identity.create_organization()
    await identity.organizations.DeleteOrganization(
        pb.DeleteOrganizationRequest(organization_id=deleted), metadata=identity.metadata
    )
    nobody = new_id()
    request = pb.CheckOrganizationsRequest(organization_ids=[here.upper(), deleted, nobody, here])

    checked = await identity.organizations.CheckOrganizations(request, metadata=identity.metadata)
    none = await identity.organizations.CheckOrganizations(pb.CheckOrganizationsRequest(), metadata=identity.metadata)

    assert sorted(checked.known_organization_ids) == sorted([here, deleted])
    assert list(none.known_organization_ids) == []
    ada = await people.person()
    assert (await refused(identity.organizations.CheckOrganizations(request, metadata=ada.metadata)))[0] == (
        "PERMISSION_DENIED"
    )


async def test_check_names_every_id_at_fault(identity: Identity) -> None:
    request = pb.CheckOrganizationsRequest(organization_ids=[new_id(), "x", "\x00"])
    too_many = pb.CheckOrganizationsRequest(organization_ids=[new_id() for _ in range(1_001)])

    call = identity.organizations.CheckOrganizations
    assert await violated_fields(call(request, metadata=identity.metadata)) == {
        "organization_ids[1]",
        "organization_ids[2]",
    }
    assert await violated_fields(call(too_many, metadata=identity.metadata)) == {"organization_ids"}
