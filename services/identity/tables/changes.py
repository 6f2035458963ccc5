"""The numbered changes behind VerifyApiKey, and the request ids of creations."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, PrimaryKeyConstraint, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from services.identity.tables.columns import id_column, metadata, time_column

CHANGES_CHANNEL: Final = "tollhouse_identity_changes"
"""Where Postgres announces each new revision."""

revision_counter: Final = Table(
    "revision_counter",
    metadata,
    Column("single", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("single", name="revision_counter_pkey"),
    CheckConstraint("single", name="revision_counter_single"),
)
"""One row. Its lock is held until commit, which makes the order of revisions the order of commits."""

key_changes: Final = Table(
    "key_changes",
    metadata,
    Column("revision", BigInteger, nullable=False, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("subject_type", Text, nullable=False),
    id_column("subject_id"),
    id_column("organization_id", nullable=True),
    time_column("change_time"),
    PrimaryKeyConstraint("revision", name="key_changes_pkey"),
    CheckConstraint(
        "subject_type IN ('api_key', 'user', 'service_account', 'project', 'organization')",
        name="key_changes_subject_type_known",
    ),
)
Index("key_changes_by_time", key_changes.c.change_time)

requests: Final = Table(
    "requests",
    metadata,
    id_column("organization_id"),
    Column("method", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("field_digests", JSONB, nullable=False),
    id_column("resource_id"),
    time_column("create_time"),
    PrimaryKeyConstraint("organization_id", "method", "request_id", name="requests_pkey"),
)
"""Creations that named a request id. `organization_id` is the zero id where the resource belongs to no organization."""

Index("requests_by_time", requests.c.create_time)
