"""Webhooks, their counts and endpoints of events that are old are found, to be forgotten."""

from collections.abc import Sequence

from alembic import op

from libs.common.events.migration import index_deleted_endpoints

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("GRANT DELETE ON billing.webhooks TO tollhouse_billing")
    index_deleted_endpoints("billing")
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS billing.webhooks_by_age")
        op.execute(
            "CREATE INDEX CONCURRENTLY webhooks_by_age ON billing.webhooks (finish_time) WHERE finish_time IS NOT NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS billing.webhook_counts_by_day")
        op.execute("CREATE INDEX CONCURRENTLY webhook_counts_by_day ON billing.webhook_counts (count_date)")
