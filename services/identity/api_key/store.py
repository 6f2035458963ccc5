"""Statements on API keys, as people manage them."""

from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.api_key.model import ApiKey, Environment, NewApiKey
from services.identity.revisions import ChangeKind
from services.identity.tables import api_keys

_SECRET_COLUMNS: Final = frozenset({"digest", "pepper_version"})
_COLUMNS: Final = tuple(column for column in api_keys.c if column.name not in _SECRET_COLUMNS)


async def insert_api_key(
    tx: AsyncConnection,
    api_key_id: str,
    new: NewApiKey,
    *,
    digest: bytes,
    pepper_version: int,
    visible: tuple[str, str],
    now: datetime,
) -> None:
    """Insert a key; the composite foreign key keeps its project within its organization."""
    await tx.execute(
        insert(api_keys).values(
            organization_id=new.organization_id,
            api_key_id=api_key_id,
            project_id=new.project_id,
            user_id=new.user_id,
            name=new.name,
            environment=new.environment.value,
            digest=digest,
            pepper_version=pepper_version,
            secret_prefix=visible[0],
            secret_suffix=visible[1],
            scopes=list(new.scopes),
            allowed_models=list(new.allowed_models),
            metadata=dict(new.metadata),
            external_id=new.external_id,
            expire_time=new.expire_time,
            create_time=now,
            update_time=now,
        )
    )


async def find_api_key(tx: AsyncConnection, organization_id: str, api_key_id: str) -> ApiKey | None:
    """Read one key by primary key; that of another organization is not found."""
    found = await tx.execute(
        select(*_COLUMNS).where(api_keys.c.organization_id == organization_id, api_keys.c.api_key_id == api_key_id)
    )
    row = found.mappings().first()
    return None if row is None else _api_key(row)


async def list_api_keys(
    tx: AsyncConnection,
    organization_id: str,
    *,
    project_id: str,
    user_id: str,
    before: str | None,
    limit: int,
) -> list[ApiKey]:
    """Read a page, newest first, backwards along the primary key or the index of the project or the user."""
    statement = select(*_COLUMNS).where(api_keys.c.organization_id == organization_id)
    if project_id:
        statement = statement.where(api_keys.c.project_id == project_id)
    if user_id:
        statement = statement.where(api_keys.c.user_id == user_id)
    if before is not None:
        statement = statement.where(api_keys.c.api_key_id < before)
    found = await tx.execute(statement.order_by(api_keys.c.api_key_id.desc()).limit(limit))
    return [_api_key(row) for row in found.mappings()]


async def change_api_key(
    tx: AsyncConnection, organization_id: str, api_key_id: str, kind: ChangeKind, now: datetime
) -> bool:
    """Disable, enable or revoke by primary key; tell whether anything changed. A revoked key never changes."""
    disabled = api_keys.c.disable_time.is_not(None)
    condition, column, moment = {
        ChangeKind.DISABLED: (~disabled, "disable_time", now),
        ChangeKind.ENABLED: (disabled, "disable_time", None),
        ChangeKind.REVOKED: (api_keys.c.revoke_time.is_(None), "revoke_time", now),
    }[kind]
    changed = await tx.execute(
        update(api_keys)
        .where(
            api_keys.c.organization_id == organization_id,
            api_keys.c.api_key_id == api_key_id,
            api_keys.c.revoke_time.is_(None),
            condition,
        )
        .values({column: moment, "update_time": now})
        .returning(api_keys.c.api_key_id)
    )
    return changed.first() is not None


def _api_key(row: RowMapping) -> ApiKey:
    columns = dict(row)
    columns["environment"] = Environment(columns["environment"])
    columns["scopes"] = tuple(columns["scopes"])
    columns["allowed_models"] = tuple(columns["allowed_models"])
    return ApiKey(**columns)
