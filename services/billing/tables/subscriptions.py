"""Subscriptions, what happened to them, and what follows for entitlements."""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.billing.tables.columns import AMOUNT, CODE, ID, TIME, shard_metadata

# What is due for a subscription is worked off at `due_time`, unless it was set aside. `period_number` counts from the
# anchor. `waits_for` says what a pending one waits for.
subscriptions: Final = Table(
    "subscriptions",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("subscription_id", ID, nullable=False),
    Column("subject", Text, nullable=False),
    Column("user_id", ID),
    Column("model", CODE),
    Column("plan_id", ID),
    Column("plan_code", CODE),
    Column("plan_version", Integer),
    Column("limits", JSONB),
    Column("state", Text, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("state_time", TIME, nullable=False),
    Column("waits_for", Text),
    Column("start_time", TIME, nullable=False),
    Column("trial_end_time", TIME),
    Column("expire_time", TIME),
    Column("anchor_time", TIME),
    Column("time_zone", Text, nullable=False),
    Column("period_number", BigInteger),
    Column("period_start_time", TIME),
    Column("period_end_time", TIME),
    Column("period_paid", Boolean, nullable=False),
    Column("cancel_at_period_end", Boolean, nullable=False),
    Column("next_plan_id", ID),
    Column("next_plan_code", CODE),
    Column("next_plan_version", Integer),
    Column("payment_attempts", Integer, nullable=False),
    Column("next_payment_time", TIME),
    Column("owed_currency_code", Text),
    Column("owed_amount", AMOUNT),
    Column("due_time", TIME),
    Column("set_aside_time", TIME),
    Column("set_aside_reason", Text),
    Column("last_sequence", BigInteger, nullable=False),
    Column("customer_reference", Text, nullable=False),
    Column("metadata", JSONB),
    Column("actor", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    # From where its price is taken: the balance, a saved method of payment, or what the provider takes by itself.
    Column("collection", Text, nullable=False, server_default="BALANCE"),
    Column("collection_provider", CODE),
    # What the usage since a moment comes to at least when the period ends; null where it has no minimum.
    Column("minimum_currency_code", Text),
    Column("minimum_amount", AMOUNT),
    Column("minimum_since_time", TIME),
    # Since when usage counts that the plan charges for when the period ends; null where it charges for none.
    Column("usage_since_time", TIME),
    PrimaryKeyConstraint("organization_id", "subscription_id", name="subscriptions_pkey"),
    CheckConstraint(
        "state IN ( 'PENDING', 'TRIALING', 'ACTIVE', 'PAST_DUE', 'PAUSED', 'SUSPENDED', 'CANCELLED', 'EXPIRED')",
        name="subscriptions_state_known",
    ),
    CheckConstraint("waits_for IN ('APPROVAL', 'START', 'PAYMENT')", name="subscriptions_waits_for_known"),
    CheckConstraint("(state = 'PENDING') = (waits_for IS NOT NULL)", name="subscriptions_pending_waits"),
    CheckConstraint(
        "subject = 'ORGANIZATION' AND user_id IS NULL AND model IS NULL"
        " OR subject = 'USER' AND user_id IS NOT NULL AND model IS NULL"
        " OR subject = 'MODEL' AND user_id IS NOT NULL AND model IS NOT NULL",
        name="subscriptions_subject_named",
    ),
    CheckConstraint("num_nulls(plan_id, plan_code, plan_version) IN (0, 3)", name="subscriptions_plan_whole"),
    CheckConstraint(
        "(plan_id IS NULL) = (limits IS NOT NULL) AND (limits IS NULL OR subject = 'MODEL')",
        name="subscriptions_plan_or_limits",
    ),
    CheckConstraint(
        "num_nulls(next_plan_id, next_plan_code, next_plan_version) IN (0, 3)", name="subscriptions_next_plan_whole"
    ),
    CheckConstraint(
        "num_nulls(period_number, period_start_time, period_end_time) IN (0, 3)"
        " AND period_end_time > period_start_time",
        name="subscriptions_period_whole",
    ),
    CheckConstraint(
        "num_nulls(owed_currency_code, owed_amount) IN (0, 2) AND owed_amount > 0", name="subscriptions_owed_whole"
    ),
    CheckConstraint("num_nulls(set_aside_time, set_aside_reason) IN (0, 2)", name="subscriptions_set_aside_whole"),
    CheckConstraint(
        "num_nulls(minimum_currency_code, minimum_amount, minimum_since_time) IN (0, 3) AND minimum_amount > 0",
        name="subscriptions_minimum_whole",
    ),
    CheckConstraint("state NOT IN ('CANCELLED', 'EXPIRED') OR due_time IS NULL", name="subscriptions_end_is_final"),
    Index(
        "subscriptions_live_organization_once",
        "organization_id",
        unique=True,
        postgresql_where=text("subject = 'ORGANIZATION' AND state NOT IN ('CANCELLED', 'EXPIRED')"),
    ),
    Index(
        "subscriptions_live_user_once",
        "organization_id",
        "user_id",
        unique=True,
        postgresql_where=text("subject = 'USER' AND state NOT IN ('CANCELLED', 'EXPIRED')"),
    ),
    Index(
        "subscriptions_live_model_once",
        "organization_id",
        "user_id",
        "model",
        unique=True,
        postgresql_where=text("subject = 'MODEL' AND state NOT IN ('CANCELLED', 'EXPIRED')"),
    ),
    Index("subscriptions_by_user", "organization_id", "user_id", "subscription_id"),
    Index(
        "subscriptions_by_model",
        "organization_id",
        "model",
        "subscription_id",
        postgresql_where=text("model IS NOT NULL"),
    ),
    Index("subscriptions_by_plan", "organization_id", "plan_code", "subscription_id"),
    Index("subscriptions_by_state", "organization_id", "state", "subscription_id"),
    Index(
        "subscriptions_by_expiry",
        "organization_id",
        "expire_time",
        "subscription_id",
        postgresql_where=text("expire_time IS NOT NULL"),
    ),
    Index(
        "subscriptions_due",
        "due_time",
        "organization_id",
        "subscription_id",
        postgresql_where=text("due_time IS NOT NULL AND set_aside_time IS NULL"),
    ),
    Index(
        "subscriptions_set_aside",
        "set_aside_time",
        "organization_id",
        "subscription_id",
        postgresql_where=text("set_aside_time IS NOT NULL"),
    ),
)

# What happened to a subscription. An event that moves money is planned first, so that whoever goes on after a crash
# makes the same movements; there is one planned event of a subscription at most.
subscription_events: Final = Table(
    "subscription_events",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("subscription_id", ID, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("planned", Boolean, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("request_id", Text),
    Column("plan_code", Text),
    Column("plan_version", Integer),
    Column("period_start_time", TIME),
    Column("period_end_time", TIME),
    Column("effective_time", TIME, nullable=False),
    Column("charge_operation_id", CODE),
    Column("charge_currency_code", Text),
    Column("charge_amount", AMOUNT),
    Column("grant_operation_ids", ARRAY(Text(collation="C")), nullable=False),
    Column("details", JSONB, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "subscription_id", "sequence", name="subscription_events_pkey"),
    CheckConstraint(
        "num_nulls(charge_operation_id, charge_currency_code, charge_amount) IN (0, 3)",
        name="subscription_events_charge_whole",
    ),
    CheckConstraint("num_nulls(period_start_time, period_end_time) IN (0, 2)", name="subscription_events_period_whole"),
    Index(
        "subscription_events_planned_once",
        "organization_id",
        "subscription_id",
        unique=True,
        postgresql_where=text("planned"),
    ),
    Index(
        "subscription_events_charge_once",
        "organization_id",
        "charge_operation_id",
        unique=True,
        postgresql_where=text("charge_operation_id IS NOT NULL"),
    ),
    Index(
        "subscription_events_charges",
        "organization_id",
        "create_time",
        postgresql_where=text("charge_operation_id IS NOT NULL"),
    ),
    Index(
        "subscription_events_period_once",
        "organization_id",
        "subscription_id",
        "period_start_time",
        unique=True,
        postgresql_where=text("kind IN ('PERIOD_STARTED', 'PERIOD_PASSED')"),
    ),
)

subscription_references: Final = Table(
    "subscription_references",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("provider", CODE, nullable=False),
    Column("kind", CODE, nullable=False),
    Column("external_id", CODE, nullable=False),
    Column("subscription_id", ID, nullable=False),
    PrimaryKeyConstraint("organization_id", "provider", "kind", "external_id", name="subscription_references_pkey"),
    Index("subscription_references_of_subscription", "organization_id", "subscription_id"),
)

subscription_requests: Final = Table(
    "subscription_requests",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("request_id", CODE, nullable=False),
    Column("rpc", Text, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "request_id", name="subscription_requests_pkey"),
)

# The nil UUID stands for all of the organization's users, an empty model for all models.
entitlement_overrides: Final = Table(
    "entitlement_overrides",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("model", CODE, nullable=False),
    Column("entitlement_code", CODE, nullable=False),
    Column("entitlement", JSONB, nullable=False),
    Column("expire_time", TIME),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "user_id", "model", "entitlement_code", name="entitlement_overrides_pkey"),
)

# The revision at which an organization's entitlements last changed. Revisions are given in the order of the commits,
# since the counter's row is locked until the end of the transaction.
entitlement_revisions: Final = Table(
    "entitlement_revisions",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("organization_id", name="entitlement_revisions_pkey"),
    Index("entitlement_revisions_in_order", "revision"),
)

# Says the schema of the shard in which revisions were given.
ENTITLEMENTS_CHANNEL: Final = "tollhouse_billing_entitlements"
entitlement_counter: Final = Table(
    "entitlement_counter",
    shard_metadata,
    Column("counter_id", Integer, autoincrement=False, nullable=False),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("counter_id", name="entitlement_counter_pkey"),
    CheckConstraint("counter_id = 1", name="entitlement_counter_single"),
)
