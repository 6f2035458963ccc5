"""Jobs that re-rate usage."""

from collections.abc import Sequence

from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE metering.rerate_jobs (
    job_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    request bytea NOT NULL,
    state text NOT NULL,
    checked boolean NOT NULL,
    refusal_reason text NOT NULL DEFAULT '',
    actor text NOT NULL,
    create_time timestamptz NOT NULL,
    end_time timestamptz,
    CONSTRAINT rerate_jobs_pkey PRIMARY KEY (job_id),
    CONSTRAINT rerate_jobs_operation_once UNIQUE (operation_id),
    CONSTRAINT rerate_jobs_state CHECK (state IN ('CHECKING', 'RUNNING', 'PAUSED', 'DONE', 'CANCELED', 'REFUSED')),
    CONSTRAINT rerate_jobs_ended CHECK ((end_time IS NOT NULL) = (state IN ('DONE', 'CANCELED', 'REFUSED')))
);
CREATE INDEX rerate_jobs_open ON metering.rerate_jobs (job_id) WHERE end_time IS NULL;
CREATE TABLE metering.rerate_parts (
    job_id uuid NOT NULL,
    shard integer NOT NULL,
    organization_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    usage_id uuid NOT NULL,
    walked boolean NOT NULL,
    digest text NOT NULL,
    sums jsonb NOT NULL,
    CONSTRAINT rerate_parts_pkey PRIMARY KEY (job_id, shard),
    CONSTRAINT rerate_parts_of_jobs FOREIGN KEY (job_id) REFERENCES metering.rerate_jobs (job_id)
) WITH (fillfactor = 70);
CREATE TABLE metering.rerate_slices (
    job_id uuid NOT NULL,
    shard integer NOT NULL,
    slice_id uuid NOT NULL,
    organization_id uuid NOT NULL,
    after_time timestamptz NOT NULL,
    after_usage_id uuid NOT NULL,
    until_time timestamptz NOT NULL,
    until_usage_id uuid NOT NULL,
    lease_time timestamptz NOT NULL,
    attempt_count integer NOT NULL,
    CONSTRAINT rerate_slices_pkey PRIMARY KEY (job_id, shard, slice_id),
    CONSTRAINT rerate_slices_of_jobs FOREIGN KEY (job_id) REFERENCES metering.rerate_jobs (job_id)
) WITH (fillfactor = 70);
REVOKE DELETE ON metering.rerate_jobs, metering.rerate_parts FROM tollhouse_metering
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
