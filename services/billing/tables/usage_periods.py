"""The times whose usage plans charge for, and what was moved for each."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.billing.tables.columns import AMOUNT, CODE, ID, TIME, shard_metadata

# A period of a subscription, or a part of one, that is over. An empty code stands for a minimum that is settled after
# the usage charges of its time.
usage_periods: Final = Table(
    "usage_periods",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("subscription_id", ID, nullable=False),
    Column("start_time", TIME, nullable=False),
    Column("usage_charge_code", CODE, nullable=False),
    Column("end_time", TIME, nullable=False),
    Column("plan_code", Text, nullable=False),
    Column("plan_version", Integer, nullable=False),
    Column("currency_code", Text, nullable=False),
    # Whether usage under no subscription counts.
    Column("with_unsubscribed", Boolean, nullable=False),
    # The usage charge as the plan has it; null for a minimum.
    Column("charge", JSONB),
    # The part of the flat fee that is due; of a minimum, what is short of it before its usage charges.
    Column("base", AMOUNT, nullable=False),
    # What was used when it was last looked at, and what was charged for it.
    Column("quantity", Numeric(28, 3), nullable=False),
    Column("amount", AMOUNT, nullable=False),
    # How many movements there are.
    Column("sequence", BigInteger, nullable=False),
    # When it is looked at next; null where it is not, until something of it changes. While a process is at it, this is
    # when others may take it.
    Column("due_time", TIME),
    # When it was last looked at; null before the first time.
    Column("looked_time", TIME),
    Column("attempts", Integer, nullable=False),
    # Why the last look failed; empty where it did not.
    Column("error", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint(
        "organization_id", "subscription_id", "start_time", "usage_charge_code", name="usage_periods_pkey"
    ),
    CheckConstraint("end_time > start_time", name="usage_periods_have_a_length"),
    CheckConstraint("(usage_charge_code = '') = (charge IS NULL)", name="usage_periods_charge_known"),
    CheckConstraint("least(base, quantity, amount, sequence) >= 0", name="usage_periods_not_negative"),
    Index(
        "usage_periods_due",
        "due_time",
        "organization_id",
        "subscription_id",
        "start_time",
        "usage_charge_code",
        postgresql_where=text("due_time IS NOT NULL"),
    ),
    Index("usage_periods_waiting", "organization_id", "end_time", postgresql_where=text("looked_time IS NULL")),
)

# What was charged, or given back, each time that the quantity of a time had changed. A movement is planned first, so
# that whoever goes on after a crash makes the same one.
usage_period_movements: Final = Table(
    "usage_period_movements",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("subscription_id", ID, nullable=False),
    Column("start_time", TIME, nullable=False),
    Column("usage_charge_code", CODE, nullable=False),
    # 1, 2, 3 and so on.
    Column("sequence", BigInteger, nullable=False),
    Column("operation_id", CODE, nullable=False),
    # The quantity after the one of the movement before, and what both come to.
    Column("quantity", Numeric(28, 3), nullable=False),
    Column("amount", AMOUNT, nullable=False),
    # What it moves: taken from the account where positive, given back where negative.
    Column("change", AMOUNT, nullable=False),
    Column("planned", Boolean, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint(
        "organization_id",
        "subscription_id",
        "start_time",
        "usage_charge_code",
        "sequence",
        name="usage_period_movements_pkey",
    ),
    UniqueConstraint("organization_id", "operation_id", name="usage_period_movements_operation_once"),
    CheckConstraint("change <> 0 AND sequence > 0", name="usage_period_movements_move"),
)
