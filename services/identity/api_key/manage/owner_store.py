"""Statements on the roles of owners and on the longest life of an organization's keys."""

from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.api_key.manage.limits import Owner
from services.identity.tables import members, organizations, project_members, projects, service_accounts

_PROJECTS_MAX: Final = 1_000
"""The number of projects of one organization of which a user's roles are read at most."""


async def find_max_lifetime_s(tx: AsyncConnection, organization_id: str) -> int | None:
    """Read the longest life of an organization's keys, by primary key; None when there is no limit."""
    found = await tx.execute(
        select(organizations.c.api_key_max_lifetime_s).where(organizations.c.organization_id == organization_id)
    )
    return found.scalar_one_or_none()


async def lock_member(tx: AsyncConnection, organization_id: str, user_id: str, project_id: str | None) -> Owner | None:
    """Read a member's roles and lock the member until commit (share lock on one row); None when they are no member.

    For a key that is bound to a project the role in that project counts, for any other key those in all projects.
    """
    locked = await tx.execute(
        select(members.c.role)
        .where(members.c.organization_id == organization_id, members.c.user_id == user_id)
        .with_for_update(read=True)
    )
    role = locked.scalar_one_or_none()
    if role is None:
        return None
    # Along project_members_by_member; the projects by primary key.
    statement = (
        select(project_members.c.role)
        .join(
            projects,
            (projects.c.organization_id == project_members.c.organization_id)
            & (projects.c.project_id == project_members.c.project_id),
        )
        .where(
            project_members.c.organization_id == organization_id,
            project_members.c.user_id == user_id,
            projects.c.delete_time.is_(None),
        )
    )
    if project_id is not None:
        statement = statement.where(project_members.c.project_id == project_id)
    roles = (await tx.execute(statement.limit(_PROJECTS_MAX))).scalars()
    return Owner(role, tuple(sorted(set(roles))))


async def lock_service_account(tx: AsyncConnection, organization_id: str, service_account_id: str) -> Owner | None:
    """Read a service account's role and lock it until commit (share lock on one row); None when there is none."""
    locked = await tx.execute(
        select(service_accounts.c.role)
        .where(
            service_accounts.c.organization_id == organization_id,
            service_accounts.c.service_account_id == service_account_id,
            service_accounts.c.delete_time.is_(None),
        )
        .with_for_update(read=True)
    )
    role = locked.scalar_one_or_none()
    return None if role is None else Owner(role, is_service_account=True)
