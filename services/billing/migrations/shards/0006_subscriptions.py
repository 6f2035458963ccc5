"""Subscriptions, what happened to them, overrides of entitlements, and the order in which entitlements changed."""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE subscriptions (
    organization_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    subject text NOT NULL,
    user_id uuid,
    model text COLLATE "C",
    plan_id uuid,
    plan_code text COLLATE "C",
    plan_version integer,
    limits jsonb,
    state text NOT NULL,
    state_reason text NOT NULL,
    state_time timestamptz NOT NULL,
    waits_for text,
    start_time timestamptz NOT NULL,
    trial_end_time timestamptz,
    expire_time timestamptz,
    anchor_time timestamptz,
    time_zone text NOT NULL,
    period_number bigint,
    period_start_time timestamptz,
    period_end_time timestamptz,
    period_paid boolean NOT NULL,
    cancel_at_period_end boolean NOT NULL,
    next_plan_id uuid,
    next_plan_code text COLLATE "C",
    next_plan_version integer,
    payment_attempts integer NOT NULL,
    next_payment_time timestamptz,
    owed_currency_code text,
    owed_amount numeric(28, 9),
    due_time timestamptz,
    set_aside_time timestamptz,
    set_aside_reason text,
    last_sequence bigint NOT NULL,
    customer_reference text NOT NULL,
    metadata jsonb,
    actor text NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT subscriptions_pkey PRIMARY KEY (organization_id, subscription_id),
    CONSTRAINT subscriptions_state_known CHECK (state IN (
        'PENDING', 'TRIALING', 'ACTIVE', 'PAST_DUE', 'PAUSED', 'SUSPENDED', 'CANCELLED', 'EXPIRED')),
    CONSTRAINT subscriptions_waits_for_known CHECK (waits_for IN ('APPROVAL', 'START', 'PAYMENT')),
    CONSTRAINT subscriptions_pending_waits CHECK ((state = 'PENDING') = (waits_for IS NOT NULL)),
    CONSTRAINT subscriptions_subject_named CHECK (
        subject = 'ORGANIZATION' AND user_id IS NULL AND model IS NULL
        OR subject = 'USER' AND user_id IS NOT NULL AND model IS NULL
        OR subject = 'MODEL' AND user_id IS NOT NULL AND model IS NOT NULL),
    CONSTRAINT subscriptions_plan_whole CHECK (num_nulls(plan_id, plan_code, plan_version) IN (0, 3)),
    CONSTRAINT subscriptions_plan_or_limits CHECK (
        (plan_id IS NULL) = (limits IS NOT NULL) AND (limits IS NULL OR subject = 'MODEL')),
    CONSTRAINT subscriptions_next_plan_whole CHECK (
        num_nulls(next_plan_id, next_plan_code, next_plan_version) IN (0, 3)),
    CONSTRAINT subscriptions_period_whole CHECK (
        num_nulls(period_number, period_start_time, period_end_time) IN (0, 3)
        AND period_end_time > period_start_time),
    CONSTRAINT subscriptions_owed_whole CHECK (
        num_nulls(owed_currency_code, owed_amount) IN (0, 2) AND owed_amount > 0),
    CONSTRAINT subscriptions_set_aside_whole CHECK (num_nulls(set_aside_time, set_aside_reason) IN (0, 2)),
    CONSTRAINT subscriptions_end_is_final CHECK (state NOT IN ('CANCELLED', 'EXPIRED') OR due_time IS NULL)
);
CREATE UNIQUE INDEX subscriptions_live_organization_once ON subscriptions (organization_id)
    WHERE subject = 'ORGANIZATION' AND state NOT IN ('CANCELLED', 'EXPIRED');
CREATE UNIQUE INDEX subscriptions_live_user_once ON subscriptions (organization_id, user_id)
    WHERE subject = 'USER' AND state NOT IN ('CANCELLED', 'EXPIRED');
CREATE UNIQUE INDEX subscriptions_live_model_once ON subscriptions (organization_id, user_id, model)
    WHERE subject = 'MODEL' AND state NOT IN ('CANCELLED', 'EXPIRED');
