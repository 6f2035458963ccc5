"""The tables of retention: what is kept of dropped usage, which drops were asked for, and who is forgotten.

Rows for the whole platform have the nil UUID as their organization.
"""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.metering.tables.columns import AMOUNT, ID, KEY, TIME, metadata, shard_metadata

# For how many months usage is kept; 0 for ever.
usage_retention: Final = Table(
    "usage_retention",
    metadata,
    Column("organization_id", ID, nullable=False),
    Column("months", Integer, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="usage_retention_pkey"),
    CheckConstraint("months = 0 OR months BETWEEN 2 AND 1200", name="usage_retention_months"),
)

# The drops that were asked for, with the numbers of the export. Corrections and history of a month are refused while it
# has a row that is not REFUSED.
usage_drops: Final = Table(
    "usage_drops",
    metadata,
    Column("organization_id", ID, nullable=False),
    Column("month", TIME, nullable=False),
    Column("state", Text, nullable=False),
    Column("usage_count", BigInteger, nullable=False),
    # What the usage cost, as decimals by currency.
    Column("totals", JSONB, nullable=False),
    Column("digest", BigInteger, nullable=False),
    Column("refusal_reason", Text),
    Column("refusal_message", Text),
    Column("actor", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    # Until when a process works on it; another one takes it then.
    Column("lease_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "month", name="usage_drops_pkey"),
    CheckConstraint("state IN ('SEALED', 'DROPPING', 'DROPPED', 'REFUSED')", name="usage_drops_state"),
)

# The users whose texts are emptied, and how far that is.
forgotten_users: Final = Table(
    "forgotten_users",
    metadata,
    Column("user_id", ID, nullable=False),
    Column("emptied_count", BigInteger, nullable=False),
    # The number of the shard and of the table that are next, and the key after which to go on in it.
    Column("shard", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("after", ARRAY(Text), nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("done_time", TIME),
    Column("lease_time", TIME, nullable=False),
    PrimaryKeyConstraint("user_id", name="forgotten_users_pkey"),
)

# What is known of an organization's month whose usage is dropped. COUNTED: nothing is dropped yet. COPYING: what is
# kept is being written, while all usage is there. MOVING: some usage is there still, and of the rest what is kept.
# DROPPED: only what is kept is there.
dropped_usage_months: Final = Table(
    "dropped_usage_months",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("month", TIME, nullable=False),
    Column("state", Text, nullable=False),
    Column("usage_count", BigInteger, nullable=False),
    Column("totals", JSONB, nullable=False),
    Column("digest", BigInteger, nullable=False),
    # The exclusive or of the hashes of what is kept of each usage.
    Column("kept_digest", BigInteger, nullable=False),
    # The number of rows of the hourly sums and of those of units, and the exclusive or of their hashes.
    Column("sum_count", BigInteger, nullable=False),
    Column("sum_digest", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("drop_time", TIME),
    PrimaryKeyConstraint("organization_id", "month", name="dropped_usage_months_pkey"),
    CheckConstraint("state IN ('COUNTED', 'COPYING', 'MOVING', 'DROPPED')", name="dropped_usage_months_state"),
)

# What is kept of dropped usage: what its charge is compared with, and what its operation is compared with.
dropped_usages: Final = Table(
    "dropped_usages",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("occur_time", TIME, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("model", Text, nullable=False),
    # As it was recorded or priced later; null for usage that only a correction priced, or that was voided before.
    Column("cost", AMOUNT),
    Column("currency_code", Text),
    # Null if there was nothing to charge.
    Column("charge_kind", Text),
    Column("captured_before", AMOUNT),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "occur_time", "usage_id", name="dropped_usages_pkey"),
)

# Which dropped usage a usage corrects.
usage_links: Final = Table(
    "usage_links",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("corrects_operation_id", KEY, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="usage_links_pkey"),
)
