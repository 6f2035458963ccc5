"""The parts of a hold, newest first. The table is read once to find that it has none yet, without blocking anybody."""

from collections.abc import Sequence

from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS transactions_hold")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY transactions_hold
            ON transactions (organization_id, hold_operation_id, transaction_id)
            WHERE hold_operation_id IS NOT NULL
            """
        )
