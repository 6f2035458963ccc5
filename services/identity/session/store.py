"""Statements on sessions and their refresh tokens."""

from datetime import datetime
from typing import Final, TypeAlias

from sqlalchemy import ColumnElement, Row, RowMapping, and_, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import Database
from services.identity.email_address import folded_email
from services.identity.folding import fold
from services.identity.session.domain import EmailOwner, EndReason, HeldUser, RefreshToken, Session, SignInMethod
from services.identity.tables import linked_identities, refresh_tokens, sessions, users

_SESSION: Final = (
    sessions.c.session_id,
    sessions.c.user_id,
    sessions.c.method,
    sessions.c.provider,
    sessions.c.peer_address,
    sessions.c.user_agent,
    sessions.c.create_time,
    sessions.c.last_refresh_time,
    sessions.c.expire_time,
)
_NOT_ENDED: Final = sessions.c.end_time.is_(None)

# Oldest first along the index of expiry; rows that are locked by another process are skipped.
_FORGET_TOKENS: Final = """
    DELETE FROM refresh_tokens WHERE digest IN (
        SELECT digest FROM refresh_tokens WHERE expire_time < $1 ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED)
"""

# As above. A session is deleted after its tokens, which are found along their index by session.
_FORGET_SESSIONS: Final = """
    DELETE FROM sessions WHERE session_id IN (
        SELECT session_id FROM sessions s
        WHERE expire_time < $1 AND NOT EXISTS (SELECT FROM refresh_tokens t WHERE t.session_id = s.session_id)
        ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def find_password(tx: AsyncConnection, login: str) -> tuple[str, str | None] | None:
    """Read the id of an active user and the hash of their password, by the unique index of emails or of usernames.

    A username may look like an email. The owner of the email comes first, even while they are deactivated, so that
    nobody who takes another's email for their username receives that user's sign-ins.
    """
    email = folded_email(login)
    row = await _find_login(tx, users.c.email_folded == email) if email is not None else None
    row = row or await _find_login(tx, users.c.username_folded == fold(login))
    return None if row is None or row.deactivate_time is not None else (row.user_id, row.password_hash)


_Login: TypeAlias = Row[str, str | None, datetime | None]


async def _find_login(tx: AsyncConnection, condition: ColumnElement[bool]) -> _Login | None:
    found = await tx.execute(
        select(users.c.user_id, users.c.password_hash, users.c.deactivate_time).where(
            condition, users.c.delete_time.is_(None)
        )
    )
    return found.first()


async def hold_active_user(tx: AsyncConnection, user_id: str) -> HeldUser | None:
    """Read an active user and lock them until commit.

    A concurrent deactivation either comes first, or waits and then finds the new session.
    """
    held = await tx.execute(
        select(users.c.personal_organization_id, users.c.email_folded, users.c.password_hash)
        .where(users.c.user_id == user_id, users.c.delete_time.is_(None), users.c.deactivate_time.is_(None))
        .with_for_update(key_share=True)
    )
    row = held.first()
    return None if row is None else HeldUser(*row)


async def find_email_owner(tx: AsyncConnection, email: str) -> EmailOwner | None:
    """Read who has an email, by its unique index, and lock them until commit (lock on one row)."""
    found = await tx.execute(
        select(users.c.user_id, users.c.email_verify_time)
        .where(users.c.email_folded == folded_email(email), users.c.delete_time.is_(None))
        .with_for_update(key_share=True)
    )
    row = found.first()
    return None if row is None else EmailOwner(row.user_id, row.email_verify_time is not None)


async def hold_user(tx: AsyncConnection, user_id: str) -> str | None:
    """Lock a user, and so their sessions, until commit; return the id of their personal organization."""
    held = await tx.execute(
        select(users.c.personal_organization_id).where(users.c.user_id == user_id).with_for_update(key_share=True)
    )
    return held.scalar_one_or_none()


async def count_identities(tx: AsyncConnection, user_id: str) -> int:
    """Count a user's linked identities, along their index by user; the user must be locked."""
    counted = await tx.execute(
        select(func.count()).select_from(linked_identities).where(linked_identities.c.user_id == user_id)
    )
    return int(counted.scalar_one())


async def insert_session(tx: AsyncConnection, session: Session) -> None:
    """Insert a session; its user must be locked."""
    await tx.execute(
        insert(sessions).values(
            session_id=session.session_id,
            user_id=session.user_id,
            method=session.method.value,
            provider=session.provider,
            peer_address=session.peer_address,
            user_agent=session.user_agent,
            create_time=session.create_time,
            last_refresh_time=session.last_refresh_time,
            expire_time=session.expire_time,
        )
    )


