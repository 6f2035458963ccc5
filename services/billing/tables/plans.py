"""Plans. They belong to the platform, so they are in billing's own schema."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.repeats.tables import declare_requests_table
from services.billing.tables.columns import CODE, ID, TIME, metadata, shard_metadata

# Plans belong to the platform, so they are in billing's own schema.

plans: Final = Table(
    "plans",
    metadata,
    Column("plan_id", ID, nullable=False),
    Column("plan_code", CODE, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("sort_order", Integer, nullable=False),
    # Every change of the plan or its draft adds one.
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    Column("archive_time", TIME),
    PrimaryKeyConstraint("plan_id", name="plans_pkey"),
    UniqueConstraint("plan_code", name="plans_code_once"),
    Index("plans_in_order", "sort_order", "plan_code"),
)

# What was published. The service has no right to change more of it than the time when it was replaced.
plan_versions: Final = Table(
    "plan_versions",
    metadata,
    Column("plan_id", ID, nullable=False),
    Column("version", Integer, nullable=False),
    Column("terms", JSONB, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("publish_time", TIME, nullable=False),
    # Null for the version in force.
    Column("archive_time", TIME),
    PrimaryKeyConstraint("plan_id", "version", name="plan_versions_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_versions_plan_known"),
    CheckConstraint("version >= 1", name="plan_versions_numbered"),
    Index("plan_versions_published_once", "plan_id", unique=True, postgresql_where=text("archive_time IS NULL")),
)

# The version that is being prepared: one for each plan at most.
plan_drafts: Final = Table(
    "plan_drafts",
    metadata,
    Column("plan_id", ID, nullable=False),
    Column("version", Integer, nullable=False),
    Column("terms", JSONB, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("plan_id", name="plan_drafts_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_drafts_plan_known"),
    CheckConstraint("version >= 1", name="plan_drafts_numbered"),
)

# What payment providers call a plan.
plan_references: Final = Table(
    "plan_references",
    metadata,
    Column("provider", CODE, nullable=False),
    Column("kind", CODE, nullable=False),
    Column("external_id", CODE, nullable=False),
    Column("plan_id", ID, nullable=False),
    PrimaryKeyConstraint("provider", "kind", "external_id", name="plan_references_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_references_plan_known"),
    Index("plan_references_of_plan", "plan_id"),
)

plan_requests: Final = declare_requests_table(metadata, "plan_requests")

# Experiments on plans. `variants` are the plans that stand for one, with their weights, by their codes.
plan_experiments: Final = Table(
    "plan_experiments",
    metadata,
    Column("experiment_id", ID, nullable=False),
    Column("plan_id", ID, nullable=False),
    Column("variants", JSONB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("start_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    # Null while it runs.
    Column("end_time", TIME),
    PrimaryKeyConstraint("experiment_id", name="plan_experiments_pkey"),
    ForeignKeyConstraint(["plan_id"], [plans.c.plan_id], name="plan_experiments_plan_known"),
    Index("plan_experiments_running_once", "plan_id", unique=True, postgresql_where=text("end_time IS NULL")),
    Index("plan_experiments_of_plan", "plan_id", "experiment_id"),
)

# Which variant of an experiment a subject has, for good. The service has no right to change or delete a row. It belongs
# to the organization, so it is in its shard.
plan_assignments: Final = Table(
    "plan_assignments",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("experiment_id", ID, nullable=False),
    # The nil id for the organization itself.
    Column("user_id", ID, nullable=False),
    # The plan of the variant.
    Column("plan_id", ID, nullable=False),
    # Who asked first.
    Column("actor", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "experiment_id", "user_id", name="plan_assignments_pkey"),
    Index("plan_assignments_of_experiment", "experiment_id", "organization_id", "user_id"),
)
