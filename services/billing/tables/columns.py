"""The schema of billing's tables, and the types of their columns."""

from typing import Final

from sqlalchemy import DateTime, MetaData, Numeric, Text, Uuid

from libs.common.audit.tables import declare_audit_tables
from libs.common.events.tables import declare_event_tables
from libs.common.sharding_table import declare_sharding_table

SCHEMA: Final = "billing"
metadata: Final = MetaData(schema=SCHEMA)
declare_sharding_table(metadata)
declare_audit_tables(metadata)
declare_event_tables(metadata)
shard_metadata: Final = MetaData()
declare_audit_tables(shard_metadata)
declare_event_tables(shard_metadata)

ID: Final = Uuid(as_uuid=False)
AMOUNT: Final = Numeric(28, 9)
TIME: Final = DateTime(timezone=True)
CODE: Final = Text(collation="C")
# In byte order, as metering has them, so that the charges of both can be compared side by side.
OPERATION_ID: Final = Text(collation="C")
