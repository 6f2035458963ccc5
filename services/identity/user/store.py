"""Statements on users. A deleted user is none: only the tombstone's own readers see it."""

from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.errors import UserAlreadyExists
from services.identity.folding import fold
from services.identity.tables import users
from services.identity.user.model import NewUser, User

_UNIQUE_FIELDS: Final = {"users_email_once": "email", "users_username_once": "username"}
_COLUMNS: Final = (
    users.c.user_id,
    users.c.email,
    func.coalesce(users.c.username, "").label("username"),
    users.c.full_name,
    users.c.picture_url,
    users.c.create_time,
    users.c.update_time,
    users.c.deactivate_time,
)


async def insert_user(tx: AsyncConnection, user_id: str, new: NewUser, now: datetime) -> None:
    """Insert a user; the partial unique indexes speak for email and username.

    Raises:
        UserAlreadyExists: the email or the username is taken.
    """
    statement = insert(users).values(
        user_id=user_id,
        email=new.email,
        email_folded=fold(new.email),
        username=new.username or None,
        username_folded=fold(new.username) or None,
        full_name=new.full_name,
        picture_url=new.picture_url,
        create_time=now,
        update_time=now,
    )
    try:
        await tx.execute(statement)
    except IntegrityError as error:
        field = _UNIQUE_FIELDS.get(violated_constraint(error) or "")
        if field is None:
            raise
        raise UserAlreadyExists(field=field) from error


async def find_user(tx: AsyncConnection, user_id: str) -> User | None:
    """Read one user by primary key."""
    found = await tx.execute(select(*_COLUMNS).where(users.c.user_id == user_id, users.c.delete_time.is_(None)))
    row = found.mappings().first()
    return None if row is None else _user(row)


async def lock_user(tx: AsyncConnection, user_id: str) -> bool:
    """Tell whether the user exists, and keep them from being deleted until commit (share lock on one row)."""
    found = await tx.execute(
        select(users.c.user_id)
        .where(users.c.user_id == user_id, users.c.delete_time.is_(None))
        .with_for_update(read=True)
    )
    return found.first() is not None


async def set_user_active(tx: AsyncConnection, user_id: str, *, active: bool, now: datetime) -> bool:
    """Deactivate or reactivate; tell whether anything changed. Locks the user's row until commit."""
    is_active = users.c.deactivate_time.is_(None)
    changed = await tx.execute(
        update(users)
        .where(users.c.user_id == user_id, users.c.delete_time.is_(None), ~is_active if active else is_active)
        .values(deactivate_time=None if active else now, update_time=now)
        .returning(users.c.user_id)
    )
    return changed.first() is not None


async def list_users(tx: AsyncConnection, *, email: str, before: str | None, limit: int) -> list[User]:
    """Read a page, newest first, backwards along the primary key, or at most one row by the index of emails."""
    statement = select(*_COLUMNS).where(users.c.delete_time.is_(None))
    if email:
        statement = statement.where(users.c.email_folded == fold(email))
    if before is not None:
        statement = statement.where(users.c.user_id < before)
    found = await tx.execute(statement.order_by(users.c.user_id.desc()).limit(limit))
    return [_user(row) for row in found.mappings()]


def _user(row: RowMapping) -> User:
    return User(**row)
