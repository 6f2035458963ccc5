"""The metadata of metering's tables, and what many of them share."""

from typing import Final

from sqlalchemy import DateTime, Index, MetaData, Numeric, Text, Uuid, text

from libs.common.audit.tables import declare_audit_tables
from libs.common.events.tables import declare_event_tables
from libs.common.ids import NIL
from libs.common.sharding_table import declare_sharding_table

SCHEMA: Final = "metering"
metadata: Final = MetaData(schema=SCHEMA)
declare_sharding_table(metadata)
declare_audit_tables(metadata)
shard_metadata: Final = MetaData()
declare_audit_tables(shard_metadata)
for _endpoints in (declare_event_tables(metadata)[2], declare_event_tables(shard_metadata)[2]):
    # Who wants events of usage: metering looks at it all the time, so that no call has to.
    Index(
        "event_endpoints_of_usage",
        _endpoints.c.organization_id,
        postgresql_where=text(
            "types && ARRAY['tollhouse.usage.recorded', 'tollhouse.usage.*']::text[]"
            " AND enabled AND delete_time IS NULL"
        ),
    )

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

NIL_DEFAULT: Final = f"'{NIL}'"
ID: Final = Uuid(as_uuid=False)
AMOUNT: Final = Numeric(28, 9)
TIME: Final = DateTime(timezone=True)
# Keys and operation ids are sorted by their bytes, which is faster and the same on every machine.
KEY: Final = Text(collation="C")
