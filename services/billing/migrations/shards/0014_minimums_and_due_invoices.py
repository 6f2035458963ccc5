"""The minimum spend of periods, invoices that are issued by themselves, and which are overdue.

Each statement does nothing if it was done by an attempt before. The version before this one writes none of it.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Change subscriptions, then invoices."""
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
                num_nulls(minimum_currency_code, minimum_amount, minimum_since_time) IN (0, 3) AND minimum_amount > 0
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
        _invoices()


def _invoices() -> None:
    op.execute("ALTER TABLE invoices ADD COLUMN IF NOT EXISTS overdue_told boolean NOT NULL DEFAULT false")
    op.execute("DROP INDEX CONCURRENTLY IF EXISTS invoices_overdue")
    op.execute(
        """
        CREATE INDEX CONCURRENTLY invoices_overdue ON invoices (due_time, organization_id, invoice_id)
        WHERE kind = 'INVOICE' AND state = 'ISSUED' AND NOT overdue_told
        """
    )
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS invoice_schedules (
            end_time timestamptz NOT NULL,
            after_organization_id uuid NOT NULL,
            after_account_id uuid NOT NULL,
            complete boolean NOT NULL,
            CONSTRAINT invoice_schedules_pkey PRIMARY KEY (end_time)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS invoice_dues (
            organization_id uuid NOT NULL,
            account_id uuid NOT NULL,
            end_time timestamptz NOT NULL,
            due_time timestamptz NOT NULL,
            attempts integer NOT NULL,
            error text NOT NULL,
            CONSTRAINT invoice_dues_pkey PRIMARY KEY (organization_id, account_id, end_time)
        )
        """
    )
    op.execute("DROP INDEX CONCURRENTLY IF EXISTS invoice_dues_due")
    op.execute(
        """
        CREATE INDEX CONCURRENTLY invoice_dues_due
        ON invoice_dues (due_time, organization_id, account_id, end_time)
        """
    )
