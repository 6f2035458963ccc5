"""Statements on users. Deleted users are not found unless `show_deleted` is given."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Insert, RowMapping, Select, Update, and_, case, func, insert, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.access import PlatformRole
from libs.common.database import violated_constraint
from libs.common.ids import new_id
from services.identity.attributes import attributes_of
from services.identity.email_address import folded_email
from services.identity.errors import UserAlreadyExists
from services.identity.folding import fold
from services.identity.tables import linked_identities, members, organizations, projects, users
from services.identity.user.domain import LinkedIdentity, NewUser, User, UserFilter

_UNIQUE_FIELDS: Final = {
    "users_email_once": "email",
    "users_username_once": "username",
    "users_external_id_once": "external_id",
}
_NOT_DELETED: Final = users.c.delete_time.is_(None)

_IDENTITIES: Final = (
    select(
        func.jsonb_agg(
            aggregate_order_by(
                func.jsonb_build_array(linked_identities.c.provider, linked_identities.c.subject),
                linked_identities.c.provider,
                linked_identities.c.subject,
            )
        )
    )
    .where(linked_identities.c.user_id == users.c.user_id)
    .correlate(users)
    .scalar_subquery()
)
_COLUMNS: Final = (
    users.c.user_id,
    users.c.email,
    func.coalesce(users.c.username, "").label("username"),
    func.coalesce(func.nullif(users.c.deleted_name, ""), users.c.full_name).label("full_name"),
    users.c.picture_url,
    users.c.platform_role,
    users.c.personal_organization_id,
    organizations.c.organization_id.label("last_selected_organization_id"),
    projects.c.project_id.label("last_selected_project_id"),
    users.c.password_hash.is_not(None).label("has_password"),
    _IDENTITIES.label("identities"),
    users.c.version,
    users.c.metadata,
    users.c.external_id,
    users.c.email_verify_time,
    users.c.create_time,
    users.c.update_time,
    users.c.password_change_time,
    users.c.last_sign_in_time,
    users.c.deactivate_time,
    users.c.delete_time,
)
# A selection that was deleted is left out by the joins, so that a deletion need not update the users who selected it.
_WITH_SELECTION: Final = users.outerjoin(
    organizations,
    and_(
        organizations.c.organization_id == users.c.last_selected_organization_id,
        organizations.c.delete_time.is_(None),
    ),
).outerjoin(
    projects,
    and_(
        projects.c.organization_id == organizations.c.organization_id,
        projects.c.project_id == users.c.last_selected_project_id,
        projects.c.delete_time.is_(None),
    ),
)


async def insert_user(
    tx: AsyncConnection, user_id: str, new: NewUser, now: datetime, *, email_verified: bool = False
) -> str:
    """Insert a user with an organization of their own, whose id is returned.

    Partial unique indexes guard email, username and external id. `email_verified` says that a provider that is trusted
    with emails has just verified it.

    Raises:
        UserAlreadyExists: the email, the username or the external id is taken.
    """
    organization_id = new_id()
    times = {"create_time": now, "update_time": now}
    await tx.execute(
        insert(organizations).values(
            organization_id=organization_id, name=_name_of_organization(new), personal=True, **times
        )
    )
    await _execute_unique(
        tx,
        insert(users).values(
            user_id=user_id,
            email=new.email,
            email_folded=folded_email(new.email),
            username=new.username or None,
            username_folded=fold(new.username) or None,
            full_name=new.full_name,
            picture_url=new.picture_url,
            email_verify_time=now if email_verified else None,
            personal_organization_id=organization_id,
            **asdict(new.attributes),
            **times,
        ),
    )
    await tx.execute(insert(members).values(organization_id=organization_id, user_id=user_id, role="owner", **times))
    return organization_id


async def find_user(tx: AsyncConnection, user_id: str, *, show_deleted: bool = False) -> User | None:
    """Read one user by primary key."""
    statement = _select().where(users.c.user_id == user_id)
    found = await tx.execute(statement if show_deleted else statement.where(_NOT_DELETED))
    row = found.mappings().first()
    return None if row is None else _user(row)


async def lock_user(tx: AsyncConnection, user_id: str) -> bool:
    """Return whether the user exists, and lock them against deletion until commit (share lock on one row)."""
    found = await tx.execute(
        select(users.c.user_id).where(users.c.user_id == user_id, _NOT_DELETED).with_for_update(read=True)
    )
    return found.first() is not None


async def hold_user(tx: AsyncConnection, user_id: str, *, show_deleted: bool = False) -> User | None:
    """Read one user and lock them against other changes until commit (lock on one row).

    Inserts of rows that refer to the user do not wait for it.
    """
    await tx.execute(select(users.c.user_id).where(users.c.user_id == user_id).with_for_update(key_share=True))
    # A second statement, after the lock: its snapshot includes the changes of the transaction that held the lock
    # before.
    return await find_user(tx, user_id, show_deleted=show_deleted)


async def set_user_active(tx: AsyncConnection, user_id: str, *, active: bool, now: datetime) -> bool:
    """Deactivate or reactivate a user; return whether anything changed. Locks the row until commit."""
    is_active = users.c.deactivate_time.is_(None)
    changed = await tx.execute(
        update(users)
        .where(users.c.user_id == user_id, _NOT_DELETED, ~is_active if active else is_active)
        .values(deactivate_time=None if active else now, update_time=now, version=users.c.version + 1)
        .returning(users.c.user_id)
    )
    return changed.first() is not None


async def update_user(tx: AsyncConnection, user_id: str, values: Mapping[str, object], now: datetime) -> None:
    """Change columns of one user, by primary key, with the folded forms of email and username.

    Raises:
        UserAlreadyExists: the email, the username or the external id is taken.
    """
    columns: dict[str, object] = dict(values)
    for name in ("email", "username"):
        if name in values:
            columns[name] = values[name] or None
            text = str(values[name] or "")
            columns[f"{name}_folded"] = folded = (folded_email(text) if name == "email" else fold(text)) or None
            if name == "email":
                # A changed email is not verified.
                columns["email_verify_time"] = case((users.c.email_folded == folded, users.c.email_verify_time))
    await _execute_unique(
        tx,
        update(users).where(users.c.user_id == user_id).values(**columns, update_time=now, version=users.c.version + 1),
    )


async def touch_user(tx: AsyncConnection, user_id: str, now: datetime) -> None:
    """Increment a user's version after a change of related rows, by primary key."""
    await update_user(tx, user_id, {}, now)


