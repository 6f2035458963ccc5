"""Deletes users: personal data is erased, and what money, usage and the audit trail refer to is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from libs.common.audit.recording import Changed, record_event
from libs.common.call import is_operator
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import Conflict, StaleEtag
from services.identity.email_address import folded_email
from services.identity.errors import LastOwner
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change
from services.identity.revocation import erase_from_invitations, revoke_invitations_of
from services.identity.user import deletion_store, store
from services.identity.user.domain import User, existing, solely_owned, subject_of


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deleted user, and what was revoked with them."""

    user: User
    revoked_api_keys: int
    revision: int


class Deletions:
    """Deletes users."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def delete(self, user_id: str, *, etag: str) -> Deletion:
        """Delete a user with their personal organization, unless they are deleted.

        Raises:
            NotFound: there never was such a user.
            StaleEtag: the user has changed since the etag was read.
            LastOwner: nobody else owns one of their other organizations.
            Conflict: they joined an organization at the same time.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            # Lock order: organizations before users, to avoid deadlocks.
            organization_ids = await deletion_store.organizations_of(tx, user_id)
            await deletion_store.hold_organizations(tx, organization_ids)
            user = existing(await store.hold_user(tx, user_id, show_deleted=True), user_id)
            if user.delete_time is not None:
                return Deletion(user, 0, await current_revision(tx))
            if etag and etag != user.etag:
                raise StaleEtag(resource_type="user")
            if await deletion_store.organizations_of(tx, user_id) != organization_ids:
                raise Conflict
            owners = await deletion_store.owners_of(tx, organization_ids)
            owners.pop(user.personal_organization_id, None)
            if left_alone := solely_owned(owners, user_id):
                raise LastOwner(organization_id=left_alone[0], user_id=user_id)
            revoked = await _take_out(tx, user, now)
            made = await revoke_invitations_of(tx, subject_of(user_id), now)
            received = await _erase_from_invitations(tx, user, now)
            deleted = existing(await store.find_user(tx, user_id, show_deleted=True), user_id)
            await _tell(tx, user, organization_ids, made, received, now)
            return Deletion(deleted, revoked, await _announce(tx, user, now))


async def _take_out(tx: Transaction, user: User, now: datetime) -> int:
    """Revoke, remove and erase everything; return how many keys were revoked."""
    name = user.full_name or user.username
    await deletion_store.remove_from_organizations(tx, user.user_id)
    revoked = await deletion_store.revoke_keys(tx, user.user_id, user.personal_organization_id, now)
    await deletion_store.delete_organization(tx, user.personal_organization_id, name, now)
    await deletion_store.erase_user(tx, user.user_id, name, now)
    return revoked


async def _erase_from_invitations(tx: Transaction, user: User, now: datetime) -> Mapping[str, str]:
    """Erase the user's address from invitations; return the open ones among them, by organization.

    Invitations that were only addressed to it are included only if the address is known to be the user's. Otherwise
    somebody could register with another person's address, delete the account, and so end that person's invitations.
    """
    is_theirs = is_operator() or user.email_verify_time is not None
    return await erase_from_invitations(tx, user.user_id, folded_email(user.email) if is_theirs else None, now)


async def _tell(
    tx: Transaction,
    user: User,
    organization_ids: list[str],
    made: Mapping[str, int],
    received: Mapping[str, str],
    now: datetime,
) -> None:
    """Record the deletion in the audit trail of every affected organization.

    Those are the organizations that lost a member, an invitation of the user's or one addressed to them, and the
    deleted personal organization.
    """
    for organization_id in sorted({*organization_ids, *made, *received, user.personal_organization_id}):
        own = organization_id == user.personal_organization_id
        changed = [Changed("delete_time")] if own else []
        if organization_id in made:
            changed.append(Changed("revoked_invitations", after=str(made[organization_id])))
        if own or changed or organization_id in organization_ids:
            await record_event(
                tx,
                now=now,
                organization_id=organization_id,
                resource_type="user" if own else "member",
                resource_id=user.user_id,
                changed=changed,
            )
        if organization_id in received:
            await record_event(
                tx,
                now=now,
                organization_id=organization_id,
                resource_type="invitation",
                resource_id=received[organization_id],
                changed=(Changed("email"), Changed("revoke_time")),
            )


async def _announce(tx: Transaction, user: User, now: datetime) -> int:
    """Number and announce the changes that affect verification; the last statements of the transaction."""
    organization_id = user.personal_organization_id
    await record_change(
        tx,
        ChangeKind.ORGANIZATION_DELETED,
        SubjectType.ORGANIZATION,
        organization_id,
        organization_id=organization_id,
        now=now,
    )
    return await record_change(
        tx, ChangeKind.OWNER_DELETED, SubjectType.USER, user.user_id, organization_id=None, now=now
    )
