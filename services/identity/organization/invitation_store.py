"""Statements on invitations."""

from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, Update, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.access import Caller, CallerKind
from libs.common.database import Database, violated_constraint
from services.identity.errors import InvitationAlreadyExists
from services.identity.organization.domain import Invitation, Role
from services.identity.tables import invitations, members, service_accounts, users

# Along the index of times, a bounded number of rows; rows that another transaction has locked wait for the next round.
_FORGET: Final = """
    DELETE FROM invitations WHERE (organization_id, invitation_id) IN (
        SELECT organization_id, invitation_id FROM invitations WHERE expire_time < $1
        ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED)
"""
_COLUMNS: Final = tuple(column for column in invitations.c if column.name != "digest")
_UNDECIDED: Final = (invitations.c.accept_time.is_(None), invitations.c.revoke_time.is_(None))


async def insert_invitation(tx: AsyncConnection, invitation: Invitation, digest: bytes) -> None:
    """Insert an invitation; a partial unique index allows one open invitation for each address.

    Raises:
        InvitationAlreadyExists: the address has one.
    """
    try:
        await tx.execute(
            insert(invitations).values(
                organization_id=invitation.organization_id,
                invitation_id=invitation.invitation_id,
                email=invitation.email,
                email_folded=invitation.email_folded,
                role=invitation.role.value,
                digest=digest,
                inviter=invitation.inviter,
                create_time=invitation.create_time,
                expire_time=invitation.expire_time,
            )
        )
    except IntegrityError as error:
        if violated_constraint(error) != "invitations_email_once":
            raise
        raise InvitationAlreadyExists(field="email") from error


async def revoke_lapsed(tx: AsyncConnection, organization_id: str, email_folded: str, now: datetime) -> None:
    """Revoke an expired invitation of the address, so that a new one can be inserted (one row,
    `invitations_email_once`)."""
    await tx.execute(
        update(invitations)
        .where(
            invitations.c.organization_id == organization_id,
            invitations.c.email_folded == email_folded,
            *_UNDECIDED,
            invitations.c.expire_time <= now,
        )
        .values(revoke_time=now)
    )


async def find_invitation(
    tx: AsyncConnection, organization_id: str, invitation_id: str, *, lock: bool = False
) -> Invitation | None:
    """Read one invitation by primary key, with a lock until commit if asked, so that it is accepted only once."""
    statement = select(*_COLUMNS).where(
        invitations.c.organization_id == organization_id, invitations.c.invitation_id == invitation_id
    )
    found = await tx.execute(statement.with_for_update() if lock else statement)
    row = found.mappings().first()
    return None if row is None else _invitation(row)


async def find_by_digest(tx: AsyncConnection, digest: bytes) -> Invitation | None:
    """Read one invitation along the unique index of digests, without a lock."""
    found = await tx.execute(select(*_COLUMNS).where(invitations.c.digest == digest))
    row = found.mappings().first()
    return None if row is None else _invitation(row)


async def lock_inviter(tx: AsyncConnection, organization_id: str, caller: Caller) -> Role | None:
    """Return the inviter's role and lock it until commit; None when the inviter was deleted, removed or deactivated.

    Share lock on one row, found by primary key: the user or the service account. The caller has locked the
    organization, which keeps its members unchanged.
    """
    if caller.kind is CallerKind.USER:
        statement = (
            select(members.c.role)
            .join(users, users.c.user_id == members.c.user_id)
            .where(
                members.c.organization_id == organization_id,
                members.c.user_id == caller.name,
                users.c.deactivate_time.is_(None),
                users.c.delete_time.is_(None),
            )
            .with_for_update(read=True, of=users)
        )
    else:
        statement = (
            select(service_accounts.c.role)
            .where(
                service_accounts.c.organization_id == organization_id,
                service_accounts.c.service_account_id == caller.name,
                service_accounts.c.delete_time.is_(None),
            )
            .with_for_update(read=True)
        )
    role = (await tx.execute(statement)).scalar_one_or_none()
    return None if role is None else Role(role)


async def lock_email_of(tx: AsyncConnection, user_id: str) -> str | None:
    """Return the folded email of a user, by primary key, and lock it until commit (share lock on one row)."""
    found = await tx.execute(
        select(users.c.email_folded)
        .where(users.c.user_id == user_id, users.c.delete_time.is_(None))
        .with_for_update(read=True)
    )
    return found.scalar_one_or_none()


async def accept_invitation(tx: AsyncConnection, invitation: Invitation, user_id: str, now: datetime) -> None:
    """Mark a locked invitation as accepted, by primary key."""
    await tx.execute(_one(invitation).values(accept_time=now, accepted_user_id=user_id))


async def revoke_invitation(tx: AsyncConnection, invitation: Invitation, now: datetime) -> None:
    """Mark a locked invitation as revoked, by primary key."""
    await tx.execute(_one(invitation).values(revoke_time=now))


async def list_invitations(
    tx: AsyncConnection, organization_id: str, *, open_at: datetime | None, before: str | None, limit: int
) -> list[Invitation]:
    """Read a page, newest first, backwards along the primary key, or along `invitations_open` for the open ones."""
    statement = select(*_COLUMNS).where(invitations.c.organization_id == organization_id)
    if open_at is not None:
        statement = statement.where(*_UNDECIDED, invitations.c.expire_time > open_at)
    if before is not None:
        statement = statement.where(invitations.c.invitation_id < before)
    found = await tx.execute(statement.order_by(invitations.c.invitation_id.desc()).limit(limit))
    return [_invitation(row) for row in found.mappings()]


async def forget_invitations(database: Database, before: datetime, limit: int) -> None:
    """Delete invitations whose retention is over; the audit trail keeps a record without the address."""
    async with database.raw_connection() as connection:
        await connection.execute(_FORGET, before, limit)


def _one(invitation: Invitation) -> Update:
    return update(invitations).where(
        invitations.c.organization_id == invitation.organization_id,
        invitations.c.invitation_id == invitation.invitation_id,
    )


def _invitation(row: RowMapping) -> Invitation:
    return Invitation(**{**row, "role": Role(row["role"])})
