"""Creating, finding, changing, disabling, enabling and revoking keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.access import Scope
from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_rights, require_scope
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import InvalidArgument, NotFound, StaleEtag
from libs.common.ids import new_id
from services.identity.api_key import store
from services.identity.api_key.domain import (
    ApiKey,
    Environment,
    KeyFilter,
    NewApiKey,
    changed_fields,
    gateway_scopes_of,
)
from services.identity.api_key.manage import owners
from services.identity.api_key.manage.limits import end_of, gateway_violations, require_held
from services.identity.api_key.secret import Peppers, digest_of, new_secret
from services.identity.errors import ApiKeyRevoked, ApiKeyRotated
from services.identity.organization.store import find_organization, lock_organization
from services.identity.project.store import lock_project
from services.identity.requests import Field, claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A created key; `secret` is empty when an earlier call with the same request id created it."""

    api_key: ApiKey
    secret: str
    replayed: bool
    revision: int

    def __repr__(self) -> str:
        return f"CreatedApiKey(api_key_id={self.api_key.api_key_id}, replayed={self.replayed})"


class ApiKeys:
    """Manages the keys of organizations."""

    def __init__(self, database: Database, clock: Clock, peppers: Peppers) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers

    async def create(self, new: NewApiKey, *, request_id: str) -> CreatedApiKey:
        """Create a key and its secret, or return the key an earlier call with this request id made.

        Raises:
            NotFound: there is no such organization, member, service account or project.
            InvalidArgument: the key would be expired from the start, or live longer than the organization allows.
            PermissionDenied: the caller may not make keys for this owner or project.
            ScopeNotHeld: the caller or the owner does not hold a scope.
            KeyLimitExceeded: the key would reach further than the one the caller came with.
            RequestIdReused: the request id was sent before with another body.
        """
        require_scope(Scope.SCOPE_KEYS_WRITE, project_id=new.project_id or "", user_id=new.user_id or "")
        api_key_id, now = new_id(), self._clock.now()
        secret = new_secret(live=new.environment is Environment.LIVE)
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, new.organization_id):
                raise NotFound(resource_type="organization", resource_name=new.organization_id)
            earlier_id = await claim_request(
                tx,
                organization_id=new.organization_id,
                method="CreateApiKey",
                request_id=request_id,
                body=_body(new),
                resource_id=api_key_id,
                now=now,
            )
            if earlier_id is not None:
                api_key = existing(await store.find_api_key(tx, new.organization_id, earlier_id), earlier_id)
                return CreatedApiKey(api_key, "", True, await current_revision(tx))
            checked = await self._checked(tx, new, now)
            digest = digest_of(secret, self._peppers)
            await store.insert_api_key(tx, api_key_id, checked, digest=digest, now=now)
            api_key = existing(await store.find_api_key(tx, new.organization_id, api_key_id), api_key_id)
            await record(tx, api_key, now, _created(api_key))
            revision = await announce(tx, api_key, ChangeKind.CREATED, now)
        return CreatedApiKey(api_key, secret, False, revision)

    async def _checked(self, tx: Transaction, new: NewApiKey, now: datetime) -> NewApiKey:
        """Return the key with the end it gets, after all checks."""
        creator = await owners.find_creator(tx)
        if creator.limits is not None:
            creator.limits.require_place(project_id=new.project_id, environment=new.environment)
            creator.limits.require_models(new.allowed_models)
            creator.limits.require_addresses(new.allowed_addresses)
            creator.limits.require_subscription(new.subscription_id)
        expire_time = end_of(
            new.expire_time,
            now=now,
            create_time=now,
            max_lifetime_s=await owners.find_max_lifetime_s(tx, new.organization_id),
            limits=creator.limits,
        )
        owner = await owners.lock_owner(tx, new)
        if new.project_id is not None and not await lock_project(tx, new.organization_id, new.project_id):
            raise NotFound(resource_type="project", resource_name=new.project_id)
        require_held(new.scopes, creator.holds, owner.holds)
        if new.gateway_organization_id and await find_organization(tx, new.gateway_organization_id) is None:
            raise NotFound(resource_type="organization", resource_name=new.gateway_organization_id)
        return replace(new, expire_time=expire_time)

    async def get(self, organization_id: str, api_key_id: str) -> ApiKey:
        async with self._database.transaction() as tx:
            api_key = existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id)
        require_scope(Scope.SCOPE_KEYS_READ, project_id=api_key.project_id or "", user_id=api_key.user_id or "")
        return api_key

    async def page(
        self, organization_id: str, chosen: KeyFilter, *, before: str | None, size: int
    ) -> tuple[list[ApiKey], str | None]:
        """Return a page, and the key before which the next one begins; None when there is no more.

        Raises:
            NotFound: there is no such organization.
            PermissionDenied: the caller may see some keys of the organization and asks for more.
        """
        require_scope(Scope.SCOPE_KEYS_READ, project_id=chosen.project_id, user_id=chosen.user_id)
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            now = self._clock.now()
            return await store.list_api_keys(tx, organization_id, chosen, before=before, now=now, limit=size)

    async def change(self, organization_id: str, api_key_id: str, kind: ChangeKind) -> tuple[ApiKey, int]:
        """Disable, enable or revoke a key; return it and a revision that holds its state.

        Raises:
            NotFound: the organization has no such key.
            ApiKeyRevoked: the key is revoked and something else is asked.
            ScopeNotHeld: it is to be enabled, and carries a scope of gateways that the caller does not hold.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            found = existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id)
            may_write(found)
            if kind is ChangeKind.ENABLED:
                require_gateway_scopes(found)
            changed = await store.change_api_key(tx, organization_id, api_key_id, kind, now)
            api_key = existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id)
            if not changed:
                if api_key.revoke_time is not None and kind is not ChangeKind.REVOKED:
                    raise ApiKeyRevoked(api_key_id=api_key_id)
                return api_key, await current_revision(tx)
            await record(tx, api_key, now)
            revision = await announce(tx, api_key, kind, now)
        return api_key, revision

    async def update(
        self, organization_id: str, api_key_id: str, asked: Mapping[str, object], *, etag: str
    ) -> tuple[ApiKey, int]:
        """Change the named fields of a key; return it and a revision that holds the change.

        Raises:
            NotFound: the organization has no such key.
            StaleEtag: the key has changed since it was read.
            ApiKeyRevoked: the key is revoked.
            ApiKeyRotated: its end was settled when it was rotated.
            InvalidArgument, ScopeNotHeld, KeyLimitExceeded: as for a creation.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            api_key = existing(await store.find_api_key(tx, organization_id, api_key_id, lock=True), api_key_id)
            may_write(api_key)
            require_gateway_scopes(api_key)
            if etag and etag != api_key.etag:
                raise StaleEtag(resource_type="api_key")
            if api_key.revoke_time is not None:
                raise ApiKeyRevoked(api_key_id=api_key_id)
            wanted = await self._checked_update(tx, api_key, asked, now)
            changes = changed_fields(api_key, wanted)
            if not changes:
                return api_key, await current_revision(tx)
            values = {name: getattr(wanted, name) for name in changes}
            await store.update_api_key(tx, organization_id, api_key_id, values, now)
            updated = existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id)
            await record(tx, updated, now, [_audited(name, api_key, updated) for name in changes])
            revision = await announce(tx, updated, ChangeKind.UPDATED, now)
        return updated, revision

    async def _checked_update(
        self, tx: Transaction, api_key: ApiKey, asked: Mapping[str, object], now: datetime
    ) -> ApiKey:
        """Return the key with its new fields, after all checks. Taking rights away from a key is always allowed."""
        wanted: ApiKey = replace(api_key, **asked)  # type: ignore[arg-type]  # Named by the mask, typed by the servicer.
        creator = await owners.find_creator(tx)
        added = sorted(set(wanted.scopes) - set(api_key.scopes))
        if added:
            owner = await owners.lock_owner(tx, api_key)
            require_held(added, creator.holds, owner.holds)
            unfit = gateway_violations(added, project_id=api_key.project_id, environment=api_key.environment)
            if unfit:
                raise InvalidArgument(unfit)
        if creator.limits is not None and "allowed_models" in asked:
            creator.limits.require_models(wanted.allowed_models)
        if creator.limits is not None and "allowed_addresses" in asked:
            creator.limits.require_addresses(wanted.allowed_addresses)
        if creator.limits is not None and "subscription_id" in asked:
            creator.limits.require_subscription(wanted.subscription_id)
        if "expire_time" not in asked:
            return wanted
        if api_key.rotated_to_api_key_id is not None:
            raise ApiKeyRotated(rotated_to_api_key_id=api_key.rotated_to_api_key_id)
        expire_time = end_of(
            wanted.expire_time,
            now=now,
            create_time=api_key.create_time,
            max_lifetime_s=await owners.find_max_lifetime_s(tx, api_key.organization_id),
            limits=creator.limits,
        )
        return replace(wanted, expire_time=expire_time)


