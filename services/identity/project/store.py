"""Statements on projects, all along the primary key, which the organization leads."""

from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.errors import ProjectAlreadyExists
from services.identity.folding import fold
from services.identity.project.model import Project
from services.identity.tables import projects

_COLUMNS: Final = (
    projects.c.project_id,
    projects.c.organization_id,
    projects.c.name,
    projects.c.description,
    projects.c.create_time,
    projects.c.update_time,
)


async def insert_project(tx: AsyncConnection, project: Project) -> None:
    """Insert a project; a partial unique index speaks for the name.

    Raises:
        ProjectAlreadyExists: the organization has one of this name.
    """
    try:
        await tx.execute(
            insert(projects).values(
                organization_id=project.organization_id,
                project_id=project.project_id,
                name=project.name,
                name_folded=fold(project.name),
                description=project.description,
                create_time=project.create_time,
                update_time=project.update_time,
            )
        )
    except IntegrityError as error:
        if violated_constraint(error) != "projects_name_once":
            raise
        raise ProjectAlreadyExists(field="name") from error


async def find_project(tx: AsyncConnection, organization_id: str, project_id: str) -> Project | None:
    """Read one project by primary key; that of another organization is not found."""
    found = await tx.execute(
        select(*_COLUMNS).where(
            projects.c.organization_id == organization_id,
            projects.c.project_id == project_id,
            projects.c.delete_time.is_(None),
        )
    )
    row = found.mappings().first()
    return None if row is None else Project(**row)


async def lock_project(tx: AsyncConnection, organization_id: str, project_id: str) -> bool:
    """Tell whether the organization has the project, and keep it from being deleted until commit (share lock)."""
    locked = await tx.execute(
        select(projects.c.project_id)
        .where(
            projects.c.organization_id == organization_id,
            projects.c.project_id == project_id,
            projects.c.delete_time.is_(None),
        )
        .with_for_update(read=True)
    )
    return locked.first() is not None


async def list_projects(tx: AsyncConnection, organization_id: str, *, before: str | None, limit: int) -> list[Project]:
    """Read a page, newest first, backwards along the primary key."""
    statement = select(*_COLUMNS).where(projects.c.organization_id == organization_id, projects.c.delete_time.is_(None))
    if before is not None:
        statement = statement.where(projects.c.project_id < before)
    found = await tx.execute(statement.order_by(projects.c.project_id.desc()).limit(limit))
    return [Project(**row) for row in found.mappings()]
