"""Endpoints that want events of usage, and those that were deleted long ago, are found."""

from collections.abc import Sequence

from alembic import op

from libs.common.events.migration import index_deleted_endpoints

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    index_deleted_endpoints()
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS event_endpoints_of_usage")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY event_endpoints_of_usage ON event_endpoints (organization_id)
            WHERE types && ARRAY['tollhouse.usage.recorded', 'tollhouse.usage.*']::text[] AND enabled
                AND delete_time IS NULL
            """
        )
