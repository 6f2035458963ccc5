"""Organizations, members and invitations, and the rules about owners and roles."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.access import Rights, Scope
from services.identity.attributes import Attributes


class Role(StrEnum):
    """What a member may do."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    BILLING = "billing"
    VIEWER = "viewer"


class InvitationState(StrEnum):
    """Whether an invitation can be accepted."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant."""

    organization_id: str
    name: str
    create_time: datetime
    update_time: datetime
    personal: bool
    api_key_max_lifetime_s: int | None
    version: int
    attributes: Attributes

    @property
    def etag(self) -> str:
        return str(self.version)


@dataclass(frozen=True, slots=True)
class Member:
    """The membership of a user in an organization."""

    organization_id: str
    user_id: str
    role: Role
    create_time: datetime
    update_time: datetime
    version: int
    email: str
    full_name: str

    @property
    def etag(self) -> str:
        return str(self.version)


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation of an email address to an organization."""

    organization_id: str
    invitation_id: str
    email: str
    email_folded: str
    role: Role
    inviter: str
    create_time: datetime
    expire_time: datetime
    accept_time: datetime | None
    revoke_time: datetime | None
    accepted_user_id: str | None

    def state_at(self, now: datetime) -> InvitationState:
        if self.accept_time is not None:
            return InvitationState.ACCEPTED
        # An expired invitation is marked as revoked when the address is invited again.
        if self.revoke_time is not None and self.revoke_time < self.expire_time:
            return InvitationState.REVOKED
        return InvitationState.EXPIRED if self.expire_time <= now else InvitationState.OPEN


def leaves_no_owner(member: Member, *, owners: int, new_role: Role | None) -> bool:
    """Return whether giving the member this role (None to remove them) would leave no owner."""
    return member.role is Role.OWNER and new_role is not Role.OWNER and owners <= 1


def holds_role(rights: Rights, role: Role) -> bool:
    """Return whether these rights include everything the role allows: nobody gives others more than they hold."""
    of_role = Rights(organization_role=role.value)
    return all(rights.grant(scope).wide for scope in Scope.values() if scope and of_role.grant(scope).wide)


def can_invite(inviter: Role, invited: Role) -> bool:
    """Return whether a member with the first role may invite others to the second."""
    rights = Rights(organization_role=inviter.value)
    return rights.grant(Scope.SCOPE_ORGANIZATION_WRITE).wide and holds_role(rights, invited)


def roles_beyond(inviter: Role) -> list[Role]:
    """Return the roles to which a member with this role cannot invite."""
    return [role for role in Role if not can_invite(inviter, role)]
