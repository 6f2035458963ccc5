"""Creating, accepting, revoking and listing invitations."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from libs.common.access import CallerKind
from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_caller, is_limited, is_operator
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, PermissionDenied
from libs.common.events.outbox import NewEvent, announce
from libs.common.ids import new_id
from libs.common.sealing import SealingKeys, seal_data
from libs.common.timestamps import rfc3339
from services.identity.email_address import require_email
from services.identity.errors import InvitationExpired, InvitationUsed, MemberAlreadyExists, PersonalOrganization
from services.identity.organization import invitation_store as store
from services.identity.organization.domain import Invitation, InvitationState, Member, Role, can_invite
from services.identity.organization.member_store import find_member, has_member_with_email, insert_member
from services.identity.organization.members import record_member
from services.identity.organization.roles import require_held
from services.identity.organization.store import find_organization, lock_organization
from services.identity.requests import claim_request
from services.identity.token_form import TokenForm, digest

TOKEN_FORM: Final = TokenForm("th_invite_")
LIFETIME_DEFAULT: Final = timedelta(days=7)
LIFETIME_MAX: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class CreatedInvitation:
    """A created invitation; `token` is empty when an earlier call with the same request id created it."""

    invitation: Invitation
    token: str
    replayed: bool

    def __repr__(self) -> str:
        return f"CreatedInvitation(invitation_id={self.invitation.invitation_id}, replayed={self.replayed})"


class Invitations:
    """Manages the invitations of organizations."""

    def __init__(self, database: Database, clock: Clock, event_keys: SealingKeys | None) -> None:
        """`event_keys` encrypts the token in the event that operators are sent; without them it is not in it."""
        self._database = database
        self._clock = clock
        self._event_keys = event_keys

    async def create(
        self, organization_id: str, *, email: str, role: Role, expire_time: datetime | None, request_id: str
    ) -> CreatedInvitation:
        """Invite whoever owns the address, or return the invitation an earlier call with this request id made.

        Raises:
            NotFound: there is no such organization.
            PermissionDenied: the caller has just lost the right to invite.
            InvalidArgument: the invitation would lapse too early or too late.
            PersonalOrganization: nobody joins what was made for one user.
            RoleNotHeld: the role may do something that the caller may not.
            MemberAlreadyExists: the owner of the address is a member.
            InvitationAlreadyExists: the address has an open invitation.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        new = Invitation(
            organization_id=organization_id,
            invitation_id=new_id(),
            email=email,
            email_folded=require_email(email),
            role=role,
            inviter=current_caller().subject,
            create_time=now,
            expire_time=expire_time or now + LIFETIME_DEFAULT,
            accept_time=None,
            revoke_time=None,
            accepted_user_id=None,
        )
        async with self._database.transaction() as tx:
            await lock_organization(tx, organization_id)
            organization = await find_organization(tx, organization_id)
            if organization is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            earlier_id = await claim_request(
                tx,
                organization_id=organization_id,
                method="CreateInvitation",
                request_id=request_id,
                body={"email": email, "role": role.value, "expire_time": expire_time},
                resource_id=new.invitation_id,
                now=now,
            )
            if earlier_id is not None:
                found = await store.find_invitation(tx, organization_id, earlier_id)
                return CreatedInvitation(_existing(found, earlier_id), "", True)
            _check_lifetime(new.expire_time, now)
            if organization.personal:
                raise PersonalOrganization(organization_id=organization_id)
            require_held(role)
            await _require_inviter(tx, new)
            return CreatedInvitation(new, await self._insert(tx, new, organization.name, now), False)

    async def _insert(self, tx: Transaction, new: Invitation, organization_name: str, now: datetime) -> str:
        """Insert a new invitation and return its token."""
        if await has_member_with_email(tx, new.organization_id, new.email_folded):
            raise MemberAlreadyExists(field="email")
        token = TOKEN_FORM.new()
        await store.revoke_lapsed(tx, new.organization_id, new.email_folded, now)
        await store.insert_invitation(tx, new, digest(token))
        await announce(tx, [self._created(new, organization_name, token)], now)
        await record_event(
            tx,
            now=now,
            organization_id=new.organization_id,
            resource_type="invitation",
            resource_id=new.invitation_id,
            changed=(Changed("email"), Changed("role", after=new.role.value)),
        )
        return token

    def _created(self, new: Invitation, organization_name: str, token: str) -> NewEvent:
        """Return the event of an invitation. The address and the token are for operators alone, and encrypted."""
        subject = f"invitation/{new.invitation_id}"
        data = {
            "invitation_id": new.invitation_id,
            "organization_name": organization_name,
            "role": new.role.value,
            "inviter": new.inviter,
            "expire_time": rfc3339(new.expire_time),
        }
        secret = {"email": new.email, "token": token}
        sealed = seal_data(self._event_keys, new.organization_id, subject, secret)
        return NewEvent(new.organization_id, "tollhouse.invitation.created", subject, data, sealed)

    async def accept(self, token: str, *, user_id: str, request_id: str) -> tuple[Member, bool]:
        """Make the caller, or the user an operator names, a member; return them, and whether an earlier call did.

        Raises:
            PermissionDenied: the caller is a key.
            NotFound: the token lets this user in nowhere.
            InvitationUsed: somebody with the user's address accepted it before.
            InvitationExpired: it has lapsed.
            MemberAlreadyExists: the user belongs to the organization already.
            RequestIdReused: the request id was sent before with another body.
        """
        user_id, now = _accepting_user(user_id), self._clock.now()
        # A malformed token is rejected without a database read.
        if not TOKEN_FORM.is_well_formed(token):
            raise _unknown()
        async with self._database.transaction() as tx:
            invitation = await self._take(tx, token, user_id)
            organization_id = invitation.organization_id
            earlier_id = await claim_request(
                tx,
                # Request ids of users are scoped to the user: nobody can use up or probe another user's ids.
                organization_id=user_id,
                method="AcceptInvitation",
                request_id=request_id,
                body={"token": invitation.invitation_id},
                resource_id=invitation.invitation_id,
                now=now,
            )
            if earlier_id is not None:
                return _belonging(await find_member(tx, organization_id, user_id), user_id), True
            _check_acceptable(invitation, now)
            await insert_member(tx, organization_id, user_id, invitation.role, now)
            await store.accept_invitation(tx, invitation, user_id, now)
            member = _belonging(await find_member(tx, organization_id, user_id), user_id)
            await record_member(tx, member, None)
        return member, False

    async def _take(self, tx: Transaction, token: str, user_id: str) -> Invitation:
        """Lock the organization, the user and the invitation of a token, in this order; the organization must exist."""
        known = await store.find_by_digest(tx, digest(token))
        if known is None or not await lock_organization(tx, known.organization_id):
            raise _unknown()
        email_folded = await store.lock_email_of(tx, user_id)
        held = await store.find_invitation(tx, known.organization_id, known.invitation_id, lock=True)
        if held is None or held.email_folded != email_folded:
            raise _unknown()
        return held

    async def revoke(self, organization_id: str, invitation_id: str) -> Invitation:
        """Revoke an invitation that was not accepted; one that is revoked or has expired stays as it is.

        Raises:
            NotFound: the organization has no such invitation.
            InvitationUsed: it was accepted.
            RoleNotHeld: its role may do something that the caller may not.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, organization_id):
                raise NotFound(resource_type="organization", resource_name=organization_id)
            found = await store.find_invitation(tx, organization_id, invitation_id, lock=True)
            invitation = _existing(found, invitation_id)
            state = invitation.state_at(now)
            if state is InvitationState.ACCEPTED:
                raise InvitationUsed(invitation_id=invitation_id)
            require_held(invitation.role)
            if state is not InvitationState.OPEN:
                return invitation
            await store.revoke_invitation(tx, invitation, now)
            await record_event(
                tx,
                now=now,
                organization_id=organization_id,
                resource_type="invitation",
                resource_id=invitation_id,
            )
        return replace(invitation, revoke_time=now)

    async def page(
        self, organization_id: str, *, include_closed: bool, before: str | None, size: int
    ) -> tuple[list[Invitation], bool]:
        """Return a page, and whether more follow."""
        open_at = None if include_closed else self._clock.now()
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            found = await store.list_invitations(tx, organization_id, open_at=open_at, before=before, limit=size + 1)
        return found[:size], len(found) > size


async def _require_inviter(tx: Transaction, new: Invitation) -> None:
    """Lock the inviter's role and check it again: it may have been taken away after the call was admitted."""
    if is_limited():
        role = await store.lock_inviter(tx, new.organization_id, current_caller())
        if role is None or not can_invite(role, new.role):
            raise PermissionDenied


