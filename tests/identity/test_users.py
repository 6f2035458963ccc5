"""Users: their fields, who may change them, and how they are found."""

import asyncio
from typing import Final

import pytest
from sqlalchemy import func, text, update

from libs.common.database import Database
from libs.common.ids import new_id
from services.identity.tables import organizations, projects
from tests.identity.people import People
from tests.identity.refusals import DENIED, NOT_FOUND, STALE, refused, refused_field, violated_fields
from tests.identity.support import Identity
from tests.support.callers import Metadata
from tollhouse.identity.v1 import organization_pb2
from tollhouse.identity.v1 import user_pb2 as pb

TAKEN: Final = "USER_ALREADY_EXISTS"


def _update(user_id: str, *paths: str, etag: str = "", **values: str | int) -> pb.UpdateUserRequest:
    request = pb.UpdateUserRequest(user_id=user_id, etag=etag, **values)  # type: ignore[arg-type]  # fields by name.
    request.update_mask.paths.extend(paths or values)
    return request


async def _get(identity: Identity, user_id: str, metadata: Metadata | None = None) -> pb.User:
    request = pb.GetUserRequest(user_id=user_id)
    return (await identity.users.GetUser(request, metadata=metadata or identity.metadata)).user


async def _actions(database: Database, organization_id: str) -> list[str]:
    async with database.transaction() as tx:
        found = await tx.execute(
            text("SELECT action FROM identity.audit_events WHERE organization_id = :id ORDER BY sequence"),
            {"id": organization_id},
        )
        return list(found.scalars())


async def test_new_user_owns_an_organization_named_after_them(identity: Identity) -> None:
    for request, name in (
        (pb.CreateUserRequest(email="ada@example.com", full_name="Ada Lovelace"), "Ada Lovelace"),
        (pb.CreateUserRequest(email="grace@example.com", username="grace", full_name=" "), "grace"),
        (pb.CreateUserRequest(email="alan@example.com"), "alan"),
    ):
        user = (await identity.users.CreateUser(request, metadata=identity.metadata)).user
        own = organization_pb2.GetOrganizationRequest(organization_id=user.personal_organization_id)
        organization = (await identity.organizations.GetOrganization(own, metadata=identity.metadata)).organization
        members = await identity.organizations.ListMembers(
            organization_pb2.ListMembersRequest(organization_id=user.personal_organization_id),
            metadata=identity.metadata,
        )
        assert (organization.name, organization.personal) == (name, True)
        assert [(member.user_id, member.role) for member in members.members] == [
            (user.user_id, organization_pb2.MEMBER_ROLE_OWNER)
        ]


async def test_refused_user_leaves_no_organization_behind(identity: Identity, identity_database: Database) -> None:
    await identity.create_user("ada@example.com")
    assert await refused_field(identity.create_user("ADA@example.com")) == (TAKEN, "email")
    async with identity_database.transaction() as tx:
        assert (await tx.execute(text("SELECT count(*) FROM identity.organizations"))).scalar_one() == 1


@pytest.mark.own_database
async def test_two_creates_with_one_email_at_once_make_one_user(identity: Identity) -> None:
    for number in range(5):
        outcomes = await asyncio.gather(
            *(identity.create_user(f"{name}{number}@example.com") for name in ("ada", "Ada", "ADA")),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, pb.User) for outcome in outcomes) == 1
    listed = await identity.users.ListUsers(pb.ListUsersRequest(), metadata=identity.metadata)
    assert len(listed.users) == 5


@pytest.mark.own_database
async def test_user_changes_what_the_mask_names_and_nothing_else(identity: Identity, people: People) -> None:
    ada = await people.person("ada@example.com")
    before = await _get(identity, ada.user_id)
    request = _update(
        ada.user_id, "full_name", "username", full_name="Ada Lovelace", username="Ada", picture_url="https://x.example/"
    )

    after = (await identity.users.UpdateUser(request, metadata=ada.metadata)).user

    assert (after.full_name, after.username, after.picture_url) == ("Ada Lovelace", "Ada", "")
    assert after.email == before.email
    assert after.etag != before.etag
    assert after.update_time.ToDatetime() > before.update_time.ToDatetime()
    assert await _get(identity, ada.user_id, ada.metadata) == after


