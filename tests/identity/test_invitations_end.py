"""Invitations end when the inviter loses the right to invite. A deleted user's address is erased from them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from libs.common.database import Database
from tests.identity.people import People, Person
from tests.identity.refusals import DENIED, NOT_FOUND, refused
from tests.identity.support import Identity
from tests.identity.waiting import deadlocks, reason_or_done, until_waiting
from tests.support.callers import bearer
from tollhouse.identity.v1 import api_key_pb2, service_account_pb2, user_pb2
from tollhouse.identity.v1 import organization_pb2 as pb

OWNER, ADMIN, MEMBER, VIEWER = (
    pb.MEMBER_ROLE_OWNER,
    pb.MEMBER_ROLE_ADMIN,
    pb.MEMBER_ROLE_MEMBER,
    pb.MEMBER_ROLE_VIEWER,
)
OPEN, REVOKED = pb.INVITATION_STATE_OPEN, pb.INVITATION_STATE_REVOKED
# The scopes of a viewer, and the right to invite one.
SCOPES = [
    f"tollhouse:{name}"
    for name in (
        "organization.read",
        "organization.write",
        "accounts.read",
        "credits.read",
        "subscriptions.read",
        "payments.read",
        "invoices.read",
        "usage.read",
        "keys.read",
        "audit.read",
    )
]
Stop = Callable[[Identity, str, str], Awaitable[object]]


async def _invite(
    identity: Identity,
    organization_id: str,
    email: str,
    *,
    by: Person | None = None,
    role: pb.MemberRole.ValueType = MEMBER,
) -> pb.CreateInvitationResponse:
    request = pb.CreateInvitationRequest(organization_id=organization_id, email=email, role=role)
    return await identity.organizations.CreateInvitation(request, metadata=by.metadata if by else identity.metadata)


async def _listed(identity: Identity, organization_id: str) -> list[pb.Invitation]:
    request = pb.ListInvitationsRequest(organization_id=organization_id, include_closed=True)
    return list((await identity.organizations.ListInvitations(request, metadata=identity.metadata)).invitations)


async def _states(identity: Identity, organization_id: str) -> dict[str, int]:
    return {one.email: one.state for one in await _listed(identity, organization_id)}


async def _update(identity: Identity, organization_id: str, user_id: str, role: pb.MemberRole.ValueType) -> object:
    request = pb.UpdateMemberRequest(organization_id=organization_id, user_id=user_id, role=role)
    return await identity.organizations.UpdateMember(request, metadata=identity.metadata)


async def _demote(identity: Identity, organization_id: str, user_id: str) -> object:
    return await _update(identity, organization_id, user_id, VIEWER)


async def _remove(identity: Identity, organization_id: str, user_id: str) -> object:
    request = pb.RemoveMemberRequest(organization_id=organization_id, user_id=user_id)
    return await identity.organizations.RemoveMember(request, metadata=identity.metadata)


async def _deactivate(identity: Identity, organization_id: str, user_id: str) -> object:
    return await identity.users.DeactivateUser(
        user_pb2.DeactivateUserRequest(user_id=user_id), metadata=identity.metadata
    )


async def _delete(identity: Identity, organization_id: str, user_id: str) -> object:
    return await identity.users.DeleteUser(user_pb2.DeleteUserRequest(user_id=user_id), metadata=identity.metadata)


STOPS = pytest.mark.parametrize("stop", [_demote, _remove, _deactivate, _delete])


@STOPS
async def test_who_may_not_invite_any_more_has_invited_nobody(
    identity: Identity, people: People, identity_database: Database, stop: Stop
) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    guest = await people.person()
    token = (await _invite(identity, organization_id, guest.email, by=admin)).token
    await _invite(identity, organization_id, "kept@example.com")

    await stop(identity, organization_id, admin.user_id)

    assert await _states(identity, organization_id) == {guest.email: REVOKED, "kept@example.com": OPEN}
    accept = identity.organizations.AcceptInvitation(pb.AcceptInvitationRequest(token=token), metadata=guest.metadata)
    assert await refused(accept) == NOT_FOUND
    assert await _told(identity_database, organization_id) == ["1"]


async def _told(database: Database, organization_id: str) -> list[str]:
    """Return how many revoked invitations each event in an organization's audit trail reports."""
    async with database.transaction() as tx:
        found = await tx.execute(
            text(
                "SELECT change ->> 'after' FROM identity.audit_events, jsonb_array_elements(changes) AS change"
                " WHERE organization_id = CAST(:id AS uuid) AND change ->> 'field' = 'revoked_invitations'"
            ),
            {"id": organization_id},
        )
        return list(found.scalars())


async def test_invitations_of_elsewhere_go_on(identity: Identity, people: People) -> None:
    here, _ = await identity.create_organization()
    there, _ = await identity.create_organization()
    admin = await people.member(here, ADMIN)
    await identity.organizations.AddMember(
        pb.AddMemberRequest(organization_id=there, user_id=admin.user_id, role=ADMIN), metadata=identity.metadata
    )
    for organization_id in (here, there):
        await _invite(identity, organization_id, "guest@example.com", by=admin)

    await _remove(identity, here, admin.user_id)

    assert await _states(identity, here) == {"guest@example.com": REVOKED}
    assert await _states(identity, there) == {"guest@example.com": OPEN}


