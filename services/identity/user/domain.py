"""Users, their identities and passwords, and which changes would lock them out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from libs.common.access import Caller, CallerKind, PlatformRole
from libs.common.errors import NotFound
from services.identity.attributes import Attributes, AttributesChange

IDENTITIES_MAX: Final = 20
"""The maximum number of identities linked to one user."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """The fields of a user at their creation."""

    email: str
    username: str
    full_name: str
    picture_url: str
    attributes: Attributes = field(default_factory=Attributes)


@dataclass(frozen=True, slots=True)
class LinkedIdentity:
    """An identity at a provider; `subject` is the provider's permanent id of the person."""

    provider: str
    subject: str


@dataclass(frozen=True, slots=True)
class IdTokenClaim:
    """An ID token with which somebody proves an identity."""

    id_token: str = field(repr=False)
    nonce: str


@dataclass(frozen=True, slots=True)
class PasswordChange:
    """A new password, or the removal of the password."""

    new_password: str | None = field(repr=False)
    """None to remove it."""
    current_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """A user, or what is kept of a deleted one."""

    user_id: str
    email: str
    username: str
    full_name: str
    """Of a deleted user, the name they went by."""
    picture_url: str
    platform_role: PlatformRole
    personal_organization_id: str
    last_selected_organization_id: str
    """Empty when none is selected or the selected one was deleted; the same holds for the project."""
    last_selected_project_id: str
    has_password: bool
    identities: tuple[LinkedIdentity, ...]
    version: int
    attributes: Attributes
    create_time: datetime
    update_time: datetime
    email_verify_time: datetime | None
    """When a provider last verified the email; None when none has."""
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
        """Public facts about the user, which a password must not contain."""
        return (self.email.partition("@")[0], self.username)


@dataclass(frozen=True, slots=True)
class UserFilter:
    """Filters of a list of users; what is empty or None filters nothing."""

    email: str = ""
    username: str = ""
    external_id: str = ""
    identity: LinkedIdentity | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class UserChange:
    """The new values of the fields that an update names."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """Of `email`, `username`, `full_name` and `picture_url`."""
    platform_role: PlatformRole | None = None
    selected_organization_id: str | None = None
    """Empty to select none."""
    selected_project_id: str | None = None
    attributes: AttributesChange = field(default_factory=AttributesChange)


def is_last_way_in(user: User, *, without: LinkedIdentity | None) -> bool:
    """Return whether the user could not sign in any more without this identity (None: without their password)."""
    if without is None:
        return user.has_password and not user.identities
    return not user.has_password and user.identities == (without,)


def solely_owned(owners: Mapping[str, Collection[str]], user_id: str) -> list[str]:
    """Return the ids of those of these organizations that have no other owner."""
    return sorted(organization_id for organization_id, ids in owners.items() if set(ids) <= {user_id})


def subject_of(user_id: str) -> str:
    """Return a user's subject, by which they are named as a caller and as a creator."""
    return Caller(CallerKind.USER, user_id).subject


def existing(user: User | None, user_id: str) -> User:
    """Return the user; raise NotFound for None."""
    if user is None:
        raise NotFound(resource_type="user", resource_name=user_id)
    return user
