"""The numbers of changes of a counter, by which one statement can tell what was changed meanwhile."""

from collections.abc import Sequence

from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE limit_counters ADD COLUMN authorized bigint NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE limit_counters ADD COLUMN revision bigint NOT NULL DEFAULT 0")
