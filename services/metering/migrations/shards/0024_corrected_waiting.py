"""An index by which corrected usage that waits for a price is found among all that waits."""

from collections.abc import Sequence

from alembic import op

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS unpriced_usages_corrected")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY unpriced_usages_corrected ON unpriced_usages (organization_id, usage_id)
            WHERE corrected
            """
        )