def may_write(api_key: ApiKey) -> None:
    """Raise PermissionDenied unless the caller may change this key."""
    require_scope(Scope.SCOPE_KEYS_WRITE, project_id=api_key.project_id or "", user_id=api_key.user_id or "")


def require_gateway_scopes(api_key: ApiKey) -> None:
    """Raise ScopeNotHeld where a key carries scopes of gateways and the caller may not give them.

    Nobody but operators changes, enables or rotates the key of a gateway: its addresses and its end limit it, too.
    """
    rights = current_rights()
    if rights is not None:
        require_held(gateway_scopes_of(api_key.scopes), rights.holds)


def existing(api_key: ApiKey | None, api_key_id: str) -> ApiKey:
    """Raise NotFound unless there is such a key."""
    if api_key is None:
        raise NotFound(resource_type="api_key", resource_name=api_key_id)
    return api_key


async def record(tx: Transaction, api_key: ApiKey, now: datetime, changed: Sequence[Changed] = ()) -> None:
    """Record a change of a key in the audit trail of its organization."""
    await record_event(
        tx,
        now=now,
        organization_id=api_key.organization_id,
        resource_type="api_key",
        resource_id=api_key.api_key_id,
        changed=changed,
    )


async def announce(tx: Transaction, api_key: ApiKey, kind: ChangeKind, now: datetime) -> int:
    """Number a change of a key and announce it to all caches; the last statement of its transaction."""
    return await record_change(
        tx, kind, SubjectType.API_KEY, api_key.api_key_id, organization_id=api_key.organization_id, now=now
    )