async def test_username_can_be_removed_and_taken_by_another(identity: Identity) -> None:
    first, second = await identity.create_user(username="ada"), await identity.create_user()
    taken = _update(second.user_id, username="ADA")
    assert await refused_field(identity.users.UpdateUser(taken, metadata=identity.metadata)) == (TAKEN, "username")

    await identity.users.UpdateUser(_update(first.user_id, "username", username=""), metadata=identity.metadata)

    assert (await identity.users.UpdateUser(taken, metadata=identity.metadata)).user.username == "ADA"


@pytest.mark.own_database
async def test_email_of_another_user_is_refused_in_any_case(identity: Identity, people: People) -> None:
    await identity.create_user("ada@example.com")
    grace = await people.person("grace@example.com")
    request = _update(grace.user_id, email="ADA@Example.com")
    assert await refused_field(identity.users.UpdateUser(request, metadata=grace.metadata)) == (TAKEN, "email")
    own = _update(grace.user_id, email="GRACE@example.com")
    assert (await identity.users.UpdateUser(own, metadata=grace.metadata)).user.email == "GRACE@example.com"


async def test_another_email_has_to_be_vouched_for_anew(identity: Identity, identity_database: Database) -> None:
    user = await identity.create_user("ada@example.com")
    async with identity_database.transaction() as tx:
        await tx.execute(text("UPDATE identity.users SET email_verify_time = now()"))
    same = await identity.users.UpdateUser(_update(user.user_id, email="Ada@example.com"), metadata=identity.metadata)
    assert same.user.HasField("email_verify_time")

    other = await identity.users.UpdateUser(_update(user.user_id, email="eve@example.com"), metadata=identity.metadata)

    assert not other.user.HasField("email_verify_time")


async def test_only_operators_change_platform_roles(identity: Identity, people: People) -> None:
    ada = await people.person()
    promote = _update(ada.user_id, platform_role=pb.PLATFORM_ROLE_ADMIN)
    assert await refused(identity.users.UpdateUser(promote, metadata=ada.metadata)) == DENIED

    promoted = (await identity.users.UpdateUser(promote, metadata=identity.metadata)).user

    assert promoted.platform_role == pb.PLATFORM_ROLE_ADMIN
    # The new role applies from the admin's next call on: now they may make the change themselves.
    demote = _update(ada.user_id, platform_role=pb.PLATFORM_ROLE_USER)
    demoted = (await identity.users.UpdateUser(demote, metadata=ada.metadata)).user
    assert demoted.platform_role == pb.PLATFORM_ROLE_USER
    assert await refused(identity.users.UpdateUser(promote, metadata=ada.metadata)) == DENIED


async def test_admin_who_may_only_read_changes_nobody_else(identity: Identity, people: People) -> None:
    ada, other = await people.person(), await people.person()
    role = _update(ada.user_id, platform_role=pb.PLATFORM_ROLE_ADMIN_READONLY)
    await identity.users.UpdateUser(role, metadata=identity.metadata)

    assert (await _get(identity, other.user_id, ada.metadata)).user_id == other.user_id
    request = _update(other.user_id, full_name="Eve")
    assert await refused(identity.users.UpdateUser(request, metadata=ada.metadata)) == NOT_FOUND


async def test_somebody_else_looks_exactly_like_nobody(identity: Identity, people: People) -> None:
    ada, other = await people.person(), await people.person()
    for user_id in (other.user_id, new_id()):
        requests = (
            identity.users.GetUser(pb.GetUserRequest(user_id=user_id), metadata=ada.metadata),
            identity.users.UpdateUser(_update(user_id, full_name="Eve"), metadata=ada.metadata),
            identity.users.DeleteUser(pb.DeleteUserRequest(user_id=user_id), metadata=ada.metadata),
            identity.users.SetPassword(
                pb.SetPasswordRequest(user_id=user_id, new_password="correct horse battery"), metadata=ada.metadata
            ),
            identity.users.GetUserConfiguration(pb.GetUserConfigurationRequest(user_id=user_id), metadata=ada.metadata),
        )
        for request in requests:
            assert await refused(request) == NOT_FOUND
    listed = identity.users.ListUsers(pb.ListUsersRequest(), metadata=ada.metadata)
    assert await refused(listed) == DENIED


