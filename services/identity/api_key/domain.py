"""API keys, and the decision whether a presented key may be used."""

import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from libs.common.access import is_gateway_scope, role_holds
from libs.common.addresses import AddressList


class Environment(StrEnum):
    """Whether a key is for production or for tests."""

    LIVE = "live"
    TEST = "test"


class State(StrEnum):
    """Whether a key works, judged by its own fields only."""

    ACTIVE = "active"
    DISABLED = "disabled"
    REVOKED = "revoked"
    EXPIRED = "expired"


class Verdict(StrEnum):
    """The result of a verification. The reasons are checked in this order; a key to which none applies is valid."""

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
    """The fields of a key at its creation."""

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
    subscription_id: str | None = None
    """The subscription that metered calls with the key fall under; None where it is bound to none."""
    all_organizations: bool = False
    gateway_organization_id: str | None = None
    """Where the scopes of gateways hold: in all organizations, in this one, or else in the key's own."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What is stored of a secret: its digest, and the few characters by which people recognise it."""

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
    subscription_id: str | None
    all_organizations: bool
    gateway_organization_id: str | None

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


def gateway_scopes_of(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return those of the scopes that gateways hold, and no role."""
    return tuple(scope for scope in scopes if is_gateway_scope(scope))


UPDATABLE: Final = (
    *("name", "metadata", "external_id"),
    *("scopes", "allowed_models", "allowed_addresses", "expire_time", "subscription_id"),
)
"""The fields of a key that UpdateApiKey can change."""


def changed_fields(before: ApiKey, after: ApiKey) -> tuple[str, ...]:
    """Return the names of the fields in which two versions of a key differ."""
    return tuple(name for name in UPDATABLE if getattr(before, name) != getattr(after, name))


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Filters of a list of keys; an empty field filters nothing."""

    project_id: str = ""
    user_id: str = ""
    service_account_id: str = ""
    external_id: str = ""
    environment: Environment | None = None
    state: State | None = None
    subscription_id: str = ""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Everything that decides about a key, read in one snapshot. `scopes` are those of the key that its owner holds
    too."""

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
    subscription_id: str | None

    def subjects(self) -> tuple[str, ...]:
        """Return the ids of everything whose change alters the decision."""
        ids = (self.api_key_id, self.user_id, self.service_account_id, self.project_id, self.organization_id)
        # Interned, because many keys share an owner and an organization.
        return tuple(sys.intern(id_) for id_ in ids if id_ is not None)


@lru_cache(maxsize=8_192)
def held_scopes(scopes: tuple[str, ...], organization_role: str, project_roles: tuple[str, ...]) -> tuple[str, ...]:
    """Return the key's scopes that its owner's roles hold. Cached, because many keys have the same answer."""
    return tuple(scope for scope in scopes if role_holds(scope, organization_role, project_roles))


class AllowedModels:
    """A list of allowed models, prepared for fast checks. A trailing `*` matches any rest; an empty list allows all
    models."""

    __slots__ = ("_all", "_exact", "_prefixes")

    def __init__(self, patterns: Collection[str]) -> None:
        self._all = not patterns
        self._exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def allow(self, model: str) -> bool:
        return self._all or model in self._exact or model.startswith(self._prefixes)


@dataclass(frozen=True, slots=True)
class Standing:
    """All that a decision about a key depends on. Keys with equal values share one object."""

    revoked: bool
    disabled: bool
    owner_active: bool
    expire_time: datetime | None
    scopes: frozenset[str]
    models: AllowedModels
    addresses: AddressList | None

    def decide(self, *, required_scopes: Collection[str], model: str, client_address: str, now: datetime) -> Verdict:
        """Decide about the key. Verdicts are never cached: time, scopes, model and address differ from call to call."""
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
