"""From where subscriptions are paid, which payment has paid what, and what is to be done after a commit."""

from collections.abc import Sequence

from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
ALTER TABLE subscriptions ADD COLUMN collection text NOT NULL DEFAULT 'BALANCE',
    ADD COLUMN collection_provider text COLLATE "C";
ALTER TABLE payments ADD COLUMN plan_id uuid, ADD COLUMN plan_version integer,
    ADD COLUMN subscriber_user_id uuid;
ALTER TABLE external_subscriptions ADD COLUMN subscription_id uuid;
CREATE TABLE period_payments (
    organization_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT period_payments_pkey PRIMARY KEY (organization_id, payment_id),
    CONSTRAINT period_payments_operation_once UNIQUE (organization_id, operation_id)
);
CREATE TABLE next_steps (
    organization_id uuid NOT NULL,
    kind text NOT NULL,
    key text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    since_time timestamptz NOT NULL,
    due_time timestamptz NOT NULL,
    attempt_count integer NOT NULL,
    failure text NOT NULL,
    CONSTRAINT next_steps_pkey PRIMARY KEY (organization_id, kind, key),
    CONSTRAINT next_steps_kind_known CHECK (kind IN ('PAYMENT', 'EXTERNAL_SUBSCRIPTION', 'SUBSCRIPTION'))
);
CREATE INDEX next_steps_due ON next_steps (due_time, organization_id, kind, key);
REVOKE DELETE, TRUNCATE ON period_payments FROM tollhouse_billing;
REVOKE TRUNCATE ON next_steps FROM tollhouse_billing
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