def _accepting_user(user_id: str) -> str:
    """Return the user who becomes a member: the caller, or whom an operator names."""
    caller = current_caller()
    own_id = caller.name if caller.kind is CallerKind.USER and caller.session_id else ""
    if is_operator():
        if not (user_id or own_id):
            raise InvalidArgument([FieldViolation("user_id", "is required of operators")])
        return user_id or own_id
    if not own_id:
        raise PermissionDenied
    if user_id not in ("", own_id):
        raise NotFound(resource_type="user", resource_name=user_id)
    return own_id


def _check_lifetime(expire_time: datetime, now: datetime) -> None:
    if expire_time <= now:
        raise InvalidArgument([FieldViolation("expire_time", "must lie ahead")])
    if expire_time > now + LIFETIME_MAX:
        raise InvalidArgument([FieldViolation("expire_time", f"must lie at most {LIFETIME_MAX.days} days ahead")])


def _check_acceptable(invitation: Invitation, now: datetime) -> None:
    """Raise unless the invitation is open; a revoked one is treated as missing."""
    state = invitation.state_at(now)
    if state is InvitationState.ACCEPTED:
        raise InvitationUsed(invitation_id=invitation.invitation_id)
    if state is InvitationState.EXPIRED:
        raise InvitationExpired(expire_time=invitation.expire_time)
    if state is InvitationState.REVOKED:
        raise _unknown()


def _unknown() -> NotFound:
    """Return the refusal for a token that is unknown, revoked or another user's; it does not contain the token."""
    return NotFound(resource_type="invitation", resource_name="")


def _existing(invitation: Invitation | None, invitation_id: str) -> Invitation:
    if invitation is None:
        raise NotFound(resource_type="invitation", resource_name=invitation_id)
    return invitation


def _belonging(member: Member | None, user_id: str) -> Member:
    if member is None:
        raise NotFound(resource_type="member", resource_name=user_id)
    return member
