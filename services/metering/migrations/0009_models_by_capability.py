"""Models are found by their provider and by what they can do."""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS metering.models_by_provider")
        op.execute("CREATE INDEX CONCURRENTLY models_by_provider ON metering.models (provider, model_id)")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS metering.models_by_capability")
        op.execute("CREATE INDEX CONCURRENTLY models_by_capability ON metering.models USING gin (capabilities)")
