"""The statements on what organizations keep of conversations, by primary key."""

from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.metering.conversation.domain import DEFAULT, Policy

_FIND: Final = """
SELECT keep_content, retention_days, revision, update_time FROM conversation_policies WHERE organization_id = $1::uuid
"""
_LOCK: Final = """
SELECT keep_content, retention_days, revision, update_time FROM conversation_policies WHERE organization_id = $1::uuid
FOR UPDATE
"""
_ADD: Final = """
INSERT INTO conversation_policies (organization_id, keep_content, retention_days, revision, update_time)
VALUES ($1::uuid, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING true
"""
_REPLACE: Final = """
UPDATE conversation_policies SET keep_content = $2, retention_days = $3, revision = $4, update_time = $5
WHERE organization_id = $1::uuid
"""


async def find(connection: RawConnection, organization_id: str) -> Policy:
    """Return an organization's policy, or the default."""
    return _policy(await connection.fetchrow(_FIND, organization_id))


async def lock(connection: RawConnection, organization_id: str) -> Policy:
    """Return an organization's policy, locked against other changes; or the default, which is not."""
    return _policy(await connection.fetchrow(_LOCK, organization_id))


async def write(connection: RawConnection, organization_id: str, policy: Policy) -> bool:
    """Write a policy; return false where another call has given the organization its first one meanwhile."""
    values = (organization_id, policy.keep_content, policy.retention_days, policy.revision, policy.update_time)
    if policy.revision == 1:
        return bool(await connection.fetchval(_ADD, *values))
    await connection.execute(_REPLACE, *values)
    return True


def _policy(row: asyncpg.Record | None) -> Policy:
    return DEFAULT if row is None else Policy(*row)
