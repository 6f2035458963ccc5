"""Admission policies of organizations, enlarged authorizations, and what finds authorizations that lapsed."""

from collections.abc import Sequence

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE admission_policies (
    organization_id uuid NOT NULL,
    output_hold text NOT NULL,
    output_tokens_cap bigint NOT NULL,
    fixed_amount numeric(28, 9),
    fixed_currency_code text,
    lapse_charge text NOT NULL,
    lapse_charge_time timestamptz NOT NULL,
    lapse_after_ms bigint NOT NULL,
    revision bigint NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT admission_policies_pkey PRIMARY KEY (organization_id),
    CONSTRAINT admission_policies_output_hold CHECK (output_hold IN ('MODEL_MAX', 'CAP', 'FIXED')),
    CONSTRAINT admission_policies_lapse_charge CHECK (lapse_charge IN ('RELEASE', 'INPUT')),
    CONSTRAINT admission_policies_cap CHECK (
        (output_hold = 'CAP') = (output_tokens_cap > 0) AND output_tokens_cap >= 0
    ),
    CONSTRAINT admission_policies_fixed CHECK (
        num_nulls(fixed_amount, fixed_currency_code) = CASE WHEN output_hold = 'FIXED' THEN 0 ELSE 2 END
        AND fixed_amount > 0
    ),
    CONSTRAINT admission_policies_lapse_after CHECK (lapse_after_ms BETWEEN 0 AND 604800000)
);
CREATE TABLE lapse_walks (
    organization_id uuid NOT NULL,
    create_time timestamptz NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    CONSTRAINT lapse_walks_pkey PRIMARY KEY (organization_id)
) WITH (fillfactor = 70);
CREATE TABLE lapse_checks (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    check_time timestamptz NOT NULL,
    CONSTRAINT lapse_checks_pkey PRIMARY KEY (organization_id, operation_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
REVOKE DELETE ON admission_policies FROM tollhouse_metering;
ALTER TABLE authorizations ADD COLUMN enlarged jsonb
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