async def can_select(
    tx: AsyncConnection, user_id: str, organization_id: str, *, project_id: str, anywhere: bool
) -> tuple[bool, bool]:
    """Return whether the organization, and the project in it, can be selected; each is read by primary key.

    Users may select organizations they belong to; `anywhere` allows all.
    """
    organization = select(organizations.c.organization_id).where(
        organizations.c.organization_id == organization_id, organizations.c.delete_time.is_(None)
    )
    if not anywhere:
        organization = organization.join(
            members,
            and_(members.c.organization_id == organizations.c.organization_id, members.c.user_id == user_id),
        )
    if (await tx.execute(organization)).first() is None:
        return False, False
    project = select(projects.c.project_id).where(
        projects.c.organization_id == organization_id,
        projects.c.project_id == (project_id or None),
        projects.c.delete_time.is_(None),
    )
    return True, not project_id or (await tx.execute(project)).first() is not None


async def list_users(tx: AsyncConnection, kept: UserFilter, *, before: str | None, limit: int) -> list[User]:
    """Read a page, newest first: backwards along the primary key, or along `users_inactive` for those who are.

    An email, a username, an external id or an identity leaves one row at most, which its unique index finds.
    """
    statement = _select().where(_NOT_DELETED, *_conditions(kept))
    if before is not None:
        statement = statement.where(users.c.user_id < before)
    found = await tx.execute(statement.order_by(users.c.user_id.desc()).limit(limit))
    return [_user(row) for row in found.mappings()]


def _conditions(kept: UserFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if kept.email:
        # A text that is no email address finds nobody.
        conditions.append(users.c.email_folded == folded_email(kept.email))
    if kept.username:
        conditions.append(users.c.username_folded == fold(kept.username))
    if kept.external_id:
        # Repeats the condition of the partial index, so that Postgres can use it.
        conditions += [users.c.external_id == kept.external_id, users.c.external_id != ""]
    if kept.identity is not None:
        whose = select(linked_identities.c.user_id).where(
            linked_identities.c.provider == kept.identity.provider,
            linked_identities.c.subject == kept.identity.subject,
        )
        conditions.append(users.c.user_id == whose.scalar_subquery())
    if kept.active is not None:
        is_active = users.c.deactivate_time.is_(None)
        conditions.append(is_active if kept.active else ~is_active)
    return conditions


async def _execute_unique(tx: AsyncConnection, statement: Insert | Update) -> None:
    try:
        await tx.execute(statement)
    except IntegrityError as error:
        field = _UNIQUE_FIELDS.get(violated_constraint(error) or "")
        if field is None:
            raise
        raise UserAlreadyExists(field=field) from error


def _select() -> Select[tuple[object, ...]]:
    return select(*_COLUMNS).select_from(_WITH_SELECTION)


def _name_of_organization(new: NewUser) -> str:
    return new.full_name.strip() or new.username or new.email.partition("@")[0]


def _user(row: RowMapping) -> User:
    values = attributes_of(dict(row))
    values["platform_role"] = PlatformRole(row["platform_role"])
    values["identities"] = tuple(LinkedIdentity(*pair) for pair in row["identities"] or ())
    for name in ("last_selected_organization_id", "last_selected_project_id"):
        values[name] = row[name] or ""
    return User(**values)  # type: ignore[arg-type]  # The columns are the fields.
