"""Allocations of AllocateQuota, and the leases of those with concurrent calls."""

from collections.abc import Sequence

from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE quota_allocations (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    metrics text[] NOT NULL,
    amounts numeric(28, 9)[] NOT NULL,
    currency_code text NOT NULL,
    counters uuid[] NOT NULL,
    taken numeric(28, 9)[] NOT NULL,
    reserved numeric(28, 9)[] NOT NULL,
    lease_end_time timestamptz,
    released boolean NOT NULL,
    lapsed boolean NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT quota_allocations_pkey PRIMARY KEY (organization_id, operation_id),
    CONSTRAINT quota_allocations_arrays CHECK (
        cardinality(metrics) = cardinality(amounts) AND cardinality(counters) = cardinality(taken)
        AND cardinality(counters) = cardinality(reserved)
    ),
    CONSTRAINT quota_allocations_lapsed CHECK (released OR NOT lapsed),
    CONSTRAINT quota_allocations_released CHECK (lease_end_time IS NOT NULL OR NOT released)
);
CREATE INDEX quota_allocations_by_time ON quota_allocations (organization_id, create_time);
CREATE TABLE quota_leases (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    lease_end_time timestamptz NOT NULL,
    CONSTRAINT quota_leases_pkey PRIMARY KEY (organization_id, operation_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
REVOKE UPDATE, DELETE ON quota_allocations FROM tollhouse_metering;
GRANT UPDATE (released, lapsed) ON quota_allocations TO tollhouse_metering
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
