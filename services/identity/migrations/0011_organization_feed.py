"""The feed of organizations: the place of each one in it, and the version that is in this place."""

from collections.abc import Sequence

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Gives the organizations that are there their places, as the feed does with later ones. Each batch takes the feed's
# lock and is committed by itself, so nobody waits for more than one batch. The batches go along the primary key. Rows
# that somebody has locked are left to the feed.
_NUMBER_ALL = """
DO $$
DECLARE
    last uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
    LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended('identity.organization_feed', 0));
        WITH batch AS (
            SELECT organization_id FROM identity.organizations
            WHERE organization_id > last AND feed_version IS DISTINCT FROM version
            ORDER BY organization_id LIMIT 2000 FOR NO KEY UPDATE SKIP LOCKED
        ), placed AS (
            SELECT organization_id, row_number() OVER (ORDER BY organization_id) AS place FROM batch
        ), numbered AS (
            UPDATE identity.organizations o
            SET feed_version = o.version,
                feed_revision = p.place + (SELECT coalesce(max(feed_revision), 0) FROM identity.organizations)
            FROM placed p WHERE o.organization_id = p.organization_id
            RETURNING o.organization_id
        )
        SELECT CAST(max(CAST(organization_id AS text)) AS uuid) INTO last FROM numbered;
        EXIT WHEN last IS NULL;
        COMMIT;
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute(
        "ALTER TABLE identity.organizations ADD COLUMN IF NOT EXISTS feed_revision bigint,"
        " ADD COLUMN IF NOT EXISTS feed_version bigint"
    )
    # Outside of a transaction, so that nobody waits while an index is built; what an interrupted attempt left behind
    # goes first.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.organizations_by_feed_revision")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS organizations_by_feed_revision"
            " ON identity.organizations (feed_revision)"
        )
        op.execute(_NUMBER_ALL)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.organizations_not_in_feed")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS organizations_not_in_feed ON identity.organizations"
            " (update_time, organization_id) WHERE feed_version IS DISTINCT FROM version"
        )