def _created(api_key: ApiKey) -> tuple[Changed, ...]:
    changes = [Changed("scopes", after=" ".join(api_key.scopes))]
    if api_key.all_organizations:
        changes.append(Changed("all_organizations", after="true"))
    if api_key.gateway_organization_id is not None:
        changes.append(Changed("gateway_organization_id", after=api_key.gateway_organization_id))
    return tuple(changes)


_TOLD = ("scopes", "allowed_models", "allowed_addresses", "expire_time", "subscription_id")
"""Return the fields whose values the audit trail may show: those that are neither secret nor personal."""


def _audited(name: str, before: ApiKey, after: ApiKey) -> Changed:
    if name not in _TOLD:
        return Changed(name)
    return Changed(name, before=_text(getattr(before, name)), after=_text(getattr(after, name)))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, str):
        return value
    return value.isoformat() if isinstance(value, datetime) else ""


def _body(new: NewApiKey) -> dict[str, Field]:
    body: dict[str, Field] = {
        "project_id": new.project_id,
        "user_id": new.user_id,
        "name": new.name,
        "environment": new.environment.value,
        "scopes": new.scopes,
        "allowed_models": new.allowed_models,
        "metadata": new.metadata,
        "external_id": new.external_id,
        "expire_time": new.expire_time,
    }
    # Left out when empty, so that a request from before these fields existed can still be repeated.
    later: dict[str, Field] = {
        "service_account_id": new.service_account_id,
        "allowed_addresses": new.allowed_addresses,
        "subscription_id": new.subscription_id,
        "all_organizations": "true" if new.all_organizations else "",
        "gateway_organization_id": new.gateway_organization_id,
    }
    return body | {name: value for name, value in later.items() if value}
