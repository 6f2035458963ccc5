"""Which variant of an experiment on a plan each organization and user has."""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE plan_assignments (
            organization_id uuid NOT NULL,
            experiment_id uuid NOT NULL,
            user_id uuid NOT NULL,
            plan_id uuid NOT NULL,
            actor text NOT NULL,
            create_time timestamptz NOT NULL,
            CONSTRAINT plan_assignments_pkey PRIMARY KEY (organization_id, experiment_id, user_id)
        )
        """
    )
    op.execute(
        "CREATE INDEX plan_assignments_of_experiment ON plan_assignments (experiment_id, organization_id, user_id)"
    )
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON plan_assignments FROM tollhouse_billing")
