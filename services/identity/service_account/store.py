"""Statements on service accounts, all along the primary key unless they say otherwise."""

from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import violated_constraint
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
)


async def insert_service_account(tx: AsyncConnection, account: ServiceAccount) -> None:
    """Insert an account; a partial unique index speaks for the name.

    Raises:
        ServiceAccountAlreadyExists: the organization has one of this name.
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
            )
        )
    except IntegrityError as error:
        raise _refusal(error) from error


async def find_service_account(
    tx: AsyncConnection, organization_id: str, service_account_id: str, *, lock: bool = False
) -> ServiceAccount | None:
    """Read one account, and if asked hold it alone until commit; that of another organization is not found."""
    statement = select(*_COLUMNS).where(
        service_accounts.c.organization_id == organization_id,
        service_accounts.c.service_account_id == service_account_id,
        service_accounts.c.delete_time.is_(None),
    )
    found = await tx.execute(statement.with_for_update() if lock else statement)
    row = found.mappings().first()
    return None if row is None else _account(row)


async def lock_service_account(tx: AsyncConnection, organization_id: str, service_account_id: str) -> bool:
    """Tell whether the organization has the account, and keep it from being deleted until commit (share lock)."""
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
    """Hold one account alone, deleted or not; return it and when it went."""
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
    tx: AsyncConnection, organization_id: str, *, before: str | None, limit: int
) -> list[ServiceAccount]:
    """Read a page, newest first."""
    statement = select(*_COLUMNS).where(
        service_accounts.c.organization_id == organization_id, service_accounts.c.delete_time.is_(None)
    )
    if before is not None:
        statement = statement.where(service_accounts.c.service_account_id < before)
    found = await tx.execute(statement.order_by(service_accounts.c.service_account_id.desc()).limit(limit))
    return [_account(row) for row in found.mappings()]


async def replace_service_account(tx: AsyncConnection, account: ServiceAccount) -> None:
    """Write what can change of one account; its version tells the next reader.

    Raises:
        ServiceAccountAlreadyExists: the organization has another one of this name.
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
            )
        )
    except IntegrityError as error:
        raise _refusal(error) from error


async def delete_service_account(tx: AsyncConnection, account: ServiceAccount, now: datetime) -> None:
    """Leave a tombstone, to which keys, usage and audit refer for ever."""
    await tx.execute(
        update(service_accounts)
        .where(
            service_accounts.c.organization_id == account.organization_id,
            service_accounts.c.service_account_id == account.service_account_id,
        )
        .values(delete_time=now, update_time=now, version=service_accounts.c.version + 1)
    )


async def revoke_keys_of_service_account(tx: AsyncConnection, account: ServiceAccount, now: datetime) -> int:
    """Revoke what the account owns, along `api_keys_by_service_account`; return how many keys that were."""
    return await revoke_keys(
        tx,
        now,
        api_keys.c.organization_id == account.organization_id,
        api_keys.c.service_account_id == account.service_account_id,
    )


def _refusal(error: IntegrityError) -> Exception:
    known = violated_constraint(error) == "service_accounts_name_once"
    return ServiceAccountAlreadyExists(field="name") if known else error


def _account(row: RowMapping) -> ServiceAccount:
    columns = {name: value for name, value in row.items() if name != "delete_time"}
    return ServiceAccount(**{**columns, "role": Role(row["role"])})
