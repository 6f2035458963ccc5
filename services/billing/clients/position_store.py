"""Statements on how far the organizations were followed, and on those that could not be handled yet.

All are by primary key, unless they say otherwise.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.database import RawConnection

_WATCH: Final = "organizations"


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization as identity told of it last."""

    organization_id: str
    revision: int
    """The place of its last change in identity's feed."""
    personal: bool
    owner_user_id: str | None
    """The user whose personal organization it is; None where it is not personal."""
    create_time: datetime
    delete_time: datetime | None


@dataclass(frozen=True, slots=True)
class Unhandled:
    """An organization that could not be handled, and why."""

    organization: Organization
    reason: str
    attempt_count: int
    next_attempt_time: datetime


# The lease is measured on the database's clock, which all processes share.
_TAKE: Final = """
    INSERT INTO billing.watch_positions AS p (watch, revision, holder, lease_expire_time)
    VALUES ($1, 0, $2, now() + CAST($3 AS double precision) * interval '1 s')
    ON CONFLICT (watch) DO UPDATE SET holder = excluded.holder, lease_expire_time = excluded.lease_expire_time
    WHERE p.holder = excluded.holder OR p.lease_expire_time <= now()
    RETURNING p.revision
"""
_RELEASE: Final = "UPDATE billing.watch_positions SET lease_expire_time = now() WHERE watch = $1 AND holder = $2"
_HOLD: Final = "SELECT revision FROM billing.watch_positions WHERE watch = $1 AND holder = $2 FOR NO KEY UPDATE"
_MOVE: Final = "UPDATE billing.watch_positions SET revision = $2 WHERE watch = $1"

_DROP: Final = "DELETE FROM billing.unhandled_organizations WHERE organization_id = ANY($1::uuid[])"
# At most as many as are ever set aside.
_DROP_ALL: Final = "DELETE FROM billing.unhandled_organizations"
_SET_ASIDE: Final = """
    INSERT INTO billing.unhandled_organizations (
        organization_id, revision, personal, owner_user_id, create_time, delete_time, reason, attempt_count,
        next_attempt_time, first_attempt_time
    ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (organization_id) DO UPDATE SET
        revision = excluded.revision, delete_time = excluded.delete_time,
        reason = excluded.reason, attempt_count = excluded.attempt_count,
        next_attempt_time = excluded.next_attempt_time
"""
# Reads the table, which has no more rows than are ever set aside.
_DUE: Final = """
    SELECT organization_id::text, revision, personal, owner_user_id::text, create_time, delete_time, reason,
        attempt_count, next_attempt_time
    FROM billing.unhandled_organizations WHERE next_attempt_time <= $1 ORDER BY next_attempt_time LIMIT $2
"""
_POSTPONE: Final = """
    UPDATE billing.unhandled_organizations SET reason = $2, attempt_count = $3, next_attempt_time = $4
    WHERE organization_id = $1
"""
# At most so many entries of the primary key.
_COUNT: Final = "SELECT count(*) FROM (SELECT FROM billing.unhandled_organizations LIMIT $1) AS unhandled"


async def take_lease(connection: RawConnection, holder: str, lease_s: float) -> bool:
    """Take or renew the lease for so many seconds; return whether no other process has it."""
    return await connection.fetchval(_TAKE, _WATCH, holder, lease_s) is not None


async def release_lease(connection: RawConnection, holder: str) -> None:
    """End the lease, if the process has it."""
    await connection.execute(_RELEASE, _WATCH, holder)


async def hold_lease(tx: RawConnection, holder: str) -> int | None:
    """Return the revision up to which everything was handled, or None where another process has taken the lease.

    Nobody takes it before the end of the transaction.
    """
    revision: int | None = await tx.fetchval(_HOLD, _WATCH, holder)
    return revision


async def move(tx: RawConnection, revision: int) -> None:
    """Store that everything up to a revision was handled; the lease must be held."""
    await tx.execute(_MOVE, _WATCH, revision)


async def drop_unhandled(tx: RawConnection, organization_ids: Collection[str]) -> None:
    """Forget that these organizations could not be handled."""
    await tx.execute(_DROP, organization_ids)


async def drop_all_unhandled(tx: RawConnection) -> None:
    """Forget of all organizations that they could not be handled."""
    await tx.execute(_DROP_ALL)


async def set_aside(tx: RawConnection, unhandled: Sequence[Unhandled], now: datetime) -> None:
    """Store organizations that could not be handled, in place of what was stored of them before."""
    await tx.executemany(
        _SET_ASIDE,
        [
            (
                one.organization.organization_id,
                one.organization.revision,
                one.organization.personal,
                one.organization.owner_user_id,
                one.organization.create_time,
                one.organization.delete_time,
                one.reason,
                one.attempt_count,
                one.next_attempt_time,
                now,
            )
            for one in unhandled
        ],
    )


async def find_due(tx: RawConnection, now: datetime, limit: int) -> list[Unhandled]:
    """Return the unhandled organizations whose next attempt is due, at most `limit`, those that wait longest first."""
    return [_unhandled(row) for row in await tx.fetch(_DUE, now, limit)]


async def postpone(tx: RawConnection, unhandled: Sequence[Unhandled]) -> None:
    """Store the reasons and the next attempts of organizations that are unhandled already."""
    await tx.executemany(
        _POSTPONE,
        [(one.organization.organization_id, one.reason, one.attempt_count, one.next_attempt_time) for one in unhandled],
    )


async def count_unhandled(connection: RawConnection, limit: int) -> int:
    """Count the unhandled organizations up to a limit."""
    return int(await connection.fetchval(_COUNT, limit))


def _unhandled(row: asyncpg.Record) -> Unhandled:
    organization = Organization(
        organization_id=row["organization_id"],
        revision=row["revision"],
        personal=row["personal"],
        owner_user_id=row["owner_user_id"],
        create_time=row["create_time"],
        delete_time=row["delete_time"],
    )
    return Unhandled(organization, row["reason"], row["attempt_count"], row["next_attempt_time"])
