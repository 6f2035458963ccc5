"""Accounts and what moves on them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.billing.tables.columns import AMOUNT, ID, OPERATION_ID, TIME, shard_metadata

accounts: Final = Table(
    "accounts",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("account_id", ID, nullable=False),
    # The project's id for a project's account, the organization's own id for its own: never null, so always unique.
    Column("owner_id", ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("posted", AMOUNT, nullable=False),
    Column("held", AMOUNT, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("overdraft_limit", AMOUNT, nullable=False),
    Column("state", Text, nullable=False),
    # No open hold expires before this moment; null when none is open. It may be too early, never too late.
    Column("hold_expiry_from", TIME),
    Column("last_movement_time", TIME),
    # No grant begins or expires before this moment; null when none will.
    Column("grant_due_from", TIME),
    # The number of the last movement before charges are entered grant by grant in grant_uses; null while no grant is
    # scoped.
    Column("itemized_from", BigInteger),
    Column("version", BigInteger, nullable=False),
    # Every change of the row adds one, so that a writer can tell whether the row has changed since it was read.
    Column("revision", BigInteger, nullable=False),
    Column("request_id", Text),
    Column("request", JSONB),
    Column("metadata", JSONB),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    # Below which posted balance the balance is low, and whether that it is so is announced.
    Column("low_balance_threshold", AMOUNT),
    Column("low_balance_told", Boolean, nullable=False, server_default=text("false")),
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
    Index(
        "accounts_low_balance",
        "organization_id",
        "account_id",
        postgresql_where=text("low_balance_threshold IS NOT NULL"),
    ),
    # Movements change no indexed column, and the free space lets Postgres keep the new version on the same page.
    postgresql_with={"fillfactor": "60"},
)

transactions: Final = Table(
    "transactions",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", OPERATION_ID, nullable=False),
    Column("transaction_id", ID, nullable=False),
    Column("kind", Text, nullable=False),
    Column("project_id", ID),
    Column("account_id", ID, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("direction", Text, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("balance_after", AMOUNT, nullable=False),
    # Null for the reversal of everything that is left.
    Column("requested_amount", AMOUNT),
    Column("mode", Text),
    Column("overdrawn", Boolean, nullable=False),
    Column("system_account", Text),
    Column("counter_account_id", ID),
    Column("counter_project_id", ID),
    Column("counter_sequence", BigInteger),
    Column("counter_balance_after", AMOUNT),
    Column("reverses_transaction_id", ID),
    Column("held_amount", AMOUNT),
    Column("description", Text),
    Column("metadata", JSONB),
    Column("create_time", TIME, nullable=False),
    # The caller; null in rows from before this was recorded.
    Column("actor", Text),
    # The hold of which this is a part; null for all else.
    Column("hold_operation_id", OPERATION_ID),
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
    Column("organization_id", ID, nullable=False),
    Column("operation_id", OPERATION_ID, nullable=False),
    Column("hold_id", ID, nullable=False),
    Column("project_id", ID),
    Column("account_id", ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("ttl_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("description", Text),
    Column("metadata", JSONB),
    Column("create_time", TIME, nullable=False),
    Column("expire_time", TIME, nullable=False),
    Column("end_time", TIME),
    # Who placed it; null in rows from before this was recorded.
    Column("actor", Text),
    # The sum of its parts.
    Column("captured_amount", AMOUNT, nullable=False, server_default=text("0")),
    # What was asked for, where the hold was enlarged; null where that is the amount.
    Column("requested_amount", AMOUNT),
    # Whose work it is for; null where the caller did not say.
    Column("user_id", ID),
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
    Column("organization_id", ID, nullable=False),
    Column("operation_id", OPERATION_ID, nullable=False),
    # The hold and the movement of one operation are declined separately.
    Column("slot", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request", JSONB, nullable=False),
    Column("facts", JSONB, nullable=False),
    Column("create_time", TIME, nullable=False),
    # Who asked; null in rows from before this was recorded.
    Column("actor", Text),
    PrimaryKeyConstraint("organization_id", "operation_id", "slot", name="declines_operation_once"),
    CheckConstraint("slot IN ('MOVEMENT', 'HOLD')", name="declines_slot_known"),
)
