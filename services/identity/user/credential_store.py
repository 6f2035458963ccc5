"""Statements on passwords and linked identities, and on the sessions of users."""

from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.errors import IdentityAlreadyLinked
from services.identity.tables import linked_identities, sessions, users
from services.identity.user.domain import LinkedIdentity


async def find_password_hash(tx: AsyncConnection, user_id: str) -> str | None:
    """Read the hash of a user's password, by primary key."""
    found = await tx.execute(select(users.c.password_hash).where(users.c.user_id == user_id))
    return found.scalar_one_or_none()


async def set_password_hash(tx: AsyncConnection, user_id: str, password_hash: str | None, now: datetime) -> None:
    """Set or remove a user's password, by primary key."""
    await tx.execute(
        update(users)
        .where(users.c.user_id == user_id)
        .values(password_hash=password_hash, password_change_time=now, update_time=now, version=users.c.version + 1)
    )


async def replace_outdated_hash(tx: AsyncConnection, user_id: str, *, outdated: str, renewed: str) -> None:
    """Store a new hash of the same password, by primary key, unless the password was changed meanwhile."""
    await tx.execute(
        update(users).where(users.c.user_id == user_id, users.c.password_hash == outdated).values(password_hash=renewed)
    )


async def note_sign_in(tx: AsyncConnection, user_id: str, now: datetime, *, email_verified: bool = False) -> None:
    """Record the time of a sign-in, by primary key; it does not change the etag.

    `email_verified` says that a trusted provider has verified the email the user has now.
    """
    values = {"last_sign_in_time": now} | ({"email_verify_time": now} if email_verified else {})
    await tx.execute(update(users).where(users.c.user_id == user_id).values(values))


async def find_user_of_identity(tx: AsyncConnection, identity: LinkedIdentity) -> str | None:
    """Return the id of the user who signs in with an identity, by primary key."""
    found = await tx.execute(
        select(linked_identities.c.user_id).where(
            linked_identities.c.provider == identity.provider, linked_identities.c.subject == identity.subject
        )
    )
    return found.scalar_one_or_none()


async def insert_identity(tx: AsyncConnection, user_id: str, identity: LinkedIdentity, now: datetime) -> None:
    """Link an identity to a user; the primary key allows one user for each identity.

    Raises:
        IdentityAlreadyLinked: somebody signs in with it already.
    """
    try:
        await tx.execute(
            insert(linked_identities).values(
                provider=identity.provider, subject=identity.subject, user_id=user_id, create_time=now
            )
        )
    except IntegrityError as error:
        if violated_constraint(error) != "linked_identities_pkey":
            raise
        raise IdentityAlreadyLinked(field="subject", provider=identity.provider) from error


async def delete_identity(tx: AsyncConnection, user_id: str, identity: LinkedIdentity) -> None:
    """Unlink an identity from a user, by primary key."""
    await tx.execute(
        delete(linked_identities).where(
            linked_identities.c.provider == identity.provider,
            linked_identities.c.subject == identity.subject,
            linked_identities.c.user_id == user_id,
        )
    )


async def end_sessions(
    tx: AsyncConnection, user_id: str, now: datetime, reason: str, *, kept_session_id: str = ""
) -> int:
    """End a user's sessions, except one if given, along the index of sessions not ended; return how many."""
    statement = update(sessions).where(sessions.c.user_id == user_id, sessions.c.end_time.is_(None))
    if kept_session_id:
        statement = statement.where(sessions.c.session_id != kept_session_id)
    return (await tx.execute(statement.values(end_time=now, end_reason=reason))).rowcount
