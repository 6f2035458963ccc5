"""The limits of a key: what its creator and its owner hold, and the limits of the key it was created with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.common.access import is_gateway_scope, role_holds
from libs.common.addresses import covers, parse_network
from libs.common.errors import FieldViolation, InvalidArgument
from services.identity.api_key.domain import ApiKey, Environment
from services.identity.errors import KeyLimitExceeded, ScopeNotHeld

_WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a key, with the roles that count for the key."""

    organization_role: str
    project_roles: tuple[str, ...] = ()
    is_service_account: bool = False

    def holds(self, scope: str) -> bool:
        """Tell whether the owner may have the scope; a service account may have those of gateways."""
        if is_gateway_scope(scope):
            return self.is_service_account
        return role_holds(scope, self.organization_role, self.project_roles)


def require_held(scopes: Iterable[str], *holders: Callable[[str], bool]) -> None:
    """Raise ScopeNotHeld naming the first scope that one of the holders does not hold."""
    for scope in scopes:
        if not all(holds(scope) for holds in holders):
            raise ScopeNotHeld(scope=scope)


def gateway_violations(
    scopes: Iterable[str], *, project_id: str | None, environment: Environment
) -> list[FieldViolation]:
    """Return why a key cannot carry the scopes of gateways among these: they hold for whole organizations, and in
    production."""
    violations: list[FieldViolation] = []
    if not any(is_gateway_scope(scope) for scope in scopes):
        return violations
    if project_id is not None:
        violations.append(FieldViolation("project_id", "must be empty for a key with a scope of gateways"))
    if environment is not Environment.LIVE:
        violations.append(FieldViolation("environment", "must be live for a key with a scope of gateways"))
    return violations


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the key a caller came with. A key that is created or extended with it must stay within them."""

    project_id: str | None
    environment: Environment
    allowed_models: tuple[str, ...]
    allowed_addresses: tuple[str, ...]
    expire_time: datetime | None
    subscription_id: str | None

    @classmethod
    def of(cls, api_key: ApiKey) -> "Limits":
        return cls(
            api_key.project_id,
            api_key.environment,
            api_key.allowed_models,
            api_key.allowed_addresses,
            api_key.expire_time,
            api_key.subscription_id,
        )

    def require_place(self, *, project_id: str | None, environment: Environment) -> None:
        """Raise KeyLimitExceeded unless a key of this project and environment stays within the limits."""
        if self.project_id is not None and self.project_id != project_id:
            raise KeyLimitExceeded(field="project_id")
        if self.environment is Environment.TEST and environment is not Environment.TEST:
            raise KeyLimitExceeded(field="environment")

    def require_models(self, models: Sequence[str]) -> None:
        """Raise KeyLimitExceeded unless every model is within the limits; an empty list means all models."""
        if self.allowed_models and not (
            models and all(any(_includes(outer, inner) for outer in self.allowed_models) for inner in models)
        ):
            raise KeyLimitExceeded(field="allowed_models")

    def require_addresses(self, addresses: Sequence[str]) -> None:
        """Raise KeyLimitExceeded unless every address is within the limits; an empty list means all addresses."""
        mine = [parse_network(address) for address in self.allowed_addresses]
        theirs = [parse_network(address) for address in addresses]
        if mine and not (theirs and all(any(covers(outer, inner) for outer in mine) for inner in theirs)):
            raise KeyLimitExceeded(field="allowed_addresses")

    def require_subscription(self, subscription_id: str | None) -> None:
        """Raise KeyLimitExceeded unless calls with the other key fall under the same subscription."""
        if self.subscription_id is not None and self.subscription_id != subscription_id:
            raise KeyLimitExceeded(field="subscription_id")

    def require_end(self, expire_time: datetime | None) -> None:
        """Raise KeyLimitExceeded when the end is later than that of the caller's key."""
        if self.expire_time is not None and (expire_time is None or expire_time > self.expire_time):
            raise KeyLimitExceeded(field="expire_time")


def _includes(outer: str, inner: str) -> bool:
    """Return whether one model pattern matches everything that another one matches."""
    if outer.endswith(_WILDCARD):
        return inner.removesuffix(_WILDCARD).startswith(outer[:-1])
    return inner == outer


def end_of(
    asked: datetime | None,
    *,
    now: datetime,
    create_time: datetime,
    max_lifetime_s: int | None,
    limits: Limits | None,
) -> datetime | None:
    """Return when a key ends: the requested time, or else the latest that is allowed.

    Raises:
        InvalidArgument: that has passed, or is later than the organization allows.
        KeyLimitExceeded: that is later than the end of the key the caller came with.
    """
    latest = None if max_lifetime_s is None else create_time + timedelta(seconds=max_lifetime_s)
    if asked is None:
        ends = [end for end in (latest, limits.expire_time if limits else None) if end is not None]
        asked = min(ends, default=None)
    if asked is not None and asked <= now:
        raise InvalidArgument([FieldViolation("expire_time", "must lie ahead")])
    if latest is not None and (asked is None or asked > latest):
        violation = f"must be within {max_lifetime_s} seconds of the key's creation, as the organization wants it"
        raise InvalidArgument([FieldViolation("expire_time", violation)])
    if limits is not None:
        limits.require_end(asked)
    return asked
