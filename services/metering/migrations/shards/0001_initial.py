"""A shard of metering: usage by month with its dedupe, summaries and outbox, authorizations, and the audit trail.

Names have no schema here: the migration runs in each shard's schema in turn.
"""

from collections.abc import Sequence

from alembic import op

from libs.common.audit.migration import create_audit_tables

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_USAGE = """
CREATE TABLE usage_operations (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    usage_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    CONSTRAINT usage_operations_pkey PRIMARY KEY (organization_id, operation_id)
);

CREATE TABLE usage_records (
    organization_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    usage_id uuid NOT NULL,
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
    CONSTRAINT usage_records_pkey PRIMARY KEY (organization_id, occur_time, usage_id),
    CONSTRAINT usage_records_not_negative CHECK (
        least(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image) >= 0
    ),
    CONSTRAINT usage_records_cost_whole CHECK (num_nulls(cost, currency_code, price_version_id) IN (0, 3)),
    CONSTRAINT usage_records_charge_kind CHECK (charge_kind IN ('DEBIT', 'CAPTURE'))
) PARTITION BY RANGE (occur_time);

CREATE TABLE usage_records_default PARTITION OF usage_records DEFAULT;

CREATE TABLE usage_hours (
    organization_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    model text COLLATE "C" NOT NULL,
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    input bigint NOT NULL,
    output bigint NOT NULL,
    cache_read bigint NOT NULL,
    cache_write bigint NOT NULL,
    reasoning bigint NOT NULL,
    audio_input bigint NOT NULL,
    audio_output bigint NOT NULL,
    image bigint NOT NULL,
    cost numeric(28, 9) NOT NULL,
    latency_count bigint NOT NULL,
    latency_sum_ms bigint NOT NULL,
    latency_le_10_ms bigint NOT NULL,
    latency_le_25_ms bigint NOT NULL,
    latency_le_50_ms bigint NOT NULL,
    latency_le_100_ms bigint NOT NULL,
    latency_le_250_ms bigint NOT NULL,
    latency_le_500_ms bigint NOT NULL,
    latency_le_1000_ms bigint NOT NULL,
    latency_le_2500_ms bigint NOT NULL,
    latency_le_5000_ms bigint NOT NULL,
    latency_le_10000_ms bigint NOT NULL,
    latency_le_30000_ms bigint NOT NULL,
    latency_le_60000_ms bigint NOT NULL,
    latency_over_60000_ms bigint NOT NULL,
    CONSTRAINT usage_hours_pkey
        PRIMARY KEY (organization_id, hour, model, project_id, user_id, api_key_id, currency_code)
) WITH (fillfactor = 70);

CREATE TABLE outbox (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    state text NOT NULL,
    amount numeric(28, 9) NOT NULL,
    currency_code text NOT NULL,
    project_id uuid,
    description text NOT NULL,
    attempt_count integer NOT NULL,
    last_error_reason text,
    next_attempt_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT outbox_pkey PRIMARY KEY (organization_id, operation_id),
    CONSTRAINT outbox_kind CHECK (kind IN ('DEBIT', 'CAPTURE')),
    CONSTRAINT outbox_state_known CHECK (state IN ('PENDING', 'REFUSED', 'DEAD'))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE unpriced_usages (
    organization_id uuid NOT NULL,
    usage_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    model text COLLATE "C" NOT NULL,
    CONSTRAINT unpriced_usages_pkey PRIMARY KEY (organization_id, usage_id)
);

CREATE TABLE usage_pricings (
    organization_id uuid NOT NULL,
    usage_id uuid NOT NULL,
    cost numeric(28, 9) NOT NULL,
    currency_code text NOT NULL,
    price_version_id uuid NOT NULL,
    charge_kind text,
    create_time timestamptz NOT NULL,
    CONSTRAINT usage_pricings_pkey PRIMARY KEY (organization_id, usage_id),
    CONSTRAINT usage_pricings_charge_kind CHECK (charge_kind IN ('DEBIT', 'CAPTURE'))
);
"""

_ADMISSION = """
CREATE TABLE authorizations (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    project_id uuid,
    user_id uuid,
    service_account_id uuid,
    api_key_id uuid,
    model text NOT NULL,
    endpoint text,
    input_tokens bigint NOT NULL,
    max_output_tokens bigint NOT NULL,
    hold_ttl_ms bigint NOT NULL,
    price_version_id uuid NOT NULL,
    currency_code text NOT NULL,
    amount numeric(28, 9) NOT NULL,
    cancelled boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL,
    CONSTRAINT authorizations_pkey PRIMARY KEY (organization_id, operation_id),
    CONSTRAINT authorizations_amount_not_negative CHECK (amount >= 0)
);
"""

# Rows of usage are never changed: the service's own role loses the right to update or delete them.
_IMMUTABLE = """
REVOKE UPDATE, DELETE ON usage_operations, usage_records, usage_records_default, usage_pricings FROM tollhouse_metering;
REVOKE DELETE ON usage_hours, authorizations FROM tollhouse_metering;
"""


def upgrade() -> None:
    """Create all tables and rights."""
    for script in (_USAGE, _ADMISSION):
        _execute(script)
    _execute(_IMMUTABLE)
    create_audit_tables("metering")


def _execute(script: str) -> None:
    for statement in script.strip().removesuffix(";").split(";\n"):
        op.execute(statement.strip())
