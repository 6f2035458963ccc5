"""Statements on projects, along the primary key (which the organization leads) unless they say otherwise."""

from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.attributes import attributes_of
from services.identity.errors import ProjectAlreadyExists
from services.identity.folding import fold
from services.identity.project.domain import Project
from services.identity.tables import members, project_members, projects, users

_COLUMNS: Final = (
    projects.c.project_id,
    projects.c.organization_id,
    projects.c.name,
    projects.c.description,
    projects.c.create_time,
    projects.c.update_time,
    projects.c.version,
    projects.c.metadata,
    projects.c.external_id,
)

_UNIQUE_FIELDS: Final = {"projects_name_once": "name", "projects_external_id_once": "external_id"}


async def insert_project(tx: AsyncConnection, project: Project) -> None:
    """Insert a project; partial unique indexes guard the name and the external id.

    Raises:
        ProjectAlreadyExists: the organization has one of this name or external id.
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
                version=project.version,
                **asdict(project.attributes),
            )
        )
    except IntegrityError as error:
        raise _refusal(error) from error


async def find_project(
    tx: AsyncConnection, organization_id: str, project_id: str, *, lock: bool = False
) -> Project | None:
    """Read one project of the organization, with an exclusive lock until commit if asked."""
    statement = select(*_COLUMNS).where(
        projects.c.organization_id == organization_id,
        projects.c.project_id == project_id,
        projects.c.delete_time.is_(None),
    )
    found = await tx.execute(statement.with_for_update() if lock else statement)
    row = found.mappings().first()
    return None if row is None else _project(row)


async def lock_project(tx: AsyncConnection, organization_id: str, project_id: str) -> bool:
    """Return whether the organization has the project, and lock it against deletion until commit (share lock)."""
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


async def lock_to_delete(
    tx: AsyncConnection, organization_id: str, project_id: str
) -> tuple[Project, datetime | None] | None:
    """Lock one project exclusively, deleted or not; return it and when it was deleted."""
    locked = await tx.execute(
        select(*_COLUMNS, projects.c.delete_time)
        .where(projects.c.organization_id == organization_id, projects.c.project_id == project_id)
        .with_for_update()
    )
    row = locked.mappings().first()
    if row is None:
        return None
    return _project(row), row["delete_time"]


async def list_projects(
    tx: AsyncConnection, organization_id: str, *, external_id: str, before: str | None, limit: int
) -> list[Project]:
    """Read a page, newest first. An external id leaves one row at most, which its unique index finds."""
    statement = select(*_COLUMNS).where(projects.c.organization_id == organization_id, projects.c.delete_time.is_(None))
    if external_id:
        # Repeats the condition of the partial index, so that Postgres can use it.
        statement = statement.where(projects.c.external_id == external_id, projects.c.external_id != "")
    if before is not None:
        statement = statement.where(projects.c.project_id < before)
    found = await tx.execute(statement.order_by(projects.c.project_id.desc()).limit(limit))
    return [_project(row) for row in found.mappings()]


async def replace_project(tx: AsyncConnection, project: Project) -> None:
    """Write the changeable fields of one project.

    Raises:
        ProjectAlreadyExists: the organization has another one of this name or external id.
    """
    try:
        await tx.execute(
            update(projects)
            .where(projects.c.organization_id == project.organization_id, projects.c.project_id == project.project_id)
            .values(
                name=project.name,
                name_folded=fold(project.name),
                description=project.description,
                update_time=project.update_time,
                version=project.version,
                **asdict(project.attributes),
            )
        )
    except IntegrityError as error:
        raise _refusal(error) from error


async def delete_project(tx: AsyncConnection, organization_id: str, project_id: str, now: datetime) -> None:
    """Mark a project as deleted and delete its memberships. The row stays: keys, money and audit refer to it."""
    await tx.execute(
        update(projects)
        .where(projects.c.organization_id == organization_id, projects.c.project_id == project_id)
        .values(delete_time=now, update_time=now, version=projects.c.version + 1)
    )
    await tx.execute(
        delete(project_members).where(
            project_members.c.organization_id == organization_id, project_members.c.project_id == project_id
        )
    )


async def forget_selection(tx: AsyncConnection, organization_id: str, project_id: str) -> None:
    """Clear the selection of the members who had selected the project, found by primary key.

    Rows that another transaction has locked are skipped. Their selection then names a deleted project, which reads
    ignore; waiting for a user here while holding the project could deadlock.
    """
    who = (
        select(users.c.user_id)
        .join(members, members.c.user_id == users.c.user_id)
        .where(members.c.organization_id == organization_id, users.c.last_selected_project_id == project_id)
        .with_for_update(of=users, skip_locked=True)
    )
    await tx.execute(update(users).where(users.c.user_id.in_(who)).values(last_selected_project_id=None))


def _refusal(error: IntegrityError) -> Exception:
    field = _UNIQUE_FIELDS.get(violated_constraint(error) or "")
    return ProjectAlreadyExists(field=field) if field else error


def _project(row: RowMapping) -> Project:
    fields = attributes_of(dict(row))
    fields.pop("delete_time", None)
    return Project(**fields)  # type: ignore[arg-type]  # The columns are the fields.
