"""Billing's tables, as its migrations make them.

`metadata` has those of billing's own schema, `shard_metadata` those that each shard has: they have no schema here,
since a shard's connection finds them on its search path.

The organization leads every key and every index of what belongs to one. Text columns that are an enumeration hold the
proto's value without its prefix. Nothing here is ever deleted, but for drafts of plans, what providers call a plan, and
organizations that could not be handled at first.
"""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.audit.tables import declare_audit_tables
from libs.common.repeats.tables import declare_requests_table
from libs.common.sharding import declare_sharding_table

SCHEMA: Final = "billing"
metadata: Final = MetaData(schema=SCHEMA)
declare_sharding_table(metadata)
declare_audit_tables(metadata)
shard_metadata: Final = MetaData()
declare_audit_tables(shard_metadata)

_ID: Final = Uuid(as_uuid=False)
_AMOUNT: Final = Numeric(28, 9)
_TIME: Final = DateTime(timezone=True)
# In byte order, as metering has them, so that the charges of both can be compared side by side.
_OPERATION_ID: Final = Text(collation="C")

accounts: Final = Table(
    "accounts",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("account_id", _ID, nullable=False),
    # The project's id for a project's account, the organization's own id for its own: never null, so always unique.
    Column("owner_id", _ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("posted", _AMOUNT, nullable=False),
    Column("held", _AMOUNT, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("overdraft_limit", _AMOUNT, nullable=False),
    Column("state", Text, nullable=False),
    # No open hold expires before this moment; null when none is open. It may be too early, never too late.
    Column("hold_expiry_from", _TIME),
    Column("last_movement_time", _TIME),
    # No grant begins or expires before this moment; null when none will.
    Column("grant_due_from", _TIME),
    # The number of the last movement before charges are entered grant by grant in grant_uses; null while no grant is
    # scoped.
    Column("itemized_from", BigInteger),
    Column("version", BigInteger, nullable=False),
    # Every change of the row adds one, so that a writer can tell whether the row has changed since it was read.
    Column("revision", BigInteger, nullable=False),
    Column("request_id", Text),
    Column("request", JSONB),
    Column("metadata", JSONB),
    Column("create_time", _TIME, nullable=False),
    Column("update_time", _TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "account_id", name="accounts_pkey"),
    UniqueConstraint("organization_id", "owner_id", "currency_code", name="accounts_owner_currency_once"),
    CheckConstraint("held >= 0", name="accounts_held_not_negative"),
    CheckConstraint("overdraft_limit >= 0", name="accounts_overdraft_limit_not_negative"),
    CheckConstraint("state IN ('OPEN', 'CLOSED')", name="accounts_state_known"),
    Index(
        "accounts_request_once",
        "organization_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
    Index(
        "accounts_grants_due",
        "organization_id",
        "account_id",
        "grant_due_from",
        postgresql_where=text("grant_due_from IS NOT NULL"),
    ),
    # Movements change no indexed column, and the free space lets Postgres keep the new version on the same page.
    postgresql_with={"fillfactor": "60"},
)

transactions: Final = Table(
    "transactions",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("operation_id", _OPERATION_ID, nullable=False),
    Column("transaction_id", _ID, nullable=False),
    Column("kind", Text, nullable=False),
    Column("project_id", _ID),
    Column("account_id", _ID, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("direction", Text, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("amount", _AMOUNT, nullable=False),
    Column("balance_after", _AMOUNT, nullable=False),
    # Null for the reversal of everything that is left.
    Column("requested_amount", _AMOUNT),
    Column("mode", Text),
    Column("overdrawn", Boolean, nullable=False),
    Column("system_account", Text),
    Column("counter_account_id", _ID),
    Column("counter_project_id", _ID),
    Column("counter_sequence", BigInteger),
    Column("counter_balance_after", _AMOUNT),
    Column("reverses_transaction_id", _ID),
    Column("held_amount", _AMOUNT),
    Column("description", Text),
    Column("metadata", JSONB),
    Column("create_time", _TIME, nullable=False),
    # The caller; null in rows from before this was recorded.
    Column("actor", Text),
    # The hold of which this is a part; null for all else.
    Column("hold_operation_id", _OPERATION_ID),
    PrimaryKeyConstraint("organization_id", "operation_id", name="transactions_operation_once"),
    UniqueConstraint("organization_id", "transaction_id", name="transactions_transaction_once"),
    UniqueConstraint("organization_id", "account_id", "sequence", name="transactions_sequence_once"),
    Index(
        "transactions_counter_sequence_once",
        "organization_id",
        "counter_account_id",
        "counter_sequence",
        unique=True,
        postgresql_where=text("counter_account_id IS NOT NULL"),
    ),
    Index(
        "transactions_reverses",
        "organization_id",
        "reverses_transaction_id",
        postgresql_where=text("reverses_transaction_id IS NOT NULL"),
    ),
    Index(
        "transactions_hold",
        "organization_id",
        "hold_operation_id",
        "transaction_id",
        postgresql_where=text("hold_operation_id IS NOT NULL"),
    ),
    CheckConstraint("amount >= 0", name="transactions_amount_not_negative"),
    CheckConstraint("direction IN ('DEBIT', 'CREDIT')", name="transactions_direction_known"),
    Index(
        "transactions_funding",
        "organization_id",
        "account_id",
        "sequence",
        postgresql_where=text("system_account IS DISTINCT FROM 'REVENUE'"),
    ),
    CheckConstraint(
        "kind IN ('DEBIT', 'CREDIT', 'TRANSFER', 'CAPTURE', 'REVERSAL', 'GRANT', 'EXPIRY', 'VOID')",
        name="transactions_kind_known",
    ),
    CheckConstraint("(system_account IS NULL) = (counter_account_id IS NOT NULL)", name="transactions_one_other_side"),
)

holds: Final = Table(
    "holds",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("operation_id", _OPERATION_ID, nullable=False),
    Column("hold_id", _ID, nullable=False),
    Column("project_id", _ID),
    Column("account_id", _ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("amount", _AMOUNT, nullable=False),
    Column("ttl_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("description", Text),
    Column("metadata", JSONB),
    Column("create_time", _TIME, nullable=False),
    Column("expire_time", _TIME, nullable=False),
    Column("end_time", _TIME),
    # Who placed it; null in rows from before this was recorded.
    Column("actor", Text),
    # The sum of its parts.
    Column("captured_amount", _AMOUNT, nullable=False, server_default=text("0")),
    # What was asked for, where the hold was enlarged; null where that is the amount.
    Column("requested_amount", _AMOUNT),
    # Whose work it is for; null where the caller did not say.
    Column("user_id", _ID),
    Column("model", Text),
    # What it reserves of grants while it is open, as decimals by their ids; null where the account is not itemized.
    Column("reserves", JSONB),
    PrimaryKeyConstraint("organization_id", "operation_id", name="holds_operation_once"),
    Index(
        "holds_open",
        "organization_id",
        "account_id",
        "expire_time",
        postgresql_where=text("state = 'OPEN'"),
    ),
    CheckConstraint("amount > 0", name="holds_amount_positive"),
    CheckConstraint("state IN ('OPEN', 'CAPTURED', 'RELEASED', 'EXPIRED')", name="holds_state_known"),
    CheckConstraint("(state = 'OPEN') = (end_time IS NULL)", name="holds_end_once"),
)

declines: Final = Table(
    "declines",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("operation_id", _OPERATION_ID, nullable=False),
    # The hold and the movement of one operation are declined separately.
    Column("slot", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request", JSONB, nullable=False),
    Column("facts", JSONB, nullable=False),
    Column("create_time", _TIME, nullable=False),
    # Who asked; null in rows from before this was recorded.
    Column("actor", Text),
    PrimaryKeyConstraint("organization_id", "operation_id", "slot", name="declines_operation_once"),
    CheckConstraint("slot IN ('MOVEMENT', 'HOLD')", name="declines_slot_known"),
)

credit_grants: Final = Table(
    "credit_grants",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("grant_id", _ID, nullable=False),
    Column("account_id", _ID, nullable=False),
    Column("project_id", _ID),
    Column("operation_id", _OPERATION_ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("amount", _AMOUNT, nullable=False),
    Column("effective_time", _TIME, nullable=False),
    # Whether the request named no effective_time.
    Column("at_once", Boolean, nullable=False),
    Column("expire_time", _TIME),
    Column("state", Text, nullable=False),
    # As of the account's last standing; what was used since follows from the account.
    Column("rest", _AMOUNT, nullable=False),
    Column("expired", _AMOUNT, nullable=False),
    Column("source_reference", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("metadata", JSONB),
    Column("create_time", _TIME, nullable=False),
    Column("actor", Text, nullable=False),
    Column("void_time", _TIME),
    Column("void_reason", Text),
    Column("void_actor", Text),
    # Whose charges may use it; null for everybody's.
    Column("user_id", _ID),
    # Which model's charges may use it; null for all.
    Column("model", Text),
    # For a refill: what it and those before it may be at most when it begins.
    Column("rollover_max", _AMOUNT),
    PrimaryKeyConstraint("organization_id", "grant_id", name="credit_grants_pkey"),
    UniqueConstraint("organization_id", "operation_id", name="credit_grants_operation_once"),
    Index("credit_grants_by_account", "organization_id", "account_id"),
    Index("credit_grants_open", "organization_id", "account_id", postgresql_where=text("state <> 'ENDED'")),
    CheckConstraint("kind IN ('PROMOTIONAL', 'INCLUDED', 'PURCHASED')", name="credit_grants_kind_known"),
    CheckConstraint("state IN ('SCHEDULED', 'ACTIVE', 'ENDED')", name="credit_grants_state_known"),
    CheckConstraint(
        "amount > 0 AND rest >= 0 AND expired >= 0 AND rest + expired <= amount", name="credit_grants_amounts_fit"
    ),
    CheckConstraint("expire_time > effective_time", name="credit_grants_end_after_beginning"),
    CheckConstraint("num_nulls(void_time, void_reason, void_actor) IN (0, 3)", name="credit_grants_void_whole"),
)

# What was left of an account's grants at each event, that is whenever one began, expired or was voided.
grant_standings: Final = Table(
    "grant_standings",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("account_id", _ID, nullable=False),
    # The number of the account's last movement then.
    Column("sequence", BigInteger, nullable=False),
    Column("funded", _AMOUNT, nullable=False),
    Column("used", _AMOUNT, nullable=False),
    Column("used_beside", _AMOUNT, nullable=False),
    # Of the active grants by their ids: what was left and what had expired, as decimals. Empty where uses are entered.
    Column("rests", JSONB, nullable=False),
    PrimaryKeyConstraint("organization_id", "account_id", "sequence", name="grant_standings_pkey"),
)

# What movements have used of grants, or given back, on accounts with scoped grants: a row for each grant of a movement.
grant_uses: Final = Table(
    "grant_uses",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("grant_id", _ID, nullable=False),
    Column("account_id", _ID, nullable=False),
    # The number of the movement in its account.
    Column("sequence", BigInteger, nullable=False),
    # The grants of a movement in the order of use.
    Column("place", Integer, nullable=False),
    # Negative for what a reversal gave back.
    Column("amount", _AMOUNT, nullable=False),
    # What was used of the grant altogether after the movement, and what was left of it.
    Column("used", _AMOUNT, nullable=False),
    Column("rest", _AMOUNT, nullable=False),
    # Whose charge it was; null where the caller did not say, and for reversals.
    Column("user_id", _ID),
    Column("model", Text),
    PrimaryKeyConstraint("organization_id", "grant_id", "sequence", name="grant_uses_pkey"),
    UniqueConstraint("organization_id", "account_id", "sequence", "place", name="grant_uses_of_movement"),
)

# Plans belong to the platform, so they are in billing's own schema.
_CODE: Final = Text(collation="C")

plans: Final = Table(
    "plans",
    metadata,
    Column("plan_id", _ID, nullable=False),
    Column("plan_code", _CODE, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("sort_order", Integer, nullable=False),
    # Every change of the plan or its draft adds one.
    Column("revision", BigInteger, nullable=False),
    Column("create_time", _TIME, nullable=False),
    Column("update_time", _TIME, nullable=False),
    Column("archive_time", _TIME),
    PrimaryKeyConstraint("plan_id", name="plans_pkey"),
    UniqueConstraint("plan_code", name="plans_code_once"),
    Index("plans_in_order", "sort_order", "plan_code"),
)

# What was published. The service has no right to change more of it than the time when it was replaced.
plan_versions: Final = Table(
    "plan_versions",
    metadata,
    Column("plan_id", _ID, nullable=False),
    Column("version", Integer, nullable=False),
    Column("terms", JSONB, nullable=False),
    Column("create_time", _TIME, nullable=False),
    Column("publish_time", _TIME, nullable=False),
    # Null for the version in force.
    Column("archive_time", _TIME),
    PrimaryKeyConstraint("plan_id", "version", name="plan_versions_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_versions_plan_known"),
    CheckConstraint("version >= 1", name="plan_versions_numbered"),
    Index("plan_versions_published_once", "plan_id", unique=True, postgresql_where=text("archive_time IS NULL")),
)

# The version that is being prepared: one for each plan at most.
plan_drafts: Final = Table(
    "plan_drafts",
    metadata,
    Column("plan_id", _ID, nullable=False),
    Column("version", Integer, nullable=False),
    Column("terms", JSONB, nullable=False),
    Column("create_time", _TIME, nullable=False),
    PrimaryKeyConstraint("plan_id", name="plan_drafts_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_drafts_plan_known"),
    CheckConstraint("version >= 1", name="plan_drafts_numbered"),
)

# What payment providers call a plan.
plan_references: Final = Table(
    "plan_references",
    metadata,
    Column("provider", _CODE, nullable=False),
    Column("kind", _CODE, nullable=False),
    Column("external_id", _CODE, nullable=False),
    Column("plan_id", _ID, nullable=False),
    PrimaryKeyConstraint("provider", "kind", "external_id", name="plan_references_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_references_plan_known"),
    Index("plan_references_of_plan", "plan_id"),
)

plan_requests: Final = declare_requests_table(metadata, "plan_requests")

# Experiments on plans. `variants` are the plans that stand for one, with their weights, by their codes.
plan_experiments: Final = Table(
    "plan_experiments",
    metadata,
    Column("experiment_id", _ID, nullable=False),
    Column("plan_id", _ID, nullable=False),
    Column("variants", JSONB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("start_time", _TIME, nullable=False),
    Column("update_time", _TIME, nullable=False),
    # Null while it runs.
    Column("end_time", _TIME),
    PrimaryKeyConstraint("experiment_id", name="plan_experiments_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_experiments_plan_known"),
    Index("plan_experiments_running_once", "plan_id", unique=True, postgresql_where=text("end_time IS NULL")),
    Index("plan_experiments_of_plan", "plan_id", "experiment_id"),
)

# Which variant of an experiment a subject has, for good. The service has no right to change or delete a row.
plan_assignments: Final = Table(
    "plan_assignments",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("experiment_id", _ID, nullable=False),
    # The nil id for the organization itself.
    Column("user_id", _ID, nullable=False),
    # The plan of the variant.
    Column("plan_id", _ID, nullable=False),
    # Who asked first.
    Column("actor", Text, nullable=False),
    Column("create_time", _TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "experiment_id", "user_id", name="plan_assignments_pkey"),
    Index("plan_assignments_of_experiment", "experiment_id", "organization_id", "user_id"),
)

# How far this service has followed what a peer streams, and which process follows now.
watch_positions: Final = Table(
    "watch_positions",
    metadata,
    Column("watch", Text(collation="C"), nullable=False),
    # Everything up to this revision was handled, or is among the unhandled ones.
    Column("revision", BigInteger, nullable=False),
    Column("holder", _ID, nullable=False),
    Column("lease_expire_time", _TIME, nullable=False),
    PrimaryKeyConstraint("watch", name="watch_positions_pkey"),
    CheckConstraint("revision >= 0", name="watch_positions_revision_counts"),
)

# The organizations that could not be handled yet, as identity told of them last; some ten thousand at most.
unhandled_organizations: Final = Table(
    "unhandled_organizations",
    metadata,
    Column("organization_id", _ID, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("personal", Boolean, nullable=False),
    Column("owner_user_id", _ID),
    # When the organization was created and deleted.
    Column("create_time", _TIME, nullable=False),
    Column("delete_time", _TIME),
    Column("reason", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("first_attempt_time", _TIME, nullable=False),
    Column("next_attempt_time", _TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="unhandled_organizations_pkey"),
    CheckConstraint("attempt_count >= 1", name="unhandled_organizations_attempted"),
)

# What is due for a subscription is worked off at `due_time`, unless it was set aside. `period_number` counts from the
# anchor. `waits_for` says what a pending one waits for.
subscriptions: Final = Table(
    "subscriptions",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("subscription_id", _ID, nullable=False),
    Column("subject", Text, nullable=False),
    Column("user_id", _ID),
    Column("model", _CODE),
    Column("plan_id", _ID),
    Column("plan_code", _CODE),
    Column("plan_version", Integer),
    Column("limits", JSONB),
    Column("state", Text, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("state_time", _TIME, nullable=False),
    Column("waits_for", Text),
    Column("start_time", _TIME, nullable=False),
    Column("trial_end_time", _TIME),
    Column("expire_time", _TIME),
    Column("anchor_time", _TIME),
    Column("time_zone", Text, nullable=False),
    Column("period_number", BigInteger),
    Column("period_start_time", _TIME),
    Column("period_end_time", _TIME),
    Column("period_paid", Boolean, nullable=False),
    Column("cancel_at_period_end", Boolean, nullable=False),
    Column("next_plan_id", _ID),
    Column("next_plan_code", _CODE),
    Column("next_plan_version", Integer),
    Column("payment_attempts", Integer, nullable=False),
    Column("next_payment_time", _TIME),
    Column("owed_currency_code", Text),
    Column("owed_amount", _AMOUNT),
    Column("due_time", _TIME),
    Column("set_aside_time", _TIME),
    Column("set_aside_reason", Text),
    Column("last_sequence", BigInteger, nullable=False),
    Column("customer_reference", Text, nullable=False),
    Column("metadata", JSONB),
    Column("actor", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", _TIME, nullable=False),
    Column("update_time", _TIME, nullable=False),
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
    Column("organization_id", _ID, nullable=False),
    Column("subscription_id", _ID, nullable=False),
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
    Column("period_start_time", _TIME),
    Column("period_end_time", _TIME),
    Column("effective_time", _TIME, nullable=False),
    Column("charge_operation_id", _CODE),
    Column("charge_currency_code", Text),
    Column("charge_amount", _AMOUNT),
    Column("grant_operation_ids", ARRAY(Text(collation="C")), nullable=False),
    Column("details", JSONB, nullable=False),
    Column("create_time", _TIME, nullable=False),
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
    Column("organization_id", _ID, nullable=False),
    Column("provider", _CODE, nullable=False),
    Column("kind", _CODE, nullable=False),
    Column("external_id", _CODE, nullable=False),
    Column("subscription_id", _ID, nullable=False),
    PrimaryKeyConstraint("organization_id", "provider", "kind", "external_id", name="subscription_references_pkey"),
    Index("subscription_references_of_subscription", "organization_id", "subscription_id"),
)

subscription_requests: Final = Table(
    "subscription_requests",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("request_id", _CODE, nullable=False),
    Column("rpc", Text, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", _TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "request_id", name="subscription_requests_pkey"),
)

# The nil UUID stands for all of the organization's users, an empty model for all models.
entitlement_overrides: Final = Table(
    "entitlement_overrides",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("user_id", _ID, nullable=False),
    Column("model", _CODE, nullable=False),
    Column("entitlement_code", _CODE, nullable=False),
    Column("entitlement", JSONB, nullable=False),
    Column("expire_time", _TIME),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("create_time", _TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "user_id", "model", "entitlement_code", name="entitlement_overrides_pkey"),
)

# The revision at which an organization's entitlements last changed. Revisions are given in the order of the commits,
# since the counter's row is locked until the end of the transaction.
entitlement_revisions: Final = Table(
    "entitlement_revisions",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
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
