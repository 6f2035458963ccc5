"""Rotation: a key gets a successor with another secret, and the old secret works until an overlap is over."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.audit.recording import Changed
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound
from libs.common.ids import new_id
from services.identity.api_key import store
from services.identity.api_key.domain import ApiKey, Environment, NewApiKey
from services.identity.api_key.manage import owners
from services.identity.api_key.manage.api_keys import announce, existing, may_write, record
from services.identity.api_key.manage.limits import end_of, require_held
from services.identity.api_key.secret import Peppers, digest_of, new_secret
from services.identity.errors import ApiKeyDisabled, ApiKeyExpired, ApiKeyRevoked, ApiKeyRotated
from services.identity.organization.store import lock_organization
from services.identity.requests import claim_request
from services.identity.revisions import ChangeKind, current_revision


@dataclass(frozen=True, slots=True)
class RotatedApiKey:
    """The new key and the old one; `secret` is empty when an earlier call with the same request id rotated the key."""

    api_key: ApiKey
    rotated: ApiKey
    secret: str
    replayed: bool
    revision: int

    def __repr__(self) -> str:
        return f"RotatedApiKey(api_key_id={self.api_key.api_key_id}, replayed={self.replayed})"


class Rotation:
    """Rotates keys."""

    def __init__(self, database: Database, clock: Clock, peppers: Peppers) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers

    async def rotate(
        self,
        organization_id: str,
        api_key_id: str,
        *,
        overlap: timedelta,
        expire_time: datetime | None,
        request_id: str,
    ) -> RotatedApiKey:
        """Create a key with the same terms, and let the old one end after the overlap.

        Raises:
            NotFound: the organization has no such key, or its owner is no longer there.
            ApiKeyRevoked, ApiKeyRotated, ApiKeyExpired, ApiKeyDisabled: the key has no future to hand on.
            InvalidArgument, ScopeNotHeld, KeyLimitExceeded: as for a creation, because the caller gets the secret.
            RequestIdReused: the request id was sent before with another body.
        """
        new_key_id, now = new_id(), self._clock.now()
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, organization_id):
                raise NotFound(resource_type="organization", resource_name=organization_id)
            may_write(existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id))
            earlier_id = await claim_request(
                tx,
                organization_id=organization_id,
                method="RotateApiKey",
                request_id=request_id,
                body={
                    "api_key_id": api_key_id,
                    "overlap": str(overlap.total_seconds()),
                    "expire_time": expire_time,
                },
                resource_id=new_key_id,
                now=now,
            )
            # The lock serialises two rotations: the second one finds the key rotated.
            old = existing(await store.find_api_key(tx, organization_id, api_key_id, lock=True), api_key_id)
            if earlier_id is not None:
                api_key = existing(await store.find_api_key(tx, organization_id, earlier_id), earlier_id)
                return RotatedApiKey(api_key, old, "", True, await current_revision(tx))
            new = await self._successor(tx, old, expire_time, now)
            secret = new_secret(live=new.environment is Environment.LIVE)
            await store.insert_api_key(tx, new_key_id, new, digest=digest_of(secret, self._peppers), now=now)
            end = min(now + overlap, old.expire_time or now + overlap)
            ended = {"expire_time": end, "rotated_to_api_key_id": new_key_id}
            await store.update_api_key(tx, organization_id, api_key_id, ended, now)
            old = existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id)
            api_key = existing(await store.find_api_key(tx, organization_id, new_key_id), new_key_id)
            await record(tx, old, now, _changes(old, new_key_id))
            await announce(tx, api_key, ChangeKind.CREATED, now)
            revision = await announce(tx, old, ChangeKind.ROTATED, now)
        return RotatedApiKey(api_key, old, secret, False, revision)

    async def _successor(self, tx: Transaction, old: ApiKey, expire_time: datetime | None, now: datetime) -> NewApiKey:
        """Return the fields of the new key, after the checks of a creation by this caller."""
        if old.revoke_time is not None:
            raise ApiKeyRevoked(api_key_id=old.api_key_id)
        if old.rotated_to_api_key_id is not None:
            raise ApiKeyRotated(rotated_to_api_key_id=old.rotated_to_api_key_id)
        if old.expire_time is not None and old.expire_time <= now:
            raise ApiKeyExpired(api_key_id=old.api_key_id)
        if old.disable_time is not None:
            raise ApiKeyDisabled(api_key_id=old.api_key_id)
        creator = await owners.find_creator(tx)
        owner = await owners.lock_owner(tx, old)
        require_held(old.scopes, creator.holds, owner.holds)
        if creator.limits is not None:
            creator.limits.require_place(project_id=old.project_id, environment=old.environment)
            creator.limits.require_models(old.allowed_models)
            creator.limits.require_addresses(old.allowed_addresses)
            creator.limits.require_subscription(old.subscription_id)
        end = end_of(
            expire_time,
            now=now,
            create_time=now,
            max_lifetime_s=await owners.find_max_lifetime_s(tx, old.organization_id),
            limits=creator.limits,
        )
        if expire_time is None and old.expire_time is not None:
            end = min(old.expire_time, end or old.expire_time)
        return replace(_terms(old), expire_time=end)


def _terms(old: ApiKey) -> NewApiKey:
    return NewApiKey(
        organization_id=old.organization_id,
        project_id=old.project_id,
        user_id=old.user_id,
        service_account_id=old.service_account_id,
        name=old.name,
        environment=old.environment,
        scopes=old.scopes,
        allowed_models=old.allowed_models,
        allowed_addresses=old.allowed_addresses,
        metadata=old.metadata,
        external_id=old.external_id,
        expire_time=old.expire_time,
        rotated_from_api_key_id=old.api_key_id,
        subscription_id=old.subscription_id,
        all_organizations=old.all_organizations,
        gateway_organization_id=old.gateway_organization_id,
    )


def _changes(old: ApiKey, new_key_id: str) -> tuple[Changed, ...]:
    end = old.expire_time.isoformat() if old.expire_time else ""
    return Changed("rotated_to_api_key_id", after=new_key_id), Changed("expire_time", after=end)
