"""The catalogue, usage by month with its dedupe, summaries and outbox, and authorizations."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_CATALOGUE = """
CREATE TABLE metering.catalogue_state (
    singleton boolean NOT NULL DEFAULT true,
    revision bigint NOT NULL,
    CONSTRAINT catalogue_state_pkey PRIMARY KEY (singleton),
    CONSTRAINT catalogue_state_one_row CHECK (singleton)
);
INSERT INTO metering.catalogue_state (revision) VALUES (0);

CREATE TABLE metering.models (
    model_id text COLLATE "C" NOT NULL,
    provider text NOT NULL,
    display_name text NOT NULL,
    description text NOT NULL,
    capabilities text[] NOT NULL,
    context_length bigint NOT NULL,
    max_output_tokens bigint NOT NULL,
    active boolean NOT NULL,
    metadata jsonb NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT models_pkey PRIMARY KEY (model_id)
);
CREATE INDEX models_changes ON metering.models (revision);

CREATE TABLE metering.price_versions (
    price_version_id uuid NOT NULL,
    organization_id uuid,
    model_id text COLLATE "C" NOT NULL,
    currency_code text NOT NULL,
    input numeric(28, 9) NOT NULL,
    output numeric(28, 9) NOT NULL,
    cache_read numeric(28, 9),
    cache_write numeric(28, 9),
    reasoning numeric(28, 9),
    audio_input numeric(28, 9),
    audio_output numeric(28, 9),
    image numeric(28, 9),
    per_request numeric(28, 9),
    effective_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    source text NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT price_versions_pkey PRIMARY KEY (price_version_id),
    CONSTRAINT price_versions_one_at_a_time
        UNIQUE NULLS NOT DISTINCT (organization_id, model_id, effective_time),
    CONSTRAINT price_versions_model_known FOREIGN KEY (model_id) REFERENCES metering.models (model_id),
    CONSTRAINT price_versions_not_negative CHECK (
        least(input, output, cache_read, cache_write, reasoning, audio_input, audio_output, image, per_request) >= 0
    )
);
CREATE INDEX price_versions_changes ON metering.price_versions (revision);

CREATE TABLE metering.catalogue_requests (
    request_id text COLLATE "C" NOT NULL,
    rpc text NOT NULL,
    request bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT catalogue_requests_pkey PRIMARY KEY (request_id)
);
"""

_USAGE = """
CREATE TABLE metering.usage_operations (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    usage_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    CONSTRAINT usage_operations_pkey PRIMARY KEY (organization_id, operation_id)
);

CREATE TABLE metering.usage_records (
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

CREATE TABLE metering.usage_records_default PARTITION OF metering.usage_records DEFAULT;

CREATE TABLE metering.usage_hours (
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

CREATE TABLE metering.outbox (
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
    CONSTRAINT outbox_state CHECK (state IN ('PENDING', 'DEAD'))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE metering.unpriced_usages (
    organization_id uuid NOT NULL,
    usage_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    model text COLLATE "C" NOT NULL,
    CONSTRAINT unpriced_usages_pkey PRIMARY KEY (organization_id, usage_id)
);

CREATE TABLE metering.usage_pricings (
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
CREATE TABLE metering.authorizations (
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

# The service's own role may not create tables. This function creates a month's partition with the rights of the
# schema's owner. Rows of that month in the default partition are moved in the same transaction. Attaching takes a lock
# that does not block reads and writes of other months.
_MONTHS_FUNCTION = """
CREATE FUNCTION metering.ensure_usage_month(moment timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = metering, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    beginning timestamptz := date_trunc('month', moment, 'UTC');
    ending timestamptz := date_trunc('month', moment, 'UTC') + interval '1 month';
    partition text := 'usage_records_' || to_char(beginning, 'YYYY_MM');
BEGIN
    IF to_regclass(format('metering.%I', partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('metering.ensure_usage_month', 0));
    -- Asked of the catalogue itself: the answer above may be remembered from before the lock was waited for.
    IF EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = 'metering'::regnamespace) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE metering.%I (LIKE metering.usage_records INCLUDING ALL)', partition);
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON metering.%I FROM tollhouse_metering', partition);
    LOCK TABLE metering.usage_records_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
        'WITH moved AS (DELETE FROM metering.usage_records_default'
        ' WHERE occur_time >= $1 AND occur_time < $2 RETURNING *)'
        ' INSERT INTO metering.%I SELECT * FROM moved', partition) USING beginning, ending;
    EXECUTE format(
        'ALTER TABLE metering.usage_records ATTACH PARTITION metering.%I FOR VALUES FROM (%L) TO (%L)',
        partition, beginning, ending);
    RETURN true;
END $$
"""
_MONTHS = """
REVOKE ALL ON FUNCTION metering.ensure_usage_month(timestamptz) FROM PUBLIC;
SELECT metering.ensure_usage_month(now() + months * interval '1 month') FROM generate_series(-2, 3) AS months;
"""

# Rows of usage and prices are never changed: the service's own role loses the right to update or delete them.
_IMMUTABLE = """
REVOKE UPDATE, DELETE ON metering.price_versions, metering.catalogue_requests, metering.usage_operations,
    metering.usage_records, metering.usage_records_default, metering.usage_pricings FROM tollhouse_metering;
REVOKE INSERT, DELETE ON metering.catalogue_state FROM tollhouse_metering;
REVOKE DELETE ON metering.models, metering.usage_hours, metering.authorizations FROM tollhouse_metering;
"""


def upgrade() -> None:
    """Create all tables, functions and rights."""
    for script in (_CATALOGUE, _USAGE, _ADMISSION):
        _execute(script)
    op.execute(_MONTHS_FUNCTION)
    _execute(_MONTHS)
    _execute(_IMMUTABLE)


def _execute(script: str) -> None:
    for statement in script.strip().removesuffix(";").split(";\n"):
        op.execute(statement.strip())
