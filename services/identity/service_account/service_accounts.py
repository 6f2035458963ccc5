"""Creating, finding, changing and deleting service accounts."""

from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.audit.recording import Changed, differences, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound, StaleEtag
from libs.common.ids import new_id
from services.identity.attributes import Attributes, AttributesChange, attribute_differences
from services.identity.organization.domain import Role, roles_beyond
from services.identity.organization.roles import require_held
from services.identity.organization.store import find_organization, lock_organization
from services.identity.requests import claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change
from services.identity.revocation import revoke_invitations_of
from services.identity.service_account import store
from services.identity.service_account.domain import ServiceAccount


@dataclass(frozen=True, slots=True)
class Deletion:
    """When an account was deleted, how many keys this call revoked, and a revision that holds it."""

    delete_time: datetime
    revoked_api_keys: int
    revision: int


class ServiceAccounts:
    """Manages service accounts."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        organization_id: str,
        *,
        name: str,
        description: str,
        role: Role,
        attributes: Attributes,
        request_id: str,
    ) -> tuple[ServiceAccount, bool]:
        """Create an account, or return the one an earlier call with this request id made.

        Raises:
            NotFound: there is no such organization.
            RoleNotHeld: the role may do something that the caller may not.
            ServiceAccountAlreadyExists: the organization has one of this name or external id.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        new = ServiceAccount(
            new_id(), organization_id, name, description, role, now, now, version=1, attributes=attributes
        )
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, organization_id):
                raise NotFound(resource_type="organization", resource_name=organization_id)
            earlier_id = await claim_request(
                tx,
                organization_id=organization_id,
                method="CreateServiceAccount",
                request_id=request_id,
                body={"name": name, "description": description, "role": role.value, **attributes.as_body()},
                resource_id=new.service_account_id,
                now=now,
            )
            if earlier_id is not None:
                return _existing(await store.find_service_account(tx, organization_id, earlier_id), earlier_id), True
            require_held(role)
            await store.insert_service_account(tx, new)
            changed = (Changed("name", after=name), Changed("role", after=role.value))
            await _record(tx, new, now, (*changed, *attribute_differences(Attributes(), attributes)))
        return new, False

    async def get(self, organization_id: str, service_account_id: str) -> ServiceAccount:
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="service_account", resource_name=service_account_id)
            found = await store.find_service_account(tx, organization_id, service_account_id)
            return _existing(found, service_account_id)

    async def page(
        self, organization_id: str, *, external_id: str, before: str | None, size: int
    ) -> tuple[list[ServiceAccount], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            found = await store.list_service_accounts(
                tx, organization_id, external_id=external_id, before=before, limit=size + 1
            )
        return found[:size], len(found) > size

    async def update(
        self,
        organization_id: str,
        service_account_id: str,
        *,
        etag: str,
        name: str | None,
        description: str | None,
        role: Role | None,
        attributes: AttributesChange,
    ) -> tuple[ServiceAccount, int]:
        """Change the fields that are not None; return the account, and a revision that holds the change.

        Raises:
            NotFound: the organization has no such account.
            StaleEtag: it has changed since the etag was read.
            RoleNotHeld: the old or the new role may do something that the caller may not.
            ServiceAccountAlreadyExists: the organization has another one of this name or external id.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            found = None
            if await lock_organization(tx, organization_id):
                found = await store.find_service_account(tx, organization_id, service_account_id, lock=True)
            before = _existing(found, service_account_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="service_account")
            after = replace(
                before,
                name=before.name if name is None else name,
                description=before.description if description is None else description,
                role=before.role if role is None else role,
                attributes=before.attributes.changed(attributes),
            )
            require_held(before.role, after.role)
            if after == before:
                return before, await current_revision(tx)
            after = replace(after, update_time=now, version=before.version + 1)
            await store.replace_service_account(tx, after)
            if after.role is not before.role:
                await revoke_invitations_of(
                    tx, after.subject, now, organization_id=organization_id, roles=roles_beyond(after.role)
                )
            changed = differences(_audited(before), _audited(after))
            await _record(tx, after, now, (*changed, *attribute_differences(before.attributes, after.attributes)))
            if after.role is before.role:
                return after, await current_revision(tx)
            return after, await _announce(tx, ChangeKind.ROLE_CHANGED, after, now)

    async def delete(self, organization_id: str, service_account_id: str) -> Deletion:
        """Delete an account and revoke its keys, unless it is deleted.

        Raises:
            NotFound: the organization never had such an account.
            RoleNotHeld: the account may do something that the caller may not.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            held = None
            if await lock_organization(tx, organization_id):
                held = await store.lock_to_delete(tx, organization_id, service_account_id)
            if held is None:
                raise NotFound(resource_type="service_account", resource_name=service_account_id)
            account, delete_time = held
            if delete_time is not None:
                return Deletion(delete_time, 0, await current_revision(tx))
            require_held(account.role)
            await store.delete_service_account(tx, account, now)
            revoked = await store.revoke_keys_of_service_account(tx, account, now)
            await revoke_invitations_of(tx, account.subject, now, organization_id=organization_id)
            await _record(tx, account, now, (Changed("revoked_api_keys", after=str(revoked)),))
            revision = await _announce(tx, ChangeKind.OWNER_DELETED, account, now)
        return Deletion(now, revoked, revision)


def _existing(account: ServiceAccount | None, service_account_id: str) -> ServiceAccount:
    if account is None:
        raise NotFound(resource_type="service_account", resource_name=service_account_id)
    return account


def _audited(account: ServiceAccount) -> dict[str, str | None]:
    """Return the fields whose values the audit trail shows."""
    return {"name": account.name, "description": account.description, "role": account.role.value}


async def _record(tx: Transaction, account: ServiceAccount, now: datetime, changed: tuple[Changed, ...]) -> None:
    await record_event(
        tx,
        now=now,
        organization_id=account.organization_id,
        resource_type="service_account",
        resource_id=account.service_account_id,
        changed=changed,
    )


async def _announce(tx: Transaction, kind: ChangeKind, account: ServiceAccount, now: datetime) -> int:
    """Number and announce a change of what the account's keys may do; the last statement of a transaction."""
    return await record_change(
        tx,
        kind,
        SubjectType.SERVICE_ACCOUNT,
        account.service_account_id,
        organization_id=account.organization_id,
        now=now,
    )
