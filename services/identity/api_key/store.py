"""Statements on API keys, for managing them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, RowMapping, and_, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.api_key.domain import ApiKey, Digest, Environment, KeyFilter, NewApiKey, State
from services.identity.revisions import ChangeKind
from services.identity.tables import api_keys

SCAN_MAX: Final = 5_000
"""The most keys that one page of a list looks through."""
_SECRET_COLUMNS: Final = frozenset({"digest", "pepper_version"})
_COLUMNS: Final = tuple(column for column in api_keys.c if column.name not in _SECRET_COLUMNS)


async def insert_api_key(
    tx: AsyncConnection, api_key_id: str, new: NewApiKey, *, digest: Digest, now: datetime
) -> None:
    """Insert a key; the composite foreign key keeps its project within its organization."""
    await tx.execute(insert(api_keys).values(values_of(api_key_id, new, digest=digest, now=now)))


def values_of(api_key_id: str, new: NewApiKey, *, digest: Digest, now: datetime) -> dict[str, object]:
    """Return the row of a new key."""
    return {
        "organization_id": new.organization_id,
        "api_key_id": api_key_id,
        "project_id": new.project_id,
        "user_id": new.user_id,
        "service_account_id": new.service_account_id,
        "name": new.name,
        "environment": new.environment.value,
        "digest": digest.digest,
        "pepper_version": digest.pepper_version,
        "secret_prefix": digest.secret_prefix,
        "secret_suffix": digest.secret_suffix,
        "imported_prefix": digest.imported_prefix,
        "scopes": list(new.scopes),
        "allowed_models": list(new.allowed_models),
        "allowed_addresses": list(new.allowed_addresses),
        "metadata": dict(new.metadata),
        "external_id": new.external_id,
        "expire_time": new.expire_time,
        "rotated_from_api_key_id": new.rotated_from_api_key_id,
        "subscription_id": new.subscription_id,
        "all_organizations": new.all_organizations,
        "gateway_organization_id": new.gateway_organization_id,
        "create_time": now,
        "update_time": now,
    }


async def find_api_key(
    tx: AsyncConnection, organization_id: str, api_key_id: str, *, lock: bool = False
) -> ApiKey | None:
    """Read one key by primary key, and lock its row until commit where asked. Another organization's is not found."""
    statement = select(*_COLUMNS).where(
        api_keys.c.organization_id == organization_id, api_keys.c.api_key_id == api_key_id
    )
    found = await tx.execute(statement.with_for_update() if lock else statement)
    row = found.mappings().first()
    return None if row is None else api_key_of(row)


async def find_api_key_by_id(tx: AsyncConnection, api_key_id: str) -> ApiKey | None:
    """Read a key by its id, along the unique index of key ids."""
    found = await tx.execute(select(*_COLUMNS).where(api_keys.c.api_key_id == api_key_id))
    row = found.mappings().first()
    return None if row is None else api_key_of(row)


async def lock_api_key_of_digest(tx: AsyncConnection, digests: tuple[bytes, ...]) -> ApiKey | None:
    """Read the key stored under one of the digests, along their unique index, and lock its row until commit."""
    found = await tx.execute(select(*_COLUMNS).where(api_keys.c.digest.in_(digests)).with_for_update())
    row = found.mappings().first()
    return None if row is None else api_key_of(row)


async def list_api_keys(
    tx: AsyncConnection, organization_id: str, chosen: KeyFilter, *, before: str | None, now: datetime, limit: int
) -> tuple[list[ApiKey], str | None]:
    """Read a page, newest first, and return the key before which the next one begins; None when there is no more.

    It goes backwards along the primary key, or the index of the first filter that is given. What further filters and
    the state leave out is read as well, so that is bounded.
    """
    within = [api_keys.c.organization_id == organization_id]
    if before is not None:
        within.append(api_keys.c.api_key_id < before)
    filters = [
        column == value
        for column, value in (
            (api_keys.c.subscription_id, chosen.subscription_id),
            (api_keys.c.external_id, chosen.external_id),
            (api_keys.c.user_id, chosen.user_id),
            (api_keys.c.service_account_id, chosen.service_account_id),
            (api_keys.c.project_id, chosen.project_id),
            (api_keys.c.environment, chosen.environment.value if chosen.environment else ""),
        )
        if value
    ]
    is_active = and_(api_keys.c.revoke_time.is_(None), api_keys.c.disable_time.is_(None))
    if chosen.state is State.ACTIVE:
        within.append(is_active)  # With an index of its own, for the keys of a user and of all.
    within += filters[:1]
    further = [*filters[1:], *([] if chosen.state is None else [_in_state(chosen.state, now)])]
    latest_first = api_keys.c.api_key_id.desc()
    statement = select(*_COLUMNS).where(*within, *further)
    bound: str | None = None
    if further:
        last = select(api_keys.c.api_key_id).where(*within).order_by(latest_first).offset(SCAN_MAX - 1).limit(1)
        bound = (await tx.execute(last)).scalar_one_or_none()
        if bound is not None:
            statement = statement.where(api_keys.c.api_key_id >= bound)
    rows = await tx.execute(statement.order_by(latest_first).limit(limit + 1))
    found = [api_key_of(row) for row in rows.mappings()]
    if len(found) > limit:
        return found[:limit], found[limit - 1].api_key_id
    return found, bound


def _in_state(state: State, now: datetime) -> ColumnElement[bool]:
    is_expired = and_(api_keys.c.expire_time.is_not(None), api_keys.c.expire_time <= now)
    is_revoked, is_disabled = api_keys.c.revoke_time.is_not(None), api_keys.c.disable_time.is_not(None)
    return {
        State.REVOKED: is_revoked,
        State.DISABLED: and_(not_(is_revoked), is_disabled),
        State.EXPIRED: and_(not_(is_revoked), not_(is_disabled), is_expired),
        State.ACTIVE: and_(not_(is_revoked), not_(is_disabled), not_(is_expired)),
    }[state]


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
        .values({column: moment, "update_time": now, "version": api_keys.c.version + 1})
        .returning(api_keys.c.api_key_id)
    )
    return changed.first() is not None


async def update_api_key(
    tx: AsyncConnection, organization_id: str, api_key_id: str, values: Mapping[str, object], now: datetime
) -> None:
    """Change columns of one key, by primary key."""
    columns = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    await tx.execute(
        update(api_keys)
        .where(api_keys.c.organization_id == organization_id, api_keys.c.api_key_id == api_key_id)
        .values({**columns, "update_time": now, "version": api_keys.c.version + 1})
    )


def api_key_of(row: RowMapping) -> ApiKey:
    """Return the key in a row; other columns of the row are ignored."""
    columns = {column.name: row[column.name] for column in _COLUMNS}
    columns["environment"] = Environment(columns["environment"])
    for name in ("scopes", "allowed_models", "allowed_addresses"):
        columns[name] = tuple(columns[name])
    return ApiKey(**columns)
