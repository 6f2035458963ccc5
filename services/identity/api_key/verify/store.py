"""Statements of VerifyApiKey and WatchApiKeys on the driver's own connection, because this path is
performance-critical."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.database import Database, RawConnection
from services.identity.api_key.domain import Environment, KeyRecord, held_scopes
from services.identity.revisions import Change, ChangeKind, SubjectType

# One statement, so that the revision belongs to the same snapshot as the keys. Keys are found by the unique index of
# digests, owners by primary key, and the roles in projects, which matter only to keys with scopes, by
# project_members_by_member. Without any key there is still one row with the revision.
_READ_KEYS: Final = """
    SELECT c.revision, k.digest, k.pepper_version, k.organization_id::text, k.api_key_id::text, k.project_id::text,
           k.user_id::text, k.service_account_id::text, k.environment, k.scopes, k.allowed_models, k.allowed_addresses,
           k.metadata::text, k.external_id, k.expire_time, k.subscription_id::text,
           k.disable_time IS NOT NULL AS disabled, k.revoke_time IS NOT NULL AS revoked,
           coalesce(m.role, a.role, '') AS organization_role,
           CASE WHEN m.role IS NOT NULL AND cardinality(k.scopes) > 0 THEN ARRAY(
               SELECT DISTINCT mine.role FROM (
                   SELECT pm.role
                   FROM identity.project_members pm
                   JOIN identity.projects w ON w.organization_id = pm.organization_id AND w.project_id = pm.project_id
                   WHERE pm.organization_id = k.organization_id AND pm.user_id = k.user_id AND w.delete_time IS NULL
                     AND (k.project_id IS NULL OR pm.project_id = k.project_id)
                   LIMIT 1000
               ) mine ORDER BY mine.role
           ) ELSE '{}' END AS project_roles,
           CASE WHEN k.user_id IS NULL THEN a.service_account_id IS NOT NULL
                ELSE m.role IS NOT NULL AND u.user_id IS NOT NULL END
               AND o.delete_time IS NULL AND p.delete_time IS NULL AS owner_active
    FROM identity.revision_counter c
    LEFT JOIN identity.api_keys k ON k.digest = ANY($1::bytea[])
    LEFT JOIN identity.users u ON u.user_id = k.user_id AND u.deactivate_time IS NULL AND u.delete_time IS NULL
    LEFT JOIN identity.members m ON m.organization_id = k.organization_id AND m.user_id = k.user_id
    LEFT JOIN identity.service_accounts a ON a.organization_id = k.organization_id
        AND a.service_account_id = k.service_account_id AND a.delete_time IS NULL
    LEFT JOIN identity.organizations o ON o.organization_id = k.organization_id
    LEFT JOIN identity.projects p ON p.organization_id = k.organization_id AND p.project_id = k.project_id
"""

# Along the primary key. The counter and the few imported prefixes come from the same snapshot as the changes. Without
# changes there is one row with these two.
_READ_CHANGES: Final = """
    SELECT c.revision AS current, ARRAY(SELECT prefix FROM identity.imported_prefixes LIMIT 100) AS prefixes,
           n.revision, n.kind, n.subject_type, n.subject_id::text, n.organization_id::text,
           n.change_time
    FROM identity.revision_counter c
    LEFT JOIN LATERAL (
        SELECT * FROM identity.key_changes WHERE revision > $1 ORDER BY revision LIMIT $2
    ) n ON true
    ORDER BY n.revision
"""

# Rows that another transaction has locked are skipped until their next use, so that this never waits or deadlocks. Rows
# written within the last minute are skipped, so that a busy key is written once a minute instead of every round.
_WRITE_LAST_USED: Final = """
    WITH used AS (
        SELECT k.organization_id, k.api_key_id, n.used_time
        FROM unnest($1::uuid[], $2::timestamptz[]) AS n (api_key_id, used_time)
        JOIN identity.api_keys k ON k.api_key_id = n.api_key_id
        WHERE k.last_used_time IS NULL OR k.last_used_time < n.used_time - interval '60 s'
        FOR UPDATE OF k SKIP LOCKED
    )
    UPDATE identity.api_keys k SET last_used_time = used.used_time
    FROM used WHERE k.organization_id = used.organization_id AND k.api_key_id = used.api_key_id
