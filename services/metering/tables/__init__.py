"""Metering's tables, as its migrations create them.

`metadata` has those of metering's own schema, `shard_metadata` those that each shard has: they have no schema here,
since a shard's connection finds them on its search path.

The organization id is the first column of every key of usage, charges and authorizations. The catalogue is the same for
all organizations. The service's own role may only insert usage, parts, prices and pricings, not change them, and of
dedupe rows what a call that is settled in parts changes.
"""

from typing import Final

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.repeats.tables import declare_requests_table
from services.metering.tables.authorizations import admission_policies as admission_policies
from services.metering.tables.authorizations import authorizations as authorizations
from services.metering.tables.authorizations import lapse_checks as lapse_checks
from services.metering.tables.authorizations import lapse_walks as lapse_walks
from services.metering.tables.columns import AMOUNT, ID, KEY, NIL_DEFAULT, TIME
from services.metering.tables.columns import DIMENSIONS as DIMENSIONS
from services.metering.tables.columns import HOUR_KEY as HOUR_KEY
from services.metering.tables.columns import LATENCY_BOUNDS_MS as LATENCY_BOUNDS_MS
from services.metering.tables.columns import LATENCY_BUCKETS as LATENCY_BUCKETS
from services.metering.tables.columns import SCHEMA as SCHEMA
from services.metering.tables.columns import TOKEN_CLASSES as TOKEN_CLASSES
from services.metering.tables.columns import metadata as metadata
from services.metering.tables.columns import shard_metadata as shard_metadata
from services.metering.tables.conversations import conversation_messages as conversation_messages
from services.metering.tables.conversations import conversation_months as conversation_months
from services.metering.tables.conversations import conversation_policies as conversation_policies
from services.metering.tables.conversations import conversations as conversations
from services.metering.tables.corrections import usage_correction_charges as usage_correction_charges
from services.metering.tables.corrections import usage_correction_lines as usage_correction_lines
from services.metering.tables.corrections import usage_corrections as usage_corrections
from services.metering.tables.limits import limit_alerts as limit_alerts
from services.metering.tables.limits import limit_counters as limit_counters
from services.metering.tables.limits import limit_state as limit_state
from services.metering.tables.limits import limits as limits
from services.metering.tables.limits import quota_allocations as quota_allocations
from services.metering.tables.limits import quota_leases as quota_leases
from services.metering.tables.rerates import rerate_jobs as rerate_jobs
from services.metering.tables.rerates import rerate_parts as rerate_parts
from services.metering.tables.rerates import rerate_slices as rerate_slices
from services.metering.tables.retention import dropped_usage_months as dropped_usage_months
from services.metering.tables.retention import dropped_usages as dropped_usages
from services.metering.tables.retention import forgotten_users as forgotten_users
from services.metering.tables.retention import usage_drops as usage_drops
from services.metering.tables.retention import usage_links as usage_links
from services.metering.tables.retention import usage_retention as usage_retention


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
    Column("model_id", KEY, nullable=False),
    Column("provider", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("capabilities", ARRAY(Text), nullable=False),
    Column("context_length", BigInteger, nullable=False),
    Column("max_output_tokens", BigInteger, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    Column("price_set_by_hand", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("model_id", name="models_pkey"),
    Index("models_changes", "revision"),
    Index("models_by_provider", "provider", "model_id"),
    Index("models_by_capability", "capabilities", postgresql_using="gin"),
)

units: Final = Table(
    "units",
    metadata,
    Column("unit_id", KEY, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("counts_toward_context", Boolean, nullable=False),
    Column("step_thousandths", BigInteger, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
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
    Column("price_version_id", ID, nullable=False),
    Column("organization_id", ID),
    Column("model_id", KEY, nullable=False),
    Column("currency_code", Text, nullable=False),
    *(Column(token_class, AMOUNT) for token_class in TOKEN_CLASSES),
    Column("per_request", AMOUNT),
    Column("effective_time", TIME, nullable=False),
    Column("create_time", TIME, nullable=False),
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
# a table partitioned by time has to contain the time. While a call is settled in parts, its fingerprint is empty and
# its usage id stands for the number of its parts: each part puts a new one. Such a row is no usage.
usage_operations: Final = Table(
    "usage_operations",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("occur_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="usage_operations_pkey"),
    # By it what was recorded lately is found, whenever it happened.
    Index("usage_operations_by_id", "organization_id", "usage_id"),
)

usage_records: Final = Table(
    "usage_records",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("occur_time", TIME, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("project_id", ID),
    Column("user_id", ID),
    Column("api_key_id", ID),
    Column("subscription_id", ID),
    Column("model", Text, nullable=False),
    *_token_columns(),
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
    # Whether the cost is captured or debited in billing; null if there is nothing to charge.
    Column("charge_kind", Text),
    Column("create_time", TIME, nullable=False),
    Column("dimension_id", ID, nullable=False, server_default=text(NIL_DEFAULT)),
    # Quantities of other units than the token classes, as decimals by unit; null where there are none.
    Column("quantities", JSONB),
    Column("items", BigInteger),
    Column("provider_cost", AMOUNT),
    Column("provider_currency_code", Text),
    # Whether the caller stated the cost.
    Column("stated", Boolean, nullable=False, server_default=text("false")),
    # What the parts of the call had captured; null for a call without parts. The charge is the cost less this.
    Column("captured_before", AMOUNT),
    # The name of the rate card's hours that the usage was priced in; null at other times, and for a card without hours.
    Column("rate_hours", Text),
    # The counters of limits that it is counted in, and how much in each; null where there are none.
    Column("counters", ARRAY(ID)),
    Column("counted", ARRAY(AMOUNT)),
    # The lease that it was settled with. With the charge kind CAPTURE, a part of its hold is captured.
    Column("lease_id", KEY),
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

# One row per combination of dimensions and hour of UTC, or part of one: `hour` is when the row begins, which is at a
# full hour, or within one where a day begins in some time zone (`services.metering.usage.beginnings`). A primary key
# cannot contain nulls: the nil UUID stands for no id, and the empty currency for usage without a price.
usage_hours: Final = Table(
    "usage_hours",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("hour", TIME, nullable=False),
    Column("model", KEY, nullable=False),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("api_key_id", ID, nullable=False),
    Column("currency_code", KEY, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    *_token_columns(),
    Column("cost", AMOUNT, nullable=False),
    Column("latency_count", BigInteger, nullable=False),
    Column("latency_sum_ms", BigInteger, nullable=False),
    *(Column(bucket, BigInteger, nullable=False) for bucket in LATENCY_BUCKETS),
    Column("dimension_id", ID, nullable=False, server_default=text(NIL_DEFAULT)),
    Column("provider_currency_code", KEY, nullable=False, server_default=text("''")),
    Column("provider_cost", AMOUNT, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint(*HOUR_KEY, name="usage_hours_pkey"),
    # Rows are updated often; the free space keeps new row versions on the same page.
    postgresql_with={"fillfactor": 70},
)

# The sums of quantities of other units than the token classes, by the same key and the unit.
usage_hour_units: Final = Table(
    "usage_hour_units",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("hour", TIME, nullable=False),
    Column("model", KEY, nullable=False),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("api_key_id", ID, nullable=False),
    Column("dimension_id", ID, nullable=False),
    Column("currency_code", KEY, nullable=False),
    Column("provider_currency_code", KEY, nullable=False),
    Column("unit_id", KEY, nullable=False),
    Column("quantity", Numeric(28, 3), nullable=False),
    PrimaryKeyConstraint(*HOUR_KEY, "unit_id", name="usage_hour_units_pkey"),
    postgresql_with={"fillfactor": 70},
)

# The combinations of further dimensions that an organization's usage has had; the nil UUID has no row, and stands for
# live usage in the standard tier with nothing else. The id is computed from the others
# (`services.metering.usage.dimensions`), so every process gives a combination the same one.
usage_dimensions: Final = Table(
    "usage_dimensions",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("dimension_id", ID, nullable=False),
    *(Column(name, Text, nullable=False) for name in DIMENSIONS),
    PrimaryKeyConstraint("organization_id", "dimension_id", name="usage_dimensions_pkey"),
    CheckConstraint("environment IN ('LIVE', 'TEST')", name="usage_dimensions_environment"),
)

# The parts in which calls are settled before their usage is recorded. Quantities are those since the call began.
settlement_parts: Final = Table(
    "settlement_parts",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    # 1, 2 and so on.
    Column("part", Integer, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    # The operation id in billing under which this part is captured; null where there was nothing to capture.
    Column("part_id", KEY),
    Column("model", Text, nullable=False),
    Column("service_tier", Text, nullable=False),
    # Everything that was used, tokens too, as decimals by unit.
    Column("quantities", JSONB, nullable=False),
    Column("stated_amount", AMOUNT),
    # The price version of this part and all that follow; null where the amount is stated, or there was no price yet.
    Column("price_version_id", ID),
    # What this part captures, and what it and those before it do.
    Column("amount", AMOUNT, nullable=False),
    Column("captured_amount", AMOUNT, nullable=False),
    Column("currency_code", Text),
    Column("occur_time", TIME, nullable=False),
    # The SettleRequest, as it is recorded if no last one comes.
    Column("request", LargeBinary, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", "part", name="settlement_parts_pkey"),
    UniqueConstraint("organization_id", "operation_id", "fingerprint", name="settlement_parts_fingerprint_once"),
    UniqueConstraint("organization_id", "part_id", name="settlement_parts_part_id_once"),
    CheckConstraint("(part_id IS NOT NULL) = (amount > 0) AND amount >= 0", name="settlement_parts_charged"),
    CheckConstraint("currency_code IS NOT NULL OR captured_amount = 0", name="settlement_parts_currency"),
)

GIVEN_UP_TIME: Final = "'infinity'"
"""In statements, the time of the next attempt of charges that are given up. They are not sent any more."""

# Charges that billing has not confirmed. A row is deleted on confirmation, so the table is as long as the backlog.
# Charges that billing refused and corrections gave up stay, with what would have given them back: they have
# GIVEN_UP_TIME.
outbox: Final = Table(
    "outbox",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("project_id", ID),
    Column("description", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("last_error_reason", Text),
    Column("next_attempt_time", TIME, nullable=False),
    Column("create_time", TIME, nullable=False),
    # For the charge of a part of a call: the operation id of the call. The charge's own is the part's id.
    Column("hold_operation_id", KEY),
    # Whose usage it is; null where that is not known.
    Column("user_id", ID),
    # For a movement of a correction: the charge of which it gives something back, and the operation id of the usage.
    Column("reverses_operation_id", KEY),
    Column("corrects", KEY),
    PrimaryKeyConstraint("organization_id", "operation_id", name="outbox_pkey"),
    CheckConstraint("kind IN ('DEBIT', 'CAPTURE', 'REVERSAL')", name="outbox_kind"),
    CheckConstraint("state IN ('PENDING', 'REFUSED', 'DEAD')", name="outbox_state_known"),
    postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.0, "autovacuum_vacuum_threshold": 5000},
)

# Usage that waits for a price.
unpriced_usages: Final = Table(
    "unpriced_usages",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("occur_time", TIME, nullable=False),
    Column("model", KEY, nullable=False),
    # Whether it was corrected meanwhile, so that a correction prices it.
    Column("corrected", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "usage_id", name="unpriced_usages_pkey"),
    Index("unpriced_usages_corrected", "organization_id", "usage_id", postgresql_where=text("corrected")),
)

# The cost of usage that had no price when it was recorded.
usage_pricings: Final = Table(
    "usage_pricings",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("usage_id", ID, nullable=False),
    Column("cost", AMOUNT, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("price_version_id", ID, nullable=False),
    Column("charge_kind", Text),
    Column("create_time", TIME, nullable=False),
    Column("provider_cost", AMOUNT),
    Column("provider_currency_code", Text),
    Column("rate_hours", Text),
    # The counters of spend limits that the cost was added to, and how much in each; null where there are none.
    Column("counters", ARRAY(ID)),
    Column("counted", ARRAY(AMOUNT)),
    PrimaryKeyConstraint("organization_id", "usage_id", name="usage_pricings_pkey"),
    CheckConstraint("charge_kind IN ('DEBIT', 'CAPTURE')", name="usage_pricings_charge_kind"),
)

# What events of CloudEvents mean, by their type.
event_mappings: Final = Table(
    "event_mappings",
    metadata,
    Column("event_type", KEY, nullable=False),
    Column("mapping", JSONB, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("event_type", name="event_mappings_pkey"),
)
