"""What the usage of a period comes to at least, and the index by which charges of subscriptions are told from it.

Each statement does nothing if it was done by an attempt before. The version before this one writes no minimum.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0014"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            """
            ALTER TABLE subscriptions ADD COLUMN IF NOT EXISTS minimum_currency_code text,
                ADD COLUMN IF NOT EXISTS minimum_amount numeric(28, 9),
                ADD COLUMN IF NOT EXISTS minimum_since_time timestamptz
            """
        )
        op.execute(
            """
            -- It is there after an attempt that failed.
            -- squawk-ignore ban-drop-constraint
            ALTER TABLE subscriptions DROP CONSTRAINT IF EXISTS subscriptions_minimum_whole
            """
        )
        op.execute(
            """
            ALTER TABLE subscriptions ADD CONSTRAINT subscriptions_minimum_whole CHECK (
                num_nulls(minimum_currency_code, minimum_amount, minimum_since_time) IN (0, 3)
                AND (minimum_amount IS NULL OR minimum_amount > 0 AND period_paid)
            ) NOT VALID
            """
        )
        op.execute("ALTER TABLE subscriptions VALIDATE CONSTRAINT subscriptions_minimum_whole")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS subscription_events_charges")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY subscription_events_charges ON subscription_events (organization_id, create_time)
            WHERE charge_operation_id IS NOT NULL
            """
        )
