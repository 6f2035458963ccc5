"""Metering's tables, as its migrations create them.

`metadata` has those of metering's own schema, `shard_metadata` those that each shard has: they have no schema here,
since a shard's connection finds them on its search path.

The organization id is the first column of every key of usage, charges and authorizations. The catalogue is the same for
all organizations. The service's own role may only insert usage, dedupe rows, prices and pricings, not change them.
"""

from typing import Final

from sqlalchemy import (
    ARRAY,
    DDL,
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
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.audit.tables import declare_audit_tables
from libs.common.ids import NIL
from libs.common.repeats.tables import declare_requests_table
from libs.common.sharding import declare_sharding_table

SCHEMA: Final = "metering"
metadata: Final = MetaData(schema=SCHEMA)
declare_sharding_table(metadata)
declare_audit_tables(metadata)
shard_metadata: Final = MetaData()
declare_audit_tables(shard_metadata)

TOKEN_CLASSES: Final = (
    "input",
    "output",
    "cache_read",
    "cache_write",
    "reasoning",
    "audio_input",
    "audio_output",
    "image",
)
LATENCY_BOUNDS_MS: Final = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)
LATENCY_BUCKETS: Final = (
    *(f"latency_le_{bound}_ms" for bound in LATENCY_BOUNDS_MS),
    f"latency_over_{LATENCY_BOUNDS_MS[-1]}_ms",
)

DIMENSIONS: Final = (
    "service_account_id",
    "subscription_id",
    "provider",
    "service_tier",
    "environment",
    "endpoint",
    "usage_type",
    "language_code",
    "category",
    "batch_id",
)
HOUR_KEY: Final = (
    "organization_id",
    "hour",
    "model",
    "project_id",
    "user_id",
    "api_key_id",
    "dimension_id",
    "currency_code",
    "provider_currency_code",
)
"""What the hourly sums are summed by."""

_NIL: Final = f"'{NIL}'"
_ID: Final = Uuid(as_uuid=False)
_AMOUNT: Final = Numeric(28, 9)
_TIME: Final = DateTime(timezone=True)
# Keys and operation ids are sorted by their bytes, which is faster and the same on every machine.
_KEY: Final = Text(collation="C")


def _token_columns() -> list[Column[int]]:
    return [Column(token_class, BigInteger, nullable=False) for token_class in TOKEN_CLASSES]


# Numbers the changes of the catalogue, so that a process can read the changes it has not seen. Taking the next number
# locks the row, so the numbers become visible in order.
catalogue_state: Final = Table(
    "catalogue_state",
    metadata,
    Column("singleton", Boolean, nullable=False, server_default=text("true")),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("singleton", name="catalogue_state_pkey"),
    CheckConstraint("singleton", name="catalogue_state_one_row"),
)