"""

# Both along the index of their times, a bounded number of rows at a time.
_FORGET_CHANGES: Final = """
    DELETE FROM identity.key_changes WHERE revision IN (
        SELECT revision FROM identity.key_changes WHERE change_time < $1 ORDER BY change_time LIMIT $2)
"""
_FORGET_REQUESTS: Final = """
    DELETE FROM identity.requests WHERE (organization_id, method, request_id) IN (
        SELECT organization_id, method, request_id FROM identity.requests
        WHERE create_time < $1 ORDER BY create_time LIMIT $2)
"""


async def read_keys(database: Database, digests: Sequence[bytes]) -> tuple[int, dict[bytes, KeyRecord]]:
    """Return the revision of the snapshot, and the keys stored under any of the digests."""
    async with database.raw_connection() as connection:
        rows = await connection.fetch(_READ_KEYS, digests)
    return rows[0]["revision"], {row["digest"]: _record(row) for row in rows if row["digest"] is not None}


def _record(row: asyncpg.Record) -> KeyRecord:
    return KeyRecord(
        organization_id=row["organization_id"],
        api_key_id=row["api_key_id"],
        project_id=row["project_id"],
        user_id=row["user_id"],
        service_account_id=row["service_account_id"],
        environment=Environment(row["environment"]),
        scopes=held_scopes(tuple(row["scopes"]), row["organization_role"], tuple(row["project_roles"])),
        allowed_models=tuple(row["allowed_models"]),
        allowed_addresses=tuple(row["allowed_addresses"]),
        metadata=json.loads(row["metadata"]),
        external_id=row["external_id"],
        expire_time=row["expire_time"],
        disabled=row["disabled"],
        revoked=row["revoked"],
        owner_active=row["owner_active"],
        subscription_id=row["subscription_id"],
    )


@dataclass(frozen=True, slots=True)
class ChangesRead:
    """The result of one read of the changes: the newest revision, the changes after a revision, and the imported
    prefixes."""

    current: int
    changes: list[Change]
    prefixes: tuple[str, ...]


async def read_changes(connection: RawConnection, after: int, limit: int) -> ChangesRead:
    """Return the newest revision, and the changes after the given one, at most `limit`, in order."""
    rows = await connection.fetch(_READ_CHANGES, after, limit)
    changes = [
        Change(
            revision=row["revision"],
            kind=ChangeKind(row["kind"]),
            subject_type=SubjectType(row["subject_type"]),
            subject_id=row["subject_id"],
            organization_id=row["organization_id"],
            change_time=row["change_time"],
        )
        for row in rows
        if row["revision"] is not None
    ]
    return ChangesRead(rows[0]["current"], changes, tuple(rows[0]["prefixes"]))


async def write_last_used(database: Database, used: Sequence[tuple[str, datetime]]) -> None:
    """Write times of last use in one statement; an older time never replaces a newer one."""
    async with database.raw_connection() as connection:
        await connection.execute(_WRITE_LAST_USED, [id_ for id_, _ in used], [time for _, time in used])


async def forget_changes(database: Database, before: datetime, limit: int) -> None:
    """Delete changes whose retention is over."""
    async with database.raw_connection() as connection:
        await connection.execute(_FORGET_CHANGES, before, limit)


async def forget_requests(database: Database, before: datetime, limit: int) -> None:
    """Delete request ids whose retention is over."""
    async with database.raw_connection() as connection:
        await connection.execute(_FORGET_REQUESTS, before, limit)
