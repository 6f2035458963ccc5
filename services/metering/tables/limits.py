"""The tables of limits and of what they count."""

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
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from services.metering.tables.columns import AMOUNT, ID, KEY, TIME, shard_metadata

# Numbers the changes of a shard's limits, so that a process can tell that what it knows is out of date.
limit_state: Final = Table(
    "limit_state",
    shard_metadata,
    Column("singleton", Boolean, nullable=False, server_default=text("true")),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("singleton", name="limit_state_pkey"),
    CheckConstraint("singleton", name="limit_state_one_row"),
)

limits: Final = Table(
    "limits",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("limit_id", ID, nullable=False),
    Column("name", KEY, nullable=False),
    Column("metric", Text, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("window", Text, nullable=False),
    Column("sliding", Boolean, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("week_start", SmallInteger, nullable=False),
    Column("scope", Text, nullable=False),
    Column("scope_value", Text, nullable=False),
    Column("label", Text, nullable=False),
    # Null where any amount may be used.
    Column("maximum", AMOUNT),
    Column("enforcement", Text, nullable=False),
    Column("burst", AMOUNT, nullable=False),
    Column("replaces", Boolean, nullable=False),
    Column("thresholds", ARRAY(Integer), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "limit_id", name="limits_pkey"),
    UniqueConstraint("organization_id", "name", name="limits_name_once"),
    CheckConstraint("maximum >= 0 AND burst >= 0", name="limits_not_negative"),
    CheckConstraint(
        "\"window\" IN ('NONE', 'CALL', 'MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'LIFETIME')", name="limits_window"
    ),
    CheckConstraint("enforcement IN ('HARD', 'SOFT', 'SHADOW')", name="limits_enforcement"),
    CheckConstraint("(metric = 'spend') = (currency_code <> '')", name="limits_currency"),
    CheckConstraint("(metric = 'concurrent_calls') = (\"window\" = 'NONE')", name="limits_concurrent"),
)

# What is used and reserved for one limit, one subject and one window, or one step of a sliding window. The id is
# computed from these (`services.metering.quota.decisions`). A limit of concurrent calls only reserves.
limit_counters: Final = Table(
    "limit_counters",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("counter_id", ID, nullable=False),
    Column("limit_id", ID, nullable=False),
    # For whom: a project's id, a model, a label's value; empty for the whole organization.
    Column("subject", KEY, nullable=False),
    Column("window_start", TIME, nullable=False),
    # Null for windows without end.
    Column("window_end", TIME),
    # From when nothing looks at it any more; null where that never comes.
    Column("drop_time", TIME),
    Column("metric", Text, nullable=False),
    Column("currency_code", Text, nullable=False),
    # Whether the limit is an entitlement, which has no row among the limits.
    Column("entitled", Boolean, nullable=False),
    Column("used", AMOUNT, nullable=False),
    Column("reserved", AMOUNT, nullable=False),
    # What of `used` was counted for requests of proxies, of which nothing else is stored.
    Column("hits", AMOUNT, nullable=False, server_default=text("0")),
    # How often authorizations have changed it, and how often anything else has, but for settlements that take back what
    # was reserved and for requests of proxies (see `services.metering.quota.quick_store`).
    Column("authorized", BigInteger, nullable=False, server_default=text("0")),
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("organization_id", "counter_id", name="limit_counters_pkey"),
    Index("limit_counters_of_limit", "organization_id", "limit_id", "subject", "window_start"),
    # Counters of hot limits are updated often; the free space keeps new row versions on the same page.
    postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.0, "autovacuum_vacuum_threshold": 5000},
)

# The thresholds of limits that were reached, each once in a window. It is an outbox: what is to be sent is read by
# `limit_alerts_to_deliver`, organization by organization in the order of time.
limit_alerts: Final = Table(
    "limit_alerts",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("counter_id", ID, nullable=False),
    # In percent of the maximum.
    Column("threshold", Integer, nullable=False),
    Column("limit_id", ID, nullable=False),
    Column("name", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("window", Text, nullable=False),
    Column("window_start", TIME, nullable=False),
    Column("window_end", TIME),
    Column("maximum", AMOUNT, nullable=False),
    Column("used", AMOUNT, nullable=False),
    Column("create_time", TIME, nullable=False),
    # Whether whoever sends alerts has sent it.
    Column("delivered", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "counter_id", "threshold", name="limit_alerts_pkey"),
    Index("limit_alerts_by_time", "organization_id", "create_time", "counter_id", "threshold"),
    Index(
        "limit_alerts_to_deliver",
        *("organization_id", "create_time", "counter_id", "threshold"),
        postgresql_where=text("NOT delivered"),
    ),
)

# What AllocateQuota has allocated, for ever, since the operation ids are never used again. `counters`, `taken` and
# `reserved` belong together: what was counted in each counter, and which places of concurrent calls it has there.
# A lease is an allocation that has taken nothing: all its amounts are reserved, and settlements lower that.
quota_allocations: Final = Table(
    "quota_allocations",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    # The answer: what was allocated of each metric, and in which currency the spend is.
    Column("metrics", ARRAY(Text), nullable=False),
    Column("amounts", ARRAY(AMOUNT), nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("counters", ARRAY(ID), nullable=False),
    Column("taken", ARRAY(AMOUNT), nullable=False),
    Column("reserved", ARRAY(AMOUNT), nullable=False),
    # When concurrent calls lose their places, or the lease ends; null where there are neither.
    Column("lease_end_time", TIME),
    # Whether what is reserved was given back, and whether that was because the lease had ended.
    Column("released", Boolean, nullable=False),
    Column("lapsed", Boolean, nullable=False),
    Column("create_time", TIME, nullable=False),
    # What settlements have used of each amount of a lease; null for what is no lease.
    Column("spent", ARRAY(AMOUNT)),
    # Whether billing declined the hold of the lease.
    Column("declined", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "operation_id", name="quota_allocations_pkey"),
    Index("quota_allocations_by_time", "organization_id", "create_time"),
    CheckConstraint(
        "cardinality(metrics) = cardinality(amounts) AND cardinality(counters) = cardinality(taken)"
        " AND cardinality(counters) = cardinality(reserved)",
        name="quota_allocations_arrays",
    ),
    CheckConstraint("released OR NOT lapsed", name="quota_allocations_lapsed"),
    CheckConstraint("lease_end_time IS NOT NULL OR NOT released", name="quota_allocations_released"),
)

# The leases, and the allocations with concurrent calls, that are not released. A row is deleted when what they have
# reserved is given back.
quota_leases: Final = Table(
    "quota_leases",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("lease_end_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "operation_id", name="quota_leases_pkey"),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.0, "autovacuum_vacuum_threshold": 5000},
)