async def insert_refresh_token(tx: AsyncConnection, session: Session, digest: bytes, now: datetime) -> None:
    """Insert a refresh token that expires with its session."""
    await tx.execute(
        insert(refresh_tokens).values(
            digest=digest, session_id=session.session_id, create_time=now, expire_time=session.expire_time
        )
    )


async def lock_refresh_token(tx: AsyncConnection, digest: bytes, now: datetime) -> RefreshToken | None:
    """Read a refresh token by primary key and lock its session until commit, so that only one exchange runs at a time.

    The user is not locked: a deactivation locks the user before the sessions, and the other order could deadlock.
    """
    is_live = and_(
        _NOT_ENDED, sessions.c.expire_time > now, users.c.deactivate_time.is_(None), users.c.delete_time.is_(None)
    )
    found = await tx.execute(
        select(
            *_SESSION,
            users.c.personal_organization_id,
            is_live.label("is_live"),
            refresh_tokens.c.successor_digest,
        )
        .select_from(refresh_tokens)
        .join(sessions, sessions.c.session_id == refresh_tokens.c.session_id)
        .join(users, users.c.user_id == sessions.c.user_id)
        .where(refresh_tokens.c.digest == digest)
        .with_for_update(key_share=True, of=[refresh_tokens, sessions])
    )
    row = found.mappings().first()
    if row is None:
        return None
    return RefreshToken(
        session=_session(row),
        personal_organization_id=row["personal_organization_id"],
        is_live=row["is_live"],
        successor_digest=row["successor_digest"],
    )


async def is_unused(tx: AsyncConnection, digest: bytes) -> bool:
    """Return whether a refresh token was not used yet, by primary key; its session must be locked."""
    found = await tx.execute(select(refresh_tokens.c.use_time).where(refresh_tokens.c.digest == digest))
    row = found.first()
    return row is not None and row.use_time is None


async def exchange_refresh_token(
    tx: AsyncConnection, session: Session, digest: bytes, successor_digest: bytes, now: datetime
) -> None:
    """Mark a locked refresh token as used and insert its successor, each by primary key."""
    await tx.execute(
        update(refresh_tokens)
        .where(refresh_tokens.c.digest == digest)
        .values(use_time=now, successor_digest=successor_digest)
    )
    await insert_refresh_token(tx, session, successor_digest, now)
    await tx.execute(update(sessions).where(sessions.c.session_id == session.session_id).values(last_refresh_time=now))


async def end_sessions(
    tx: AsyncConnection, user_id: str, now: datetime, reason: EndReason, *, session_id: str = ""
) -> int:
    """End one session of a user by primary key, or all along the index of sessions not ended; return how many."""
    statement = update(sessions).where(sessions.c.user_id == user_id, _NOT_ENDED, sessions.c.expire_time > now)
    if session_id:
        statement = statement.where(sessions.c.session_id == session_id)
    return (await tx.execute(statement.values(end_time=now, end_reason=reason.value))).rowcount


async def end_oldest_sessions(tx: AsyncConnection, user_id: str, now: datetime, *, kept: int) -> int:
    """End all but the newest sessions of a locked user, along the index of sessions not ended; return how many."""
    oldest = (
        select(sessions.c.session_id)
        .where(sessions.c.user_id == user_id, _NOT_ENDED)
        .order_by(sessions.c.session_id.desc())
        .offset(kept)
    )
    ended = await tx.execute(
        update(sessions)
        .where(sessions.c.session_id.in_(oldest))
        .values(end_time=now, end_reason=EndReason.TOO_MANY_SESSIONS.value)
    )
    return ended.rowcount


async def list_sessions(
    tx: AsyncConnection, user_id: str, *, now: datetime, before: str | None, limit: int
) -> list[Session]:
    """Read a page of the sessions that have not ended, newest first, along the index of those."""
    statement = select(*_SESSION).where(sessions.c.user_id == user_id, _NOT_ENDED, sessions.c.expire_time > now)
    if before is not None:
        statement = statement.where(sessions.c.session_id < before)
    found = await tx.execute(statement.order_by(sessions.c.session_id.desc()).limit(limit))
    return [_session(row) for row in found.mappings()]


async def forget_refresh_tokens(database: Database, before: datetime, limit: int) -> None:
    """Delete refresh tokens that have expired."""
    async with database.raw_connection() as connection:
        await connection.execute(_FORGET_TOKENS, before, limit)


async def forget_sessions(database: Database, before: datetime, limit: int) -> None:
    """Delete sessions whose retention is over."""
    async with database.raw_connection() as connection:
        await connection.execute(_FORGET_SESSIONS, before, limit)


def _session(row: RowMapping) -> Session:
    values = {column.name: row[column.name] for column in _SESSION}
    return Session(**values | {"method": SignInMethod(row["method"])})
