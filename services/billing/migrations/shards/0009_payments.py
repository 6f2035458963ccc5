"""Payments, what they moved, their refunds, and subscriptions that providers renew."""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE payments (
    organization_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    type text NOT NULL,
    status text NOT NULL,
    provider text COLLATE "C" NOT NULL,
    user_id uuid,
    amount numeric(28, 9) NOT NULL,
    currency_code text NOT NULL,
    brings text NOT NULL,
    credits_amount numeric(28, 9),
    credits_currency_code text,
    credits_priority integer NOT NULL,
    credits_expire_days integer NOT NULL,
    credits_expire_time timestamptz,
    awarded boolean NOT NULL,
    grant_id uuid,
    said jsonb NOT NULL,
    refunded_amount numeric(28, 9) NOT NULL,
    taken_credits numeric(28, 9) NOT NULL,
    taken_money numeric(28, 9) NOT NULL,
    written_off numeric(28, 9) NOT NULL,
    steps integer NOT NULL,
    settled boolean NOT NULL,
    product_code text COLLATE "C",
    plan_code text COLLATE "C",
    subscription_id uuid,
    first_payment_id uuid,
    external_subscription_id text COLLATE "C",
    external_customer_id text COLLATE "C",
    external_product_id text COLLATE "C",
    operation_id text COLLATE "C",
    request jsonb,
    checkout_url text,
    checkout_expire_time timestamptz,
    description text NOT NULL,
    metadata jsonb,
    is_test boolean NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT payments_pkey PRIMARY KEY (organization_id, payment_id),
    CONSTRAINT payments_operation_once UNIQUE (organization_id, operation_id),
    CONSTRAINT payments_type_known CHECK (type IN ('SUBSCRIPTION', 'CREDIT_PACK', 'TOP_UP', 'ADJUSTMENT')),
    CONSTRAINT payments_status_known CHECK (status IN (
        'PENDING', 'COMPLETED', 'FAILED', 'PARTIALLY_REFUNDED', 'REFUNDED', 'DISPUTED')),
    CONSTRAINT payments_brings_known CHECK (brings IN ('MONEY', 'CREDITS', 'NOTHING')),
    CONSTRAINT payments_brings_whole CHECK (
        num_nulls(credits_amount, credits_currency_code) = CASE brings WHEN 'NOTHING' THEN 2 ELSE 0 END),
    CONSTRAINT payments_amounts_fit CHECK (
        amount > 0 AND refunded_amount >= 0 AND refunded_amount <= amount AND taken_credits >= 0 AND taken_money >= 0
        AND written_off >= 0 AND taken_credits + taken_money + written_off <= coalesce(credits_amount, 0))
);
CREATE INDEX payments_by_user ON payments (organization_id, user_id, payment_id);
CREATE INDEX payments_by_status ON payments (organization_id, status, payment_id);
CREATE INDEX payments_by_subscription ON payments (organization_id, subscription_id, payment_id)
    WHERE subscription_id IS NOT NULL;
CREATE INDEX payments_by_external_subscription ON payments (organization_id, external_subscription_id, payment_id)
    WHERE external_subscription_id IS NOT NULL;
CREATE INDEX payments_by_external_customer ON payments (organization_id, external_customer_id, payment_id)
    WHERE external_customer_id IS NOT NULL;
CREATE TABLE payment_movements (
    organization_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    sequence integer NOT NULL,
    kind text NOT NULL,
    operation_id text COLLATE "C",
    grant_operation_id text COLLATE "C",
    grant_id uuid,
    amount numeric(28, 9) NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT payment_movements_pkey PRIMARY KEY (organization_id, payment_id, sequence),
    CONSTRAINT payment_movements_kind_known CHECK (kind IN (
        'AWARDED_MONEY', 'AWARDED_CREDITS', 'TAKEN_MONEY', 'TAKEN_CREDITS', 'WRITTEN_OFF', 'GIVEN_MONEY',
        'GIVEN_CREDITS', 'REINSTATED')),
    CONSTRAINT payment_movements_amount_positive CHECK (amount > 0),
    CONSTRAINT payment_movements_moved CHECK ((operation_id IS NULL) = (kind IN ('WRITTEN_OFF', 'REINSTATED')))
);
CREATE UNIQUE INDEX payment_movements_operation_once ON payment_movements (organization_id, operation_id)
    WHERE operation_id IS NOT NULL;
CREATE TABLE payment_refunds (
    organization_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    refund_id uuid NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    requested_amount numeric(28, 9),
    amount numeric(28, 9) NOT NULL,
    refunded_before numeric(28, 9) NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    failure text NOT NULL,
    create_time timestamptz NOT NULL,
    complete_time timestamptz,
    attempt_count integer NOT NULL,
    attempt_until timestamptz,
    CONSTRAINT payment_refunds_pkey PRIMARY KEY (organization_id, payment_id, refund_id),
    CONSTRAINT payment_refunds_request_once UNIQUE (organization_id, request_id),
    CONSTRAINT payment_refunds_state_known CHECK (state IN ('REQUESTED', 'COMPLETED', 'FAILED')),
    CONSTRAINT payment_refunds_amount_positive CHECK (amount > 0),
    CONSTRAINT payment_refunds_end_whole CHECK ((state = 'REQUESTED') = (complete_time IS NULL))
);
CREATE TABLE external_subscriptions (
    organization_id uuid NOT NULL,
    provider text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    payment_id uuid NOT NULL,
    status text NOT NULL,
    external_customer_id text COLLATE "C",
    external_plan_id text COLLATE "C",
    renews_time timestamptz,
    ends_time timestamptz,
    version_time timestamptz NOT NULL,
    version_number bigint NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT external_subscriptions_pkey PRIMARY KEY (organization_id, provider, external_id),
    CONSTRAINT external_subscriptions_status_known CHECK (status IN (
        'ACTIVE', 'PAST_DUE', 'PAUSED', 'CANCELLED', 'EXPIRED'))
);
CREATE TABLE top_up_policies (
    organization_id uuid NOT NULL,
    enabled boolean NOT NULL,
    currency_code text NOT NULL,
    threshold numeric(28, 9) NOT NULL,
    top_up_amount numeric(28, 9),
    target_balance numeric(28, 9),
    provider text COLLATE "C" NOT NULL,
    external_customer_id text COLLATE "C" NOT NULL,
    max_per_day integer NOT NULL,
    max_per_month integer NOT NULL,
    pending_payment_id uuid,
    paused_reason text NOT NULL,
    actor text NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT top_up_policies_pkey PRIMARY KEY (organization_id),
    CONSTRAINT top_up_policies_one_amount CHECK (num_nulls(top_up_amount, target_balance) = 1)
);
REVOKE DELETE, TRUNCATE ON top_up_policies FROM tollhouse_billing;
REVOKE DELETE, TRUNCATE ON payments, payment_refunds, external_subscriptions FROM tollhouse_billing;
REVOKE UPDATE, DELETE, TRUNCATE ON payment_movements FROM tollhouse_billing
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