async def test_stale_etag_changes_nothing(identity: Identity) -> None:
    user = await identity.create_user()
    fresh = _update(user.user_id, full_name="Ada", etag=user.etag)
    changed = (await identity.users.UpdateUser(fresh, metadata=identity.metadata)).user
    for request in (fresh, _update(user.user_id, full_name="Eve", etag="unheard-of")):
        assert await refused(identity.users.UpdateUser(request, metadata=identity.metadata)) == STALE
    stale = pb.DeleteUserRequest(user_id=user.user_id, etag=user.etag)
    assert await refused(identity.users.DeleteUser(stale, metadata=identity.metadata)) == STALE
    assert await _get(identity, user.user_id) == changed


async def test_two_changes_from_one_etag_at_once_make_one(identity: Identity) -> None:
    user = await identity.create_user()
    outcomes = await asyncio.gather(
        *(
            identity.users.UpdateUser(
                _update(user.user_id, full_name=f"Ada {number}", etag=user.etag), metadata=identity.metadata
            )
            for number in range(6)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, pb.UpdateUserResponse) for outcome in outcomes) == 1


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (_update("x", full_name="Ada"), {"user_id"}),
        (_update(new_id(), "user_id"), {"update_mask"}),
        (_update(new_id(), "password_hash"), {"update_mask"}),
        (_update(new_id(), "deactivate_time", "full_name"), {"update_mask"}),
        (pb.UpdateUserRequest(user_id=new_id()), {"update_mask"}),
        (_update(new_id(), "email"), {"email"}),
        (_update(new_id(), "platform_role", "email"), {"email", "platform_role"}),
        (_update(new_id(), email="nobody", username="a b"), {"email", "username"}),
        (_update(new_id(), platform_role=99), {"platform_role"}),
        (_update(new_id(), picture_url="javascript:alert(1)", full_name="\x00"), {"picture_url", "full_name"}),
        (_update(new_id(), last_selected_organization_id="1"), {"last_selected_organization_id"}),
        (_update(new_id(), full_name="x", etag="e" * 65), {"etag"}),
    ],
)
async def test_malformed_change_names_every_field_at_fault(
    identity: Identity, request_: pb.UpdateUserRequest, fields: set[str]
) -> None:
    assert await violated_fields(identity.users.UpdateUser(request_, metadata=identity.metadata)) == fields


async def test_change_of_a_missing_user_is_not_found(identity: Identity) -> None:
    request = _update(new_id(), full_name="Ada")
    assert await refused(identity.users.UpdateUser(request, metadata=identity.metadata)) == NOT_FOUND


async def test_user_selects_among_the_organizations_they_belong_to(identity: Identity, people: People) -> None:
    ada = await people.person()
    organization_id, _ = await identity.create_organization(ada.user_id)
    project = await identity.create_project(organization_id)
    elsewhere, _ = await identity.create_organization()
    theirs = await identity.create_project(elsewhere)

    async def select(organization_id: str, project_id: str = "") -> pb.User:
        request = _update(
            ada.user_id, last_selected_organization_id=organization_id, last_selected_project_id=project_id
        )
        return (await identity.users.UpdateUser(request, metadata=ada.metadata)).user

    chosen = await select(organization_id, project.project_id)
    assert chosen.last_selected_organization_id == organization_id
    assert chosen.last_selected_project_id == project.project_id
    assert await refused(select(elsewhere)) == NOT_FOUND
    assert await refused(select(organization_id, theirs.project_id)) == NOT_FOUND
    assert await violated_fields(select("", project.project_id)) == {"last_selected_project_id"}
    # Selecting another organization without a project clears the selected project.
    moved = _update(ada.user_id, last_selected_organization_id=chosen.personal_organization_id)
    after = (await identity.users.UpdateUser(moved, metadata=ada.metadata)).user
    assert after.last_selected_organization_id == chosen.personal_organization_id
    assert after.last_selected_project_id == ""


async def test_what_was_selected_and_deleted_is_selected_no_more(
    identity: Identity, people: People, identity_database: Database
) -> None:
    ada = await people.person()
    organization_id, _ = await identity.create_organization(ada.user_id)
    project = await identity.create_project(organization_id)
    request = _update(
        ada.user_id, last_selected_organization_id=organization_id, last_selected_project_id=project.project_id
    )
    await identity.users.UpdateUser(request, metadata=ada.metadata)
    for table, left in ((projects, (organization_id, "")), (organizations, ("", ""))):
        async with identity_database.transaction() as tx:
            await tx.execute(
                update(table).where(table.c.organization_id == organization_id).values(delete_time=func.now())
            )
        user = await _get(identity, ada.user_id, ada.metadata)
        assert (user.last_selected_organization_id, user.last_selected_project_id) == left


