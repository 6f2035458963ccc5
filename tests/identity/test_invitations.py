"""Invitations: accepted once, before they lapse, by the invited user; their token is returned only once."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text

from libs.common.access import Caller, CallerKind
from libs.common.call import Call, enter_call, leave_call
from libs.common.clock import SystemClock
from libs.common.database import Database, open_database
from libs.common.errors import NotFound, Unavailable
from libs.common.ids import new_id
from libs.common.status import reason_of
from libs.common.timestamps import render_time
from services.identity.housekeeping import INVITATIONS_KEPT, Housekeeping
from services.identity.organization.invitations import TOKEN_FORM, Invitations
from tests.identity.people import People
from tests.identity.refusals import DENIED, NOT_FOUND, ROLE_NOT_HELD, refused, refused_field, violated_fields
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers, bearer
from tests.support.clock import FixedClock
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.identity.v1 import organization_pb2 as pb

EXPIRED = ("FAILED_PRECONDITION", "INVITATION_EXPIRED")
USED = ("FAILED_PRECONDITION", "INVITATION_USED")
OWNER, ADMIN, MEMBER = pb.MEMBER_ROLE_OWNER, pb.MEMBER_ROLE_ADMIN, pb.MEMBER_ROLE_MEMBER


def _invite(
    organization_id: str, email: str, role: pb.MemberRole.ValueType = MEMBER, request_id: str = ""
) -> pb.CreateInvitationRequest:
    return pb.CreateInvitationRequest(organization_id=organization_id, email=email, role=role, request_id=request_id)


async def _invited(identity: Identity, organization_id: str, email: str) -> pb.CreateInvitationResponse:
    return await identity.organizations.CreateInvitation(_invite(organization_id, email), metadata=identity.metadata)


async def _listed(identity: Identity, organization_id: str, *, closed: bool = False) -> list[pb.Invitation]:
    request = pb.ListInvitationsRequest(organization_id=organization_id, include_closed=closed)
    return list((await identity.organizations.ListInvitations(request, metadata=identity.metadata)).invitations)


async def _revoke(identity: Identity, invitation: pb.Invitation) -> pb.Invitation:
    request = pb.RevokeInvitationRequest(
        organization_id=invitation.organization_id, invitation_id=invitation.invitation_id
    )
    return (await identity.organizations.RevokeInvitation(request, metadata=identity.metadata)).invitation


class _Later:
    """An identity service whose clock the test sets, called by an operator whose token is always valid."""

    def __init__(self, identity: Identity, clock: FixedClock, callers: Callers) -> None:
        self.identity = identity
        self.clock = clock
        self._callers = callers

    def advance(self, by: timedelta) -> None:
        self.clock.advance(by)
        self.identity.metadata = self._callers.operator()

    def now(self) -> datetime:
        return self.clock.now()


@pytest.fixture
async def later(database_urls: dict[str, str], tmp_path: Path) -> AsyncIterator[_Later]:
    clock = FixedClock(datetime.now(UTC))
    callers = Callers(tmp_path, clock)
    async with open_identity(callers, database_urls["identity"], tmp_path, clock=clock) as identity:
        yield _Later(identity, clock, callers)


async def test_invited_user_becomes_a_member_once(identity: Identity, people: People) -> None:
    organization_id, owner = await identity.create_organization()
    grace = await people.person("Grace@Example.com")
    invited = await _invited(identity, organization_id, "gRACE@example.COM")
    rpc = identity.organizations

    accepted = await rpc.AcceptInvitation(pb.AcceptInvitationRequest(token=invited.token), metadata=grace.metadata)

    assert invited.invitation.state == pb.INVITATION_STATE_OPEN
    assert invited.invitation.inviter == "operator:alice"
    assert (accepted.member.user_id, accepted.member.role) == (grace.user_id, MEMBER)
    call = rpc.AcceptInvitation(pb.AcceptInvitationRequest(token=invited.token), metadata=grace.metadata)
    assert await refused(call) == USED
    members = await rpc.ListMembers(pb.ListMembersRequest(organization_id=organization_id), metadata=grace.metadata)
    assert {member.user_id for member in members.members} == {owner, grace.user_id}
    [kept] = await _listed(identity, organization_id, closed=True)
    assert (kept.state, kept.accepted_user_id) == (pb.INVITATION_STATE_ACCEPTED, grace.user_id)
    assert await _listed(identity, organization_id) == []


async def test_acceptance_repeated_with_its_request_id_returns_the_member(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    grace = await people.person()
    invited = await _invited(identity, organization_id, grace.email)
    request = pb.AcceptInvitationRequest(request_id="accept", token=invited.token)

    first = await identity.organizations.AcceptInvitation(request, metadata=grace.metadata)
    again = await identity.organizations.AcceptInvitation(request, metadata=grace.metadata)

    assert (first.replayed, again.replayed) == (False, True)
    assert again.member == first.member


async def test_foreign_revoked_and_unknown_invitations_look_alike(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    grace, mallory = await people.person(), await people.person()
    foreign = await _invited(identity, organization_id, grace.email)
    revoked = await _invited(identity, organization_id, mallory.email)
    assert (await _revoke(identity, revoked.invitation)).state == pb.INVITATION_STATE_REVOKED

    answers = set()
    for token in (foreign.token, revoked.token, TOKEN_FORM.new(), "th_invite_made-up", "x"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await identity.organizations.AcceptInvitation(
                pb.AcceptInvitationRequest(token=token), metadata=mallory.metadata
            )
        answers.add((error.value.code(), reason_of(error.value), error.value.details()))

    assert answers == {(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "There is no such invitation.")}
    accept = pb.AcceptInvitationRequest(token=foreign.token)
    assert (await identity.organizations.AcceptInvitation(accept, metadata=grace.metadata)).member.role == MEMBER


async def test_invitation_lapses_after_seven_days_and_the_address_can_be_invited_anew(later: _Later) -> None:
    identity = later.identity
    organization_id, _ = await identity.create_organization()
    grace = await identity.create_user("grace@example.com")
    first = await _invited(identity, organization_id, grace.email)
    assert first.invitation.expire_time == render_time(later.now() + timedelta(days=7))
    later.advance(timedelta(days=7))

    accept = pb.AcceptInvitationRequest(token=first.token, user_id=grace.user_id)
    assert await refused(identity.organizations.AcceptInvitation(accept, metadata=identity.metadata)) == EXPIRED
    assert await _listed(identity, organization_id) == []
    second = await _invited(identity, organization_id, grace.email)
    states = [invitation.state for invitation in await _listed(identity, organization_id, closed=True)]
    assert states == [pb.INVITATION_STATE_OPEN, pb.INVITATION_STATE_EXPIRED]
    assert await refused(identity.organizations.AcceptInvitation(accept, metadata=identity.metadata)) == EXPIRED
    accept.token = second.token
    accepted = await identity.organizations.AcceptInvitation(accept, metadata=identity.metadata)
    assert accepted.member.user_id == grace.user_id


async def test_invitation_works_until_the_moment_it_lapses(later: _Later) -> None:
    identity = later.identity
    organization_id, _ = await identity.create_organization()
    grace = await identity.create_user()
    invited = await _invited(identity, organization_id, grace.email)
    later.advance(timedelta(days=7) - timedelta(microseconds=1))

    accept = pb.AcceptInvitationRequest(token=invited.token, user_id=grace.user_id)

    accepted = await identity.organizations.AcceptInvitation(accept, metadata=identity.metadata)
    assert accepted.member.user_id == grace.user_id


async def test_lapsed_invitation_stays_lapsed_when_it_is_revoked(later: _Later) -> None:
    identity = later.identity
    organization_id, _ = await identity.create_organization()
    invited = await _invited(identity, organization_id, "grace@example.com")
    later.advance(timedelta(days=8))

    assert (await _revoke(identity, invited.invitation)).state == pb.INVITATION_STATE_EXPIRED


async def test_invitation_is_on_record_for_ninety_days_after_it_lapsed(
    later: _Later, identity_database: Database
) -> None:
    identity = later.identity
    organization_id, _ = await identity.create_organization()
    await _invited(identity, organization_id, "early@example.com")
    later.advance(timedelta(seconds=2))
    await _invited(identity, organization_id, "late@example.com")
    later.advance(timedelta(days=7) + INVITATIONS_KEPT - timedelta(seconds=1))

    await Housekeeping(identity_database, later.clock).forget()

    kept = await _listed(identity, organization_id, closed=True)
    assert [invitation.email for invitation in kept] == ["late@example.com"]


async def test_expiry_must_lie_ahead_by_thirty_days_at_most(later: _Later) -> None:
    identity = later.identity
    organization_id, _ = await identity.create_organization()
    for distance in (timedelta(0), timedelta(seconds=-1), timedelta(days=30, microseconds=1)):
        request = _invite(organization_id, "grace@example.com")
        request.expire_time.CopyFrom(render_time(later.now() + distance))
        call = identity.organizations.CreateInvitation(request, metadata=identity.metadata)
        assert await violated_fields(call) == {"expire_time"}
    request = _invite(organization_id, "grace@example.com")
    request.expire_time.CopyFrom(render_time(later.now() + timedelta(days=30)))
    created = await identity.organizations.CreateInvitation(request, metadata=identity.metadata)
    assert created.invitation.expire_time == request.expire_time


async def test_address_has_one_open_invitation_without_regard_to_case(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    elsewhere, _ = await identity.create_organization()
    first = await _invited(identity, organization_id, "Grace@example.com")
    await _invited(identity, elsewhere, "grace@example.com")

    again = identity.organizations.CreateInvitation(
        _invite(organization_id, "grace@EXAMPLE.com"), metadata=identity.metadata
    )
    assert await refused_field(again) == ("INVITATION_ALREADY_EXISTS", "email")
    await _revoke(identity, first.invitation)
    assert (await _invited(identity, organization_id, "grace@example.com")).token


@pytest.mark.own_database
async def test_members_are_not_invited_and_do_not_accept(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    grace = await people.person("grace@example.com")
    invited = await _invited(identity, organization_id, "grace@example.com")
    await identity.organizations.AddMember(
        pb.AddMemberRequest(organization_id=organization_id, user_id=grace.user_id, role=ADMIN),
        metadata=identity.metadata,
    )

    accept = identity.organizations.AcceptInvitation(
        pb.AcceptInvitationRequest(token=invited.token), metadata=grace.metadata
    )
    assert await refused_field(accept) == ("MEMBER_ALREADY_EXISTS", "user_id")
    await _revoke(identity, invited.invitation)
    invite = identity.organizations.CreateInvitation(
        _invite(organization_id, "GRACE@example.com"), metadata=identity.metadata
    )
    assert await refused_field(invite) == ("MEMBER_ALREADY_EXISTS", "email")


async def test_invitation_accepted_twice_at_once_makes_one_member(identity: Identity, people: People) -> None:
    for _ in range(5):
        organization_id, owner = await identity.create_organization()
        grace = await people.person()
        invited = await _invited(identity, organization_id, grace.email)

        outcomes = await asyncio.gather(
            *(
                identity.organizations.AcceptInvitation(
                    pb.AcceptInvitationRequest(token=invited.token), metadata=grace.metadata
                )
                for _ in range(4)
            ),
            return_exceptions=True,
        )

        refusals = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert [reason_of(refusal) for refusal in refusals] == ["INVITATION_USED"] * 3
        members = await identity.organizations.ListMembers(
            pb.ListMembersRequest(organization_id=organization_id), metadata=identity.metadata
        )
        assert {member.user_id for member in members.members} == {owner, grace.user_id}


async def test_accepted_invitation_cannot_be_revoked_and_revoked_one_stays_so(
    identity: Identity, people: People
) -> None:
    organization_id, _ = await identity.create_organization()
    grace = await people.person()
    used = await _invited(identity, organization_id, grace.email)
    await identity.organizations.AcceptInvitation(pb.AcceptInvitationRequest(token=used.token), metadata=grace.metadata)
    request = pb.RevokeInvitationRequest(organization_id=organization_id, invitation_id=used.invitation.invitation_id)
    assert await refused(identity.organizations.RevokeInvitation(request, metadata=identity.metadata)) == USED

    other = await _invited(identity, organization_id, "other@example.com")
    first, again = await _revoke(identity, other.invitation), await _revoke(identity, other.invitation)
    assert first == again


async def test_invitation_of_another_organization_looks_like_a_missing_one(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    elsewhere, _ = await identity.create_organization()
    theirs = await _invited(identity, elsewhere, "grace@example.com")
    for invitation_id in (theirs.invitation.invitation_id, new_id()):
        request = pb.RevokeInvitationRequest(organization_id=organization_id, invitation_id=invitation_id)
        assert await refused(identity.organizations.RevokeInvitation(request, metadata=identity.metadata)) == NOT_FOUND


async def test_creation_repeated_with_its_request_id_shows_no_token_again(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    request = _invite(organization_id, "grace@example.com", request_id="invite")
    first = await identity.organizations.CreateInvitation(request, metadata=identity.metadata)
    again = await identity.organizations.CreateInvitation(request, metadata=identity.metadata)
    assert (first.replayed, again.replayed) == (False, True)
    assert TOKEN_FORM.is_well_formed(first.token)
    assert again.token == ""
    assert again.invitation == first.invitation

    request.role = ADMIN
    call = identity.organizations.CreateInvitation(request, metadata=identity.metadata)
    assert await refused_field(call) == ("REQUEST_ID_REUSED", "role")


async def test_nobody_invites_to_a_role_above_their_own(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    rpc = identity.organizations
    call = rpc.CreateInvitation(_invite(organization_id, "a@example.com", OWNER), metadata=admin.metadata)
    assert await refused(call) == ROLE_NOT_HELD
    created = await rpc.CreateInvitation(_invite(organization_id, "a@example.com", ADMIN), metadata=admin.metadata)
    assert created.invitation.inviter == f"user:{admin.user_id}"

    owners = await rpc.CreateInvitation(_invite(organization_id, "o@example.com", OWNER), metadata=identity.metadata)
    request = pb.RevokeInvitationRequest(organization_id=organization_id, invitation_id=owners.invitation.invitation_id)
    assert await refused(rpc.RevokeInvitation(request, metadata=admin.metadata)) == ROLE_NOT_HELD


@pytest.mark.parametrize("role", [MEMBER, pb.MEMBER_ROLE_BILLING, pb.MEMBER_ROLE_VIEWER])
async def test_lesser_roles_neither_invite_nor_see_invitations(
    identity: Identity, people: People, role: pb.MemberRole.ValueType
) -> None:
    organization_id, _ = await identity.create_organization()
    member = await people.member(organization_id, role)
    rpc = identity.organizations
    invite = _invite(organization_id, "grace@example.com")
    assert await refused(rpc.CreateInvitation(invite, metadata=member.metadata)) == DENIED
    list_ = pb.ListInvitationsRequest(organization_id=organization_id)
    assert await refused(rpc.ListInvitations(list_, metadata=member.metadata)) == DENIED


async def test_users_accept_for_themselves_and_operators_for_whom_they_name(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    grace, mallory = await people.person(), await people.person()
    invited = await _invited(identity, organization_id, grace.email)
    rpc = identity.organizations
    accept = pb.AcceptInvitationRequest(token=invited.token)

    assert await violated_fields(rpc.AcceptInvitation(accept, metadata=identity.metadata)) == {"user_id"}
    assert (await refused(rpc.AcceptInvitation(accept)))[0] == "UNAUTHENTICATED"
    accept.user_id = grace.user_id
    assert await refused(rpc.AcceptInvitation(accept, metadata=mallory.metadata)) == NOT_FOUND
    accept.user_id = mallory.user_id
    assert await refused(rpc.AcceptInvitation(accept, metadata=identity.metadata)) == NOT_FOUND
    accept.user_id = grace.user_id.upper()
    assert (await rpc.AcceptInvitation(accept, metadata=grace.metadata)).member.user_id == grace.user_id


async def test_a_key_cannot_accept(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    grace = await people.person()
    elsewhere, _ = await identity.create_organization(grace.user_id)
    key = await identity.create_key(api_key_pb2.CreateApiKeyRequest(organization_id=elsewhere, user_id=grace.user_id))
    invited = await _invited(identity, organization_id, grace.email)
    call = identity.organizations.AcceptInvitation(
        pb.AcceptInvitationRequest(token=invited.token), metadata=bearer(key.secret)
    )
    assert await refused(call) == DENIED


class _Socket:
    """The context of a call that no server handles."""

    def peer(self) -> str:
        return "unix:"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


async def test_malformed_token_never_reaches_the_database() -> None:
    nowhere = open_database("postgresql://nobody@127.0.0.1:1/none", schema="identity")
    invitations = Invitations(nowhere, SystemClock(), None)
    call = Call("AcceptInvitation", Caller(CallerKind.OPERATOR, "alice"), _Socket())
    enter_call(call)
    token, user_id = TOKEN_FORM.new(), new_id()

    with pytest.raises(Unavailable):
        await invitations.accept(token, user_id=user_id, request_id="")
    other_end = "a" if token[-1] != "a" else "b"
    for malformed in (token[:-1], token[:-1] + other_end, f" {token}", token.swapcase(), "th_invite_", ""):
        with pytest.raises(NotFound):
            await invitations.accept(malformed, user_id=user_id, request_id="")
    leave_call()
    await nowhere.close()


async def test_token_is_kept_and_told_nowhere(
    identity: Identity, people: People, identity_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    organization_id, _ = await identity.create_organization()
    grace = await people.person()
    invited = await _invited(identity, organization_id, grace.email)
    await identity.organizations.AcceptInvitation(
        pb.AcceptInvitationRequest(request_id="accept", token=invited.token), metadata=grace.metadata
    )

    async with identity_database.transaction() as tx:
        rows = [
            str(row)
            for table in ("invitations", "audit_events", "requests", "key_changes")
            for row in await tx.execute(text(f"SELECT t::text FROM {table} t"))  # noqa: S608 -- constants above.
        ]
    assert len(rows) > 3
    assert invited.token.encode().hex() not in "".join(rows)
    assert invited.token not in "".join(rows)
    assert invited.token not in caplog.text


async def test_invitations_are_listed_newest_first_in_pages(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    made = [
        (await _invited(identity, organization_id, f"user{number}@example.com")).invitation.invitation_id
        for number in range(5)
    ]
    seen: list[str] = []
    request = pb.ListInvitationsRequest(organization_id=organization_id, page_size=2)
    while True:
        page = await identity.organizations.ListInvitations(request, metadata=identity.metadata)
        seen += [invitation.invitation_id for invitation in page.invitations]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert seen == made[::-1]


async def test_bad_invitation_names_every_field_at_fault(identity: Identity) -> None:
    request = pb.CreateInvitationRequest(organization_id="7", email="nobody", request_id="has space")
    call = identity.organizations.CreateInvitation(request, metadata=identity.metadata)
    assert await violated_fields(call) == {"organization_id", "email", "role", "request_id"}
    empty = identity.organizations.AcceptInvitation(pb.AcceptInvitationRequest(), metadata=identity.metadata)
    assert await violated_fields(empty) == {"token"}
    long = pb.AcceptInvitationRequest(token="x" * 257, user_id="7")
    accept = identity.organizations.AcceptInvitation(long, metadata=identity.metadata)
    assert await violated_fields(accept) == {"token", "user_id"}
