"""The two tables of the trail, the same in every service's schema."""

from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Index, LargeBinary, MetaData, Table, Text, Uuid
from sqlalchemy import PrimaryKeyConstraint as PrimaryKey
from sqlalchemy.dialects.postgresql import JSONB

_ID: Final = Uuid(as_uuid=False)
_TIME: Final = DateTime(timezone=True)


def declare_audit_tables(metadata: MetaData) -> tuple[Table, Table]:
    """Add the tables `audit_events` and `audit_heads` to a schema's."""
    events = Table(
        "audit_events",
        metadata,
        Column("organization_id", _ID, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("event_id", _ID, nullable=False),
        Column("event_time", _TIME, nullable=False),
        Column("action", Text, nullable=False),
        Column("actor", Text, nullable=False),
        Column("api_key_id", _ID),
        Column("resource_type", Text, nullable=False),
        Column("resource_id", Text, nullable=False),
        Column("changes", JSONB, nullable=False),
        Column("peer_address", Text, nullable=False),
        Column("user_agent", Text, nullable=False),
        Column("request_id", Text, nullable=False),
        Column("previous_hash", LargeBinary, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        PrimaryKey("organization_id", "sequence", name="audit_events_pkey"),
        CheckConstraint("octet_length(previous_hash) = 32 AND octet_length(hash) = 32", name="audit_events_hashes"),
        CheckConstraint("sequence > 0", name="audit_events_sequence_from_one"),
    )
    for name, columns in (
        ("audit_events_by_time", ("event_time",)),
        ("audit_events_by_resource", ("resource_type", "resource_id")),
        ("audit_events_by_actor", ("actor",)),
        ("audit_events_by_action", ("action",)),
    ):
        Index(name, *(events.c[column] for column in ("organization_id", *columns, "sequence")))
    heads = Table(
        "audit_heads",
        metadata,
        Column("organization_id", _ID, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        Column("event_time", _TIME, nullable=False),
        PrimaryKey("organization_id", name="audit_heads_pkey"),
        CheckConstraint("octet_length(hash) = 32", name="audit_heads_hash"),
    )
    return events, heads
