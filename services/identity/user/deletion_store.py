"""Statements of a user's deletion: they erase personal data and keep what money, usage and audit refer to."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity import revocation
from services.identity.tables import (
    api_keys,
    linked_identities,
    members,
    organizations,
    project_members,
    sessions,
    user_configurations,
    users,
)


async def organizations_of(tx: AsyncConnection, user_id: str) -> list[str]:
    """Return the ids of a user's organizations in order, along `members_by_user`."""
    found = await tx.execute(
        select(members.c.organization_id).where(members.c.user_id == user_id).order_by(members.c.organization_id)
    )
    return list(found.scalars())


async def hold_organizations(tx: AsyncConnection, organization_ids: Collection[str]) -> None:
    """Lock these organizations, in the order of their ids, against changes of their owners until commit."""
    await tx.execute(
        select(organizations.c.organization_id)
        .where(organizations.c.organization_id.in_(organization_ids))
        .order_by(organizations.c.organization_id)
        .with_for_update(key_share=True)
    )


async def owners_of(tx: AsyncConnection, organization_ids: Collection[str]) -> dict[str, set[str]]:
    """Return the owners of those of these organizations that are not deleted, along both primary keys."""
    found = await tx.execute(
        select(members.c.organization_id, members.c.user_id)
        .join(organizations, organizations.c.organization_id == members.c.organization_id)
        .where(
            members.c.organization_id.in_(organization_ids),
            members.c.role == "owner",
            organizations.c.delete_time.is_(None),
        )
    )
    owners: dict[str, set[str]] = {}
    for row in found:
        owners.setdefault(row.organization_id, set()).add(row.user_id)
    return owners


async def remove_from_organizations(tx: AsyncConnection, user_id: str) -> None:
    """Delete a user's memberships, along the indexes by user; their organizations must be locked."""
    await tx.execute(delete(project_members).where(project_members.c.user_id == user_id))
    await tx.execute(delete(members).where(members.c.user_id == user_id))


async def revoke_keys(tx: AsyncConnection, user_id: str, personal_organization_id: str, now: datetime) -> int:
    """Revoke a user's keys everywhere, and all keys of their personal organization; return how many.

    The former are found along `api_keys_by_user`, the latter along the primary key.
    """
    return await revocation.revoke_keys(
        tx, now, or_(api_keys.c.user_id == user_id, api_keys.c.organization_id == personal_organization_id)
    )


async def delete_organization(tx: AsyncConnection, organization_id: str, name: str, now: datetime) -> None:
    """Mark an organization as deleted and erase its personal data, by primary key; bills and the audit trail refer to
    the row."""
    await tx.execute(
        update(organizations)
        .where(organizations.c.organization_id == organization_id, organizations.c.delete_time.is_(None))
        .values(
            name=name,
            metadata={},
            external_id="",
            delete_time=now,
            update_time=now,
            version=organizations.c.version + 1,
        )
    )


async def erase_user(tx: AsyncConnection, user_id: str, name: str, now: datetime) -> None:
    """Erase everything of a user but the id and a name; the row must be locked.

    Related rows are found along the indexes by user. The addresses in their sessions are erased as well.
    """
    await tx.execute(delete(linked_identities).where(linked_identities.c.user_id == user_id))
    await tx.execute(delete(user_configurations).where(user_configurations.c.user_id == user_id))
    await tx.execute(
        update(sessions)
        .where(sessions.c.user_id == user_id, sessions.c.end_time.is_(None))
        .values(end_time=now, end_reason="user_deleted")
    )
    await tx.execute(
        update(sessions)
        .where(sessions.c.user_id == user_id, sessions.c.end_time.is_not(None))
        .values(peer_address="", user_agent="")
    )
    await tx.execute(
        update(users)
        .where(users.c.user_id == user_id)
        .values(
            email="",
            email_folded="",
            username=None,
            username_folded=None,
            full_name="",
            picture_url="",
            metadata={},
            external_id="",
            deleted_name=name,
            platform_role="user",
            password_hash=None,
            email_verify_time=None,
            last_selected_organization_id=None,
            last_selected_project_id=None,
            delete_time=now,
            update_time=now,
            version=users.c.version + 1,
        )
    )
