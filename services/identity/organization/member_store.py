"""Statements on members, along the primary key (which the organization leads) unless they say otherwise."""

from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.errors import MemberAlreadyExists
from services.identity.organization.domain import Member, Role
from services.identity.revocation import revoke_keys
from services.identity.tables import api_keys, members, project_members, users

_COLUMNS: Final = (*members.c, users.c.email, users.c.full_name)


async def insert_member(tx: AsyncConnection, organization_id: str, user_id: str, role: Role, now: datetime) -> None:
    """Insert a member; the primary key allows a user once in an organization.

    Raises:
        MemberAlreadyExists: the user belongs to it already.
    """
    try:
        await tx.execute(
            insert(members).values(
                organization_id=organization_id, user_id=user_id, role=role.value, create_time=now, update_time=now
            )
        )
    except IntegrityError as error:
        if violated_constraint(error) != "members_pkey":
            raise
        raise MemberAlreadyExists(field="user_id") from error


async def find_member(tx: AsyncConnection, organization_id: str, user_id: str) -> Member | None:
    """Read one member."""
    found = await tx.execute(_of_organization(organization_id).where(members.c.user_id == user_id))
    row = found.mappings().first()
    return None if row is None else _member(row)


async def has_member_with_email(tx: AsyncConnection, organization_id: str, email_folded: str) -> bool:
    """Return whether a member has this address: one user by the index of emails, then one member."""
    found = await tx.execute(
        _of_organization(organization_id).where(users.c.email_folded == email_folded, users.c.delete_time.is_(None))
    )
    return found.first() is not None


async def lock_member(tx: AsyncConnection, organization_id: str, user_id: str) -> bool:
    """Return whether the user is a member, and lock the membership until commit (share lock on one row)."""
    locked = await tx.execute(
        select(members.c.user_id)
        .where(members.c.organization_id == organization_id, members.c.user_id == user_id)
        .with_for_update(read=True)
    )
    return locked.first() is not None


async def count_owners(tx: AsyncConnection, organization_id: str) -> int:
    """Count the owners. The count stays true until commit only under `lock_organization(alone=True)`."""
    counted = await tx.execute(
        select(func.count())
        .select_from(members)
        .where(members.c.organization_id == organization_id, members.c.role == Role.OWNER.value)
    )
    return int(counted.scalar_one())


async def update_role(tx: AsyncConnection, organization_id: str, user_id: str, role: Role, now: datetime) -> None:
    """Change the role of one member."""
    await tx.execute(
        update(members)
        .where(members.c.organization_id == organization_id, members.c.user_id == user_id)
        .values(role=role.value, update_time=now, version=members.c.version + 1)
    )


async def delete_member(tx: AsyncConnection, organization_id: str, user_id: str) -> None:
    """Delete one member, after their project memberships (along `project_members_by_member`).

    Waits for creations of keys, which lock the member's row.
    """
    await tx.execute(
        delete(project_members).where(
            project_members.c.organization_id == organization_id, project_members.c.user_id == user_id
        )
    )
    await tx.execute(delete(members).where(members.c.organization_id == organization_id, members.c.user_id == user_id))


async def forget_selection_of_member(tx: AsyncConnection, organization_id: str, user_id: str) -> None:
    """Clear the user's selected organization if it is this one: one row, skipped while another transaction has locked
    it."""
    who = (
        select(users.c.user_id)
        .where(users.c.user_id == user_id, users.c.last_selected_organization_id == organization_id)
        .with_for_update(skip_locked=True)
    )
    await tx.execute(
        update(users)
        .where(users.c.user_id.in_(who))
        .values(last_selected_organization_id=None, last_selected_project_id=None)
    )


async def revoke_keys_of_member(tx: AsyncConnection, organization_id: str, user_id: str, now: datetime) -> int:
    """Revoke the user's keys in the organization, along `api_keys_by_user`; return how many."""
    return await revoke_keys(tx, now, api_keys.c.user_id == user_id, api_keys.c.organization_id == organization_id)


async def list_members(
    tx: AsyncConnection, organization_id: str, *, user_id: str | None, after: str | None, limit: int
) -> list[Member]:
    """Read a page, along the primary key; with a user_id one probe of it."""
    statement = _of_organization(organization_id)
    if user_id is not None:
        statement = statement.where(members.c.user_id == user_id)
    if after is not None:
        statement = statement.where(members.c.user_id > after)
    found = await tx.execute(statement.order_by(members.c.user_id).limit(limit))
    return [_member(row) for row in found.mappings()]


def _of_organization(organization_id: str) -> Select[tuple[object, ...]]:
    return (
        select(*_COLUMNS)
        .join(users, users.c.user_id == members.c.user_id)
        .where(members.c.organization_id == organization_id)
    )


def _member(row: RowMapping) -> Member:
    return Member(**{**row, "role": Role(row["role"])})
