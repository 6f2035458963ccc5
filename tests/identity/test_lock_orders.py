"""Concurrent calls on the same rows: they do not deadlock, and create nothing in a resource that is being deleted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from libs.common.database import Database
from services.identity.oidc import OidcIssuer
from tests.identity.people import People
from tests.identity.refusals import NOT_FOUND, refused
from tests.identity.sign_ins import SignIns, open_sign_ins
from tests.identity.support import Identity
from tests.identity.waiting import deadlocks, reason_or_done, until_waiting
from tests.support.oidc import CLIENT_ID, OidcProvider, open_provider
from tollhouse.identity.v1 import organization_pb2, project_pb2, service_account_pb2, session_pb2, user_pb2

pytestmark = pytest.mark.usefixtures("patient_locks")
MEMBER = organization_pb2.MEMBER_ROLE_MEMBER
_HOLD_USER = text("SELECT FROM identity.users WHERE user_id = CAST(:id AS uuid) FOR UPDATE")
_HOLD_TRAIL = text(
    "SELECT FROM identity.audit_heads h JOIN identity.users u ON u.personal_organization_id = h.organization_id"
    " WHERE u.user_id = CAST(:id AS uuid) FOR UPDATE OF h"
)


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    async with open_provider() as provider:
        yield provider


@pytest.fixture
async def site(database_urls: dict[str, str], tmp_path: Path, provider: OidcProvider) -> AsyncIterator[SignIns]:
    """An identity service that links users by their email, and allows each user one session."""
    issuer = OidcIssuer(provider="acme", issuer=provider.issuer, client_ids=(CLIENT_ID,), link_verified_email=True)
    async with open_sign_ins(
        database_urls["identity"], tmp_path, oidc_issuers=(issuer,), sessions_per_user_max=1
    ) as site:
        provider.clock = site.clock
        yield site


async def _sign_in(site: SignIns, id_token: str) -> session_pb2.SignInWithIdTokenResponse:
    return await site.sessions.SignInWithIdToken(session_pb2.SignInWithIdTokenRequest(id_token=id_token), timeout=20)


@pytest.mark.parametrize("ending", ["sign out", "reuse"])
async def test_a_sign_in_that_links_and_ends_a_session_meets_another_end_of_it(
    site: SignIns, provider: OidcProvider, identity_database: Database, ending: str
) -> None:
    first = await _sign_in(site, provider.token("first", {"email": "ada@people.test"}))
    user_id = first.session.user_id
    used = first.tokens.refresh_token
    await site.refresh(used)
    request = session_pb2.SignOutRequest(user_id=user_id, all_sessions=True)
    async with identity_database.transaction() as tx:
        await tx.execute(_HOLD_TRAIL, {"id": user_id})
        # The sign-in comes first and waits for the audit trail. No other call may lock the session meanwhile.
        linking = asyncio.ensure_future(
            reason_or_done(_sign_in(site, provider.token("second", {"email": "ada@people.test"})))
        )
        await until_waiting(identity_database, 1)
        end = site.sessions.SignOut(request, metadata=site.operator) if ending == "sign out" else site.refresh(used)
        ended = asyncio.ensure_future(reason_or_done(end))
        await until_waiting(identity_database, 2)
    assert await linking == ""
    assert await ended == ("" if ending == "sign out" else "INVALID_REFRESH_TOKEN")
    assert len(await site.listed(user_id)) == (0 if ending == "sign out" else 1)
    assert await deadlocks(identity_database) == 0


async def test_many_linking_sign_ins_and_sign_outs_of_one_user_at_once(
    site: SignIns, provider: OidcProvider, identity_database: Database
) -> None:
    user_id = (await _sign_in(site, provider.token("0", {"email": "ada@people.test"}))).session.user_id
    request = session_pb2.SignOutRequest(user_id=user_id, all_sessions=True)
    calls: list[Awaitable[object]] = []
    for number in range(1, 13):
        calls.append(_sign_in(site, provider.token(str(number), {"email": "ada@people.test"})))
        calls.append(site.sessions.SignOut(request, metadata=site.operator))
    assert set(await asyncio.gather(*map(reason_or_done, calls))) == {""}
    assert await deadlocks(identity_database) == 0


async def test_a_user_selects_an_organization_while_being_deleted(
    identity: Identity, people: People, identity_database: Database
) -> None:
    organization_id, _ = await identity.create_organization()
    user = await people.member(organization_id, MEMBER)
    selection = user_pb2.UpdateUserRequest(user_id=user.user_id, last_selected_organization_id=organization_id)
    selection.update_mask.paths.append("last_selected_organization_id")
    async with identity_database.transaction() as tx:
        await tx.execute(_HOLD_USER, {"id": user.user_id})
        selecting = asyncio.ensure_future(
            reason_or_done(identity.users.UpdateUser(selection, metadata=identity.metadata))
        )
        await until_waiting(identity_database, 1)
        deletion = user_pb2.DeleteUserRequest(user_id=user.user_id)
        deleting = asyncio.ensure_future(
            reason_or_done(identity.users.DeleteUser(deletion, metadata=identity.metadata))
        )
        await until_waiting(identity_database, 2)
    assert (await selecting, await deleting) == ("", "")
    assert await deadlocks(identity_database) == 0


Build = Callable[[Identity, str, str], Awaitable[object]]


def _accept(identity: Identity, organization_id: str, token: str) -> Awaitable[object]:
    guest_id, _, token = token.partition(" ")
    request = organization_pb2.AcceptInvitationRequest(token=token, user_id=guest_id)
    return identity.organizations.AcceptInvitation(request, metadata=identity.metadata)


def _add_member(identity: Identity, organization_id: str, token: str) -> Awaitable[object]:
    request = organization_pb2.AddMemberRequest(
        organization_id=organization_id, user_id=token.partition(" ")[0], role=MEMBER
    )
    return identity.organizations.AddMember(request, metadata=identity.metadata)


def _create_project(identity: Identity, organization_id: str, token: str) -> Awaitable[object]:
    request = project_pb2.CreateProjectRequest(organization_id=organization_id, name="Chat")
    return identity.projects.CreateProject(request, metadata=identity.metadata)


def _create_service_account(identity: Identity, organization_id: str, token: str) -> Awaitable[object]:
    request = service_account_pb2.CreateServiceAccountRequest(
        organization_id=organization_id, name="Robot", role=MEMBER
    )
    return identity.service_accounts.CreateServiceAccount(request, metadata=identity.metadata)


def _invite(identity: Identity, organization_id: str, token: str) -> Awaitable[object]:
    request = organization_pb2.CreateInvitationRequest(
        organization_id=organization_id, email="late@example.com", role=MEMBER
    )
    return identity.organizations.CreateInvitation(request, metadata=identity.metadata)


@pytest.mark.parametrize("build", [_accept, _add_member, _create_project, _create_service_account, _invite])
async def test_nothing_is_built_in_an_organization_that_is_being_deleted(
    identity: Identity, identity_database: Database, build: Build
) -> None:
    organization_id, _ = await identity.create_organization()
    guest = await identity.create_user()
    invitation = organization_pb2.CreateInvitationRequest(
        organization_id=organization_id, email=guest.email, role=MEMBER
    )
    token = (await identity.organizations.CreateInvitation(invitation, metadata=identity.metadata)).token
    deletion = organization_pb2.DeleteOrganizationRequest(organization_id=organization_id)
    async with identity_database.transaction() as tx:
        # The deletion waits here for its sequence number; all its other work is done.
        await tx.execute(text("SELECT FROM identity.revision_counter FOR UPDATE"))
        deleting = asyncio.ensure_future(
            reason_or_done(identity.organizations.DeleteOrganization(deletion, metadata=identity.metadata))
        )
        await until_waiting(identity_database, 1)
        building = asyncio.ensure_future(refused(build(identity, organization_id, f"{guest.user_id} {token}")))
        await until_waiting(identity_database, 2)
    assert await deleting == ""
    assert await building == NOT_FOUND
    async with identity_database.transaction() as tx:
        for table, expected in (("members", 1), ("projects", 0), ("service_accounts", 0), ("invitations", 1)):
            counted = await tx.execute(
                text(f"SELECT count(*) FROM identity.{table} WHERE organization_id = CAST(:id AS uuid)"),  # noqa: S608
                {"id": organization_id},
            )
            assert (table, counted.scalar_one()) == (table, expected)


@pytest.mark.parametrize("what", ["sign in", "set password"])
async def test_no_connection_is_held_while_a_password_is_hashed(
    database_urls: dict[str, str], tmp_path: Path, what: str
) -> None:
    slow = {"password_hash_memory_kib": 64 * 1024, "password_hash_passes": 10, "password_hash_threads": 1}
    # Two connections: one listens for changes for as long as the process runs.
    async with open_sign_ins(database_urls["identity"], tmp_path, pool_size=2, **slow) as site:
        users = [await site.create_user(password="") for _ in range(5)]

        def hashing(user: user_pb2.User) -> Awaitable[object]:
            if what == "sign in":
                return site.sign_in(user.email)
            request = user_pb2.SetPasswordRequest(user_id=user.user_id, new_password="copper-meadow-17-compass")
            return site.users.SetPassword(request, metadata=site.operator, timeout=20)

        under_way = [asyncio.ensure_future(reason_or_done(hashing(user))) for user in users]
        await asyncio.sleep(0.1)
        # Passwords are hashed one after the other. If each call kept its connection, this call would finish last.
        for user in users:
            await site.users.GetUser(user_pb2.GetUserRequest(user_id=user.user_id), metadata=site.operator, timeout=5)
        assert [call.done() for call in under_way].count(False) >= 3
        assert set(await asyncio.gather(*under_way)) <= {"", "SIGN_IN_REFUSED"}
