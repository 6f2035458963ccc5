"""Statements of the feed of organizations, on the driver's own connection."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection

# By the last entry of `organizations_by_feed_revision`, and the first of `organizations_not_in_feed`, which is empty
# unless something has changed. The order is one that no other index has: Postgres takes most rows for changed ones, and
# would read the table instead.
_LOOK: Final = """
    SELECT coalesce((SELECT max(feed_revision) FROM identity.organizations), 0) AS newest,
        (
            SELECT true FROM identity.organizations WHERE feed_version IS DISTINCT FROM version
            ORDER BY update_time, organization_id LIMIT 1
        ) IS NOT NULL AS changed
"""

# One process numbers at a time, until its commit, which makes the order of revisions the order in which they become
# visible. Another one does not wait: it finds the numbers in its next round.
_TAKE_TURN: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('identity.organization_feed', 0))"

# Along `organizations_not_in_feed`. Rows that another transaction has locked are skipped until the next round, so that
# this never waits or deadlocks. It must be a statement of its own after the turn was taken, so that it sees the numbers
# that were given before.
_NUMBER: Final = """
    WITH changed AS (
        SELECT organization_id, update_time FROM identity.organizations
        WHERE feed_version IS DISTINCT FROM version
        ORDER BY update_time, organization_id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
    ), placed AS (
        SELECT organization_id, row_number() OVER (ORDER BY update_time, organization_id) AS place FROM changed
    ), numbered AS (
        UPDATE identity.organizations o
        SET feed_version = o.version,
            feed_revision = p.place + (SELECT coalesce(max(feed_revision), 0) FROM identity.organizations)
        FROM placed p WHERE o.organization_id = p.organization_id
        RETURNING 1
    )
    SELECT count(*) FROM numbered
"""

# Along `organizations_by_feed_revision`, with each owner by `users_personal_organization_once`. The newest revision
# comes from the same snapshot. Without organizations there is one row with it.
_READ: Final = """
    SELECT c.newest, o.feed_revision, o.organization_id::text, o.personal, u.user_id::text AS owner_user_id,
        o.create_time, o.delete_time
    FROM (SELECT coalesce(max(feed_revision), 0) AS newest FROM identity.organizations) c
    LEFT JOIN LATERAL (
        SELECT * FROM identity.organizations WHERE feed_revision > $1 ORDER BY feed_revision LIMIT $2
    ) o ON true
    LEFT JOIN identity.users u ON o.personal AND u.personal_organization_id = o.organization_id
    ORDER BY o.feed_revision
"""


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """An organization as it is at its latest revision."""

    revision: int
    organization_id: str
    personal: bool
    owner_user_id: str | None
    """The user whose personal organization it is; None where it is not personal."""
    create_time: datetime
    delete_time: datetime | None


async def look(connection: RawConnection) -> tuple[int, bool]:
    """Return the newest revision, and whether organizations have changed since they got theirs."""
    (row,) = await connection.fetch(_LOOK)
    return row["newest"], row["changed"]


async def number_changed(tx: RawConnection, limit: int) -> int:
    """Give the next revisions to organizations that have changed, at most `limit`; return how many got one.

    None get one while another process is at it.
    """
    if not await tx.fetchval(_TAKE_TURN):
        return 0
    return int(await tx.fetchval(_NUMBER, limit))


async def read_entries(connection: RawConnection, after: int, limit: int) -> tuple[int, list[FeedEntry]]:
    """Return the newest revision, and the organizations after the given one, at most `limit`, in order."""
    rows = await connection.fetch(_READ, after, limit)
    entries = [
        FeedEntry(
            revision=row["feed_revision"],
            organization_id=row["organization_id"],
            personal=row["personal"],
            owner_user_id=row["owner_user_id"],
            create_time=row["create_time"],
            delete_time=row["delete_time"],
        )
        for row in rows
        if row["feed_revision"] is not None
    ]
    return rows[0]["newest"], entries
