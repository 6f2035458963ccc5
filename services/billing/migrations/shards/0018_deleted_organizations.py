"""Organizations that were deleted, for which nothing is begun any more. The version before this one writes none."""

from collections.abc import Sequence

from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE deleted_organizations (
            organization_id uuid NOT NULL,
            delete_time timestamptz NOT NULL,
            CONSTRAINT deleted_organizations_pkey PRIMARY KEY (organization_id)
        )
        """
    )