@pytest.mark.own_database
async def test_users_are_found_by_name_identity_and_activity(identity: Identity) -> None:
    ada = await identity.create_user("ada@example.com", "Ada")
    grace = await identity.create_user("grace@example.com", "grace")
    google = pb.LinkedIdentity(provider="google", subject="1001")
    await identity.users.LinkIdentity(
        pb.LinkIdentityRequest(user_id=grace.user_id, linked_identity=google), metadata=identity.metadata
    )
    await identity.users.DeactivateUser(pb.DeactivateUserRequest(user_id=ada.user_id), metadata=identity.metadata)
    unknown = pb.LinkedIdentity(provider="google", subject="1002")
    for request, found in (
        (pb.ListUsersRequest(username="ADA"), [ada.user_id]),
        (pb.ListUsersRequest(email="GRACE@example.com", username="grace"), [grace.user_id]),
        (pb.ListUsersRequest(email="ada@example.com", username="grace"), []),
        (pb.ListUsersRequest(linked_identity=google), [grace.user_id]),
        (pb.ListUsersRequest(linked_identity=unknown), []),
        (pb.ListUsersRequest(active=True), [grace.user_id]),
        (pb.ListUsersRequest(active=False), [ada.user_id]),
        (pb.ListUsersRequest(), [grace.user_id, ada.user_id]),
    ):
        listed = await identity.users.ListUsers(request, metadata=identity.metadata)
        assert [user.user_id for user in listed.users] == found


@pytest.mark.own_database
async def test_page_token_is_of_no_use_with_another_filter(identity: Identity) -> None:
    for _ in range(3):
        await identity.create_user()
    first = await identity.users.ListUsers(pb.ListUsersRequest(page_size=2, active=True), metadata=identity.metadata)
    rest = pb.ListUsersRequest(page_size=2, active=True, page_token=first.next_page_token)
    assert len((await identity.users.ListUsers(rest, metadata=identity.metadata)).users) == 1
    for other in (pb.ListUsersRequest(active=False), pb.ListUsersRequest(), pb.ListUsersRequest(username="ada")):
        other.page_token = first.next_page_token
        fields = await violated_fields(identity.users.ListUsers(other, metadata=identity.metadata))
        assert fields == {"page_token"}


async def test_deactivation_ends_sessions_at_once(identity: Identity, people: People) -> None:
    ada = await people.person()
    await _get(identity, ada.user_id, ada.metadata)
    await identity.users.DeactivateUser(pb.DeactivateUserRequest(user_id=ada.user_id), metadata=identity.metadata)
    turned_away = ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert await refused(_get(identity, ada.user_id, ada.metadata)) == turned_away

    await identity.users.ReactivateUser(pb.ReactivateUserRequest(user_id=ada.user_id), metadata=identity.metadata)

    # A reactivated user has to sign in again.
    assert await refused(_get(identity, ada.user_id, ada.metadata)) == turned_away
    assert (await _get(identity, ada.user_id)).active


async def test_every_change_is_told_once_without_personal_values(
    identity: Identity, identity_database: Database
) -> None:
    user = await identity.create_user("ada@example.com")
    request = _update(user.user_id, full_name="Ada Lovelace", platform_role=pb.PLATFORM_ROLE_ADMIN)
    for _ in range(2):
        await identity.users.UpdateUser(request, metadata=identity.metadata)
        await identity.users.DeactivateUser(pb.DeactivateUserRequest(user_id=user.user_id), metadata=identity.metadata)

    assert await _actions(identity_database, user.personal_organization_id) == [
        "CreateUser",
        "UpdateUser",
        "DeactivateUser",
    ]
    async with identity_database.transaction() as tx:
        told = (await tx.execute(text("SELECT string_agg(e::text, ' ') FROM identity.audit_events e"))).scalar_one()
    assert "platform_role" in told
    assert "admin" in told
    assert "Lovelace" not in told
    assert "ada@example.com" not in told
