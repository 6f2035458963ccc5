"""Revisions: the order in which changes that affect VerifyApiKey were committed.

A sequence would hand out numbers in another order than that of the commits, and a reader could miss a change with a
number below the last one it saw. So the number comes from one row that stays locked until commit: whoever reads the row
at revision R sees every change up to R, and there are no gaps.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.tables import CHANGES_CHANNEL, revision_counter


class ChangeKind(StrEnum):
    """What happened."""

    CREATED = "created"
    DISABLED = "disabled"
    ENABLED = "enabled"
    REVOKED = "revoked"
    OWNER_DEACTIVATED = "owner_deactivated"
    OWNER_REACTIVATED = "owner_reactivated"
    MEMBER_REMOVED = "member_removed"
    UPDATED = "updated"
    ROTATED = "rotated"
    ROLE_CHANGED = "role_changed"
    OWNER_DELETED = "owner_deleted"
    PROJECT_DELETED = "project_deleted"
    ORGANIZATION_DELETED = "organization_deleted"
    IMPORTED = "imported"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> "ChangeKind":
        """A newer process may write kinds that this version does not know; it must still be able to read on."""
        return cls.OTHER


class SubjectType(StrEnum):
    """The kind of resource that changed; every key that refers to it is affected."""

    API_KEY = "api_key"
    USER = "user"
    SERVICE_ACCOUNT = "service_account"
    PROJECT = "project"
    ORGANIZATION = "organization"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> "SubjectType":
        """As with kinds: unknown values from a newer process must not stop this one."""
        return cls.OTHER


@dataclass(frozen=True, slots=True)
class Change:
    """A numbered change."""

    revision: int
    kind: ChangeKind
    subject_type: SubjectType
    subject_id: str
    organization_id: str | None
    change_time: datetime


# Locks the counter until commit, so it must be the last statement of its transaction: every other change waits for it.
# The notification is sent at commit.
_RECORD = text(
    f"""
    WITH next AS (UPDATE identity.revision_counter SET revision = revision + 1 RETURNING revision),
    recorded AS (
        INSERT INTO identity.key_changes (revision, kind, subject_type, subject_id, organization_id, change_time)
        SELECT revision, :kind, :subject_type, CAST(:subject_id AS uuid), CAST(:organization_id AS uuid), :change_time
        FROM next
    )
    SELECT revision, pg_notify('{CHANGES_CHANNEL}', CAST(revision AS text)) FROM next
    """  # noqa: S608 -- the channel is a constant of ours.
)


async def record_change(
    tx: AsyncConnection,
    kind: ChangeKind,
    subject_type: SubjectType,
    subject_id: str,
    *,
    organization_id: str | None,
    now: datetime,
) -> int:
    """Number a change and announce it; the last statement of a transaction."""
    recorded = await tx.execute(
        _RECORD,
        {
            "kind": kind.value,
            "subject_type": subject_type.value,
            "subject_id": subject_id,
            "organization_id": organization_id,
            "change_time": now,
        },
    )
    return int(recorded.one().revision)


async def current_revision(tx: AsyncConnection) -> int:
    """Return the newest committed revision; reads one row without waiting for locks."""
    return int((await tx.execute(select(revision_counter.c.revision))).scalar_one())