CREATE INDEX subscriptions_by_user ON subscriptions (organization_id, user_id, subscription_id);
CREATE INDEX subscriptions_by_model ON subscriptions (organization_id, model, subscription_id)
    WHERE model IS NOT NULL;
CREATE INDEX subscriptions_by_plan ON subscriptions (organization_id, plan_code, subscription_id);
CREATE INDEX subscriptions_by_state ON subscriptions (organization_id, state, subscription_id);
CREATE INDEX subscriptions_by_expiry ON subscriptions (organization_id, expire_time, subscription_id)
    WHERE expire_time IS NOT NULL;
CREATE INDEX subscriptions_due ON subscriptions (due_time, organization_id, subscription_id)
    WHERE due_time IS NOT NULL AND set_aside_time IS NULL;
CREATE INDEX subscriptions_set_aside ON subscriptions (set_aside_time, organization_id, subscription_id)
    WHERE set_aside_time IS NOT NULL;
CREATE TABLE subscription_events (
    organization_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    sequence bigint NOT NULL,
    kind text NOT NULL,
    planned boolean NOT NULL,
    from_state text,
    to_state text NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    request_id text,
    plan_code text,
    plan_version integer,
    period_start_time timestamptz,
    period_end_time timestamptz,
    effective_time timestamptz NOT NULL,
    charge_operation_id text COLLATE "C",
    charge_currency_code text,
    charge_amount numeric(28, 9),
    grant_operation_ids text[] COLLATE "C" NOT NULL,
    details jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT subscription_events_pkey PRIMARY KEY (organization_id, subscription_id, sequence),
    CONSTRAINT subscription_events_charge_whole CHECK (
        num_nulls(charge_operation_id, charge_currency_code, charge_amount) IN (0, 3)),
    CONSTRAINT subscription_events_period_whole CHECK (num_nulls(period_start_time, period_end_time) IN (0, 2))
);
CREATE UNIQUE INDEX subscription_events_planned_once ON subscription_events (organization_id, subscription_id)
    WHERE planned;
CREATE UNIQUE INDEX subscription_events_charge_once ON subscription_events (organization_id, charge_operation_id)
    WHERE charge_operation_id IS NOT NULL;
CREATE UNIQUE INDEX subscription_events_period_once
    ON subscription_events (organization_id, subscription_id, period_start_time)
    WHERE kind IN ('PERIOD_STARTED', 'PERIOD_PASSED');
CREATE TABLE subscription_references (
    organization_id uuid NOT NULL,
    provider text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    subscription_id uuid NOT NULL,
    CONSTRAINT subscription_references_pkey PRIMARY KEY (organization_id, provider, kind, external_id)
);
CREATE INDEX subscription_references_of_subscription
    ON subscription_references (organization_id, subscription_id);
CREATE TABLE subscription_requests (
    organization_id uuid NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    rpc text NOT NULL,
    request bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT subscription_requests_pkey PRIMARY KEY (organization_id, request_id)
);
CREATE TABLE entitlement_overrides (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    model text COLLATE "C" NOT NULL,
    entitlement_code text COLLATE "C" NOT NULL,
    entitlement jsonb NOT NULL,
    expire_time timestamptz,
    reason text NOT NULL,
    actor text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT entitlement_overrides_pkey PRIMARY KEY (organization_id, user_id, model, entitlement_code)
);
CREATE TABLE entitlement_revisions (
    organization_id uuid NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT entitlement_revisions_pkey PRIMARY KEY (organization_id)
);
CREATE INDEX entitlement_revisions_in_order ON entitlement_revisions (revision);
CREATE TABLE entitlement_counter (
    counter_id integer NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT entitlement_counter_pkey PRIMARY KEY (counter_id),
    CONSTRAINT entitlement_counter_single CHECK (counter_id = 1)
);
INSERT INTO entitlement_counter (counter_id, revision) VALUES (1, 0);
REVOKE DELETE ON subscriptions FROM tollhouse_billing;
REVOKE DELETE, TRUNCATE ON subscription_events FROM tollhouse_billing;
REVOKE UPDATE, DELETE, TRUNCATE ON subscription_requests FROM tollhouse_billing;
REVOKE INSERT, DELETE, TRUNCATE ON entitlement_counter FROM tollhouse_billing
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
