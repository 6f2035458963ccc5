"""Limits, their counters, and what authorizations and usage are counted in.

The version before this one counts nothing: what it authorizes and records is in no counter.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_STATEMENTS = """
CREATE TABLE limit_state (
    singleton boolean NOT NULL DEFAULT true,
    revision bigint NOT NULL,
    CONSTRAINT limit_state_pkey PRIMARY KEY (singleton),
    CONSTRAINT limit_state_one_row CHECK (singleton)
);
INSERT INTO limit_state (revision) VALUES (0);
CREATE TABLE limits (
    organization_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL,
    metric text NOT NULL,
    currency_code text NOT NULL,
    "window" text NOT NULL,
    sliding boolean NOT NULL,
    time_zone text NOT NULL,
    week_start smallint NOT NULL,
    scope text NOT NULL,
    scope_value text NOT NULL,
    label text NOT NULL,
    maximum numeric(28, 9),
    enforcement text NOT NULL,
    burst numeric(28, 9) NOT NULL,
    replaces boolean NOT NULL,
    thresholds integer[] NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT limits_pkey PRIMARY KEY (organization_id, limit_id),
    CONSTRAINT limits_name_once UNIQUE (organization_id, name),
    CONSTRAINT limits_not_negative CHECK (maximum >= 0 AND burst >= 0),
    CONSTRAINT limits_window CHECK (
        "window" IN ('NONE', 'CALL', 'MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'LIFETIME')
    ),
    CONSTRAINT limits_enforcement CHECK (enforcement IN ('HARD', 'SOFT', 'SHADOW')),
    CONSTRAINT limits_currency CHECK ((metric = 'spend') = (currency_code <> '')),
    CONSTRAINT limits_concurrent CHECK ((metric = 'concurrent_calls') = ("window" = 'NONE'))
);
CREATE TABLE limit_counters (
    organization_id uuid NOT NULL,
    counter_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    subject text COLLATE "C" NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz,
    drop_time timestamptz,
    metric text NOT NULL,
    currency_code text NOT NULL,
    entitled boolean NOT NULL,
    used numeric(28, 9) NOT NULL,
    reserved numeric(28, 9) NOT NULL,
    hits numeric(28, 9) NOT NULL DEFAULT 0,
    CONSTRAINT limit_counters_pkey PRIMARY KEY (organization_id, counter_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX limit_counters_of_limit ON limit_counters (organization_id, limit_id, subject, window_start);
CREATE TABLE limit_alerts (
    organization_id uuid NOT NULL,
    counter_id uuid NOT NULL,
    threshold integer NOT NULL,
    limit_id uuid NOT NULL,
    name text NOT NULL,
    metric text NOT NULL,
    currency_code text NOT NULL,
    scope text NOT NULL,
    subject text NOT NULL,
    "window" text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz,
    maximum numeric(28, 9) NOT NULL,
    used numeric(28, 9) NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT limit_alerts_pkey PRIMARY KEY (organization_id, counter_id, threshold)
);
CREATE INDEX limit_alerts_by_time ON limit_alerts (organization_id, create_time, counter_id, threshold);
ALTER TABLE authorizations ADD COLUMN counters uuid[], ADD COLUMN reserved numeric(28, 9)[],
    ADD COLUMN limits_released boolean NOT NULL DEFAULT false, ADD COLUMN items bigint, ADD COLUMN labels jsonb;
ALTER TABLE usage_records ADD COLUMN counters uuid[], ADD COLUMN counted numeric(28, 9)[]
"""


def upgrade() -> None:
    for statement in _STATEMENTS.strip().split(";\n"):
        op.execute(statement)
