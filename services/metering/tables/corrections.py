"""The tables of corrections of usage. Their rows never change."""

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
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.metering.tables.columns import AMOUNT, ID, KEY, TIME, TOKEN_CLASSES, shard_metadata

# What was done to a usage. Its corrections are numbered 1, 2, 3 and so on.
usage_corrections: Final = Table(
    "usage_corrections",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("usage_operation_id", KEY, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="usage_corrections_pkey"),
    UniqueConstraint("organization_id", "usage_id", "number", name="usage_corrections_in_order"),
    CheckConstraint("kind IN ('AMEND', 'VOID', 'RESTORE', 'PRICE', 'RERATE')", name="usage_corrections_kind"),
    CheckConstraint("number > 0", name="usage_corrections_number"),
    Index("usage_corrections_by_time", "organization_id", "create_time", "operation_id"),
)

# What a correction takes out of the sums and puts into them: the usage as it was, and the usage as it is (`added`). A
# void has only the first, a restored usage only the second. `create_time` is that of the correction.
usage_correction_lines: Final = Table(
    "usage_correction_lines",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("occur_time", TIME, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("number", Integer, nullable=False),
    Column("added", Boolean, nullable=False),
    # The operation id of the usage.
    Column("operation_id", KEY, nullable=False),
    Column("project_id", ID),
    Column("user_id", ID),
    Column("api_key_id", ID),
    Column("subscription_id", ID),
    Column("model", Text, nullable=False),
    *(Column(token_class, BigInteger, nullable=False) for token_class in TOKEN_CLASSES),
    Column("latency_ms", BigInteger),
    Column("status_code", Integer),
    Column("error_message", Text),
    Column("endpoint", Text),
    Column("conversation_id", Text),
    Column("labels", JSONB),
    Column("partial", Boolean, nullable=False),
    Column("cost", AMOUNT),
    Column("currency_code", Text),
    Column("price_version_id", ID),
    Column("charge_kind", Text),
    Column("create_time", TIME, nullable=False),
    Column("dimension_id", ID, nullable=False),
    Column("quantities", JSONB),
    Column("items", BigInteger),
    Column("provider_cost", AMOUNT),
    Column("provider_currency_code", Text),
    Column("stated", Boolean, nullable=False),
    Column("rate_hours", Text),
    Column("counters", ARRAY(ID)),
    Column("counted", ARRAY(AMOUNT)),
    Column("lease_id", KEY),
    PrimaryKeyConstraint(
        "organization_id", "occur_time", "usage_id", "number", "added", name="usage_correction_lines_pkey"
    ),
    UniqueConstraint("organization_id", "usage_id", "number", "added", name="usage_correction_lines_once"),
    Index("usage_correction_lines_by_time", "organization_id", "create_time"),
)

# The movements of money that corrections ask billing for, each under an operation id of its own.
usage_correction_charges: Final = Table(
    "usage_correction_charges",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("number", Integer, nullable=False),
    # 0, 1, 2 and so on within the correction.
    Column("position", Integer, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("currency_code", Text, nullable=False),
    # The charge of which something is given back; null where the account is debited.
    Column("reverses_operation_id", KEY),
    # When the usage happened, as of this correction.
    Column("occur_time", TIME, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="usage_correction_charges_pkey"),
    UniqueConstraint("organization_id", "usage_id", "number", "position", name="usage_correction_charges_in_order"),
    CheckConstraint("amount > 0", name="usage_correction_charges_positive"),
)
