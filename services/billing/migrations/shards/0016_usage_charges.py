"""Charges for the usage of periods.

The version before this one writes none of it.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE subscriptions ADD COLUMN usage_since_time timestamptz")
    op.execute(
        """
        CREATE TABLE usage_periods (
            organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            start_time timestamptz NOT NULL,
            usage_charge_code text COLLATE "C" NOT NULL,
            end_time timestamptz NOT NULL,
            plan_code text NOT NULL,
            plan_version integer NOT NULL,
            currency_code text NOT NULL,
            with_unsubscribed boolean NOT NULL,
            charge jsonb,
            base numeric(28, 9) NOT NULL,
            quantity numeric(28, 3) NOT NULL,
            amount numeric(28, 9) NOT NULL,
            sequence bigint NOT NULL,
            due_time timestamptz,
            looked_time timestamptz,
            attempts integer NOT NULL,
            error text NOT NULL,
            create_time timestamptz NOT NULL,
            CONSTRAINT usage_periods_pkey
                PRIMARY KEY (organization_id, subscription_id, start_time, usage_charge_code),
            CONSTRAINT usage_periods_have_a_length CHECK (end_time > start_time),
            CONSTRAINT usage_periods_charge_known CHECK ((usage_charge_code = '') = (charge IS NULL)),
            CONSTRAINT usage_periods_not_negative CHECK (least(base, quantity, amount, sequence) >= 0)
        )
        """
    )
    op.execute(
        """
        CREATE INDEX usage_periods_due ON usage_periods
            (due_time, organization_id, subscription_id, start_time, usage_charge_code) WHERE due_time IS NOT NULL
        """
    )
    op.execute(
        """
        CREATE INDEX usage_periods_waiting ON usage_periods (organization_id, end_time) WHERE looked_time IS NULL
        """
    )
    op.execute(
        """
        CREATE TABLE usage_period_movements (
            organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            start_time timestamptz NOT NULL,
            usage_charge_code text COLLATE "C" NOT NULL,
            sequence bigint NOT NULL,
            operation_id text COLLATE "C" NOT NULL,
            quantity numeric(28, 3) NOT NULL,
            amount numeric(28, 9) NOT NULL,
            change numeric(28, 9) NOT NULL,
            planned boolean NOT NULL,
            create_time timestamptz NOT NULL,
            CONSTRAINT usage_period_movements_pkey
                PRIMARY KEY (organization_id, subscription_id, start_time, usage_charge_code, sequence),
            CONSTRAINT usage_period_movements_operation_once UNIQUE (organization_id, operation_id),
            CONSTRAINT usage_period_movements_move CHECK (change <> 0 AND sequence > 0)
        )
        """
    )
    op.execute(
        """
        REVOKE DELETE, TRUNCATE ON usage_periods, usage_period_movements FROM tollhouse_billing
        """
    )
