"""Statements that every call of a user or key runs, on the driver's own connection."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.database import RawConnection

_PROJECTS_MAX: Final = 1_000
"""The most projects of one organization in which somebody's role is looked up."""

# The user's roles in the organization's projects that are not deleted, along project_members_by_member.
_PROJECTS: Final = f"""
    LEFT JOIN LATERAL (
        SELECT json_object_agg(mine.project_id, mine.role)::text AS roles
        FROM (
            SELECT pm.project_id, pm.role
            FROM project_members pm
            JOIN projects p ON p.organization_id = pm.organization_id AND p.project_id = pm.project_id
            WHERE pm.organization_id = m.organization_id AND pm.user_id = m.user_id AND p.delete_time IS NULL
            LIMIT {_PROJECTS_MAX}
        ) mine
    ) projects ON true
"""  # noqa: S608 -- the bound is a number of ours.

# At most one row: the session, its user, the organization and the membership, each by primary key; the projects along
# project_members_by_user. Nothing is locked: rights are those at the time of the read.
_OF_SESSION: Final = f"""
    SELECT u.platform_role, m.role AS organization_role, projects.roles AS project_roles
    FROM sessions s
    JOIN users u ON u.user_id = s.user_id
    LEFT JOIN organizations o ON o.organization_id = $3 AND o.delete_time IS NULL
    LEFT JOIN members m ON m.organization_id = o.organization_id AND m.user_id = u.user_id
    {_PROJECTS}
    WHERE s.session_id = $1 AND s.user_id = $2 AND s.end_time IS NULL AND s.expire_time > $4
      AND u.deactivate_time IS NULL AND u.delete_time IS NULL
"""  # noqa: S608 -- the bound is a number of ours.

# At most one row, along the unique index of key ids; the rest as above. The role is the owner's current one, not that
# of the time when the key was created.
_OF_KEY: Final = f"""
    SELECT k.organization_id::text, k.user_id::text, k.service_account_id::text, k.project_id::text, k.scopes,
           k.all_organizations, coalesce(k.gateway_organization_id, k.organization_id)::text AS reached_organization_id,
           coalesce(m.role, a.role) AS organization_role, projects.roles AS project_roles
    FROM api_keys k
    JOIN organizations o ON o.organization_id = k.organization_id AND o.delete_time IS NULL
    LEFT JOIN users u ON u.user_id = k.user_id AND u.deactivate_time IS NULL AND u.delete_time IS NULL
    LEFT JOIN members m ON m.organization_id = k.organization_id AND m.user_id = u.user_id
    LEFT JOIN service_accounts a ON a.organization_id = k.organization_id
        AND a.service_account_id = k.service_account_id AND a.delete_time IS NULL
    {_PROJECTS}
    WHERE k.api_key_id = $1 AND k.revoke_time IS NULL AND k.disable_time IS NULL
      AND (k.expire_time IS NULL OR k.expire_time > $2)
      AND coalesce(m.role, a.role) IS NOT NULL
"""  # noqa: S608 -- the bound is a number of ours.


@dataclass(frozen=True, slots=True)
class UserStanding:
    """The rights of a user: on the platform, and in the organization that was asked about."""

    platform_role: str
    organization_role: str
    project_roles: dict[str, str]


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """The owner of a working key, the organization and project it acts in, and its owner's rights there."""

    organization_id: str
    user_id: str | None
    service_account_id: str | None
    project_id: str | None
    scopes: frozenset[str]
    organization_role: str
    project_roles: dict[str, str]
    all_organizations: bool
    reached_organization_id: str
    """The organization in which the key's scopes of gateways hold, unless they hold in all."""


async def find_user_standing(
    connection: RawConnection, *, session_id: str, user_id: str, organization_id: str | None, now: datetime
) -> UserStanding | None:
    """Read the rights of a session's user; None when the session has ended or the user was deactivated."""
    row = await connection.fetchrow(_OF_SESSION, session_id, user_id, organization_id, now)
    if row is None:
        return None
    return UserStanding(row["platform_role"], row["organization_role"] or "", _roles(row))


async def find_key_standing(connection: RawConnection, api_key_id: str, now: datetime) -> KeyStanding | None:
    """Read the rights of a key; None when the key does not work."""
    row = await connection.fetchrow(_OF_KEY, api_key_id, now)
    if row is None:
        return None
    return KeyStanding(
        organization_id=row["organization_id"],
        user_id=row["user_id"],
        service_account_id=row["service_account_id"],
        project_id=row["project_id"],
        scopes=frozenset(row["scopes"]),
        organization_role=row["organization_role"],
        project_roles=_roles(row),
        all_organizations=row["all_organizations"],
        reached_organization_id=row["reached_organization_id"],
    )


def _roles(row: asyncpg.Record) -> dict[str, str]:
    roles: dict[str, str] = json.loads(row["project_roles"] or "{}")
    return roles
