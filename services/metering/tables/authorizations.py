"""The tables of authorizations, of the policies by which they are made, and of what finds those that lapsed."""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.metering.tables.columns import AMOUNT, ID, KEY, TIME, shard_metadata

authorizations: Final = Table(
    "authorizations",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("project_id", ID),
    Column("user_id", ID),
    Column("service_account_id", ID),
    Column("api_key_id", ID),
    Column("model", Text, nullable=False),
    Column("endpoint", Text),
    Column("input_tokens", BigInteger, nullable=False),
    Column("max_output_tokens", BigInteger, nullable=False),
    Column("hold_ttl_ms", BigInteger, nullable=False),
    # The price version the work will be settled with, even if the price changes before that.
    Column("price_version_id", ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("cancelled", Boolean, nullable=False, server_default=text("false")),
    Column("create_time", TIME, nullable=False),
    Column("quantities", JSONB),
    Column("service_tier", Text, nullable=False, server_default=text("'standard'")),
    Column("environment", Text, nullable=False, server_default=text("'LIVE'")),
    # When the hold ends, where that is not `hold_ttl_ms` after `create_time`: it was extended, or placed by a repeat.
    Column("expire_time", TIME),
    # Whether billing declined the hold.
    Column("declined", Boolean, nullable=False, server_default=text("false")),
    # What the call may use and what is held for it, where that was enlarged. The columns above stay as they were asked.
    Column("enlarged", JSONB),
    # The counters of limits in which the call has reserved something, and how much in each; null where there are none.
    Column("counters", ARRAY(ID)),
    Column("reserved", ARRAY(AMOUNT)),
    # Whether the reservations were given back without a settlement: the call was cancelled or declined, or lapsed.
    Column("limits_released", Boolean, nullable=False, server_default=text("false")),
    # What the caller said for limits alone; null where it said nothing.
    Column("items", BigInteger),
    Column("labels", JSONB),
    # The subscription that the call falls under; null for none.
    Column("subscription_id", ID),
    PrimaryKeyConstraint("organization_id", "operation_id", name="authorizations_pkey"),
    Index("authorizations_by_time", "organization_id", "create_time", "operation_id"),
    CheckConstraint("amount >= 0", name="authorizations_amount_not_negative"),
)

# How calls of an organization are admitted. An organization without a row has the default.
admission_policies: Final = Table(
    "admission_policies",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("output_hold", Text, nullable=False),
    Column("output_tokens_cap", BigInteger, nullable=False),
    Column("fixed_amount", AMOUNT),
    Column("fixed_currency_code", Text),
    Column("lapse_charge", Text, nullable=False),
    # Since when `lapse_charge` is what it is. What lapsed before is not charged.
    Column("lapse_charge_time", TIME, nullable=False),
    Column("lapse_after_ms", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="admission_policies_pkey"),
    CheckConstraint("output_hold IN ('MODEL_MAX', 'CAP', 'FIXED')", name="admission_policies_output_hold"),
    CheckConstraint("lapse_charge IN ('RELEASE', 'INPUT')", name="admission_policies_lapse_charge"),
    CheckConstraint(
        "(output_hold = 'CAP') = (output_tokens_cap > 0) AND output_tokens_cap >= 0", name="admission_policies_cap"
    ),
    CheckConstraint(
        "num_nulls(fixed_amount, fixed_currency_code) = CASE WHEN output_hold = 'FIXED' THEN 0 ELSE 2 END"
        " AND fixed_amount > 0",
        name="admission_policies_fixed",
    ),
    CheckConstraint("lapse_after_ms BETWEEN 0 AND 604800000", name="admission_policies_lapse_after"),
)

# Up to which authorization an organization that charges for lapses was walked through, in the order of
# `authorizations_by_time`. Organizations that do not charge for them have no row.
lapse_walks: Final = Table(
    "lapse_walks",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("operation_id", KEY, nullable=False),
    PrimaryKeyConstraint("organization_id", name="lapse_walks_pkey"),
    postgresql_with={"fillfactor": 70},
)

# Authorizations that may lapse, and when each is looked at next. A row is deleted when that is decided.
lapse_checks: Final = Table(
    "lapse_checks",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("check_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="lapse_checks_pkey"),
    postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.0, "autovacuum_vacuum_threshold": 5000},
)
