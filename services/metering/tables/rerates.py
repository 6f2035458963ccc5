"""The tables of jobs that re-rate usage. A job is of the platform: it goes through all organizations of its filters."""

from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
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

from services.metering.tables.columns import ID, KEY, TIME, metadata

rerate_jobs: Final = Table(
    "rerate_jobs",
    metadata,
    Column("job_id", ID, nullable=False),
    Column("operation_id", KEY, nullable=False),
    # The RerateUsageRequest.
    Column("request", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    # Whether nothing is left to compare with the digest of the request.
    Column("checked", Boolean, nullable=False),
    Column("refusal_reason", Text, nullable=False, server_default=text("''")),
    Column("actor", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("end_time", TIME),
    PrimaryKeyConstraint("job_id", name="rerate_jobs_pkey"),
    UniqueConstraint("operation_id", name="rerate_jobs_operation_once"),
    CheckConstraint(
        "state IN ('CHECKING', 'RUNNING', 'PAUSED', 'DONE', 'CANCELED', 'REFUSED')", name="rerate_jobs_state"
    ),
    CheckConstraint("(end_time IS NOT NULL) = (state IN ('DONE', 'CANCELED', 'REFUSED'))", name="rerate_jobs_ended"),
    Index("rerate_jobs_open", "job_id", postgresql_where=text("end_time IS NULL")),
)

# How far a job is in each shard: the usage up to which slices were given out, and the sums of those that are finished.
rerate_parts: Final = Table(
    "rerate_parts",
    metadata,
    Column("job_id", ID, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("organization_id", ID, nullable=False),
    Column("occur_time", TIME, nullable=False),
    Column("usage_id", ID, nullable=False),
    # Whether all slices were given out.
    Column("walked", Boolean, nullable=False),
    # While the job is checked: the sum of the digests of the finished slices, as hexadecimal digits.
    Column("digest", Text, nullable=False),
    Column("sums", JSONB, nullable=False),
    PrimaryKeyConstraint("job_id", "shard", name="rerate_parts_pkey"),
    ForeignKeyConstraint(["job_id"], [rerate_jobs.c.job_id], name="rerate_parts_of_jobs"),
    postgresql_with={"fillfactor": 70},
)

# The usage of one organization that a process works on: after one usage and up to another. A row is deleted when it is
# done; if that takes longer than until its lease ends, another process does it too, and only one of them can delete it.
rerate_slices: Final = Table(
    "rerate_slices",
    metadata,
    Column("job_id", ID, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("slice_id", ID, nullable=False),
    Column("organization_id", ID, nullable=False),
    Column("after_time", TIME, nullable=False),
    Column("after_usage_id", ID, nullable=False),
    Column("until_time", TIME, nullable=False),
    Column("until_usage_id", ID, nullable=False),
    Column("lease_time", TIME, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    PrimaryKeyConstraint("job_id", "shard", "slice_id", name="rerate_slices_pkey"),
    ForeignKeyConstraint(["job_id"], [rerate_jobs.c.job_id], name="rerate_slices_of_jobs"),
    postgresql_with={"fillfactor": 70},
)