async def test_an_owner_who_becomes_an_admin_keeps_what_an_admin_may_offer(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    owner = await people.member(organization_id, OWNER)
    await _invite(identity, organization_id, "owner@example.com", by=owner, role=OWNER)
    await _invite(identity, organization_id, "member@example.com", by=owner, role=MEMBER)

    await _update(identity, organization_id, owner.user_id, ADMIN)

    assert await _states(identity, organization_id) == {"owner@example.com": REVOKED, "member@example.com": OPEN}


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "demoted"])
async def test_invitations_made_with_the_keys_of_a_service_account_end_with_its_right(
    identity: Identity, deleted: bool
) -> None:
    organization_id, _ = await identity.create_organization()
    created = await identity.service_accounts.CreateServiceAccount(
        service_account_pb2.CreateServiceAccountRequest(organization_id=organization_id, name="Robot", role=OWNER),
        metadata=identity.metadata,
    )
    account_id = created.service_account.service_account_id
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id,
            service_account_id=account_id,
            scopes=SCOPES,
        )
    )
    by_key = bearer(key.secret)
    request = pb.CreateInvitationRequest(organization_id=organization_id, email="guest@example.com", role=VIEWER)
    await identity.organizations.CreateInvitation(request, metadata=by_key)

    if deleted:
        await identity.service_accounts.DeleteServiceAccount(
            service_account_pb2.DeleteServiceAccountRequest(
                organization_id=organization_id, service_account_id=account_id
            ),
            metadata=identity.metadata,
        )
    else:
        demotion = service_account_pb2.UpdateServiceAccountRequest(
            organization_id=organization_id, service_account_id=account_id, role=MEMBER
        )
        demotion.update_mask.paths.append("role")
        await identity.service_accounts.UpdateServiceAccount(demotion, metadata=identity.metadata)

    assert await _states(identity, organization_id) == {"guest@example.com": REVOKED}


@pytest.mark.usefixtures("patient_locks")
@STOPS
async def test_nobody_invites_while_they_lose_the_right_to(
    identity: Identity, people: People, identity_database: Database, stop: Stop
) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    # The call that ends the inviter's rights waits here for its revision, holding locks that the invitation needs.
    async with identity_database.transaction() as tx:
        await tx.execute(text("SELECT FROM identity.revision_counter FOR UPDATE"))
        stopping = asyncio.create_task(_finished(stop(identity, organization_id, admin.user_id)))
        await until_waiting(identity_database, 1)
        inviting = asyncio.create_task(refused(_invite(identity, organization_id, "late@example.com", by=admin)))
        await until_waiting(identity_database, 2)
    await stopping
    assert await inviting == DENIED
    assert "late@example.com" not in await _states(identity, organization_id)


async def _finished(call: Awaitable[object]) -> None:
    await call


async def test_the_address_of_a_deleted_user_stands_in_no_invitation(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    elsewhere, _ = await identity.create_organization()
    guest = await people.person()
    token = (await _invite(identity, organization_id, guest.email)).token
    await identity.organizations.AcceptInvitation(pb.AcceptInvitationRequest(token=token), metadata=guest.metadata)
    await _invite(identity, elsewhere, guest.email)
    await _invite(identity, elsewhere, "somebody@example.com")

    await _delete(identity, organization_id, guest.user_id)

    assert await _states(identity, organization_id) == {"": pb.INVITATION_STATE_ACCEPTED}
    assert await _states(identity, elsewhere) == {"": REVOKED, "somebody@example.com": OPEN}


async def test_nobody_ends_the_invitations_of_an_address_by_giving_it_for_their_own(
    identity: Identity, people: People
) -> None:
    organization_id, _ = await identity.create_organization()
    await _invite(identity, organization_id, "victim@example.com")
    mallory = await people.person()
    request = user_pb2.UpdateUserRequest(user_id=mallory.user_id, email="victim@example.com")
    request.update_mask.paths.append("email")
    await identity.users.UpdateUser(request, metadata=mallory.metadata)

    await identity.users.DeleteUser(user_pb2.DeleteUserRequest(user_id=mallory.user_id), metadata=mallory.metadata)

    assert await _states(identity, organization_id) == {"victim@example.com": OPEN}


async def test_two_deleted_users_leave_lapsed_invitations_without_an_address(
    identity: Identity, people: People, identity_database: Database
) -> None:
    organization_id, _ = await identity.create_organization()
    guests = [await people.person() for _ in range(2)]
    for guest in guests:
        await _invite(identity, organization_id, guest.email)
    async with identity_database.transaction() as tx:
        await tx.execute(text("UPDATE identity.invitations SET expire_time = create_time"))

    for guest in guests:
        await _delete(identity, organization_id, guest.user_id)

    emails = [(one.email, one.state) for one in await _listed(identity, organization_id)]
    assert emails == [("", pb.INVITATION_STATE_EXPIRED)] * 2


async def test_accepting_and_being_deleted_at_once_never_wait_for_each_other(
    identity: Identity, people: People, identity_database: Database
) -> None:
    organization_id, _ = await identity.create_organization()
    for _ in range(3):
        guest = await people.person()
        token = (await _invite(identity, organization_id, guest.email)).token
        async with identity_database.transaction() as tx:
            await tx.execute(
                text("SELECT FROM identity.users WHERE user_id = CAST(:id AS uuid) FOR UPDATE"),
                {"id": guest.user_id},
            )
            accepting = asyncio.create_task(
                reason_or_done(
                    identity.organizations.AcceptInvitation(
                        pb.AcceptInvitationRequest(token=token), metadata=guest.metadata
                    )
                )
            )
            await until_waiting(identity_database, 1)
            deleting = asyncio.create_task(reason_or_done(_delete(identity, organization_id, guest.user_id)))
            await until_waiting(identity_database, 2)
        # The acceptance came first. The deletion may then find a membership that it had not read, and is refused.
        assert await accepting == ""
        assert await deleting in ("", "CONFLICT")
    assert await deadlocks(identity_database) == 0
