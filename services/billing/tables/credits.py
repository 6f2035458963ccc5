"""Credit grants, and what became of them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.billing.tables.columns import AMOUNT, ID, OPERATION_ID, TIME, shard_metadata

credit_grants: Final = Table(
    "credit_grants",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("grant_id", ID, nullable=False),
    Column("account_id", ID, nullable=False),
    Column("project_id", ID),
    Column("operation_id", OPERATION_ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("effective_time", TIME, nullable=False),
    # Whether the request named no effective_time.
    Column("at_once", Boolean, nullable=False),
    Column("expire_time", TIME),
    Column("state", Text, nullable=False),
    # As of the account's last standing; what was used since follows from the account.
    Column("rest", AMOUNT, nullable=False),
    Column("expired", AMOUNT, nullable=False),
    Column("source_reference", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("metadata", JSONB),
    Column("create_time", TIME, nullable=False),
    Column("actor", Text, nullable=False),
    Column("void_time", TIME),
    Column("void_reason", Text),
    Column("void_actor", Text),
    # Whose charges may use it; null for everybody's.
    Column("user_id", ID),
    # Which model's charges may use it; null for all.
    Column("model", Text),
    # For a refill: what it and those before it may be at most when it begins.
    Column("rollover_max", AMOUNT),
    # Whether it is announced that it expires soon.
    Column("expiry_told", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "grant_id", name="credit_grants_pkey"),
    UniqueConstraint("organization_id", "operation_id", name="credit_grants_operation_once"),
    Index("credit_grants_by_account", "organization_id", "account_id"),
    Index("credit_grants_open", "organization_id", "account_id", postgresql_where=text("state <> 'ENDED'")),
    # The queue of those that expire soon, over all organizations of a shard.
    Index(
        "credit_grants_expiring",
        *("expire_time", "organization_id", "grant_id"),
        postgresql_where=text("state <> 'ENDED' AND NOT expiry_told"),
    ),
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
    Column("organization_id", ID, nullable=False),
    Column("account_id", ID, nullable=False),
    # The number of the account's last movement then.
    Column("sequence", BigInteger, nullable=False),
    Column("funded", AMOUNT, nullable=False),
    Column("used", AMOUNT, nullable=False),
    Column("used_beside", AMOUNT, nullable=False),
    # Of the active grants by their ids: what was left and what had expired, as decimals. Empty where uses are entered.
    Column("rests", JSONB, nullable=False),
    PrimaryKeyConstraint("organization_id", "account_id", "sequence", name="grant_standings_pkey"),
)

# What movements have used of grants, or given back, on accounts with scoped grants: a row for each grant of a movement.
grant_uses: Final = Table(
    "grant_uses",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("grant_id", ID, nullable=False),
    Column("account_id", ID, nullable=False),
    # The number of the movement in its account.
    Column("sequence", BigInteger, nullable=False),
    # The grants of a movement in the order of use.
    Column("place", Integer, nullable=False),
    # Negative for what a reversal gave back.
    Column("amount", AMOUNT, nullable=False),
    # What was used of the grant altogether after the movement, and what was left of it.
    Column("used", AMOUNT, nullable=False),
    Column("rest", AMOUNT, nullable=False),
    # Whose charge it was; null where the caller did not say, and for reversals.
    Column("user_id", ID),
    Column("model", Text),
    PrimaryKeyConstraint("organization_id", "grant_id", "sequence", name="grant_uses_pkey"),
    UniqueConstraint("organization_id", "account_id", "sequence", "place", name="grant_uses_of_movement"),
)
