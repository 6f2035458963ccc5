"""How far a key may reach: never beyond what its creator and its owner hold, nor beyond the key it was made with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.common.access import role_holds
from libs.common.addresses import covers, parse_network
from libs.common.errors import FieldViolation, InvalidArgument
from services.identity.api_key.domain import ApiKey, Environment
from services.identity.errors import KeyLimitExceeded, ScopeNotHeld

_WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whoever a key belongs to, with the roles that count for it."""

    organization_role: str
    project_roles: tuple[str, ...] = ()

    def holds(self, scope: str) -> bool:
        return role_holds(scope, self.organization_role, self.project_roles)


def require_held(scopes: Iterable[str], *holders: Callable[[str], bool]) -> None:
    """Raise ScopeNotHeld naming the first scope that not all of the holders hold."""
    for scope in scopes:
        if not all(holds(scope) for holds in holders):
            raise ScopeNotHeld(scope=scope)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the key a caller came with, and so every key that is made or given more with it."""

    project_id: str | None
    environment: Environment
    allowed_models: tuple[str, ...]
    allowed_addresses: tuple[str, ...]
    expire_time: datetime | None

    @classmethod
    def of(cls, api_key: ApiKey) -> "Limits":
        return cls(
            api_key.project_id,
            api_key.environment,
            api_key.allowed_models,
            api_key.allowed_addresses,
            api_key.expire_time,
        )

    def require_place(self, *, project_id: str | None, environment: Environment) -> None:
        """Raise KeyLimitExceeded unless a key of this project and environment stays within the limits."""
        if self.project_id is not None and self.project_id != project_id:
            raise KeyLimitExceeded(field="project_id")
        if self.environment is Environment.TEST and environment is not Environment.TEST:
            raise KeyLimitExceeded(field="environment")

    def require_models(self, models: Sequence[str]) -> None:
        """Raise KeyLimitExceeded unless every model is within the limits; no models at all stand for every one."""
        if self.allowed_models and not (
            models and all(any(_includes(outer, inner) for outer in self.allowed_models) for inner in models)
        ):
            raise KeyLimitExceeded(field="allowed_models")

    def require_addresses(self, addresses: Sequence[str]) -> None:
        """Raise KeyLimitExceeded unless every address is within the limits; none at all stand for every one."""
        mine = [parse_network(address) for address in self.allowed_addresses]
        theirs = [parse_network(address) for address in addresses]
        if mine and not (theirs and all(any(covers(outer, inner) for outer in mine) for inner in theirs)):
            raise KeyLimitExceeded(field="allowed_addresses")

    def require_end(self, expire_time: datetime | None) -> None:
        """Raise KeyLimitExceeded unless the end comes no later."""
        if self.expire_time is not None and (expire_time is None or expire_time > self.expire_time):
            raise KeyLimitExceeded(field="expire_time")


def _includes(outer: str, inner: str) -> bool:
    """Tell whether whatever matches one model pattern matches another."""
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
    """Return when a key ends: when it was asked to, or else as late as it may.

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
