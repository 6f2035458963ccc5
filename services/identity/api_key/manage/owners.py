"""The creator and the owner of a key, with the rights that limit the key."""

from dataclasses import dataclass
from typing import Protocol

from libs.common.access import Rights
from libs.common.call import current_caller, current_rights
from libs.common.database import Transaction
from libs.common.errors import NotFound, PermissionDenied
from services.identity.api_key.manage import owner_store
from services.identity.api_key.manage.limits import Limits, Owner
from services.identity.api_key.manage.owner_store import find_max_lifetime_s as find_max_lifetime_s
from services.identity.api_key.store import find_api_key_by_id


@dataclass(frozen=True, slots=True)
class Creator:
    """The caller who creates or extends a key. Operators and our own work have no `rights`, and no limit."""

    rights: Rights | None
    limits: Limits | None
    """The limits of the key the caller came with; None when they came without one."""

    def holds(self, scope: str) -> bool:
        return self.rights is None or self.rights.holds(scope)


class Owned(Protocol):
    """What names an owner: a user or a service account."""

    @property
    def organization_id(self) -> str: ...
    @property
    def project_id(self) -> str | None: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def service_account_id(self) -> str | None: ...


async def find_creator(tx: Transaction) -> Creator:
    """Return the caller, with the current limits of the key they came with.

    Raises:
        PermissionDenied: that key is gone.
    """
    rights, api_key_id = current_rights(), current_caller().api_key_id
    if rights is None or not api_key_id:
        return Creator(rights, None)
    api_key = await find_api_key_by_id(tx, api_key_id)
    if api_key is None:
        raise PermissionDenied
    return Creator(rights, Limits.of(api_key))


async def lock_owner(tx: Transaction, owned: Owned) -> Owner:
    """Return the owner of a key and lock them until commit.

    Raises:
        NotFound: the organization has no such member or service account.
    """
    if owned.user_id is not None:
        member = await owner_store.lock_member(tx, owned.organization_id, owned.user_id, owned.project_id)
        if member is None:
            raise NotFound(resource_type="member", resource_name=owned.user_id)
        return member
    service_account_id = owned.service_account_id or ""
    account = await owner_store.lock_service_account(tx, owned.organization_id, service_account_id)
    if account is None:
        raise NotFound(resource_type="service_account", resource_name=service_account_id)
    return account
