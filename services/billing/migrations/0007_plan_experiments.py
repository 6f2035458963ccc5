"""Experiments on plans: who asks for one plan gets one of several."""

from collections.abc import Sequence

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE billing.plan_experiments (
            experiment_id uuid NOT NULL,
            plan_id uuid NOT NULL,
            variants jsonb NOT NULL,
            revision bigint NOT NULL,
            start_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            end_time timestamptz,
            CONSTRAINT plan_experiments_pkey PRIMARY KEY (experiment_id),
            CONSTRAINT plan_experiments_plan_known FOREIGN KEY (plan_id) REFERENCES billing.plans (plan_id)
        )
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX plan_experiments_running_once ON billing.plan_experiments (plan_id) WHERE end_time IS NULL"
    )
    op.execute("CREATE INDEX plan_experiments_of_plan ON billing.plan_experiments (plan_id, experiment_id)")
    op.execute("REVOKE DELETE, TRUNCATE ON billing.plan_experiments FROM tollhouse_billing")
