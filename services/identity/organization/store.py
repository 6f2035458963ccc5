"""Statements on organizations."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy import ARRAY, Insert, RowMapping, Update, any_, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.attributes import Attributes, attributes_of
from services.identity.errors import OrganizationAlreadyExists
from services.identity.organization.domain import Organization
from services.identity.organization.member_store import lock_member as lock_member
from services.identity.tables import members, organizations, users

_COLUMNS: Final = (
    organizations.c.organization_id,
    organizations.c.name,
    organizations.c.create_time,
    organizations.c.update_time,
    organizations.c.personal,
    organizations.c.api_key_max_lifetime_s,
    organizations.c.version,
    organizations.c.metadata,
    organizations.c.external_id,
)
_NOT_DELETED: Final = organizations.c.delete_time.is_(None)


async def insert_organization(
    tx: AsyncConnection, organization_id: str, name: str, attributes: Attributes, now: datetime
) -> None:
    """Insert an organization. Names need not be unique; a partial unique index guards the external id.

    Raises:
        OrganizationAlreadyExists: another one has the external id.
    """
    values = {"organization_id": organization_id, "name": name, "create_time": now, "update_time": now}
    await _execute_unique(tx, insert(organizations).values(values | asdict(attributes)))


async def find_organization(tx: AsyncConnection, organization_id: str) -> Organization | None:
    """Read one organization by primary key."""
    found = await tx.execute(select(*_COLUMNS).where(organizations.c.organization_id == organization_id, _NOT_DELETED))
    row = found.mappings().first()
    return None if row is None else _organization(row)


async def known_organizations(tx: AsyncConnection, organization_ids: Collection[str]) -> list[str]:
    """Return those of the ids that are there, deleted or not; by primary key."""
    # Bound as one array, so that it is one statement whatever the number of ids.
    wanted = bindparam("wanted", list(organization_ids), ARRAY(organizations.c.organization_id.type))
    found = await tx.execute(
        select(organizations.c.organization_id).where(organizations.c.organization_id == any_(wanted))
    )
    return list(found.scalars())


async def lock_organization(tx: AsyncConnection, organization_id: str, *, alone: bool = False) -> bool:
    """Return whether the organization exists, and lock it until commit.

    A share lock keeps it from being deleted. `alone` also excludes other changes of its owners, so that two owners
    cannot remove each other at the same time. Neither blocks inserts of rows that refer to the organization.
    """
    statement = select(organizations.c.organization_id).where(
        organizations.c.organization_id == organization_id, _NOT_DELETED
    )
    locked = await tx.execute(statement.with_for_update(read=not alone, key_share=alone))
    return locked.first() is not None


async def lock_to_delete(tx: AsyncConnection, organization_id: str) -> tuple[bool, datetime | None] | None:
    """Lock one organization exclusively, by primary key, deleted or not; return whether it is personal and when it was
    deleted."""
    locked = await tx.execute(
        select(organizations.c.personal, organizations.c.delete_time)
        .where(organizations.c.organization_id == organization_id)
        .with_for_update(key_share=True)
    )
    row = locked.first()
    return None if row is None else (row.personal, row.delete_time)


async def list_organizations(
    tx: AsyncConnection, *, user_id: str, external_id: str, before: str | None, limit: int
) -> list[Organization]:
    """Read a page, newest first, backwards along the primary key, or along `members_by_user` for one user.

    An external id leaves one row at most, which its unique index finds.
    """
    statement = select(*_COLUMNS).where(_NOT_DELETED)
    if external_id:
        # Repeats the condition of the partial index, so that Postgres can use it.
        statement = statement.where(organizations.c.external_id == external_id, organizations.c.external_id != "")
    if user_id:
        statement = statement.join(members, members.c.organization_id == organizations.c.organization_id).where(
            members.c.user_id == user_id
        )
    if before is not None:
        statement = statement.where(organizations.c.organization_id < before)
    found = await tx.execute(statement.order_by(organizations.c.organization_id.desc()).limit(limit))
    return [_organization(row) for row in found.mappings()]


async def replace_organization(tx: AsyncConnection, organization: Organization) -> None:
    """Write the changeable fields of one organization, by primary key.

    Raises:
        OrganizationAlreadyExists: another one has the external id.
    """
    await _execute_unique(
        tx,
        update(organizations)
        .where(organizations.c.organization_id == organization.organization_id)
        .values(
            name=organization.name,
            api_key_max_lifetime_s=organization.api_key_max_lifetime_s,
            update_time=organization.update_time,
            version=organization.version,
            **asdict(organization.attributes),
        ),
    )


async def delete_organization(tx: AsyncConnection, organization_id: str, now: datetime) -> None:
    """Mark an organization as deleted, by primary key. The row stays: members, keys, money and audit refer to it."""
    await tx.execute(
        update(organizations)
        .where(organizations.c.organization_id == organization_id)
        .values(delete_time=now, update_time=now, version=organizations.c.version + 1)
    )


async def forget_selection(tx: AsyncConnection, organization_id: str) -> None:
    """Clear the selection of the members who had selected the organization, found by primary key.

    Rows that another transaction has locked are skipped. Their selection then names a deleted organization, which reads
    ignore; waiting for a user here while holding the organization could deadlock.
    """
    who = (
        select(users.c.user_id)
        .join(members, members.c.user_id == users.c.user_id)
        .where(members.c.organization_id == organization_id, users.c.last_selected_organization_id == organization_id)
        .with_for_update(of=users, skip_locked=True)
    )
    await tx.execute(
        update(users)
        .where(users.c.user_id.in_(who))
        .values(last_selected_organization_id=None, last_selected_project_id=None)
    )


async def _execute_unique(tx: AsyncConnection, statement: Insert | Update) -> None:
    try:
        await tx.execute(statement)
    except IntegrityError as error:
        if violated_constraint(error) != "organizations_external_id_once":
            raise
        raise OrganizationAlreadyExists(field="external_id") from error


def _organization(row: RowMapping) -> Organization:
    return Organization(**attributes_of(dict(row)))  # type: ignore[arg-type]  # The columns are the fields.
