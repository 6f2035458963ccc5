"""Creating, finding, disabling, enabling and revoking keys."""

from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import FieldViolation, InvalidArgument, NotFound
from libs.common.ids import new_id
from services.identity.api_key import store
from services.identity.api_key.model import ApiKey, Environment, NewApiKey
from services.identity.api_key.secret import Peppers, new_secret, visible_parts
from services.identity.errors import ApiKeyRevoked
from services.identity.organization.store import find_organization, lock_member, lock_organization
from services.identity.project.store import lock_project
from services.identity.requests import Field, claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """The answer to a creation; the secret is empty when the key was made by an earlier call."""

    api_key: ApiKey
    secret: str
    replayed: bool
    revision: int

    def __repr__(self) -> str:
        return f"CreatedApiKey(api_key_id={self.api_key.api_key_id}, replayed={self.replayed})"


class ApiKeys:
    """The keys of organizations."""

    def __init__(self, database: Database, clock: Clock, peppers: Peppers) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers

    async def create(self, new: NewApiKey, *, request_id: str) -> CreatedApiKey:
        """Create a key and its secret, or return the key an earlier call with this request id made.

        Raises:
            NotFound: there is no such organization, member or project.
            InvalidArgument: the key would be expired from the start.
            RequestIdReused: the request id was sent before with another body.
        """
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
                api_key = _existing(await store.find_api_key(tx, new.organization_id, earlier_id), earlier_id)
                return CreatedApiKey(api_key, "", True, await current_revision(tx))
            if new.expire_time is not None and new.expire_time <= now:
                raise InvalidArgument([FieldViolation("expire_time", "must lie ahead")])
            if not await lock_member(tx, new.organization_id, new.user_id):
                raise NotFound(resource_type="member", resource_name=new.user_id)
            if new.project_id is not None and not await lock_project(tx, new.organization_id, new.project_id):
                raise NotFound(resource_type="project", resource_name=new.project_id)
            await store.insert_api_key(
                tx,
                api_key_id,
                new,
                digest=self._peppers.digest(secret),
                pepper_version=self._peppers.current_version,
                visible=visible_parts(secret),
                now=now,
            )
            api_key = _existing(await store.find_api_key(tx, new.organization_id, api_key_id), api_key_id)
            revision = await record_change(
                tx,
                ChangeKind.CREATED,
                SubjectType.API_KEY,
                api_key_id,
                organization_id=api_key.organization_id,
                now=now,
            )
        return CreatedApiKey(api_key, secret, False, revision)

    async def get(self, organization_id: str, api_key_id: str) -> ApiKey:
        async with self._database.transaction() as tx:
            return _existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id)

    async def page(
        self, organization_id: str, *, project_id: str, user_id: str, before: str | None, size: int
    ) -> tuple[list[ApiKey], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            api_keys = await store.list_api_keys(
                tx, organization_id, project_id=project_id, user_id=user_id, before=before, limit=size + 1
            )
        return api_keys[:size], len(api_keys) > size

    async def change(self, organization_id: str, api_key_id: str, kind: ChangeKind) -> tuple[ApiKey, int]:
        """Disable, enable or revoke a key; return it and a revision that holds its state.

        Raises:
            NotFound: the organization has no such key.
            ApiKeyRevoked: the key is revoked and something else is asked.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            changed = await store.change_api_key(tx, organization_id, api_key_id, kind, now)
            api_key = _existing(await store.find_api_key(tx, organization_id, api_key_id), api_key_id)
            if not changed:
                if api_key.revoke_time is not None and kind is not ChangeKind.REVOKED:
                    raise ApiKeyRevoked(api_key_id=api_key_id)
                return api_key, await current_revision(tx)
            revision = await record_change(
                tx, kind, SubjectType.API_KEY, api_key.api_key_id, organization_id=api_key.organization_id, now=now
            )
        return api_key, revision


def _body(new: NewApiKey) -> dict[str, Field]:
    return {
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


def _existing(api_key: ApiKey | None, api_key_id: str) -> ApiKey:
    if api_key is None:
        raise NotFound(resource_type="api_key", resource_name=api_key_id)
    return api_key
