"""The tables of conversations. Contents and titles leave; counts, quantities and costs stay."""

from typing import Final

from sqlalchemy import (
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
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.metering.tables.columns import AMOUNT, ID, KEY, TIME, shard_metadata

conversations: Final = Table(
    "conversations",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("conversation_id", KEY, nullable=False),
    Column("project_id", ID),
    Column("user_id", ID),
    Column("title", Text, nullable=False),
    # The title as it is searched: without upper case.
    Column("title_folded", Text, nullable=False),
    Column("title_state", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("message_count", BigInteger, nullable=False),
    # What the usage of the messages cost when they were added: decimals by currency.
    Column("costs", JSONB, nullable=False),
    # The title and model it began with; empty once the title has left, so that a repeat is not compared any more.
    Column("fingerprint", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    Column("delete_time", TIME),
    # Whether contents of its messages may be left that have to go.
    Column("contents_due", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "conversation_id", name="conversations_pkey"),
    CheckConstraint(
        "title_state IN ('KEPT', 'NONE', 'NOT_KEPT', 'EXPIRED', 'DELETED')", name="conversations_title_state"
    ),
    CheckConstraint("(title_state = 'KEPT') = (title <> '')", name="conversations_title_kept"),
    CheckConstraint("delete_time IS NULL OR title = ''", name="conversations_deleted"),
    CheckConstraint("message_count >= 0", name="conversations_message_count"),
    Index("conversations_by_time", "organization_id", "create_time", "conversation_id"),
    Index("conversations_of_user", "organization_id", "user_id", "create_time", "conversation_id"),
    Index("conversations_of_project", "organization_id", "project_id", "create_time", "conversation_id"),
    Index("conversations_titled", "organization_id", "update_time", postgresql_where=text("title <> ''")),
    Index("conversations_due", "organization_id", "conversation_id", postgresql_where=text("contents_due")),
    postgresql_with={"fillfactor": 70},
)

conversation_messages: Final = Table(
    "conversation_messages",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("conversation_id", KEY, nullable=False),
    # 1, 2, 3 and so on.
    Column("position", BigInteger, nullable=False),
    Column("operation_id", KEY, nullable=False),
    Column("role", Text, nullable=False),
    # The request without its content.
    Column("fingerprint", LargeBinary, nullable=False),
    # In UTF-8; encrypted where there is a version of a key.
    Column("content", LargeBinary),
    Column("key_version", Integer),
    Column("content_state", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("usage_id", ID),
    # Everything that was used, tokens too, as decimals by unit.
    Column("quantities", JSONB),
    # What the usage cost when it was recorded; null where it had no price.
    Column("cost", AMOUNT),
    Column("currency_code", Text),
    PrimaryKeyConstraint("organization_id", "conversation_id", "position", name="conversation_messages_pkey"),
    UniqueConstraint("organization_id", "operation_id", name="conversation_messages_operation_once"),
    CheckConstraint("role IN ('USER', 'ASSISTANT', 'SYSTEM', 'TOOL')", name="conversation_messages_role"),
    CheckConstraint(
        "content_state IN ('KEPT', 'NONE', 'NOT_KEPT', 'EXPIRED', 'DELETED')",
        name="conversation_messages_content_state",
    ),
    CheckConstraint(
        "(content_state = 'KEPT') = (content IS NOT NULL) AND (key_version IS NULL OR content IS NOT NULL)",
        name="conversation_messages_content_kept",
    ),
    CheckConstraint("position > 0", name="conversation_messages_position"),
    CheckConstraint(
        "(usage_id IS NULL) = (quantities IS NULL) AND num_nulls(cost, currency_code) IN (0, 2)"
        " AND (usage_id IS NOT NULL OR cost IS NULL)",
        name="conversation_messages_usage_whole",
    ),
    Index(
        "conversation_messages_kept",
        "organization_id",
        "conversation_id",
        "position",
        postgresql_where=text("content IS NOT NULL"),
    ),
    Index(
        "conversation_messages_kept_by_time",
        "organization_id",
        "create_time",
        postgresql_where=text("content IS NOT NULL"),
    ),
)

# How many messages were added to the conversations of a user in each month of UTC; the nil UUID stands for no user.
conversation_months: Final = Table(
    "conversation_months",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("month", TIME, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("user_messages", BigInteger, nullable=False),
    Column("assistant_messages", BigInteger, nullable=False),
    PrimaryKeyConstraint("organization_id", "user_id", "month", name="conversation_months_pkey"),
    postgresql_with={"fillfactor": 70},
)

conversation_policies: Final = Table(
    "conversation_policies",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("keep_content", Boolean, nullable=False),
    # 0 where the platform says.
    Column("retention_days", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="conversation_policies_pkey"),
    CheckConstraint("retention_days BETWEEN 0 AND 3650", name="conversation_policies_retention_days"),
)
