"""What events of CloudEvents mean."""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE metering.event_mappings (
            event_type text COLLATE "C" NOT NULL,
            mapping jsonb NOT NULL,
            create_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            CONSTRAINT event_mappings_pkey PRIMARY KEY (event_type)
        )
        """
    )
