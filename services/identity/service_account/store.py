"""Statements on service accounts, along the primary key unless they say otherwise."""

from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
from services.identity.attributes import attributes_of
from services.identity.errors import ServiceAccountAlreadyExists
from services.identity.folding import fold
from services.identity.organization.domain import Role
from services.identity.revocation import revoke_keys
from services.identity.service_account.domain import ServiceAccount
from services.identity.tables import api_keys, service_accounts

_COLUMNS: Final = (
    service_accounts.c.service_account_id,
    service_accounts.c.organization_id,
    service_accounts.c.name,
    service_accounts.c.description,
    service_accounts.c.role,
    service_accounts.c.create_time,
    service_accounts.c.update_time,
    service_accounts.c.version,
    service_accounts.c.metadata,
    service_accounts.c.external_id,
)
_UNIQUE_FIELDS: Final = {"service_accounts_name_once": "name", "service_accounts_external_id_once": "external_id"}


async def insert_service_account(tx: AsyncConnection, account: ServiceAccount) -> None:
    """Insert an account; partial unique indexes guard the name and the external id.

    Raises:
        ServiceAccountAlreadyExists: the organization has one of this name or external id.
    """
    try:
        await tx.execute(
            insert(service_accounts).values(
                organization_id=account.organization_id,
                service_account_id=account.service_account_id,
                name=account.name,
                name_folded=fold(account.name),
                description=account.description,
                role=account.role.value,
                create_time=account.create_time,
                update_time=account.update_time,
                version=account.version,
                **asdict(account.attributes),
            )
        )
    except IntegrityError as error:
        raise _refusal(error) from error


async def find_service_account(
    tx: AsyncConnection, organization_id: str, service_account_id: str, *, lock: bool = False
) -> ServiceAccount | None:
    """Read one account of the organization, with an exclusive lock until commit if asked."""
    statement = select(*_COLUMNS).where(
        service_accounts.c.organization_id == organization_id,
        service_accounts.c.service_account_id == service_account_id,
        service_accounts.c.delete_time.is_(None),
    )
    found = await tx.execute(statement.with_for_update() if lock else statement)
    row = found.mappings().first()
    return None if row is None else _account(row)


async def lock_service_account(tx: AsyncConnection, organization_id: str, service_account_id: str) -> bool:
    """Return whether the organization has the account, and lock it against deletion until commit (share lock)."""
    locked = await tx.execute(
        select(service_accounts.c.service_account_id)
        .where(
            service_accounts.c.organization_id == organization_id,
            service_accounts.c.service_account_id == service_account_id,
            service_accounts.c.delete_time.is_(None),
        )
        .with_for_update(read=True)
    )
    return locked.first() is not None


async def lock_to_delete(
    tx: AsyncConnection, organization_id: str, service_account_id: str
) -> tuple[ServiceAccount, datetime | None] | None:
    """Lock one account exclusively, deleted or not; return it and when it was deleted."""
    locked = await tx.execute(
        select(*_COLUMNS, service_accounts.c.delete_time)
        .where(
            service_accounts.c.organization_id == organization_id,
            service_accounts.c.service_account_id == service_account_id,
        )
        .with_for_update()
    )
    row = locked.mappings().first()
    if row is None:
        return None
    delete_time: datetime | None = row["delete_time"]
    return _account(row), delete_time


async def list_service_accounts(
    tx: AsyncConnection, organization_id: str, *, external_id: str, before: str | None, limit: int
) -> list[ServiceAccount]:
    """Read a page, newest first. An external id leaves one row at most, which its unique index finds."""
    statement = select(*_COLUMNS).where(
        service_accounts.c.organization_id == organization_id, service_accounts.c.delete_time.is_(None)
    )
    if external_id:
        # Repeats the condition of the partial index, so that Postgres can use it.
        statement = statement.where(service_accounts.c.external_id == external_id, service_accounts.c.external_id != "")
    if before is not None:
        statement = statement.where(service_accounts.c.service_account_id < before)
    found = await tx.execute(statement.order_by(service_accounts.c.service_account_id.desc()).limit(limit))
    return [_account(row) for row in found.mappings()]


async def replace_service_account(tx: AsyncConnection, account: ServiceAccount) -> None:
    """Write the changeable fields of one account.

    Raises:
        ServiceAccountAlreadyExists: the organization has another one of this name or external id.
    """
    try:
        await tx.execute(
            update(service_accounts)
            .where(
                service_accounts.c.organization_id == account.organization_id,
                service_accounts.c.service_account_id == account.service_account_id,
            )
            .values(
                name=account.name,
                name_folded=fold(account.name),
                description=account.description,
                role=account.role.value,
                update_time=account.update_time,
                version=account.version,
                **asdict(account.attributes),
            )
        )
    except IntegrityError as error:
        raise _refusal(error) from error


async def delete_service_account(tx: AsyncConnection, account: ServiceAccount, now: datetime) -> None:
    """Mark an account as deleted. The row stays: keys, usage and audit refer to it."""
    await tx.execute(
        update(service_accounts)
        .where(
            service_accounts.c.organization_id == account.organization_id,
            service_accounts.c.service_account_id == account.service_account_id,
        )
        .values(delete_time=now, update_time=now, version=service_accounts.c.version + 1)
    )


async def revoke_keys_of_service_account(tx: AsyncConnection, account: ServiceAccount, now: datetime) -> int:
    """Revoke the account's keys, along `api_keys_by_service_account`; return how many."""
    return await revoke_keys(
        tx,
        now,
        api_keys.c.organization_id == account.organization_id,
        api_keys.c.service_account_id == account.service_account_id,
    )


def _refusal(error: IntegrityError) -> Exception:
    field = _UNIQUE_FIELDS.get(violated_constraint(error) or "")
    return ServiceAccountAlreadyExists(field=field) if field else error


def _account(row: RowMapping) -> ServiceAccount:
    fields = attributes_of(dict(row)) | {"role": Role(row["role"])}
    fields.pop("delete_time", None)
    return ServiceAccount(**fields)  # type: ignore[arg-type]  # The columns are the fields.
