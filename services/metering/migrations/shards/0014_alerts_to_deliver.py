"""Alerts of limits are an outbox: which of them are delivered, and the index of those that are not.

Each statement does nothing if it was done by an attempt before.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE limit_alerts ADD COLUMN IF NOT EXISTS delivered boolean NOT NULL DEFAULT false")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS limit_alerts_to_deliver")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY limit_alerts_to_deliver
            ON limit_alerts (organization_id, create_time, counter_id, threshold)
            WHERE NOT delivered
            """
        )
