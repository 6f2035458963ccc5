"""What an organization and a member are, and the rule about owners."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """What a member may do."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    BILLING = "billing"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant."""

    organization_id: str
    name: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Member:
    """A user's belonging to an organization."""

    organization_id: str
    user_id: str
    role: Role
    create_time: datetime
    update_time: datetime


def leaves_no_owner(member: Member, *, owners: int, new_role: Role | None) -> bool:
    """Tell whether giving the member this role, or none at all, would leave nobody to own the organization."""
    return member.role is Role.OWNER and new_role is not Role.OWNER and owners <= 1
