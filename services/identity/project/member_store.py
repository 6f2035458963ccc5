"""Statements on members of projects, along the primary key unless they say otherwise."""

from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, Select, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.errors import ProjectMemberAlreadyExists
from services.identity.project.domain import ProjectMember, ProjectRole
from services.identity.revocation import revoke_keys
from services.identity.tables import api_keys, members, project_members, users

_COLUMNS: Final = (*project_members.c, users.c.email, users.c.full_name)
_FREE_ROLES: Final = ("owner", "admin")
"""The organization roles that give access to every project without a membership in it."""


async def insert_project_member(
    tx: AsyncConnection, organization_id: str, project_id: str, user_id: str, role: ProjectRole, now: datetime
) -> None:
    """Insert a member of a project; the primary key allows a user once.

    Raises:
        ProjectMemberAlreadyExists: the user works in the project already.
    """
    try:
        await tx.execute(
            insert(project_members).values(
                organization_id=organization_id,
                project_id=project_id,
                user_id=user_id,
                role=role.value,
                create_time=now,
                update_time=now,
            )
        )
    except IntegrityError as error:
        if violated_constraint(error) != "project_members_pkey":
            raise
        raise ProjectMemberAlreadyExists(field="user_id") from error


async def find_project_member(
    tx: AsyncConnection, organization_id: str, project_id: str, user_id: str, *, lock: bool = False
) -> ProjectMember | None:
    """Read one member of a project, with a lock until commit if asked."""
    statement = _of_project(organization_id, project_id).where(project_members.c.user_id == user_id)
    found = await tx.execute(statement.with_for_update(of=project_members) if lock else statement)
    row = found.mappings().first()
    return None if row is None else _member(row)


async def update_project_role(tx: AsyncConnection, member: ProjectMember, role: ProjectRole, now: datetime) -> None:
    """Change the role of one member of a project."""
    await tx.execute(
        update(project_members)
        .where(
            project_members.c.organization_id == member.organization_id,
            project_members.c.project_id == member.project_id,
            project_members.c.user_id == member.user_id,
        )
        .values(role=role.value, update_time=now, version=project_members.c.version + 1)
    )


async def delete_project_member(tx: AsyncConnection, member: ProjectMember) -> None:
    """Delete one member of a project."""
    await tx.execute(
        delete(project_members).where(
            project_members.c.organization_id == member.organization_id,
            project_members.c.project_id == member.project_id,
            project_members.c.user_id == member.user_id,
        )
    )


async def revoke_keys_of_project_member(tx: AsyncConnection, member: ProjectMember, now: datetime) -> int:
    """Revoke the user's keys in the project, along `api_keys_by_user`; return how many.

    Owners and admins of the organization keep theirs: they have access to the project without a membership.
    """
    is_free = (
        select(members.c.user_id)
        .where(
            members.c.organization_id == member.organization_id,
            members.c.user_id == member.user_id,
            members.c.role.in_(_FREE_ROLES),
        )
        .exists()
    )
    return await revoke_keys(
        tx,
        now,
        api_keys.c.user_id == member.user_id,
        api_keys.c.organization_id == member.organization_id,
        api_keys.c.project_id == member.project_id,
        ~is_free,
    )


async def list_project_members(
    tx: AsyncConnection, organization_id: str, project_id: str, *, after: str | None, limit: int
) -> list[ProjectMember]:
    """Read a page."""
    statement = _of_project(organization_id, project_id)
    if after is not None:
        statement = statement.where(project_members.c.user_id > after)
    found = await tx.execute(statement.order_by(project_members.c.user_id).limit(limit))
    return [_member(row) for row in found.mappings()]


def _of_project(organization_id: str, project_id: str) -> Select[tuple[object, ...]]:
    return (
        select(*_COLUMNS)
        .join(users, users.c.user_id == project_members.c.user_id)
        .where(project_members.c.organization_id == organization_id, project_members.c.project_id == project_id)
    )


def _member(row: RowMapping) -> ProjectMember:
    return ProjectMember(**{**row, "role": ProjectRole(row["role"])})
