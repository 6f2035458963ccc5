"""How far billing has followed identity's organizations, and those of them that could not be handled yet."""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE billing.watch_positions (
            watch text COLLATE "C" NOT NULL,
            revision bigint NOT NULL,
            holder uuid NOT NULL,
            lease_expire_time timestamptz NOT NULL,
            CONSTRAINT watch_positions_pkey PRIMARY KEY (watch),
            CONSTRAINT watch_positions_revision_counts CHECK (revision >= 0)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE billing.unhandled_organizations (
            organization_id uuid NOT NULL,
            revision bigint NOT NULL,
            personal boolean NOT NULL,
            owner_user_id uuid,
            create_time timestamptz NOT NULL,
            delete_time timestamptz,
            reason text NOT NULL,
            attempt_count integer NOT NULL,
            first_attempt_time timestamptz NOT NULL,
            next_attempt_time timestamptz NOT NULL,
            CONSTRAINT unhandled_organizations_pkey PRIMARY KEY (organization_id),
            CONSTRAINT unhandled_organizations_attempted CHECK (attempt_count >= 1)
        )
        """
    )
