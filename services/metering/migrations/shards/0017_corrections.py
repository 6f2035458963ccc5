"""Corrections of usage: what was done, what usage was before and is after it, and the movements of money.

A process of the version before this one does not know of `corrected`: it would price waiting usage that was corrected
as it was recorded. So usage is corrected only when all processes run this version.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE usage_corrections (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    usage_operation_id text COLLATE "C" NOT NULL,
    usage_id uuid NOT NULL,
    number integer NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT usage_corrections_pkey PRIMARY KEY (organization_id, operation_id),
    CONSTRAINT usage_corrections_in_order UNIQUE (organization_id, usage_id, number),
    CONSTRAINT usage_corrections_kind CHECK (kind IN ('AMEND', 'VOID', 'RESTORE', 'PRICE')),
    CONSTRAINT usage_corrections_number CHECK (number > 0)
);
CREATE INDEX usage_corrections_by_time ON usage_corrections (organization_id, create_time, operation_id);
CREATE TABLE usage_correction_lines (
    organization_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    usage_id uuid NOT NULL,
    number integer NOT NULL,
    added boolean NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    project_id uuid,
    user_id uuid,
    api_key_id uuid,
    subscription_id uuid,
    model text NOT NULL,
    input bigint NOT NULL,
    output bigint NOT NULL,
    cache_read bigint NOT NULL,
    cache_write bigint NOT NULL,
    reasoning bigint NOT NULL,
    audio_input bigint NOT NULL,
    audio_output bigint NOT NULL,
    image bigint NOT NULL,
    latency_ms bigint,
    status_code integer,
    error_message text,
    endpoint text,
    conversation_id text,
    labels jsonb,
    partial boolean NOT NULL,
    cost numeric(28, 9),
    currency_code text,
    price_version_id uuid,
    charge_kind text,
    create_time timestamptz NOT NULL,
    dimension_id uuid NOT NULL,
    quantities jsonb,
    items bigint,
    provider_cost numeric(28, 9),
    provider_currency_code text,
    stated boolean NOT NULL,
    rate_hours text,
    counters uuid[],
    counted numeric(28, 9)[],
    lease_id text COLLATE "C",
    CONSTRAINT usage_correction_lines_pkey PRIMARY KEY (organization_id, occur_time, usage_id, number, added),
    CONSTRAINT usage_correction_lines_once UNIQUE (organization_id, usage_id, number, added)
);
CREATE INDEX usage_correction_lines_by_time ON usage_correction_lines (organization_id, create_time);
CREATE TABLE usage_correction_charges (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    usage_id uuid NOT NULL,
    number integer NOT NULL,
    position integer NOT NULL,
    amount numeric(28, 9) NOT NULL,
    currency_code text NOT NULL,
    reverses_operation_id text COLLATE "C",
    occur_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT usage_correction_charges_pkey PRIMARY KEY (organization_id, operation_id),
    CONSTRAINT usage_correction_charges_in_order UNIQUE (organization_id, usage_id, number, position),
    CONSTRAINT usage_correction_charges_positive CHECK (amount > 0)
);
REVOKE UPDATE, DELETE ON usage_corrections, usage_correction_lines, usage_correction_charges FROM tollhouse_metering;
ALTER TABLE unpriced_usages ADD COLUMN corrected boolean NOT NULL DEFAULT false;
ALTER TABLE outbox ADD COLUMN reverses_operation_id text COLLATE "C";
ALTER TABLE outbox ADD COLUMN corrects text COLLATE "C";
-- The same with one more kind. The table is as long as the backlog.
-- squawk-ignore ban-drop-constraint
ALTER TABLE outbox DROP CONSTRAINT outbox_kind;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE outbox ADD CONSTRAINT outbox_kind CHECK (kind IN ('DEBIT', 'CAPTURE', 'REVERSAL'))
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