models: Final = Table(
    "models",
    metadata,
    Column("model_id", _KEY, nullable=False),
    Column("provider", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("capabilities", ARRAY(Text), nullable=False),
    Column("context_length", BigInteger, nullable=False),
    Column("max_output_tokens", BigInteger, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", _TIME, nullable=False),
    Column("update_time", _TIME, nullable=False),
    Column("price_set_by_hand", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("model_id", name="models_pkey"),
    Index("models_changes", "revision"),
)

units: Final = Table(
    "units",
    metadata,
    Column("unit_id", _KEY, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("counts_toward_context", Boolean, nullable=False),
    Column("step_thousandths", BigInteger, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", _TIME, nullable=False),
    Column("update_time", _TIME, nullable=False),
    PrimaryKeyConstraint("unit_id", name="units_pkey"),
    CheckConstraint("kind IN ('token', 'count', 'duration', 'size')", name="units_kind"),
    CheckConstraint("step_thousandths IN (1, 10, 100, 1000)", name="units_step"),
    Index("units_changes", "revision"),
)

# The rate card is the price. The columns of the token classes say the same of the standard tier for checks in SQL. They
# hold up to an input context of `context_max`, before `factor`, where the card has rates for all classes: `is_plain`.
price_versions: Final = Table(
    "price_versions",
    metadata,
    Column("price_version_id", _ID, nullable=False),
    Column("organization_id", _ID),
    Column("model_id", _KEY, nullable=False),
    Column("currency_code", Text, nullable=False),
    *(Column(token_class, _AMOUNT) for token_class in TOKEN_CLASSES),
    Column("per_request", _AMOUNT),
    Column("effective_time", _TIME, nullable=False),
    Column("create_time", _TIME, nullable=False),
    Column("source", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("rate_card", JSONB, nullable=False),
    Column("is_plain", Boolean, nullable=False, server_default=text("true")),
    Column("context_max", BigInteger),
    Column("factor", Numeric(12, 6), nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("price_version_id", name="price_versions_pkey"),
    UniqueConstraint(
        "organization_id",
        "model_id",
        "effective_time",
        name="price_versions_one_at_a_time",
        postgresql_nulls_not_distinct=True,
    ),
    ForeignKeyConstraint(["model_id"], [models.c.model_id], name="price_versions_model_known"),
    CheckConstraint(
        "least(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image, per_request) >= 0",
        name="price_versions_not_negative",
    ),
    Index("price_versions_changes", "revision"),
)

catalogue_requests: Final = declare_requests_table(metadata, "catalogue_requests")

# Dedupe: the usage that used an operation id first. This cannot be a unique key of usage_records, since a unique key of
# a table partitioned by time has to contain the time.
usage_operations: Final = Table(
    "usage_operations",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("operation_id", _KEY, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("usage_id", _ID, nullable=False),
    Column("occur_time", _TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="usage_operations_pkey"),
)

usage_records: Final = Table(
    "usage_records",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("occur_time", _TIME, nullable=False),
    Column("usage_id", _ID, nullable=False),
    Column("operation_id", _KEY, nullable=False),
    Column("project_id", _ID),
    Column("user_id", _ID),
    Column("api_key_id", _ID),
    Column("subscription_id", _ID),
    Column("model", Text, nullable=False),
    *_token_columns(),
    Column("latency_ms", BigInteger),
    Column("status_code", Integer),
    Column("error_message", Text),
    Column("endpoint", Text),
    Column("conversation_id", Text),
    Column("labels", JSONB),
    Column("partial", Boolean, nullable=False),
    Column("cost", _AMOUNT),
    Column("currency_code", Text),
    Column("price_version_id", _ID),
    # Whether the cost is captured or debited in billing; null if there is nothing to charge.
    Column("charge_kind", Text),
    Column("create_time", _TIME, nullable=False),
    Column("dimension_id", _ID, nullable=False, server_default=text(_NIL)),
    # Quantities of other units than the token classes, as decimals by unit; null where there are none.
    Column("quantities", JSONB),
    Column("items", BigInteger),
    Column("provider_cost", _AMOUNT),
    Column("provider_currency_code", Text),
    # Whether the caller stated the cost.
    Column("stated", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "occur_time", "usage_id", name="usage_records_pkey"),
    CheckConstraint(
        "least(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0",
        name="usage_records_not_negative",
    ),
    CheckConstraint(
        "num_nulls(cost, currency_code) IN (0, 2) AND (price_version_id IS NULL) = (cost IS NULL OR stated)",
        name="usage_records_cost_whole",
    ),
    CheckConstraint("charge_kind IN ('DEBIT', 'CAPTURE')", name="usage_records_charge_kind"),
    postgresql_partition_by="RANGE (occur_time)",
)
event.listen(
    usage_records,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its constructor without types.
        "CREATE TABLE usage_records_default PARTITION OF usage_records DEFAULT"
    ),
)

# One row per hour and combination of dimensions. A primary key cannot contain nulls: the nil UUID stands for no id, and
# the empty currency for usage without a price.
usage_hours: Final = Table(
    "usage_hours",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("hour", _TIME, nullable=False),
    Column("model", _KEY, nullable=False),
    Column("project_id", _ID, nullable=False),
    Column("user_id", _ID, nullable=False),
    Column("api_key_id", _ID, nullable=False),
    Column("currency_code", _KEY, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    *_token_columns(),
    Column("cost", _AMOUNT, nullable=False),
    Column("latency_count", BigInteger, nullable=False),
    Column("latency_sum_ms", BigInteger, nullable=False),
    *(Column(bucket, BigInteger, nullable=False) for bucket in LATENCY_BUCKETS),
    Column("dimension_id", _ID, nullable=False, server_default=text(_NIL)),
    Column("provider_currency_code", _KEY, nullable=False, server_default=text("''")),
    Column("provider_cost", _AMOUNT, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint(*HOUR_KEY, name="usage_hours_pkey"),
    # Rows are updated often; the free space keeps new row versions on the same page.
    postgresql_with={"fillfactor": 70},
)

# The sums of quantities of other units than the token classes, by the same key and the unit.
usage_hour_units: Final = Table(
    "usage_hour_units",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("hour", _TIME, nullable=False),
    Column("model", _KEY, nullable=False),
    Column("project_id", _ID, nullable=False),
    Column("user_id", _ID, nullable=False),
    Column("api_key_id", _ID, nullable=False),
    Column("dimension_id", _ID, nullable=False),
    Column("currency_code", _KEY, nullable=False),
    Column("provider_currency_code", _KEY, nullable=False),
    Column("unit_id", _KEY, nullable=False),
    Column("quantity", Numeric(28, 3), nullable=False),
    PrimaryKeyConstraint(*HOUR_KEY, "unit_id", name="usage_hour_units_pkey"),
    postgresql_with={"fillfactor": 70},
)

# The combinations of further dimensions that an organization's usage has had; the nil UUID has no row, and stands for
# live usage in the standard tier with nothing else, as all usage was before there were dimensions. The id is computed
# from the others (`services.metering.usage.dimensions`), so every process gives a combination the same one.
usage_dimensions: Final = Table(
    "usage_dimensions",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("dimension_id", _ID, nullable=False),
    *(Column(name, Text, nullable=False) for name in DIMENSIONS),
    PrimaryKeyConstraint("organization_id", "dimension_id", name="usage_dimensions_pkey"),
    CheckConstraint("environment IN ('LIVE', 'TEST')", name="usage_dimensions_environment"),
)

# Charges that billing has not confirmed. A row is deleted on confirmation, so the table is as long as the backlog.
outbox: Final = Table(
    "outbox",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("operation_id", _KEY, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("amount", _AMOUNT, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("project_id", _ID),
    Column("description", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("last_error_reason", Text),
    Column("next_attempt_time", _TIME, nullable=False),
    Column("create_time", _TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="outbox_pkey"),
    CheckConstraint("kind IN ('DEBIT', 'CAPTURE')", name="outbox_kind"),
    CheckConstraint("state IN ('PENDING', 'REFUSED', 'DEAD')", name="outbox_state_known"),
    postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.0, "autovacuum_vacuum_threshold": 5000},
)

# Usage that waits for a price.
unpriced_usages: Final = Table(
    "unpriced_usages",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("usage_id", _ID, nullable=False),
    Column("occur_time", _TIME, nullable=False),
    Column("model", _KEY, nullable=False),
    PrimaryKeyConstraint("organization_id", "usage_id", name="unpriced_usages_pkey"),
)

# The cost of usage that had no price when it was recorded.
usage_pricings: Final = Table(
    "usage_pricings",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("usage_id", _ID, nullable=False),
    Column("cost", _AMOUNT, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("price_version_id", _ID, nullable=False),
    Column("charge_kind", Text),
    Column("create_time", _TIME, nullable=False),
    Column("provider_cost", _AMOUNT),
    Column("provider_currency_code", Text),
    PrimaryKeyConstraint("organization_id", "usage_id", name="usage_pricings_pkey"),
    CheckConstraint("charge_kind IN ('DEBIT', 'CAPTURE')", name="usage_pricings_charge_kind"),
)

authorizations: Final = Table(
    "authorizations",
    shard_metadata,
    Column("organization_id", _ID, nullable=False),
    Column("operation_id", _KEY, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("project_id", _ID),
    Column("user_id", _ID),
    Column("service_account_id", _ID),
    Column("api_key_id", _ID),
    Column("model", Text, nullable=False),
    Column("endpoint", Text),
    Column("input_tokens", BigInteger, nullable=False),
    Column("max_output_tokens", BigInteger, nullable=False),
    Column("hold_ttl_ms", BigInteger, nullable=False),
    # The price version the work will be settled with, even if the price changes before that.
    Column("price_version_id", _ID, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("amount", _AMOUNT, nullable=False),
    Column("cancelled", Boolean, nullable=False, server_default=text("false")),
    Column("create_time", _TIME, nullable=False),
    Column("quantities", JSONB),
    Column("service_tier", Text, nullable=False, server_default=text("'standard'")),
    Column("environment", Text, nullable=False, server_default=text("'LIVE'")),
    # When the hold ends, where that is not `hold_ttl_ms` after `create_time`: it was extended, or placed by a repeat.
    Column("expire_time", _TIME),
    # Whether billing declined the hold.
    Column("declined", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "operation_id", name="authorizations_pkey"),
    Index("authorizations_by_time", "organization_id", "create_time", "operation_id"),
    CheckConstraint("amount >= 0", name="authorizations_amount_not_negative"),
)
