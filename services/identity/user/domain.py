"""What a user is, what they sign in with, and which changes of that would lock them out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from libs.common.access import Caller, CallerKind, PlatformRole
from libs.common.errors import NotFound
from services.identity.attributes import Attributes, AttributesChange

IDENTITIES_MAX: Final = 20
"""The most identities one user signs in with."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """What is said about a user when they are created."""

    email: str
    username: str
    full_name: str
    picture_url: str
    attributes: Attributes = field(default_factory=Attributes)


@dataclass(frozen=True, slots=True)
class LinkedIdentity:
    """Somebody at a provider of identities; `subject` is what the provider calls them for ever."""

    provider: str
    subject: str


@dataclass(frozen=True, slots=True)
class IdTokenClaim:
    """An ID token by which somebody wants to prove who they are to its provider."""

    id_token: str = field(repr=False)
    nonce: str


@dataclass(frozen=True, slots=True)
class PasswordChange:
    """Another password, or none any more."""

    new_password: str | None = field(repr=False)
    """None to remove it."""
    current_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """A person, or what is left of one who was deleted."""

    user_id: str
    email: str
    username: str
    full_name: str
    """Of a deleted user, the name they went by."""
    picture_url: str
    platform_role: PlatformRole
    personal_organization_id: str
    last_selected_organization_id: str
    """Empty where none was selected, or the organization is gone; likewise the project."""
    last_selected_project_id: str
    has_password: bool
    identities: tuple[LinkedIdentity, ...]
    version: int
    attributes: Attributes
    create_time: datetime
    update_time: datetime
    email_verify_time: datetime | None
    """When a provider of identities last vouched for the email; None where nobody has."""
    password_change_time: datetime | None
    last_sign_in_time: datetime | None
    deactivate_time: datetime | None
    delete_time: datetime | None

    @property
    def etag(self) -> str:
        return str(self.version)

    @property
    def active(self) -> bool:
        return self.deactivate_time is None and self.delete_time is None

    @property
    def known_words(self) -> tuple[str, ...]:
        """What anybody can know of them, and a password must therefore not contain."""
        return (self.email.partition("@")[0], self.username)


@dataclass(frozen=True, slots=True)
class UserFilter:
    """Which users a list keeps; what is empty or None keeps all."""

    email: str = ""
    username: str = ""
    external_id: str = ""
    identity: LinkedIdentity | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class UserChange:
    """New values of the fields a change names, and of no others."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """Of `email`, `username`, `full_name` and `picture_url`."""
    platform_role: PlatformRole | None = None
    selected_organization_id: str | None = None
    """Empty to select none."""
    selected_project_id: str | None = None
    attributes: AttributesChange = field(default_factory=AttributesChange)


def is_last_way_in(user: User, *, without: LinkedIdentity | None) -> bool:
    """Tell whether the user could not sign in any more without this identity, or without their password for None."""
    if without is None:
        return user.has_password and not user.identities
    return not user.has_password and user.identities == (without,)


def solely_owned(owners: Mapping[str, Collection[str]], user_id: str) -> list[str]:
    """Return the organizations, out of these with their owners, that nobody else owns."""
    return sorted(organization_id for organization_id, ids in owners.items() if set(ids) <= {user_id})


def subject_of(user_id: str) -> str:
    """Return what a user is called as a caller, also where it is written who made something."""
    return Caller(CallerKind.USER, user_id).subject


def existing(user: User | None, user_id: str) -> User:
    """Return the user, or raise NotFound where there is none."""
    if user is None:
        raise NotFound(resource_type="user", resource_name=user_id)
    return user
