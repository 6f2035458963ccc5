"""What a key is, and the one decision about a presented one."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from libs.common.access import role_holds
from libs.common.addresses import AddressList


class Environment(StrEnum):
    """What a key is for."""

    LIVE = "live"
    TEST = "test"


class State(StrEnum):
    """Whether a key works, as far as it says itself."""

    ACTIVE = "active"
    DISABLED = "disabled"
    REVOKED = "revoked"
    EXPIRED = "expired"


class Verdict(StrEnum):
    """The decision about a presented key, in the order in which they are tried; what none forbids is valid."""

    VALID = "valid"
    NOT_FOUND = "not_found"
    REVOKED = "revoked"
    DISABLED = "disabled"
    EXPIRED = "expired"
    OWNER_INACTIVE = "owner_inactive"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    MODEL_NOT_ALLOWED = "model_not_allowed"


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """What is said about a key when it is created."""

    organization_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    name: str
    environment: Environment
    scopes: tuple[str, ...]
    allowed_models: tuple[str, ...]
    allowed_addresses: tuple[str, ...]
    metadata: Mapping[str, str]
    external_id: str
    expire_time: datetime | None
    rotated_from_api_key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    """Under what a secret is stored, and what people see of it."""

    digest: bytes
    pepper_version: int
    secret_prefix: str
    secret_suffix: str
    imported_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as people see it, without its secret."""

    organization_id: str
    api_key_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    name: str
    environment: Environment
    secret_prefix: str
    secret_suffix: str
    scopes: tuple[str, ...]
    allowed_models: tuple[str, ...]
    metadata: Mapping[str, str]
    external_id: str
    create_time: datetime
    update_time: datetime
    expire_time: datetime | None
    disable_time: datetime | None
    revoke_time: datetime | None
    last_used_time: datetime | None
    allowed_addresses: tuple[str, ...]
    rotated_from_api_key_id: str | None
    rotated_to_api_key_id: str | None
    imported_prefix: str | None
    version: int

    @property
    def etag(self) -> str:
        return str(self.version)

    def state_at(self, now: datetime) -> State:
        if self.revoke_time is not None:
            return State.REVOKED
        if self.disable_time is not None:
            return State.DISABLED
        if self.expire_time is not None and self.expire_time <= now:
            return State.EXPIRED
        return State.ACTIVE


UPDATABLE: Final = (
    *("name", "metadata", "external_id"),
    *("scopes", "allowed_models", "allowed_addresses", "expire_time"),
)
"""The fields of a key that can be changed, by the names they have everywhere."""


def changed_fields(before: ApiKey, after: ApiKey) -> tuple[str, ...]:
    """Name the fields in which a key would become another."""
    return tuple(name for name in UPDATABLE if getattr(before, name) != getattr(after, name))


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys of an organization are listed; what is empty chooses nothing."""

    project_id: str = ""
    user_id: str = ""
    service_account_id: str = ""
    external_id: str = ""
    environment: Environment | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All that decides about a key, as one moment shows it. Of its scopes it has those that its owner holds."""

    organization_id: str
    api_key_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    environment: Environment
    scopes: tuple[str, ...]
    allowed_models: tuple[str, ...]
    allowed_addresses: tuple[str, ...]
    metadata: Mapping[str, str]
    external_id: str
    expire_time: datetime | None
    disabled: bool
    revoked: bool
    owner_active: bool

    def subjects(self) -> tuple[str, ...]:
        """Return the ids of everything whose change alters the decision."""
        ids = (self.api_key_id, self.user_id, self.service_account_id, self.project_id, self.organization_id)
        # Many keys share an owner and an organization, and so should the texts in memory.
        return tuple(sys.intern(id_) for id_ in ids if id_ is not None)


@lru_cache(maxsize=8_192)
def held_scopes(scopes: tuple[str, ...], organization_role: str, project_roles: tuple[str, ...]) -> tuple[str, ...]:
    """Return those scopes of a key that its owner holds by their roles. Many keys share the answer."""
    return tuple(scope for scope in scopes if role_holds(scope, organization_role, project_roles))


class AllowedModels:
    """A model allow-list, made quick to ask. A trailing `*` stands for any rest; an empty list allows every model."""

    __slots__ = ("_all", "_exact", "_prefixes")

    def __init__(self, patterns: Collection[str]) -> None:
        self._all = not patterns
        self._exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def allow(self, model: str) -> bool:
        return self._all or model in self._exact or model.startswith(self._prefixes)


@dataclass(frozen=True, slots=True)
class Standing:
    """All of a key that a decision depends on. Most keys of an organization stand alike and share one."""

    revoked: bool
    disabled: bool
    owner_active: bool
    expire_time: datetime | None
    scopes: frozenset[str]
    models: AllowedModels
    addresses: AddressList | None

    def decide(self, *, required_scopes: Collection[str], model: str, client_address: str, now: datetime) -> Verdict:
        """Decide about the key. The verdict is never remembered: time, scopes and the rest differ from call to call."""
        if self.revoked:
            return Verdict.REVOKED
        if self.disabled:
            return Verdict.DISABLED
        if self.expire_time is not None and self.expire_time <= now:
            return Verdict.EXPIRED
        if not self.owner_active:
            return Verdict.OWNER_INACTIVE
        if self.addresses is not None and not self.addresses.allows(client_address):
            return Verdict.ADDRESS_NOT_ALLOWED
        if required_scopes and not self.scopes.issuperset(required_scopes):
            return Verdict.INSUFFICIENT_SCOPE
        if model and not self.models.allow(model):
            return Verdict.MODEL_NOT_ALLOWED
        return Verdict.VALID


def standing_of(record: KeyRecord) -> Standing:
    return _standing(
        record.revoked,
        record.disabled,
        record.owner_active,
        record.expire_time,
        record.scopes,
        record.allowed_models,
        record.allowed_addresses,
    )


@lru_cache(maxsize=8_192)
def _standing(
    revoked: bool,
    disabled: bool,
    owner_active: bool,
    expire_time: datetime | None,
    scopes: tuple[str, ...],
    allowed_models: tuple[str, ...],
    allowed_addresses: tuple[str, ...],
) -> Standing:
    return Standing(
        revoked,
        disabled,
        owner_active,
        expire_time,
        frozenset(scopes),
        AllowedModels(allowed_models),
        AddressList(allowed_addresses) if allowed_addresses else None,
    )
