"""Statements on organizations and members."""

from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.errors import MemberAlreadyExists
from services.identity.organization.model import Member, Organization, Role
from services.identity.tables import api_keys, members, organizations

_ORGANIZATION: Final = (
    organizations.c.organization_id,
    organizations.c.name,
    organizations.c.create_time,
    organizations.c.update_time,
)
_NOT_DELETED: Final = organizations.c.delete_time.is_(None)


async def insert_organization(tx: AsyncConnection, organization_id: str, name: str, now: datetime) -> None:
    """Insert an organization; names are free."""
    await tx.execute(
        insert(organizations).values(organization_id=organization_id, name=name, create_time=now, update_time=now)
    )


async def find_organization(tx: AsyncConnection, organization_id: str) -> Organization | None:
    """Read one organization by primary key."""
    found = await tx.execute(
        select(*_ORGANIZATION).where(organizations.c.organization_id == organization_id, _NOT_DELETED)
    )
    row = found.mappings().first()
    return None if row is None else Organization(**row)


async def lock_organization(tx: AsyncConnection, organization_id: str, *, alone: bool = False) -> bool:
    """Tell whether the organization exists, and hold it as it is until commit.

    A share lock keeps it from being deleted; `alone` also keeps other changes of its owners out, so that two owners
    cannot remove each other at the same time.
    """
    statement = select(organizations.c.organization_id).where(
        organizations.c.organization_id == organization_id, _NOT_DELETED
    )
    locked = await tx.execute(statement.with_for_update(read=not alone))
    return locked.first() is not None


async def list_organizations(
    tx: AsyncConnection, *, user_id: str, before: str | None, limit: int
) -> list[Organization]:
    """Read a page, newest first, backwards along the primary key, or along `members_by_user` for one user."""
    statement = select(*_ORGANIZATION).where(_NOT_DELETED)
    if user_id:
        statement = statement.join(members, members.c.organization_id == organizations.c.organization_id).where(
            members.c.user_id == user_id
        )
    if before is not None:
        statement = statement.where(organizations.c.organization_id < before)
    found = await tx.execute(statement.order_by(organizations.c.organization_id.desc()).limit(limit))
    return [Organization(**row) for row in found.mappings()]


async def insert_member(tx: AsyncConnection, member: Member) -> None:
    """Insert a member; the primary key allows a user once in an organization.

    Raises:
        MemberAlreadyExists: the user belongs to it already.
    """
    try:
        await tx.execute(
            insert(members).values(
                organization_id=member.organization_id,
                user_id=member.user_id,
                role=member.role.value,
                create_time=member.create_time,
                update_time=member.update_time,
            )
        )
    except IntegrityError as error:
        if violated_constraint(error) != "members_pkey":
            raise
        raise MemberAlreadyExists(field="user_id") from error


async def find_member(tx: AsyncConnection, organization_id: str, user_id: str) -> Member | None:
    """Read one member by primary key."""
    found = await tx.execute(
        select(members).where(members.c.organization_id == organization_id, members.c.user_id == user_id)
    )
    row = found.mappings().first()
    return None if row is None else _member(**row)


async def lock_member(tx: AsyncConnection, organization_id: str, user_id: str) -> bool:
    """Tell whether the user belongs to the organization, and keep them in it until commit (share lock on one row)."""
    locked = await tx.execute(
        select(members.c.user_id)
        .where(members.c.organization_id == organization_id, members.c.user_id == user_id)
        .with_for_update(read=True)
    )
    return locked.first() is not None


async def count_owners(tx: AsyncConnection, organization_id: str) -> int:
    """Count the owners along the primary key; true until commit only under `lock_organization(alone=True)`."""
    counted = await tx.execute(
        select(func.count())
        .select_from(members)
        .where(members.c.organization_id == organization_id, members.c.role == Role.OWNER.value)
    )
    return int(counted.scalar_one())


async def update_role(tx: AsyncConnection, organization_id: str, user_id: str, role: Role, now: datetime) -> None:
    """Change the role of one member, by primary key."""
    await tx.execute(
        update(members)
        .where(members.c.organization_id == organization_id, members.c.user_id == user_id)
        .values(role=role.value, update_time=now)
    )


async def delete_member(tx: AsyncConnection, organization_id: str, user_id: str) -> None:
    """Remove one member, by primary key; waits for creations of keys that hold the row."""
    await tx.execute(delete(members).where(members.c.organization_id == organization_id, members.c.user_id == user_id))


async def revoke_keys_of_member(tx: AsyncConnection, organization_id: str, user_id: str, now: datetime) -> int:
    """Revoke what the user owns in the organization, along `api_keys_by_user`; return how many keys that were."""
    revoked = await tx.execute(
        update(api_keys)
        .where(
            api_keys.c.user_id == user_id,
            api_keys.c.organization_id == organization_id,
            api_keys.c.revoke_time.is_(None),
        )
        .values(revoke_time=now, update_time=now)
    )
    return revoked.rowcount


async def list_members(tx: AsyncConnection, organization_id: str, *, after: str | None, limit: int) -> list[Member]:
    """Read a page along the primary key."""
    statement = select(members).where(members.c.organization_id == organization_id)
    if after is not None:
        statement = statement.where(members.c.user_id > after)
    found = await tx.execute(statement.order_by(members.c.user_id).limit(limit))
    return [_member(**row) for row in found.mappings()]


def _member(organization_id: str, user_id: str, role: str, create_time: datetime, update_time: datetime) -> Member:
    return Member(organization_id, user_id, Role(role), create_time, update_time)
