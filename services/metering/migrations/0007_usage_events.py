"""Endpoints that want events of usage, and those that were deleted long ago, are found."""

from collections.abc import Sequence

from alembic import op

from libs.common.events.migration import index_deleted_endpoints

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    index_deleted_endpoints("metering")
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS metering.event_endpoints_of_usage")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY event_endpoints_of_usage ON metering.event_endpoints (organization_id)
            WHERE types && ARRAY['tollhouse.usage.recorded', 'tollhouse.usage.*']::text[] AND enabled
                AND delete_time IS NULL
            """
        )
