"""Copies many API keys directly into identity's table, because creating them by RPC would take minutes."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from benchmarks.traffic import Tenant
from libs.common.ids import new_id
from services.identity.api_key.secret import Peppers, new_secret, visible_parts

_ORGANIZATION = ("organization_id", "name", "personal", "create_time", "update_time")
_USER = (
    *("user_id", "email", "email_folded", "full_name", "picture_url", "personal_organization_id"),
    *("create_time", "update_time"),
)
_MEMBER = ("organization_id", "user_id", "role", "create_time", "update_time")
_API_KEY = (
    *("organization_id", "api_key_id", "user_id", "name", "environment", "digest", "pepper_version"),
    *("secret_prefix", "secret_suffix", "scopes", "allowed_models", "metadata", "external_id"),
    *("create_time", "update_time"),
)


def load_tenants(url: str, peppers_file: Path, count: int) -> tuple[Tenant, ...]:
    """Creates `count` organizations, each with an owner and one API key."""
    tenants = tuple(Tenant(new_id(), new_id(), new_secret(live=True)) for _ in range(count))
    asyncio.run(_load(url, Peppers.read(peppers_file), tenants))
    return tenants


async def _load(url: str, peppers: Peppers, tenants: tuple[Tenant, ...]) -> None:
    now = datetime.now(UTC)
    owners = {tenant.organization_id: new_id() for tenant in tenants}
    organizations = [(organization_id, "Bench", True, now, now) for organization_id in owners]
    users = [_user(user, organization_id, now) for organization_id, user in owners.items()]
    members = [(organization_id, user, "owner", now, now) for organization_id, user in owners.items()]
    keys = [_key(tenant, owners[tenant.organization_id], peppers, now) for tenant in tenants]
    connection = await asyncpg.connect(url, command_timeout=120)
    try:
        async with connection.transaction():
            for table, columns, records in (
                ("organizations", _ORGANIZATION, organizations),
                ("users", _USER, users),
                ("members", _MEMBER, members),
                ("api_keys", _API_KEY, keys),
            ):
                await connection.copy_records_to_table(table, schema_name="identity", columns=columns, records=records)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


def _user(user_id: str, organization_id: str, now: datetime) -> tuple[object, ...]:
    email = f"{user_id}@example.org"
    return (user_id, email, email, "Owner", "", organization_id, now, now)


def _key(tenant: Tenant, user_id: str, peppers: Peppers, now: datetime) -> tuple[object, ...]:
    prefix, suffix = visible_parts(tenant.key)
    identity = (tenant.organization_id, tenant.api_key_id, user_id, "Bench", "live")
    secret = (peppers.digest(tenant.key), peppers.current_version, prefix, suffix)
    return (*identity, *secret, [], [], "{}", "", now, now)
