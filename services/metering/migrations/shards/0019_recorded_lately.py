"""An index by which the usage that an organization has recorded lately is found, whenever it happened."""

from collections.abc import Sequence

from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS usage_operations_by_id")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY usage_operations_by_id ON usage_operations (organization_id, usage_id)
            """
        )
